"""Gates: what a run must reach to pass, as configured in a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, create_model

from compress.tasks.registry import all_gates

__all__ = ["GatesConfig"]

_PLACES = ("batch", "sequence", "threads")


class _Gates(BaseModel):
    """Limits on the results on the test rows and on this machine; None: no limit.

    If accuracy or agreement is limited, the candidate must also be measurably better than the best model that
    ignores its inputs. Tasks define further gates: see `Task.gates`.

    Attributes:
        max_accuracy_drop: largest drop below the baseline's metric, in [0, 1], at the lower end of the 95 %
            interval, so that a run does not pass by chance.
        min_speedup: over the baseline, at the lower end of the 95 % interval.
        max_size_mb: ONNX file with its external data, in MB of 1,000,000 bytes.
        max_p95_ms: 95th percentile of single calls.
        min_agreement: share of the test rows with the same prediction as the baseline.
        batch, sequence, threads: the setting at which speed is judged; None: the first measured of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)
    min_speedup: float | None = Field(default=None, gt=0)
    max_size_mb: float | None = Field(default=None, gt=0)
    max_p95_ms: float | None = Field(default=None, gt=0)
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    batch: int | None = Field(default=None, ge=1)
    sequence: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in _PLACES}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def needs_baseline(self) -> list[str]:
        """The limits that need a baseline."""
        return [x for x in self.limits if x not in ("max_size_mb", "max_p95_ms")]

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
            name: (float | None, Field(default=None, gt=0, description=gate.noun))
            for name, gate in all_gates().items()
        },
    )
