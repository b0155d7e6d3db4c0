"""Weights of 4 bits in groups that share a scale; activations stay float.

It buys size, and speed where reading weights is the cost (one token at a time); an encoder gets no faster.
Weights: symmetric, one scale for each output and 32 inputs (torchao's choice).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from compress.stage import Context, Stage

if TYPE_CHECKING:
    from torch import nn

    from compress.model.quantized import Int4Embedding, Int4Linear

__all__ = ["Int4WeightOnly"]


class Int4WeightOnly(Stage):
    """Quantize the weights of linear layers and embeddings to 4 bits.

    Attributes:
        embeddings: quantize embedding tables too; tables too small to matter stay float.
        skip: patterns of layer names to leave float, such as `classifier` or `bert.encoder.layer.0.*`.
        group_size: inputs that share a scale.
    """

    name: ClassVar[str] = "quantize/int4_weight_only"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    summary: ClassVar[str] = "4-bit weights in groups of 32, float activations: smallest, but no faster"

    embeddings: bool = True
    skip: tuple[str, ...] = ()
    group_size: Literal[32] = 32

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See that the patterns match, and that something is left to quantize."""
        from compress.quantize.replace import check_layers

        check_layers(model, self.embeddings, self.skip)
        return model

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy with 4-bit layers, in eval mode.

        Raises:
            StageError: a pattern of `skip` matches nothing, or there is nothing to quantize.
        """
        from compress.quantize.replace import replace_layers

        done = replace_layers(model, self._linear, self._embedding if self.embeddings else None, self.skip)
        context.facts.update(done.facts())
        return done.model

    def _linear(self, layer: nn.Linear) -> Int4Linear:
        from compress.model.quantized import Int4Linear
        from compress.quantize.torchao_weights import int4_by_group

        new = Int4Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        return new.fill_(*int4_by_group(layer.weight, self.group_size), bias=layer.bias)

    def _embedding(self, layer: nn.Embedding) -> Int4Embedding:
        from compress.model.quantized import Int4Embedding
        from compress.quantize.torchao_weights import int4_by_group

        new = Int4Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
        return new.fill_(*int4_by_group(layer.weight, self.group_size))
