"""Sentences of an Inspection: how many heads and neurons are needed, the method, and its limits."""

from __future__ import annotations

from compress.page.format import percent, points, whole_percent
from compress.report.inspection.data import Inspection, Pair, Point

__all__ = ["alike_pairs", "method", "needed_heads", "neuron_sentence"]

_ALIKE = 0.9


def alike_pairs(inspection: Inspection) -> list[Pair]:
    """Pairs of heads of a layer whose CKA is above 0.9, most similar first."""
    pairs = [
        Pair(layer=heads.layer, first=i, second=j, cka=heads.likeness[i][j])
        for heads in inspection.heads
        for i in range(len(heads.likeness))
        for j in range(i + 1, len(heads.likeness))
        if heads.likeness[i][j] > _ALIKE
    ]
    return sorted(pairs, key=lambda pair: -pair.cka)


def _against(point: Point, inspection: Inspection) -> str:
    value, interval = points(point.difference, point.low, point.high)
    return (
        f"validation accuracy is {percent(point.accuracy)} against {percent(inspection.accuracy)} "
        f"({value} points, 95 % interval {interval}, {inspection.validation_rows:,} rows)"
    )


def needed_heads(inspection: Inspection) -> str:
    """A sentence on how many heads of each layer the task needs."""
    total = sum(len(heads.importance) for heads in inspection.heads)
    left = total - inspection.need.silenced
    if inspection.need.silenced == 0:
        return (
            f"No head can be silenced within {_allowed(inspection)} of accuracy: this task "
            f"needs all {total} (validation accuracy {percent(inspection.accuracy)}, "
            f"{inspection.validation_rows:,} rows)."
        )
    counts = ", ".join(str(len(heads.needed)) for heads in inspection.heads)
    layers = [heads.layer for heads in inspection.heads]
    runs = layers == list(range(layers[0], layers[-1] + 1))
    where = f"{layers[0]}-{layers[-1]}" if runs and len(layers) > 1 else ", ".join(map(str, layers))
    noun = "layer" if len(layers) == 1 else "layers"
    return (
        f"This task needs about {counts} heads in {noun} {where} ({left} of {total}): with the other "
        f"{inspection.need.silenced} silenced, {_against(inspection.need, inspection)}."
    )


def neuron_sentence(inspection: Inspection) -> str:
    """A sentence on how many feed-forward neurons could be silenced with all heads on; may be empty."""
    if not inspection.neuron_curve:
        return ""
    total = inspection.neuron_curve[-1].silenced
    within = [x for x in inspection.neuron_curve if -x.difference <= inspection.max_drop + 1e-9]
    point = max(within, key=lambda x: x.silenced)
    if point.silenced == 0:
        first = inspection.neuron_curve[1]
        return (
            f"Of {total:,} feed-forward neurons, silencing even the least important {first.silenced:,} is "
            f"too much: {_against(first, inspection)}."
        )
    return (
        f"Of {total:,} feed-forward neurons, the least important {point.silenced:,} "
        f"({whole_percent(point.silenced / total)}) can be silenced with all heads on: "
        f"{_against(point, inspection)}."
    )


def _allowed(inspection: Inspection) -> str:
    points_allowed = 100 * inspection.max_drop
    return f"{points_allowed:g} point" + ("" if points_allowed == 1 else "s")


def _unsteady(inspection: Inspection) -> tuple[str, ...]:
    """A sentence if silencing fewer heads costs more than the chosen set: its size is then partly luck."""
    broken = [x for x in inspection.joint if -x.difference > inspection.max_drop + 1e-9]
    early = min(broken, key=lambda x: x.silenced, default=None)
    if early is None or early.silenced > inspection.need.silenced:
        return ()
    total = inspection.joint[-1].silenced
    steady = max(x.silenced for x in inspection.joint if x.silenced < early.silenced)
    return (
        f"The curve is not steady: with only {early.silenced} heads silenced accuracy was already "
        f"{-100 * early.difference:.1f} points lower. Read the number as {total - inspection.need.silenced} "
        f"to {total - steady} heads.",
    )


def _first_measurable(inspection: Inspection) -> tuple[str, ...]:
    """A sentence on where the loss rises above noise; the allowed drop may be far below it."""
    lost = [x.silenced for x in inspection.joint if x.high < 0]
    before = [x.silenced for x in inspection.joint if not lost or x.silenced < min(lost)]
    end = f"; from {min(lost)} on it is" if lost else ""
    return (
        f"With up to {max(before)} of {inspection.joint[-1].silenced} heads silenced no loss is measurable "
        f"on {inspection.validation_rows:,} rows{end}. More rows would tell smaller losses apart.",
    )


def method(inspection: Inspection) -> tuple[str, ...]:
    """The method and its limits, one or two sentences each."""
    drop = _allowed(inspection)
    return (
        *_first_measurable(inspection),
        *_unsteady(inspection),
        "Silenced means: its output is multiplied by 0 in the float PyTorch model. Nothing is cut or "
        "retrained, and latency is not measured here; pruning with recovery training can go further.",
        f"Importance is the Taylor score (Michel et al. 2019) over {inspection.calibration_rows:,} train "
        "rows, divided by each layer's L2 norm so that layers compare.",
        f"Accuracy is that on {inspection.validation_rows:,} validation rows; no test rows were used. Of "
        f"the sets of heads tried, the smallest that loses at most {drop} was chosen on these same "
        "rows, so its accuracy (that of exactly this set) is a little flattering, and another sample "
        "of rows may give quite another number: the allowed drop is often smaller than the noise.",
        f"A difference whose 95 % interval holds 0 may be noise. {inspection.evaluations} passes over the "
        "validation rows were made; of that many intervals some miss.",
    )
