"""What the quantize stages share: which layers, how integers are chosen, and what the report is told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.data.config import DataConfig, DigitsData
from compress.quantize.calibrate import Calibration
from compress.quantize.grid import Grid
from compress.quantize.integers import Algorithm, Integers
from compress.quantize.smooth import Smoothing, smooth_
from compress.stage import Context, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.quantized import QuantizedModule
    from compress.quantize.calibrate import SharedInput

__all__ = ["QuantizeLayers"]


class QuantizeLayers(Stage):
    """Put integers in the place of the weights of linear layers and embeddings.

    Class attributes:
        takes_convolutions: whether the stage has `convolution` and its ranges; it always looks at data then.

    Attributes:
        embeddings: quantize embedding tables too; tables too small to matter stay float.
        skip: patterns of layer names to leave float, such as `classifier` or `bert.encoder.layer.0.*`.
        algorithm: how integers are chosen. rtn: round to nearest. mse: clip to the range that loses least, by
            the importance of each input. hqq: half-quadratic, without data. gptq: what is rounded later makes
            up for what was rounded before (Frantar et al. 2022).
        calibration: where the rows are from that mse, gptq, smoothing, bias correction and fixed ranges look
            at; never at labels. train: the training rows. unlabelled: those of `data.unlabelled`. synthetic:
            random tokens, so that no data is needed; for texts only, and good for ranges, not for gptq.
        calibration_rows: how many of them.
        bias_correction: let each bias make up for the mean of what rounding the weights changes.
        smooth: scale channels between layers where that changes no answer, so that less is lost when they are
            rounded. smoothquant: louder weights for quieter activations (Xiao et al. 2022). awq: finer steps
            for weights that read loud channels (Lin et al. 2023). A BERT has such channels only between
            values and attention's output.
        strength: of smoothquant: 0 evens out the weights, 1 the activations; awq finds its own.
    """

    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    takes_convolutions: ClassVar[bool] = False

    embeddings: bool = True
    skip: tuple[str, ...] = ()
    algorithm: Algorithm = "rtn"
    calibration: Calibration = "train"
    calibration_rows: int = Field(default=256, ge=16)
    bias_correction: bool = False
    smooth: Smoothing = "none"
    strength: float = Field(default=0.5, ge=0, le=1)

    @property
    def looks_at_data(self) -> bool:
        """Whether calibration rows are needed."""
        return self.algorithm in ("mse", "gptq") or self.bias_correction or self.smooth != "none"

    def data_objection(self, data: DataConfig) -> str | None:
        """Refuse to calibrate on rows that aren't there."""
        if not self.looks_at_data or self.calibration == "train":
            return None
        if isinstance(data, DigitsData):
            return (
                f"can't calibrate on {self.calibration} rows: these are texts; with data of numbers use train"
            )
        if self.calibration == "unlabelled" and data.unlabelled is None:
            return "calibrates on unlabelled rows: give them as data.unlabelled"
        return None

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See that the patterns match, and that something is left to quantize."""
        from compress.quantize.replace import linears_to_replace

        linears_to_replace(model, self.embeddings, self.skip, self.takes_convolutions)
        return model

    def stand_in(self) -> QuantizeLayers:
        """Integers by rounding, ranges of a few rows."""
        cheap = {"algorithm": "rtn", "bias_correction": False, "smooth": "none", "calibration_rows": 16}
        return self.model_copy(update=cheap)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy with layers of integers, in eval mode.

        Raises:
            StageError: a pattern of `skip` matches nothing, or there is nothing to quantize; too few rows to
                calibrate on; what a layer is given is not a number.
        """
        from compress.quantize.calibrate import SharedInput, calibration_rows, described, shared_inputs
        from compress.quantize.integers import choose_integers_
        from compress.quantize.replace import copy_to_change, linears_to_replace, replace_layers

        names = linears_to_replace(model, self.embeddings, self.skip, self.takes_convolutions)
        work = copy_to_change(model, names, context.device)
        rows, ranges = None, {}
        make_convolution: Callable[[str, Any], QuantizedModule] | None = None
        places = [SharedInput((name,)) for name in names]
        if self.looks_at_data:
            rows = calibration_rows(context, self.calibration_rows, self.calibration)
            changed = self.takes_convolutions and self.prepare_convolutions_(work, rows, context)
            places = shared_inputs(work, names, rows, context)
            if self.smooth != "none":
                smooth_(work, self.smooth, self.strength, places, self.grid(), rows, context)
            if changed or self.smooth != "none":
                model = copy_to_change(work, names, context.device)  # equal answers from other weights
            ranges = self.ranges(work, places, rows, context)
            if self.takes_convolutions:
                make_convolution = self.convolutions_(work, rows, context)
        chosen = choose_integers_(
            work, places, self.grid(), self.algorithm, rows, context, bias_correction=self.bias_correction
        )
        del work  # so that no more than two models are held at once

        def linear(name: str, layer: nn.Linear) -> QuantizedModule:
            integers = chosen.pop(name)  # so that it is not held twice
            bias = layer.bias if integers.bias is None else integers.bias
            return self.linear(layer, integers, bias, ranges.get(name))

        embedding = self._embedding if self.embeddings else None
        done = replace_layers(model, linear, embedding, self.skip, make_convolution)
        context.facts.update(done.facts())
        if rows is not None:
            context.facts["calibration"] = described(self.calibration)
            context.facts["calibration_rows"] = len(rows)
        return done.model

    def _embedding(self, name: str, layer: nn.Embedding) -> QuantizedModule:
        return self.embedding(layer)

    @abstractmethod
    def grid(self) -> Grid:
        """Of the weights of linear layers."""

    @abstractmethod
    def linear(
        self,
        layer: nn.Linear,
        integers: Integers,
        bias: Tensor | None,
        input_range: tuple[float, float] | None,
    ) -> QuantizedModule:
        """Make the layer that holds these integers."""

    @abstractmethod
    def embedding(self, layer: nn.Embedding) -> QuantizedModule:
        """Make the table of integers of an embedding."""

    def ranges(
        self, model: nn.Module, places: list[SharedInput], rows: Split, context: Context
    ) -> dict[str, tuple[float, float]]:
        """Choose the ranges of inputs, by layer name, where they are fixed beforehand."""
        return {}

    def prepare_convolutions_(self, model: nn.Module, rows: Split, context: Context) -> bool:
        """Change weights in a way that changes no answer; say whether anything was changed."""
        raise NotImplementedError

    def convolutions_(
        self, model: nn.Module, rows: Split, context: Context
    ) -> Callable[[str, Any], QuantizedModule]:
        """Choose integers and ranges of convolutions; return what makes a layer, given its name and itself.

        Args:
            model: each weight becomes what its integers stand for.
        """
        raise NotImplementedError
