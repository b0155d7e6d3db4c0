"""int8 weights and int8 activations with ranges calibrated in advance: the fastest int8.

Weights: symmetric, one scale per output. Activations: one scale and zero point per input, the same for every
call, so outputs depend neither on padding nor on the rest of the batch; values beyond the range are clipped.
The file has QuantizeLinear and DequantizeLinear nodes, which ONNX Runtime and OpenVINO turn into integer
products. Outputs of convolutions are quantized too, as their fast kernel requires, and a BatchNorm after one
is folded into it first. LSTMs are quantized as in `quantize/int8_dynamic`, with dynamic ranges, because ONNX
Runtime has no LSTM with fixed ones: their outputs depend slightly on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.quantize.integers.choose import Integers
from compress.quantize.integers.grid import Grid
from compress.quantize.stage import QuantizeLayers
from compress.stage import Context

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.layers.convolution import Int8StaticConv
    from compress.model.layers.int8 import Int8StaticLinear
    from compress.quantize.calibrate import SharedInput
    from compress.quantize.integers.clipping import Histogram

__all__ = ["Int8Static"]


class Int8Static(QuantizeLayers):
    """Quantize linear layers and convolutions to int8 times int8 with fixed ranges, and embeddings to int8.

    LSTMs become int8 times int8 too, but with dynamic ranges.

    Attributes:
        range: how the range of activations is chosen on the calibration rows. minmax: all values seen.
            mse: least squared error. percentile: clips half of the values outside it on each side.
        percentile: percentage of values within the range.
        reduce_range: as in `quantize/int8_dynamic`.
    """

    name: ClassVar[str] = "quantize/int8_static"
    summary: ClassVar[str] = (
        "int8 weights and activations with ranges from calibration rows: the fastest int8"
    )

    takes_convolutions: ClassVar[bool] = True
    takes_recurrent: ClassVar[bool] = True

    range: Literal["minmax", "mse", "percentile"] = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)
    reduce_range: bool = False

    @property
    def looks_at_data(self) -> bool:
        """Always True: ranges come from calibration rows."""
        return True

    def grid(self) -> Grid:
        """One scale per output."""
        return Grid(8, None, reduce_range=self.reduce_range)

    def linear(
        self,
        layer: nn.Linear,
        integers: Integers,
        bias: Tensor | None,
        input_range: tuple[float, float] | None,
    ) -> Int8StaticLinear:
        """Make the int8 layer from these integers."""
        from compress.model.layers.int8 import Int8StaticLinear

        assert input_range is not None
        new = Int8StaticLinear(layer.in_features, layer.out_features, bias=bias is not None)
        return new.range_(*input_range).fill_(integers.values, integers.steps.scale[:, 0], bias)

    def ranges(
        self, model: nn.Module, places: list[SharedInput], rows: Split, context: Context
    ) -> dict[str, tuple[float, float]]:
        """Choose one range for each input; layers that share an input share its range."""
        from compress.quantize.calibrate import histograms_of

        found: dict[str, tuple[float, float]] = {}
        if places:
            for place, histogram in zip(places, histograms_of(model, places, rows, context), strict=True):
                found.update(dict.fromkeys(place.layers, self._limits(histogram)))
        return found

    def about_ranges(self) -> dict[str, Any]:
        """How the ranges were chosen."""
        return {"range": self.range}

    def prepare_convolutions_(self, model: nn.Module, rows: Split, context: Context) -> dict[str, Any]:
        """Fold batch normalization into the convolutions before it."""
        from compress.quantize.equivalent.fold import fold_norms_
        from compress.quantize.replace import convolutions_to_replace

        names = convolutions_to_replace(model, self.embeddings, self.skip)
        folded = fold_norms_(model, names, rows, context)
        return {"folded": folded} if folded else {}

    def convolutions_(
        self, model: nn.Module, rows: Split, context: Context
    ) -> Callable[[str, nn.Conv1d | nn.Conv2d], Int8StaticConv]:
        """Choose integers, and ranges of inputs and outputs."""
        from compress.quantize.convolutions import choose_convolutions_, ends_of
        from compress.quantize.replace import convolutions_to_replace

        names = convolutions_to_replace(model, self.embeddings, self.skip)
        ends = ends_of(model, names, rows, context) if names else {}
        ranges = {
            name: (self._limits(each.inputs), self._limits(each.outputs)) for name, each in ends.items()
        }
        chosen = choose_convolutions_(
            model,
            list(ends),
            self.grid(),
            self.algorithm,
            rows,
            context,
            bias_correction=self.bias_correction,
        )
        return lambda name, layer: _convolution(layer, chosen[name], *ranges[name])

    def _limits(self, histogram: Histogram) -> tuple[float, float]:
        from compress.quantize.integers.clipping import minmax_range, mse_range, percentile_range

        if self.range == "minmax":
            return minmax_range(histogram)
        if self.range == "mse":
            return mse_range(histogram, 8)
        return percentile_range(histogram, self.percentile)


def _convolution(
    layer: nn.Conv1d | nn.Conv2d,
    integers: Integers,
    inputs: tuple[float, float],
    outputs: tuple[float, float],
) -> Int8StaticConv:
    from compress.model.layers.convolution import Int8StaticConv, convolution_arguments

    new = Int8StaticConv(**convolution_arguments(layer))
    bias = layer.bias if integers.bias is None else integers.bias
    return new.ranges_(inputs, outputs).fill_(integers.values, integers.steps.scale[:, 0], bias)
