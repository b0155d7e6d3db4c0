"""Gates: what a run must reach to pass, as a recipe says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, create_model

from compress.tasks.registry import all_gates

__all__ = ["GatesConfig"]

_PLACES = ("batch", "sequence", "threads")


class _Gates(BaseModel):
    """Limits on the test rows and on this machine; what is not given is not asked.

    Where accuracy or agreement is limited, the candidate must also be measurably better than the best model
    that never looks at its inputs. Tasks have further gates of their own: see `Task.gates`.

    Attributes:
        max_accuracy_drop: below the baseline's metric, as a share of 1; the lower end of the 95 % interval
            must reach it, so that chance alone doesn't pass.
        min_speedup: over the baseline; the lower end of the 95 % interval must reach it.
        max_size_mb: of the ONNX file with its external data, in MB of 1,000,000 bytes.
        max_p95_ms: that 95 of 100 single calls take at the most.
        min_agreement: share of the test rows that are answered as the baseline answers them.
        batch, sequence, threads: where speed is judged; None: the first of each that is measured.
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
        """Those that are given, by name."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in _PLACES}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def needs_baseline(self) -> list[str]:
        """Those that compare with a baseline."""
        return [x for x in self.limits if x not in ("max_size_mb", "max_p95_ms")]

    @property
    def of_tasks(self) -> list[str]:
        """Those that only models of one task can be judged by."""
        return [x for x in self.limits if x in all_gates()]


if TYPE_CHECKING:
    GatesConfig = _Gates
else:
    GatesConfig = create_model(
        "GatesConfig",
        __base__=_Gates,
        __doc__=_Gates.__doc__,
        **{name: (float | None, Field(default=None, gt=0)) for name in all_gates()},
    )
