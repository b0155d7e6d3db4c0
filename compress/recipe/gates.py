"""Gates: what a run must reach to pass, as configured in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from compress.tasks.registry import all_gates

__all__ = ["GatesConfig", "METRIC_DROPS"]

METRIC_DROPS = ("max_metric_drop", "max_accuracy_drop")
"""Two names of one gate."""
_PLACES = ("batch", "sequence", "threads")


class _Gates(BaseModel):
    """Limits on the results on the test rows and on this machine; None: no limit.

    If the drop of the metric or agreement is limited, the candidate must also be measurably better than the
    best model that ignores its inputs. Tasks define further gates: see `Task.gates`.

    Attributes:
        max_metric_drop: largest drop below the baseline's metric (accuracy, micro F1, ...), in its unit, in
            [0, 1], at the lower end of the 95 % interval, so that a run does not pass by chance.
        max_accuracy_drop: the same by its first name; give one of the two.
        min_speedup: over the baseline, at the lower end of the 95 % interval.
        max_size_mb: ONNX file with its external data, in MB of 1,000,000 bytes.
        max_p95_ms: 95th percentile of single calls.
        min_agreement: share of the test rows with the same prediction as the baseline.
        batch, sequence, threads: the setting at which speed is judged; None: the first measured of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_metric_drop: float | None = Field(default=None, ge=0, le=1)
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)
    min_speedup: float | None = Field(default=None, gt=0)
    max_size_mb: float | None = Field(default=None, gt=0)
    max_p95_ms: float | None = Field(default=None, gt=0)
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    batch: int | None = Field(default=None, ge=1)
    sequence: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.max_metric_drop is not None and self.max_accuracy_drop is not None:
            raise ValueError(
                "max_metric_drop and max_accuracy_drop are the same limit; give one of the two, and set the "
                "other to null where a recipe has it"
            )
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in _PLACES}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def needs_baseline(self) -> list[str]:
        """The limits that need a baseline."""
        alone = [name for name, gate in all_gates().items() if not gate.compares]
        return [x for x in self.limits if x not in ("max_size_mb", "max_p95_ms", *alone)]

    @property
    def of_tasks(self) -> list[str]:
        """The limits that apply to models of one task only."""
        return [x for x in self.limits if x in all_gates()]


if TYPE_CHECKING:
    GatesConfig = _Gates
else:
    GatesConfig = create_model(
        "GatesConfig",
        __base__=_Gates,
        __doc__=_Gates.__doc__,
        **{
            name: (float | None, Field(default=None, gt=0, le=gate.most, description=gate.noun))
            for name, gate in all_gates().items()
        },
    )
