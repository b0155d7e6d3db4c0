"""Weights stored as 16-bit floats, computed in float32: half the size, nothing to calibrate.

ONNX Runtime widens weights of products when it loads the file: they then take the memory and time of float32.
Tables stay as stored, and the rows that are looked up are widened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.errors import StageError
from compress.stage import Context, Stage, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.layers.half import HalfConv, HalfEmbedding, HalfLinear

__all__ = ["Float16"]


class Float16(Stage):
    """Store the weights of linear layers, convolutions and embeddings as 16-bit floats; biases stay float32.

    Attributes:
        dtype: float16: 11 bits of precision, values up to 65504. bfloat16: 8 bits of precision, the range of
            float32.
        skip: patterns of layer names to leave float32, such as `classifier` or `bert.encoder.layer.0.*`.
    """

    name: ClassVar[str] = "quantize/float16"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    summary: ClassVar[str] = "weights stored as 16-bit floats: half the size, almost exact, not faster"

    dtype: Literal["float16", "bfloat16"] = "float16"
    skip: tuple[str, ...] = ()

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that the patterns match, and that something is left to convert."""
        from compress.quantize.replace import linears_to_replace

        linears_to_replace(model, True, self.skip, convolutions=True)
        return model

    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with 16-bit weights, in eval mode.

        Raises:
            StageError: a pattern of `skip` matches nothing, there is nothing to convert, or a weight is not
                finite or too large for the type; the message names the layer.
        """
        from compress.model.layers.convolution import convolution_arguments
        from compress.model.layers.half import HalfConv, HalfEmbedding, HalfLinear
        from compress.quantize.replace import replace_layers
        from compress.quantize.weight_readers import mark_weight_readers_

        mark_weight_readers_(model, context)
        flushed: dict[str, int] = {}

        def rounded(name: str, weight: Tensor) -> Tensor:
            values = self._rounded(name, weight)
            lost = int(((values == 0) & (weight != 0)).sum())
            if lost:
                flushed[name] = lost
            return values

        def linear(name: str, layer: nn.Linear) -> HalfLinear:
            new = HalfLinear(layer.in_features, layer.out_features, layer.bias is not None, self.dtype)
            return new.fill_(rounded(name, layer.weight), bias=layer.bias)

        def convolution(name: str, layer: nn.Conv1d | nn.Conv2d) -> HalfConv:
            new = HalfConv(**convolution_arguments(layer), dtype=self.dtype)
            return new.fill_(rounded(name, layer.weight), bias=layer.bias)

        def embedding(name: str, layer: nn.Embedding) -> HalfEmbedding:
            new = HalfEmbedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, self.dtype)
            return new.fill_(rounded(name, layer.weight))

        done = replace_layers(model, linear, embedding, self.skip, convolution)
        facts: dict[str, Any] = {"dtype": self.dtype, **done.facts, "too_small_and_now_zero": flushed}
        return StageResult(done.model, facts)

    def _rounded(self, name: str, weight: Tensor) -> Tensor:
        import torch

        from compress.model.layers.half import half_type
        from compress.quantize.integers.grid import check_finite

        try:
            check_finite(weight, "weights")
        except StageError as error:
            raise StageError(f"{name}: {error}") from error
        values = weight.detach().to(half_type(self.dtype))
        if not bool(torch.isfinite(values).all()):
            largest = float(weight.detach().abs().max())
            raise StageError(
                f"{name}: a weight of {largest:g} is too large for {self.dtype} (maximum "
                f"{torch.finfo(values.dtype).max:g}); use dtype: bfloat16, or name the layer under skip"
            )
        return values
