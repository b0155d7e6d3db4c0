"""Targets for speed or size compared with the finished ONNX file: met or missed, and why.

The target comes from the recipe; the latency table's prediction and the check while pruning are shown too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.measure.results import LatencyComparison
from compress.page import Section, Table, Text
from compress.page.format import amount, milliseconds
from compress.report.schema import RunReport
from compress.report.sections.cut import StageCut, cuts_of, per_stage

__all__ = [
    "KEPT_WITHIN",
    "Promise",
    "Reading",
    "Reason",
    "last_promise",
    "promise_of",
    "promise_sentences",
    "promise_table",
    "promise_words",
    "reasons",
    "section",
    "table_error",
]

KEPT_WITHIN = 0.05
"""A target missed by no more than this share of itself counts as kept."""


_BETTER_WORSE = {"speedup": ("faster", "slower"), "latency_ms": ("faster", "slower")}


@dataclass(frozen=True)
class Reading:
    """One figure compared with a target: a speed-up, ms or MB, depending on the kind of target.

    Attributes:
        value: in the target's unit; None if unknown.
        speedup, low, high: as a speed-up with its interval, if it is one.
        ms: p50 of a call.
        disturbed: whether other processes or a container's quota disturbed the timing.
    """

    value: float | None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    ms: float | None = None
    disturbed: bool = False


@dataclass(frozen=True)
class Promise:
    """A target and its outcome.

    Attributes:
        kind: speedup, latency_ms or size_mb.
        asked: in that unit.
        where: `batch 1, 128 tokens, 2 threads`; empty for a size, or if unknown.
        rounds: of the check while pruning.
    """

    kind: str
    asked: float
    where: str
    table: Reading | None
    checked: Reading | None
    measured: Reading | None
    rounds: int | None = None

    def off(self, reading: Reading | None) -> float | None:
        """Relative deviation of a figure from the target; positive is better."""
        if reading is None or reading.value is None or reading.value <= 0:
            return None
        change = reading.value / self.asked - 1
        return change if self.kind == "speedup" else -change

    @property
    def missed(self) -> bool:
        """Whether the final measurement is worse than the target by more than `KEPT_WITHIN`."""
        off = self.off(self.measured)
        return off is not None and off < -KEPT_WITHIN

    @property
    def outcome(self) -> Literal["kept", "missed", "unknown"]:
        """Outcome; disturbed timings do not count, except a latency within its limit.

        Other processes make a call longer, never shorter, but move a ratio of two calls either way.
        """
        if self.measured is None or self.off(self.measured) is None:
            return "unknown"
        if self.measured.disturbed and (self.missed or self.kind == "speedup"):
            return "unknown"
        return "missed" if self.missed else "kept"


@dataclass(frozen=True)
class Reason:
    """A possible reason for a deviation from the target."""

    kind: Literal["stage", "precision", "graph", "disturbed", "check", "machine", "interval", "processor"]
    text: str


def promise_of(report: RunReport, cut: StageCut) -> Promise | None:
    """A stage's target compared with the measurement; None if it has no target that is measured."""
    if cut.facts.asked is None:
        return None
    kind, asked = cut.facts.asked
    if kind == "size_mb":
        counted = cut.facts.promised.size_mb if cut.facts.promised is not None else None
        file = Reading(report.measurement.candidate.size.file_bytes / 1e6)
        return Promise(kind, asked, "", Reading(counted) if counted else None, None, file)
    return Promise(
        kind,
        asked,
        "" if cut.facts.point is None else str(cut.facts.point),
        _table(cut, kind),
        _checked(cut, kind),
        _measured(report, cut, kind),
        None if cut.facts.checked is None else cut.facts.checked.rounds,
    )


def _table(cut: StageCut, kind: str) -> Reading | None:
    said = cut.facts.promised
    if said is None or (said.speedup is None and said.latency_ms is None):
        return None
    value = said.speedup if kind == "speedup" else said.latency_ms
    return Reading(value, said.speedup, ms=said.latency_ms)


def _checked(cut: StageCut, kind: str) -> Reading | None:
    found, table = cut.facts.checked, cut.facts.latency_table
    if found is None:
        return None
    reference = None if table is None else table.baseline_ms or table.dense_ms
    # Only the ratio was measured while pruning; ms is the table's uncompressed model divided by it.
    ms = None if reference is None else reference / found.speedup
    value = found.speedup if kind == "speedup" else ms
    return Reading(value, found.speedup, found.low, found.high, ms, disturbed=found.disturbed_rounds > 0)


