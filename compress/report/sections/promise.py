"""A promise of speed or size against what the finished ONNX file was measured at.

What was asked is the promise; the table's word and the check while pruning stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.report.schema import RunReport
from compress.report.sections.cut import Cut, cuts_of, measured_there

__all__ = ["KEPT_WITHIN", "Promise", "Reading", "last_promise", "promise_of"]

KEPT_WITHIN = 0.05
"""A promise missed by no more than this share of itself is called kept."""


@dataclass(frozen=True)
class Reading:
    """One figure beside a promise: a speed-up, ms or MB, by the promise's kind.

    Attributes:
        value: in the promise's unit; none: not known.
        speedup, low, high: as a speed-up with its interval, where it is one.
        ms: as p50 of a call.
        disturbed: whether other work, or a container's quota, disturbed the timing.
    """

    value: float | None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    ms: float | None = None
    disturbed: bool = False


@dataclass(frozen=True)
class Promise:
    """What was promised, and what came of it.

    Attributes:
        kind: speedup, latency_ms or size_mb.
        asked: in that unit.
        where: `batch 1, 128 tokens, 2 threads`; empty for a size, or if it is not known.
        rounds: of the check.
    """

    kind: str
    asked: float
    where: str
    table: Reading | None
    checked: Reading | None
    measured: Reading | None
    rounds: int | None = None

    def off(self, reading: Reading | None) -> float | None:
        """How far a figure is from what was asked, as a share of that; positive: better."""
        if reading is None or reading.value is None or reading.value <= 0:
            return None
        change = reading.value / self.asked - 1
        return change if self.kind == "speedup" else -change

    @property
    def missed(self) -> bool:
        """Whether what was measured at the end is worse than asked by more than `KEPT_WITHIN`."""
        off = self.off(self.measured)
        return off is not None and off < -KEPT_WITHIN

    @property
    def outcome(self) -> Literal["kept", "missed", "unknown"]:
        """What came of it. Times that other work disturbed don't tell, but for a latency that is kept anyway.

        Other work makes a call longer, never shorter; a ratio of two calls it moves either way.
        """
        if self.measured is None or self.off(self.measured) is None:
            return "unknown"
        if self.measured.disturbed and (self.missed or self.kind == "speedup"):
            return "unknown"
        return "missed" if self.missed else "kept"


def promise_of(report: RunReport, cut: Cut) -> Promise | None:
    """What a stage promised, beside what was measured; none where it promised nothing that is measured."""
    if cut.asked is None:
        return None
    kind, asked = cut.asked
    if kind == "size_mb":
        counted = cut.promised.size_mb if cut.promised is not None else None
        file = Reading(report.measurement.candidate.size.file_bytes / 1e6)
        return Promise(kind, asked, "", Reading(counted) if counted else None, None, file)
    return Promise(
        kind,
        asked,
        "" if cut.point is None else str(cut.point),
        _table(cut, kind),
        _checked(cut, kind),
        _measured(report, cut, kind),
        None if cut.checked is None else cut.checked.rounds,
    )


def _table(cut: Cut, kind: str) -> Reading | None:
    said = cut.promised
    if said is None or (said.speedup is None and said.latency_ms is None):
        return None
    value = said.speedup if kind == "speedup" else said.latency_ms
    return Reading(value, said.speedup, ms=said.latency_ms)


def _checked(cut: Cut, kind: str) -> Reading | None:
    found, table = cut.checked, cut.latency_table
    if found is None:
        return None
    reference = None if table is None else table.baseline_ms or table.dense_ms
    # Only the ratio was taken while pruning; in ms it is the table's uncompressed model by that ratio.
    ms = None if reference is None else reference / found.speedup
    value = found.speedup if kind == "speedup" else ms
    return Reading(value, found.speedup, found.low, found.high, ms, disturbed=found.disturbed_rounds > 0)


def _measured(report: RunReport, cut: Cut, kind: str) -> Reading | None:
    found = measured_there(report, cut.point)
    if found is None:
        return None
    ms = found.candidate.p50_ms
    value = found.speedup if kind == "speedup" else ms
    return Reading(
        value, found.speedup, found.speedup_low, found.speedup_high, ms, disturbed=found.is_disturbed
    )


def last_promise(report: RunReport) -> Promise | None:
    """The promise that the whole run is held to: that of its last cut that has one."""
    promises = (promise_of(report, cut) for cut in reversed(cuts_of(report)))
    return next((promise for promise in promises if promise is not None), None)
