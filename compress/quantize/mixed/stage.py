"""Mixed precision: one scheme per group of layers, as small or as fast as an accuracy limit allows.

The damage of each group in each scheme is estimated from one backward pass a scheme (`first_order`), or
measured with that group alone quantized (KL divergence of the outputs on validation rows, as in the
layer-wise sensitivity of NVIDIA's quantization white paper, Wu et al. 2020, arXiv 2004.09602). Moves to
cheaper schemes are sorted by damage per saved cost; how many of them to make is found by trying the
model on validation rows. The uniform models are candidates too, so the result is never worse than the best
of them that meets the accuracy limit.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.errors import StageError
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.stage import QuantizeLayers
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context, Stage, StageResult

if TYPE_CHECKING:
    from torch import nn

    from compress.data.source import DataSource

__all__ = ["Mixed", "Schemes"]


class Schemes(BaseModel):
    """Schemes that a group may get besides float, each with the settings of its stage.

    Attributes:
        int8_dynamic: as `quantize/int8_dynamic`.
        int8_static: as `quantize/int8_static`.
        int8_weight_only: as `quantize/int8_weight_only`.
        int4_weight_only: as `quantize/int4_weight_only`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    int8_dynamic: Int8Dynamic | None = None
    int8_static: Int8Static | None = None
    int8_weight_only: Int8WeightOnly | None = None
    int4_weight_only: Int4WeightOnly | None = None

    @model_validator(mode="after")
    def _parts_can_be_mixed(self) -> Schemes:
        if not self.stages():
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        for name, stage in self.stages().items():
            if stage.smooth != "none":
                raise ValueError(
                    f"{name}: smooth changes several layers together and can't be mixed; omit it"
                )
            if stage.qat is not None:
                raise ValueError(f"{name}: qat trains all layers together and can't be mixed; omit it")
            if stage.guard is not None:
                raise ValueError(f"{name}: guard chooses layers itself; omit it, and set max_accuracy_drop")
        return self

    def stages(self) -> dict[str, QuantizeLayers]:
        """The given schemes' stages, by name."""
        return {name: stage for name in type(self).model_fields if (stage := getattr(self, name)) is not None}


class Mixed(Stage):
    """Choose a scheme for each group of layers; queries, keys and values form one group.

    Attributes:
        max_accuracy_drop: largest allowed drop of validation accuracy from the input model, as a fraction.
        objective: size: the fewest bytes of weights. latency: the fastest; times are those of the whole model
            in each scheme, split by multiply-adds, and measured for the best candidates.
        schemes: the allowed schemes, with settings; float is always allowed.
        sensitivity: how the damage of each group in each scheme is found. first_order: from one backward pass
            a scheme, as the group's part in the divergence of the whole model. alone: each group is quantized
            alone, which takes a pass for each group and scheme.
        sensitivity_rows: validation rows used for it.
        skip: patterns of layer names to leave float.
        batch, sequence, threads: setting for latency; None: the first that the recipe measures.
    """

    name: ClassVar[str] = "quantize/mixed"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    summary: ClassVar[str] = "one scheme per layer: the smallest or fastest within an accuracy drop"

    max_accuracy_drop: float = Field(default=0.01, ge=0, lt=1)
    objective: Literal["size", "latency"] = "size"
    schemes: Schemes = Schemes(int8_dynamic=Int8Dynamic(), int4_weight_only=Int4WeightOnly())
    sensitivity: Literal["first_order", "alone"] = "first_order"
    sensitivity_rows: int = Field(default=128, ge=16)
    skip: tuple[str, ...] = ()
    batch: int | None = Field(default=None, ge=1)
    sequence: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)

    @property
    def is_timed(self) -> bool:
        """Whether the objective is latency."""
        return self.objective == "latency"

    @property
    def guess(self) -> str:
        """The scheme of each group; see `Stage.guess`."""
        return f"the scheme of each layer (shown: {next(iter(self._stages()))} for all)"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that every scheme fits the model."""
        for stage in self._stages().values():
            stage.rehearse(model)
        return model

    def data_objection(self, data: DataSource) -> str | None:
        """The first objection of any scheme."""
        said = (stage.data_objection(data) for stage in self._stages().values())
        return next(filter(None, said), None)

    def stand_in(self) -> Stage:
        """A cheap version of the first scheme, for all layers: the choice can't be known without the work."""
        return next(iter(self._stages().values())).stand_in()

    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with a scheme for each group, in eval mode.

        Raises:
            StageError: nothing can be quantized within the drop (the message names the nearest candidate);
                latency needs a running recipe; or as the schemes' own stages.
        """
        from compress.quantize.mixed.assignment import Goal, Search
        from compress.quantize.mixed.first_order import estimated
        from compress.quantize.mixed.sensitivity import Parts, damages

        timer, setting = context.timer, None
        if self.is_timed:
            if timer is None:
                raise StageError(
                    f"{self.name}: objective: latency needs a timer, which only `modelpress run` provides; "
                    "use objective: size"
                )
            setting = timer.setting(self.batch, self.sequence, self.threads)
        parts = Parts.of(model, self._stages(), context)
        rows = context.validation.take(self.sensitivity_rows, seed=context.seed).by_length()
        found = (damages if self.sensitivity == "alone" else estimated)(parts, rows, context)
        search = Search(Goal(self.name, "max_accuracy_drop", self.max_accuracy_drop, setting), parts, context)
        best = search.best(found)
        facts = search.facts(best, len(rows)) | {"sensitivity": self.sensitivity}
        return StageResult(copy.deepcopy(parts.together(best.schemes)).eval(), facts)

    def _stages(self) -> dict[str, QuantizeLayers]:
        return {
            name: stage.model_copy(update={"skip": (*self.skip, *stage.skip)})
            for name, stage in self.schemes.stages().items()
        }
