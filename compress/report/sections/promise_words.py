"""A promise and what came of it: a table, and whether it is kept, and if not, what may be why."""

from __future__ import annotations

from compress.report.schema import RunReport
from compress.report.sections.cut import Cut
from compress.report.sections.promise import KEPT_WITHIN, Promise, Reading
from compress.report.tables import Table
from compress.report.words import milliseconds, promised_amount

__all__ = ["promise_sentences", "promise_table"]

_BETTER_WORSE = {"speedup": ("faster", "slower"), "latency_ms": ("faster", "slower")}


def promise_table(promise: Promise) -> Table:
    """What was asked, promised, checked and measured, and how far each is from what was asked."""
    timed = promise.kind != "size_mb"
    check = "checked while pruning" + (f", {promise.rounds} rounds" if promise.rounds else "")
    asked = Reading(
        promise.asked,
        promise.asked if promise.kind == "speedup" else None,
        ms=promise.asked if promise.kind == "latency_ms" else None,
    )
    named = (
        ("promised by the latency table" if timed else "promised by count", promise.table),
        (check, promise.checked),
        ("measured at the end" if timed else "the ONNX file", promise.measured),
    )
    rows = [_row(promise, "asked for", asked, "")]
    for name, reading in named:
        if reading is not None:
            rows.append(_row(promise, name, reading, _off_words(promise, reading)))
        elif name == "measured at the end":
            rows.append((name, "not measured there", "", "", ""))
    if not timed:
        return Table(("", "size", "against asked"), tuple(rows), "lrr")
    columns = ("", "speed-up", "against asked", "95 % interval", "latency")
    return Table(columns, tuple(rows), "lrrrr")


def _row(promise: Promise, name: str, reading: Reading, off: str) -> tuple[str, ...]:
    if promise.kind == "size_mb":
        return name, "" if reading.value is None else promised_amount("size_mb", reading.value), off
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
        return "the same"
    better, worse = _BETTER_WORSE.get(promise.kind, ("smaller", "larger"))
    return f"{100 * abs(off):.1f} % {better if off > 0 else worse}"


def promise_sentences(report: RunReport, cut: Cut, promise: Promise) -> list[str]:
    """Whether the promise is kept, and if not, what may be why."""
    off = promise.off(promise.measured)
    if off is None:
        if not promise.where:
            return ["The stage did not say at what batch, sequence and threads, so nothing can be compared."]
        return [
            f"Whether it is kept is not known: the recipe's `measure` does not include {promise.where}. Add "
            "it there to have the promise measured on the finished file."
        ]
    if promise.outcome == "unknown":
        return [
            "Whether it is kept on a quiet machine is not known: other work disturbed the measurement at the "
            f"end, which is {_against_asked(promise)}. Close other work and measure the bundle again: "
            "`modelpress check`."
        ]
    if abs(off) <= KEPT_WITHIN:
        said = [
            f"Kept: what was measured is within {100 * KEPT_WITHIN:.0f} % of what was asked "
            f"({_off_words(promise, promise.measured)})."
        ]
        return [*said, *_table_alone(promise)]
    share = f"{100 * abs(off):.0f} %"
    better = _BETTER_WORSE.get(promise.kind, ("smaller", "larger"))[0]
    reasons = _reasons(report, cut, promise)
    why = "; ".join(reasons) or "nothing in this report says why"
    head = f"Kept, and {share} {better} than asked" if off > 0 else f"Missed by {share}"
    return [f"{head}: {why}.", *(_table_alone(promise) if off > 0 else [])]


def _against_asked(promise: Promise) -> str:
    words = _off_words(promise, promise.measured)
    return f"{words} as asked" if words == "the same" else f"{words} than asked"


def _table_alone(promise: Promise) -> list[str]:
    """Say so where the check while pruning made up for a table that is wrong."""
    table, measured = promise.table, promise.measured
    if table is None or measured is None or not table.speedup or not measured.speedup:
        return []
    hope = table.speedup / measured.speedup - 1
    if promise.checked is None or abs(hope) <= KEPT_WITHIN:
        return []
    return [
        f"The table alone was {100 * abs(hope):.0f} % too {'hopeful' if hope > 0 else 'careful'}; the check "
        "while pruning made up for that."
    ]


def _reasons(report: RunReport, cut: Cut, promise: Promise) -> list[str]:
    reasons = []
    precision = cut.point.precision if cut.point is not None else ""
    after = report.stages[cut.number :]
    parameters = report.stages[cut.number - 1].parameters
    for stage in after:
        family, _, short = stage.name.rpartition("/")
        if family == "quantize":
            if precision and short not in precision:
                reasons.append(f"{stage.name} follows, and the promise was made for {precision}")
        elif stage.parameters != parameters:
            reasons.append(f"{stage.name} follows and changes the model")
        parameters = stage.parameters
    if promise.kind == "size_mb":
        return reasons or ["the file holds the graph and what the runtime adds beside the weights"]
    checked = promise.off(promise.checked)
    if promise.checked is not None and promise.checked.disturbed:
        reasons.append(
            "other work disturbed the check while pruning, so the widths were chosen by doubtful times"
        )
    elif checked is not None and promise.checked is not None and promise.checked.speedup is not None:
        at = f"{promise.checked.speedup:.2f}x"
        if abs(checked) > KEPT_WITHIN:
            reasons.append(
                f"the check while pruning was off already, at {at}: no choice of widths came nearer"
            )
        elif not reasons:
            reasons.append(
                f"the check while pruning kept it, at {at}, so the machine was otherwise busy or set"
            )
    measured = promise.measured
    if measured is not None and measured.low is not None and measured.high is not None:
        wide = promise.kind == "speedup" and measured.low <= promise.asked <= measured.high
        if wide:
            reasons.append("the interval of what was measured still holds what was asked")
    return [*reasons, *_other_machine(report, cut)]


def _other_machine(report: RunReport, cut: Cut) -> list[str]:
    cpu = cut.latency_table.machine.get("cpu") if cut.latency_table is not None else None
    if not cpu or cpu == report.measurement.environment.cpu:
        return []
    return [f"the latency table is from another processor ({cpu})"]
