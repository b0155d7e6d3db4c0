"""Evaluation of the gates on a measurement, as data and as sentences.

Gates on accuracy also require the candidate to be measurably better than the best constant answer: if one
label has 98 of 100 rows, a model that misses all others loses little accuracy.

If a figure has a 95 % interval, its worse end is judged, so that a build does not pass by luck today and fail
without cause tomorrow. Speed measured on a busy machine is not judged, with one exception: other processes
make calls longer, never shorter, so a latency within its limit holds regardless.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from compress.measure.results import AccuracyDifference, LatencyComparison, Measurement
from compress.page import Section, Table
from compress.page.format import Scale, amount
from compress.recipe.gates import METRIC_DROPS, GatesConfig
from compress.report.phrases import setting
from compress.report.schema import GateRecord, RunReport
from compress.report.sections.language import decode_setting
from compress.tasks import task_class, task_of_measurement
from compress.tasks.registry import all_gates, default_task
from compress.tasks.spec import TaskWords

__all__ = ["ABOVE_COMMONEST", "commonest_words", "gate_sentence", "judged", "section"]

ABOVE_COMMONEST = "above_commonest"
"""Name of the record added by gates on accuracy."""
_OF_ACCURACY = (*METRIC_DROPS, "min_agreement")
_UNITS = {
    **dict.fromkeys(METRIC_DROPS, ("{score} drop", "change")),
    "min_speedup": ("speed-up", "speedup"),
    "max_size_mb": ("file size", "size_mb"),
    "max_p95_ms": ("95th percentile of latency", "latency_ms"),
    "min_agreement": ("{agreement} as the baseline", "share"),
}
_Role = Literal["baseline", "candidate"]


def section(report: RunReport) -> Section | None:
    """Each gate: whether it holds, its limit and the measured value; None without gates."""
    if not report.gates:
        return None
    words = task_of_measurement(report.measurement).words
    rows = tuple(
        ("holds" if gate.holds else "fails" if gate.fails else "not judged", gate_sentence(gate, words))
        for gate in report.gates
    )
    return Section("Gates", (Table(("result", "limit and measurement"), rows, "ll"),), "gates")


def judged(gates: GatesConfig, measurement: Measurement) -> tuple[GateRecord, ...]:
    """Evaluate each configured gate, in the order of `GatesConfig`."""
    latency = _place(gates, measurement.latency)
    difference = measurement.difference
    where = "" if latency is None else setting(latency)
    speed = None if latency is None else (latency.speedup, latency.speedup_low)
    own = _own_figures(gates, measurement)
    found: dict[str, tuple[float | None, float | None, str]] = {
        **dict.fromkeys(METRIC_DROPS, (-difference.value, -difference.low, "")),
        "min_speedup": (*(speed or (None, None)), where),
        "max_size_mb": (measurement.candidate.size.file_bytes / 1e6, None, ""),
        "max_p95_ms": (None if latency is None else latency.candidate.p95_ms, None, where),
        "min_agreement": (difference.agreement, None, ""),
    }
    for name, (own_value, own_bound, own_timed) in own.items():
        found[name] = (own_value, own_bound, "" if own_timed is None else decode_setting(own_timed))
    records = []
    for name, limit in gates.limits.items():
        value, bound, place = found.get(name, (None, None, ""))
        decides = value if bound is None else bound
        holds = decides is not None and (decides >= limit if name.startswith("min_") else decides <= limit)
        timed = latency if name in ("min_speedup", "max_p95_ms") else own.get(name, (0, 0, None))[2]
        doubt = "" if timed is None or (name == "max_p95_ms" and holds) else _disturbance(timed)
        records.append(
            GateRecord(
                name=name,
                limit=limit,
                value=value,
                bound=bound,
                where=place,
                holds=holds and not doubt,
                not_judged=doubt,
            )
        )
    if any(name in gates.limits for name in _OF_ACCURACY):
        records += _above_commonest(measurement)
    return tuple(records)


def _own_figures(
    gates: GatesConfig, measurement: Measurement
) -> dict[str, tuple[float, float, LatencyComparison | None]]:
    """Of the task-specific gates: value, worse end of the interval, and the timing it comes from."""
    own = task_of_measurement(measurement).gates
    found = {name: gate.figure(measurement, lambda timed: _place(gates, timed)) for name, gate in own.items()}
    return {name: each for name, each in found.items() if each is not None}


def _above_commonest(measurement: Measurement) -> list[GateRecord]:
    found = _gain(measurement, "candidate")
    if found is None:
        return []
    share, gain = found
    return [
        GateRecord(
            name=ABOVE_COMMONEST,
            limit=share,
            value=measurement.candidate.accuracy.value,
            bound=share + gain.low,
            holds=gain.low > 0,
        )
    ]


def _gain(measurement: Measurement, who: _Role) -> tuple[float, AccuracyDifference] | None:
    """Metric of the best constant answers, and the gain over it; None if predictions were not stored."""
    kept = measurement.answers
    if kept is None and measurement.chance is not None:
        return measurement.chance.value, getattr(measurement.chance, who)
    if kept is None:
        return None
    answers = kept.of(who)
    return task_of_measurement(measurement).above_constant(answers, kept.truth)


def commonest_words(measurement: Measurement, who: _Role) -> str | None:
    """A sentence if a model is not measurably better than the best constant answer; otherwise None."""
    found = _gain(measurement, who)
    if found is None or found[1].low > 0:
        return None
    share, _ = found
    model = {"baseline": "uncompressed", "candidate": "compressed"}[who]
    words = task_of_measurement(measurement).words
    value = getattr(measurement, who).accuracy.value
    return words.not_above_constant(model, words.scale.text(value), words.scale.text(share))


def _disturbance(timed: LatencyComparison) -> str:
    """Why rounds were disturbed; empty if they were not."""
    if not timed.is_disturbed:
        return ""
    rounds = f"{timed.disturbed_rounds} of {timed.rounds} rounds"
    if timed.throttled_rounds == timed.disturbed_rounds:
        return f"the container's CPU quota paused the process in {rounds}"
    used = f"{timed.used_by_others or 0:.0%}"
    return f"the machine was busy: other processes used {used} of its cores, in {rounds}"


def _place(gates: GatesConfig, measured: Sequence[LatencyComparison]) -> LatencyComparison | None:
    for each in measured:
        length = gates.sequence if each.sequence is None else each.sequence  # no sequence: any is right
        asked = ((gates.batch, each.batch), (gates.sequence, length), (gates.threads, each.threads))
        if all(wanted in (None, there) for wanted, there in asked):
            return each
    return None


def gate_sentence(gate: GateRecord, words: TaskWords | None = None) -> str:
    """Limit and measured value: `speed-up: at least 2.0x required, measured 2.4x (at least 2.3x ...)`.

    Args:
        words: of the task; None: those of labelled rows.
    """
    task = words or task_class(default_task("labelled")).words
    if gate.name == ABOVE_COMMONEST:
        return _commonest_sentence(gate, task)

    own = all_gates().get(gate.name)
    noun, kind = _UNITS[gate.name] if own is None else (own.noun, own.kind)
    noun = noun.format(score=task.score, agreement=task.same or "same answers")

    least = gate.name.startswith("min_")
    bound = "at least" if least else "at most"
    shown = partial(_shown, kind, task.scale)
    said = f"{noun}: {bound} {shown(gate.limit)} required"
    if gate.value is None:
        return f"{said}, not measured at the gates' setting"
    change = partial(_drop_or_gain, task.scale) if kind == "change" else shown
    said += f", measured {change(gate.value)}"
    if gate.bound is not None:
        worst = f"{change(gate.bound)} at worst" if kind == "change" else f"{bound} {change(gate.bound)}"
        said += f" ({worst} by the 95 % interval)"
    said += f" at {gate.where}" if gate.where else ""
    if gate.not_judged:
        return f"{said}; not judged: {gate.not_judged}"
    if gate.is_unproven:
        more = "more rounds or a less busy machine" if kind == "speedup" else "more test rows"
        said += f"; possibly met, but not proven: {more} would narrow the interval"
    return said


def _shown(kind: str, scale: Scale, value: float) -> str:
    """A limit or value in the gate's unit."""
    if kind == "change":
        return f"{scale.number(value, 1)}{scale.change_unit}"
    return f"{value:.3f}x" if kind == "ratio" else amount(kind, value)


def _drop_or_gain(scale: Scale, drop: float) -> str:
    """A drop of a score in words; the verdict gives the same change with the other sign."""
    if float(scale.number(abs(drop), 1)) == 0:
        return "no change"
    return f"a {'drop' if drop > 0 else 'gain'} of {_shown('change', scale, abs(drop))}"


def _commonest_sentence(gate: GateRecord, task: TaskWords) -> str:
    assert gate.value is not None and gate.bound is not None
    shown = task.scale.text
    words = (
        f"{task.score}: more than {shown(gate.limit)} required, that of {task.constant}; measured "
        f"{shown(gate.value)} (at least {shown(gate.bound)} by the 95 % interval of the difference)"
    )
    return words if gate.holds else f"{words}; not measurably better"
