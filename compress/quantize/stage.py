"""Base of the quantize stages: which layers, how integers are chosen, and facts for the report."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress.data.source import DataSource
from compress.errors import StageError
from compress.quantize.calibrate import Calibration
from compress.quantize.equivalent.inputs import InputFit, fit_inputs_
from compress.quantize.equivalent.smooth import Smoothing, smooth_
from compress.quantize.guard import Guard, guarded
from compress.quantize.integers.choose import Algorithm, Integers, integers_of_table
from compress.quantize.integers.grid import Grid
from compress.quantize.qat import QatConfig, learn_twins_
from compress.stage import Context, Stage, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.layers.quantized import LinearModule, QuantizedModule
    from compress.quantize.calibrate import SharedInput
    from compress.quantize.trainable import TrainableEmbedding, TrainableLinear

__all__ = ["QuantizeLayers"]


class QuantizeLayers(Stage):
    """Replace the weights of linear layers and embeddings by integers.

    Class attributes:
        takes_convolutions: whether the stage quantizes convolutions; it then always needs calibration rows.
        takes_recurrent: whether LSTMs are quantized too.
        shares_tables: whether a table can be stored as the weight of a linear layer tied to it.

    Attributes:
        embeddings: quantize embedding tables too; very small tables stay float.
        skip: patterns of layer names to leave float, such as `classifier` or `bert.encoder.layer.0.*`.
        algorithm: how integers are chosen. rtn: round to nearest. mse: clip to the range of least error,
            weighted by the importance of each input. hqq: half-quadratic, without data. gptq: weights rounded
            later compensate for those rounded before (Frantar et al. 2022). auto_round: rounding and clipping
            learned for the layers of a block together (Cheng et al. 2023), gptq outside of blocks; the
            slowest. LSTM weights are rounded without data, with mse in place of gptq and auto_round.
        calibration: source of the rows for mse, gptq, auto_round, smoothing, bias correction, fitted
            inputs and fixed ranges; labels are never used. train: the training rows. unlabelled: those of
            `data.unlabelled`.
            synthetic: random tokens, so no data is needed; for texts only, and good for ranges, not for gptq.
        calibration_rows: number of calibration rows.
        bias_correction: correct each bias for the mean output change caused by rounding the weights.
        smooth: rescale channels between layers where outputs stay unchanged, to reduce rounding error.
            smoothquant: larger weights for smaller activations (Xiao et al. 2022). awq: finer steps for
            weights that read large channels (Lin et al. 2023). BERT has such channels only between values and
            attention output.
        strength: of smoothquant's factors: 0 evens out the weights, 1 the activations; awq searches its own.
        qat: train the model with quantization in place (quantization-aware training), from labels and from
            the recipe's original model; None: no training.
        guard: keep layers at more bits (float; with 4 bits also 8) until the drop on validation rows is small
            enough; None: the loss is only reported.
    """

    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    takes_convolutions: ClassVar[bool] = False
    takes_recurrent: ClassVar[bool] = False
    shares_tables: ClassVar[bool] = False

    embeddings: bool = True
    skip: tuple[str, ...] = ()
    algorithm: Algorithm = "rtn"
    calibration: Calibration = "train"
    calibration_rows: int = Field(default=256, ge=16)
    bias_correction: bool = False
    smooth: Smoothing = "none"
    strength: float = Field(default=0.5, ge=0, le=1)
    qat: QatConfig | None = None
    guard: Guard | None = None

    @model_validator(mode="after")
    def _guarded_alone(self) -> Self:
        if self.qat is not None and self.guard is not None:
            raise ValueError("guard can't be combined with qat, which trains all layers together; omit one")
        return self

    @property
    def guess(self) -> str:
        """With a guard, the layers that keep more bits; see `Stage.guess`."""
        return "" if self.guard is None else "which layers guard keeps at more bits (shown: none)"

    @property
    def looks_at_data(self) -> bool:
        """Whether calibration rows are needed."""
        return self.algorithm not in ("rtn", "hqq") or self.bias_correction or self.smooth != "none"

    @property
    def fits_inputs(self) -> bool:
        """Whether the rounding of linear layers' inputs is fitted to calibration rows."""
        return False

    def data_objection(self, data: DataSource) -> str | None:
        """Refuse calibration rows that the data source doesn't have."""
        if not self.looks_at_data or self.calibration == "train":
            return None
        if data.modality != "text":
            return (
                f"calibration: {self.calibration} is for texts only; with numbers or images use "
                "calibration: train"
            )
        if self.calibration == "unlabelled" and getattr(data, "unlabelled", None) is None:
            return "calibration: unlabelled needs data.unlabelled"
        return None

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that the patterns match, and that something is left to quantize."""
        from compress.quantize.replace import convolutions_to_replace, recurrent_to_replace

        self.linears(model)
        if self.qat is not None:
            names: list[str] = []
            if self.takes_convolutions:
                names += convolutions_to_replace(model, self.embeddings, self.skip)
            if self.takes_recurrent:
                names += recurrent_to_replace(model, self.embeddings, self.skip, self.takes_convolutions)
            if names:
                raise StageError(
                    "qat does not train convolutions and LSTMs; omit it, or name under skip: "
                    f"{', '.join(names)}"
                )
        return model

    def linears(self, model: nn.Module) -> list[str]:
        """Names of the linear layers to quantize; checks, cheaply, that the settings fit the model.

        Raises:
            StageError: a pattern matches nothing, or there is nothing to quantize.
        """
        from compress.quantize.replace import linears_to_replace

        return linears_to_replace(
            model, self.embeddings, self.skip, self.takes_convolutions, self.takes_recurrent
        )

    def tied(self, model: nn.Module, names: Sequence[str]) -> dict[int, str]:
        """Linear layers whose weight a table may share, by the weight's id."""
        if not self.shares_tables or self.qat is not None:
            return {}
        return {id(model.get_submodule(name).weight): name for name in names}

    def stand_in(self) -> QuantizeLayers:
        """A cheap version of the stage: rounding, and ranges from a few rows."""
        cheap = {"algorithm": "rtn", "bias_correction": False, "smooth": "none", "calibration_rows": 16}
        return self.model_copy(update=cheap | {"qat": None, "guard": None})

    def blame(self, model: nn.Module, made: StageResult, context: Context) -> dict[str, float]:
        """Each group's share of the divergence from the float model's outputs."""
        from compress.quantize.guard import shares

        return {} if self.smooth != "none" or self.qat is not None else shares(model, made, context)

    def finer(self) -> QuantizeLayers | None:
        """The stage with more bits for every layer, between it and float; None: there are none."""
        return None

    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with quantized layers, in eval mode.

        Raises:
            StageError: a pattern of `skip` matches nothing, or there is nothing to quantize; too few
                calibration rows; a layer's input is not finite; training diverged in its first epoch; with
                `guard`, nothing can be quantized within the drop.
        """
        from compress.quantize.calibrate import described
        from compress.quantize.replace import replace_layers
        from compress.quantize.unusual_layers import mark_unusual_layers_

        mark_unusual_layers_(model, context)
        names = self.linears(model)
        chosen = self._choose(model, names, context)
        makers = _Makers(self, chosen, self.tied(chosen.model, names))
        done = replace_layers(
            chosen.model,
            makers.linear,
            makers.embedding if self.embeddings else None,
            self.skip,
            chosen.convolution,
            makers.recurrent if self.takes_recurrent else None,
        )
        facts = chosen.facts | done.facts
        if chosen.rows is not None:
            facts |= {"calibration": described(self.calibration), "calibration_rows": len(chosen.rows)}
        made = StageResult(done.model, facts)
        if self.qat is not None:
            learn_twins_(made, makers.twins, chosen.model, self.qat, context, self.name)
        return made if self.guard is None else self._guarded(chosen.model, made, context)

    def _guarded(self, model: nn.Module, made: StageResult, context: Context) -> StageResult:
        assert self.guard is not None
        return guarded(self, self.finer(), self.guard, model, made, context)

    def _choose(self, model: nn.Module, names: Sequence[str], context: Context) -> _Chosen:
        """Choose integers and ranges, on a copy of the model that doesn't outlive this method."""
        from compress.quantize.calibrate import SharedInput, calibration_rows, shared_inputs
        from compress.quantize.integers.choose import choose_integers_
        from compress.quantize.replace import copy_to_change

        work = copy_to_change(model, names, context.device)
        found = _Chosen(model)
        places = [SharedInput((name,)) for name in names]
        if self.looks_at_data:
            found.rows = rows = calibration_rows(context, self.calibration_rows, self.calibration)
            if self.takes_convolutions:
                found.facts |= self.prepare_convolutions_(work, rows, context)
            places = shared_inputs(work, names, rows, context)
            if self.smooth != "none":
                smoothed = smooth_(work, self.smooth, self.strength, places, self.grid(), rows, context)
                found.facts["smoothed"] = smoothed or "no exact pair"
            if found.facts:
                found.model = copy_to_change(work, names, context.device)  # same outputs, other weights
            found.ranges = self.ranges(work, places, rows, context)
            found.facts |= self.about_ranges()
            if self.fits_inputs:
                found.fits = fit_inputs_(work, places, self.strength, rows, context)
                scaled = sum(found.fits[place.name].factors is not None for place in places)
                found.facts |= {"fitted_inputs": len(places), "scaled_inputs": scaled}
            if self.takes_convolutions:
                found.convolution = self.convolutions_(work, rows, context)
        correct = self.bias_correction
        found.integers = choose_integers_(
            work, places, self.grid_of, self.algorithm, found.rows, context, bias_correction=correct
        )
        return found

    @abstractmethod
    def grid(self) -> Grid:
        """Grid of the weights of linear layers."""

    def grid_of(self, name: str) -> Grid:
        """Grid of one layer's weight."""
        return self.grid()

    @abstractmethod
    def linear(
        self,
        layer: nn.Linear,
        integers: Integers,
        bias: Tensor | None,
        input_range: tuple[float, float] | None,
    ) -> LinearModule:
        """Make the quantized layer from these integers."""

    def table(self, name: str, weight: Tensor) -> Integers:
        """Choose the integers of an embedding table [v, d]: int8 with one scale per row, by rounding."""
        grid = Grid(8, None)
        return Integers(grid, *integers_of_table(weight, grid, "rtn"))

    def embedding(self, layer: nn.Embedding, integers: Integers) -> QuantizedModule:
        """Make the quantized table from these integers."""
        from compress.model.layers.int8 import Int8Embedding

        new = Int8Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
        return new.fill_(integers.values, integers.steps.scale[:, 0])

    def shared_table(self, linear: LinearModule, layer: nn.Embedding) -> QuantizedModule:
        """Make the table that is stored as the weight of a linear layer tied to it."""
        raise NotImplementedError

    def ranges(
        self, model: nn.Module, places: list[SharedInput], rows: Split, context: Context
    ) -> dict[str, tuple[float, float]]:
        """Choose the ranges of inputs, by layer name, if they are fixed in advance."""
        return {}

    def about_ranges(self) -> dict[str, Any]:
        """Facts on how the ranges were chosen."""
        return {}

    def prepare_convolutions_(self, model: nn.Module, rows: Split, context: Context) -> dict[str, Any]:
        """Change weights without changing outputs; return facts if anything was changed."""
        raise NotImplementedError

    def convolutions_(
        self, model: nn.Module, rows: Split, context: Context
    ) -> Callable[[str, Any], QuantizedModule]:
        """Choose integers and ranges of convolutions; return a function of name and layer that makes a layer.

        Args:
            model: its convolution weights are replaced by their dequantized integers.
        """
        raise NotImplementedError


