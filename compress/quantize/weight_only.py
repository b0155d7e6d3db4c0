"""Weights of few bits in groups that share a scale; activations are float, or rounded to 8 bits.

Reduces size, and time where reading weights dominates (one token at a time); an encoder gets no faster.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from compress.errors import StageError
from compress.quantize.integers.choose import Integers, integers_of_table
from compress.quantize.integers.grid import Grid
from compress.quantize.stage import QuantizeLayers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.layers.grouped import Int4Linear, Int8GroupLinear
    from compress.model.layers.quantized import LinearModule, QuantizedModule

__all__ = ["Int4WeightOnly", "Int8WeightOnly"]

_ALL = "*"


class _WeightOnly(QuantizeLayers):
    bits: ClassVar[Literal[4, 8]]
    shares_tables: ClassVar[bool] = True

    group_size: Literal[16, 32, 64, 128] = 32
    zero_points: bool = False
    activations: Literal["float", "int8"] = "float"

    @model_validator(mode="after")
    def _trained_as_exported(self) -> Self:
        if self.qat is not None and self.activations == "int8":
            raise ValueError("activations: int8 can't be combined with qat; omit one of them")
        return self

    def grid(self) -> Grid:
        """One scale per output and group of inputs."""
        return Grid(self.bits, self.group_size, symmetric=not self.zero_points)

    def linear(
        self,
        layer: nn.Linear,
        integers: Integers,
        bias: Tensor | None,
        input_range: tuple[float, float] | None,
    ) -> Int4Linear | Int8GroupLinear:
        """Make the quantized layer from these integers."""
        from compress.model.layers.grouped import Int4Linear, Int8GroupLinear

        made = Int4Linear if integers.grid.bits == 4 else Int8GroupLinear
        new = made(
            layer.in_features,
            layer.out_features,
            bias is not None,
            self.group_size,
            self.zero_points,
            self.activations == "int8",
        )
        if integers.steps.zero_point is not None:
            new.zero_points_(integers.steps.zero_point)
        return new.fill_(self._padded(integers.values), integers.steps.scale, bias)

    def shared_table(self, linear: LinearModule, layer: nn.Embedding) -> QuantizedModule:
        """Make the table that is stored as the weight of a linear layer tied to it."""
        from compress.model.layers.grouped import Int4Linear, Int8GroupLinear, SharedEmbedding

        assert isinstance(linear, Int4Linear | Int8GroupLinear)
        return SharedEmbedding.of(linear, layer.padding_idx)

    def _padded(self, values: Tensor) -> Tensor:
        """Pad the last group; the padding is never multiplied."""
        from torch.nn import functional

        return functional.pad(values, (0, -values.shape[1] % self.group_size))


class Int4WeightOnly(_WeightOnly):
    """Quantize the weights of linear layers and embeddings to 4 bits.

    Attributes:
        group_size: inputs that share a scale; larger groups are smaller and coarser.
        zero_points: groups have a zero point too, which fits weights that are not centred on 0.
        activations: int8 rounds them to 8 bits in the weights' groups, with scales per token; products are
            then of integers, which is faster.
        int8_layers: patterns of layer names whose weights get 8 bits, in the same groups: those that lose
            most at 4, such as `lm_head` or `*.down_proj`. For a table tied to an output layer, use that
            layer's name.
    """

    name: ClassVar[str] = "quantize/int4_weight_only"
    summary: ClassVar[str] = (
        "4-bit weights in groups with one scale each, float activations: smallest; faster text generation, "
        "encoders not faster"
    )
    bits: ClassVar[Literal[4, 8]] = 4

    int8_layers: tuple[str, ...] = ()

    def linears(self, model: nn.Module) -> list[str]:
        """As `QuantizeLayers.linears`; also checks that `int8_layers` match, and name no tied table alone."""
        from compress.quantize.patterns import check_patterns
        from compress.quantize.replace import tables_by_weight

        names = super().linears(model)
        check_patterns("int8_layers", self.int8_layers, model)
        tables = tables_by_weight(model) if self.embeddings else {}
        for weight, linear in self.tied(model, names).items():
            table = tables.get(weight, linear)
            if self.grid_of(table) != self.grid() == self.grid_of(linear):
                raise StageError(
                    f"int8_layers: {table} is tied to {linear} and stored as its weight; name {linear}, "
                    "which covers both"
                )
        return names

    def grid_of(self, name: str) -> Grid:
        """8 bits for `int8_layers`, 4 otherwise."""
        eight = any(fnmatchcase(name, pattern) for pattern in self.int8_layers)
        return replace(self.grid(), bits=8) if eight else self.grid()

    def finer(self) -> Int4WeightOnly | None:
        """With 8 bits."""
        if self.int8_layers == (_ALL,):
            return None
        return self.model_copy(update={"int8_layers": (_ALL,), "guard": None})

    def table(self, name: str, weight: Tensor) -> Integers:
        """One scale per row and group of columns; with 8 bits one per row."""
        if self.grid_of(name).bits == 8:
            return super().table(name, weight)
        algorithm: Literal["rtn", "mse"] = "rtn" if self.algorithm == "rtn" else "mse"
        return Integers(self.grid(), *integers_of_table(weight, self.grid(), algorithm))

    def embedding(self, layer: nn.Embedding, integers: Integers) -> QuantizedModule:
        """Make the quantized table from these integers."""
        from compress.model.layers.grouped import Int4Embedding

        if integers.grid.bits == 8:
            return super().embedding(layer, integers)
        new = Int4Embedding(
            layer.num_embeddings,
            layer.embedding_dim,
            layer.padding_idx,
            self.group_size,
            self.zero_points,
        )
        if integers.steps.zero_point is not None:
            new.zero_points_(integers.steps.zero_point)
        return new.fill_(self._padded(integers.values), integers.steps.scale)


class Int8WeightOnly(_WeightOnly):
    """Quantize the weights of linear layers and embeddings to 8 bits.

    Attributes:
        group_size: inputs that share a scale; embeddings have one scale per row.
        zero_points: groups have a zero point too, which fits weights that are not centred on 0.
        activations: int8 rounds them to 8 bits in the weights' groups, with scales per token; products are
            then of integers, which is faster.
    """

    name: ClassVar[str] = "quantize/int8_weight_only"
    summary: ClassVar[str] = (
        "8-bit weights, float activations: a quarter of the size, almost exact; faster text generation, "
        "encoders not faster"
    )
    bits: ClassVar[Literal[4, 8]] = 8
