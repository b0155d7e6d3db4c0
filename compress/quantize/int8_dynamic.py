"""int8 weights and int8 activations, each token with a scale of its own that is taken as it comes.

Weights: symmetric, one scale per output (torchao's choice). Activations: symmetric, one scale per token, so
an answer depends neither on padding nor on batch-mates, and no calibration is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from compress.stage import Context, Stage

if TYPE_CHECKING:
    from torch import nn

    from compress.model.quantized import Int8Embedding, Int8Linear

__all__ = ["Int8Dynamic"]


class Int8Dynamic(Stage):
    """Quantize linear layers to int8 times int8, and embeddings to int8.

    Attributes:
        embeddings: quantize embedding tables too; tables too small to matter stay float.
        skip: patterns of layer names to leave float, such as `classifier` or `bert.encoder.layer.0.*`.
        reduce_range: keep weights of linear layers within [-64, 63]. AVX2 machines without VNNI add pairs of
            products in 16 bits, which larger weights can overflow; it costs one bit of precision everywhere.
    """

    name: ClassVar[str] = "quantize/int8_dynamic"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    summary: ClassVar[str] = "int8 weights and per-token int8 activations: smaller and faster, no calibration"

    embeddings: bool = True
    skip: tuple[str, ...] = ()
    reduce_range: bool = False

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See that the patterns match, and that something is left to quantize."""
        from compress.quantize.replace import check_layers

        check_layers(model, self.embeddings, self.skip)
        return model

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy with int8 layers, in eval mode.

        Raises:
            StageError: a pattern of `skip` matches nothing, or there is nothing to quantize.
        """
        from compress.quantize.replace import replace_layers

        done = replace_layers(model, self._linear, self._embedding if self.embeddings else None, self.skip)
        context.facts.update(done.facts())
        return done.model

    def _linear(self, layer: nn.Linear) -> Int8Linear:
        from compress.model.quantized import Int8Linear
        from compress.quantize.torchao_weights import int8_by_row

        new = Int8Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        return new.fill_(*int8_by_row(layer.weight, self.reduce_range), bias=layer.bias)

    def _embedding(self, layer: nn.Embedding) -> Int8Embedding:
        from compress.model.quantized import Int8Embedding
        from compress.quantize.torchao_weights import int8_by_row

        new = Int8Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
        return new.fill_(*int8_by_row(layer.weight))