def _measured_there(report: RunReport, cut: StageCut) -> LatencyComparison | None:
    """The latency measured at the target's setting; None if it was not measured there."""
    point = cut.facts.point
    if point is None:
        return None
    return next((x for x in report.measurement.latency if x.setting.key == point.key), None)


def _measured(report: RunReport, cut: StageCut, kind: str) -> Reading | None:
    found = _measured_there(report, cut)
    if found is None:
        return None
    ms = found.candidate.p50_ms
    value = found.speedup if kind == "speedup" else ms
    return Reading(
        value, found.speedup, found.speedup_low, found.speedup_high, ms, disturbed=found.is_disturbed
    )


def last_promise(report: RunReport) -> Promise | None:
    """The target of the whole run: that of its last cut that has one."""
    promises = (promise_of(report, cut) for cut in reversed(cuts_of(report)))
    return next((promise for promise in promises if promise is not None), None)


def promise_words(promise: Promise) -> str:
    """Target and measurement in words: `target 3.0x, measured 2.97x at batch 1, 128 tokens, 2 threads`."""
    asked = amount(promise.kind, promise.asked)
    where = f" at {promise.where}" if promise.where else ""
    if promise.measured is None or promise.measured.value is None:
        return f"target {asked}{where}, not measured there"
    busy = " on a busy machine" if promise.measured.disturbed else ""
    return f"target {asked}, measured {amount(promise.kind, promise.measured.value)}{where}{busy}"


def section(report: RunReport) -> Section | None:
    """Each stage's target compared with the measurement; None if there are none."""

    def parts(cut: StageCut) -> list[Text | Table]:
        promise = promise_of(report, cut)
        if promise is None:
            return []
        return [Text(" ".join(promise_sentences(report, cut, promise))), promise_table(promise)]

    return per_stage("Target and measurement", "promise", cuts_of(report), parts)


def promise_table(promise: Promise) -> Table:
    """Target, prediction, check and measurement, and the deviation of each from the target."""
    timed = promise.kind != "size_mb"
    check = "checked while pruning" + (f", {promise.rounds} rounds" if promise.rounds else "")
    asked = Reading(
        promise.asked,
        promise.asked if promise.kind == "speedup" else None,
        ms=promise.asked if promise.kind == "latency_ms" else None,
    )
    named = (
        ("predicted by the latency table" if timed else "predicted by count", promise.table),
        (check, promise.checked),
        ("measured at the end" if timed else "the ONNX file", promise.measured),
    )
    rows = [_row(promise, "target", asked, "")]
    for name, reading in named:
        if reading is not None:
            rows.append(_row(promise, name, reading, _off_words(promise, reading)))
        elif name == "measured at the end":
            rows.append((name, "not measured there", "", "", ""))
    if not timed:
        return Table(("", "size", "relative to target"), tuple(rows), "lrr")
    columns = ("", "speed-up", "relative to target", "95 % interval", "latency")
    return Table(columns, tuple(rows), "lrrrr")


def _row(promise: Promise, name: str, reading: Reading, off: str) -> tuple[str, ...]:
    if promise.kind == "size_mb":
        return name, "" if reading.value is None else amount("size_mb", reading.value), off
    known = reading.low is not None and reading.high is not None
    return (
        name,
        "" if reading.speedup is None else f"{reading.speedup:.2f}x",
        off,
        f"{reading.low:.2f} to {reading.high:.2f}" if known else "",
        "" if reading.ms is None else milliseconds(reading.ms),
    )


def _off_words(promise: Promise, reading: Reading | None) -> str:
    off = promise.off(reading)
    if off is None:
        return ""
    if abs(off) < 0.0005:
        return "equal"
    better, worse = _BETTER_WORSE.get(promise.kind, ("smaller", "larger"))
    return f"{100 * abs(off):.1f} % {better if off > 0 else worse}"