@dataclass
class _Chosen:
    """What is decided before layers are replaced.

    Attributes:
        model: the float model to replace layers of: the stage's own, or a copy with smoothed weights.
        rows: calibration rows, if any were needed.
        integers, ranges: of linear layers, and of their inputs if these are fixed in advance.
        fits: of the inputs of linear layers, by name, if their rounding is fitted.
        convolution: makes the new layer of a convolution.
    """

    model: nn.Module
    rows: Split | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    integers: dict[str, Integers] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    fits: dict[str, InputFit] = field(default_factory=dict)
    convolution: Callable[[str, Any], QuantizedModule] | None = None


class _Makers:
    """Makes the new layers of a model, and their trainable twins if the stage trains.

    Attributes:
        twins: each new layer with its trainable version.
    """

    def __init__(self, stage: QuantizeLayers, chosen: _Chosen, heads: dict[int, str]) -> None:
        """Make none yet; `heads` as from `tied`."""
        self._stage, self._chosen, self._heads = stage, chosen, heads
        self._shared: dict[str, LinearModule] = {}  # linear layers made early, for a tied table
        self.twins: list[tuple[QuantizedModule, TrainableLinear | TrainableEmbedding]] = []

    def linear(self, name: str, layer: nn.Linear) -> LinearModule:
        """Make the new layer of a linear layer."""
        from compress.quantize.trainable import TrainableLinear

        if name in self._shared:
            return self._shared[name]
        stage, limits = self._stage, self._chosen.ranges.get(name)
        integers = self._chosen.integers.pop(name)  # so that it is not held twice
        bias = layer.bias if integers.bias is None else integers.bias
        new = stage.linear(layer, integers, bias, limits)
        if name in self._chosen.fits:
            new.fit_(*self._chosen.fits[name])  # type: ignore[operator]
        if stage.qat is not None:
            within = partial(stage.linear, input_range=limits)
            self.twins.append((new, TrainableLinear(layer, integers, bias, within)))
        return new

    def embedding(self, name: str, layer: nn.Embedding) -> QuantizedModule:
        """Make the new table of an embedding."""
        from compress.quantize.trainable import TrainableEmbedding

        stage, head = self._stage, self._heads.get(id(layer.weight))
        if head is not None:
            tied: nn.Linear = self._chosen.model.get_submodule(head)  # type: ignore[assignment]
            self._shared[head] = self.linear(head, tied)
            return stage.shared_table(self._shared[head], layer)
        integers = stage.table(name, layer.weight.detach())
        new = stage.embedding(layer, integers)
        if stage.qat is not None:
            self.twins.append((new, TrainableEmbedding(layer, integers, stage.embedding)))
        return new

    def recurrent(self, name: str, layer: nn.LSTM) -> QuantizedModule:
        """Make the new layer of an LSTM."""
        from compress.quantize.recurrent import int8_lstm_of

        return int8_lstm_of(name, layer, self._stage.grid(), self._stage.algorithm)
