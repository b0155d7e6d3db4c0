"""Settings of `prune/structured`: the budget, what may be cut, and how the search is done."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from compress.errors import StageError
from compress.prune.stage import PruneStage
from compress.prune.structured.budget import BudgetKind
from compress.recovery import RecoveryConfig

if TYPE_CHECKING:
    from torch import nn

    from compress.model.structure.sites import Site

__all__ = ["LEAST_ROWS", "StructuredSettings"]

LEAST_ROWS = 16
_KINDS: tuple[BudgetKind, ...] = ("speedup", "latency_ms", "size_mb", "macs", "sparsity")


class StructuredSettings(PruneStage):
    """Settings of the stage, which documents them."""

    speedup: float | None = Field(default=None, gt=1, le=1000)
    latency_ms: float | None = Field(default=None, gt=0)
    size_mb: float | None = Field(default=None, gt=0)
    macs: float | None = Field(default=None, gt=0, lt=1)
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    cut: Annotated[tuple[Literal["heads", "neurons"], ...], Field(min_length=1)] = ("heads", "neurons")
    min_heads: int = Field(default=0, ge=0)
    min_neurons: int = Field(default=0, ge=0)
    protect: tuple[str, ...] = ()
    importance: Literal["obs", "fisher", "taylor", "magnitude"] = "obs"
    batch: int | None = Field(default=None, ge=1, le=65_536)
    sequence: int | None = Field(default=None, ge=1, le=65_536)
    threads: int | None = Field(default=None, ge=1, le=65_536)
    calibration_rows: int = Field(default=512, ge=LEAST_ROWS)
    targets: Literal["labels", "teacher"] = "labels"
    search_rows: int = Field(default=128, ge=LEAST_ROWS)
    search_steps: int = Field(default=60, ge=0, le=100_000)
    steps: int = Field(default=1, ge=1, le=100)
    step_epochs: int = Field(default=1, ge=1, le=10_000)
    recovery: RecoveryConfig | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> StructuredSettings:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one budget of {', '.join(_KINDS)}; got {len(given)}"
                + (f": {', '.join(given)}" if given else "")
            )
        if self.steps > 1 and self.recovery is None:
            raise ValueError(
                "steps above 1 need recovery, because without training in between one step gives the same"
            )
        return self

    @property
    def is_timed(self) -> bool:
        """Whether the budget is a time on this machine."""
        return self.speedup is not None or self.latency_ms is not None

    @property
    def sees_later(self) -> bool:
        """Whether costs are measured after the recipe's later quantize stages: times and bytes are."""
        return self.is_timed or self.size_mb is not None

    def budget(self) -> tuple[BudgetKind, float]:
        """The given budget."""
        return next((kind, getattr(self, kind)) for kind in _KINDS if getattr(self, kind) is not None)

    def sites_of(self, model: nn.Module) -> tuple[list[Site], list[int]]:
        """Sites that may be cut, and the fewest units that each must keep."""
        from compress.model.structure.find import structure_of

        kinds = {"heads": "attention", "neurons": "feed_forward"}
        wanted = {kinds[name] for name in self.cut}
        structure = structure_of(model)
        sites = [site for site in structure.sites if site.kind in wanted]
        for pattern in self.protect:
            if not any(fnmatch(site.name, pattern) for site in (*structure.sites, *structure.removed)):
                names = ", ".join(site.name for site in structure.sites[:4])
                raise StageError(
                    f"prune/structured: protect: '{pattern}' matches no block; the blocks are {names}, ..."
                )
            sites = [site for site in sites if not fnmatch(site.name, pattern)]
        if not sites:
            raise StageError(f"prune/structured: {structure.nothing(' or '.join(self.cut))}")
        floors = {"attention": self.min_heads, "feed_forward": self.min_neurons}
        least = [min(site.units(model), max(floors[site.kind], 0 if site.removal else 1)) for site in sites]
        return sites, least