def promise_sentences(report: RunReport, cut: StageCut, promise: Promise) -> list[str]:
    """Whether the target was met, and if not, possible reasons."""
    off = promise.off(promise.measured)
    if off is None:
        if not promise.where:
            return ["The stage does not record batch, sequence and threads, so nothing can be compared."]
        return [
            f"Whether the target is met is not known: the recipe's measure does not include {promise.where}. "
            "Add it to have the finished file measured there."
        ]
    if promise.outcome == "unknown":
        return [
            "Whether the target is met on an idle machine is not known: other processes disturbed the final "
            f"measurement, which is {_relative(promise)}. Close them and measure the bundle again with "
            "modelpress check BUNDLE --against BASELINE."
        ]
    if abs(off) <= KEPT_WITHIN:
        said = [f"Target met within {100 * KEPT_WITHIN:.0f} %: the measurement is {_relative(promise)}."]
        return [*said, *_table_alone(promise)]
    share = f"{100 * abs(off):.0f} %"
    better = _BETTER_WORSE.get(promise.kind, ("smaller", "larger"))[0]
    why = (
        "; ".join(each.text for each in reasons(report, cut, promise))
        or "nothing in this report explains why"
    )
    head = f"Target met, {share} {better} than required" if off > 0 else f"Target missed by {share}"
    return [f"{head}: {why}.", *(_table_alone(promise) if off > 0 else [])]


def _relative(promise: Promise) -> str:
    words = _off_words(promise, promise.measured)
    return "equal to the target" if words == "equal" else f"{words} than the target"


def table_error(promise: Promise) -> float | None:
    """Relative error of the latency table's prediction, if the check while pruning corrected it."""
    table, measured = promise.table, promise.measured
    if table is None or measured is None or not table.speedup or not measured.speedup:
        return None
    error = table.speedup / measured.speedup - 1
    return None if promise.checked is None or abs(error) <= KEPT_WITHIN else error


def _table_alone(promise: Promise) -> list[str]:
    error = table_error(promise)
    if error is None:
        return []
    return [
        f"The latency table alone was {100 * abs(error):.0f} % too "
        f"{'optimistic' if error > 0 else 'pessimistic'}; the check while pruning corrected that."
    ]


def reasons(report: RunReport, cut: StageCut, promise: Promise) -> list[Reason]:
    """Possible reasons why the measurement differs from the target; empty if none is found."""
    found = _later_stages(report, cut)
    if promise.kind == "size_mb":
        return found or [Reason("graph", "the file contains the graph and other data besides the weights")]
    found += _check(promise, bool(found))
    interval = () if promise.measured is None else (promise.measured.low, promise.measured.high)
    match promise.kind, interval:
        case "speedup", (float(low), float(high)) if low <= promise.asked <= high:
            found.append(Reason("interval", "the interval of the measurement contains the target"))
    cpu = cut.facts.latency_table.machine.get("cpu") if cut.facts.latency_table is not None else None
    if cpu and cpu != report.measurement.environment.cpu:
        found.append(Reason("processor", f"the latency table is from another processor ({cpu})"))
    return found


def _later_stages(report: RunReport, cut: StageCut) -> list[Reason]:
    found = []
    precision = cut.facts.point.precision if cut.facts.point is not None else ""
    parameters = report.stages[cut.number - 1].parameters
    for stage in report.stages[cut.number :]:
        family, _, short = stage.name.rpartition("/")
        if family == "quantize":
            if precision and short not in precision:
                text = f"{stage.name} follows, and the target was set for {precision}"
                found.append(Reason("precision", text))
        elif stage.parameters != parameters:
            found.append(Reason("stage", f"{stage.name} follows and changes the model"))
        parameters = stage.parameters
    return found


def _check(promise: Promise, explained: bool) -> list[Reason]:
    """What the check while pruning says; that it met the target only if nothing else explains the miss."""
    checked = promise.checked
    if checked is None:
        return []
    if checked.disturbed:
        text = (
            "other processes disturbed the check while pruning, so the widths were chosen by unreliable times"
        )
        return [Reason("disturbed", text)]
    off = promise.off(checked)
    if off is None or checked.speedup is None:
        return []
    at = f"the check while pruning {{}}, at {checked.speedup:.2f}x: "
    if abs(off) > KEPT_WITHIN:
        return [Reason("check", at.format("was already off") + "no set of widths came closer")]
    busier = "busier" if promise.missed else "less busy"
    text = at.format("met it") + f"at the end the machine was {busier} or configured differently"
    return [] if explained else [Reason("machine", text)]
