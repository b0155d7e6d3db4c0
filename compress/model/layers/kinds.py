"""All layers whose weights are not float32, by their name in a bundle's structure.json."""

from __future__ import annotations

from compress.model.layers.convolution import Int8StaticConv
from compress.model.layers.grouped import Int4Embedding, Int4Linear, Int8GroupLinear, SharedEmbedding
from compress.model.layers.half import HalfConv, HalfEmbedding, HalfLinear
from compress.model.layers.int8 import (
    Int8Embedding,
    Int8FittedLinear,
    Int8Linear,
    Int8StaticLinear,
    Int8TensorLinear,
)
from compress.model.layers.quantized import QuantizedModule
from compress.model.layers.recurrent import Int8LSTM

__all__ = ["QUANTIZED_KINDS"]

QUANTIZED_KINDS: dict[str, type[QuantizedModule]] = {
    layer.kind: layer
    for layer in (
        HalfConv,
        HalfEmbedding,
        HalfLinear,
        Int4Embedding,
        Int4Linear,
        Int8Embedding,
        Int8FittedLinear,
        Int8GroupLinear,
        Int8LSTM,
        Int8Linear,
        Int8StaticConv,
        Int8StaticLinear,
        Int8TensorLinear,
        SharedEmbedding,
    )
}
