"""Sentences of an Inspection: how many heads and neurons are needed, the method, and its limits."""

from __future__ import annotations

from compress.page.format import capital, whole_percent
from compress.report.inspection.data import Inspection, Pair, Point

__all__ = [
    "alike_pairs",
    "first_loss_beyond",
    "heads_needed",
    "measurable_from",
    "method",
    "most_neurons",
    "needed_heads",
    "neuron_sentence",
]

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


def _compared(point: Point, inspection: Inspection) -> str:
    words, scale = inspection.words, inspection.words.scale
    value, interval = scale.change(point.difference, point.low, point.high)
    return (
        f"validation {words.score} is {scale.text(point.accuracy)} instead of "
        f"{scale.text(inspection.accuracy)} ({value}{scale.change_unit}, 95 % interval {interval}, "
        f"{inspection.judged})"
    )


def needed_heads(inspection: Inspection) -> str:
    """A sentence on how many heads of each layer the task needs."""
    words = inspection.words
    total = sum(len(heads.importance) for heads in inspection.heads)
    left = total - inspection.need.silenced
    if inspection.need.silenced == 0:
        return (
            f"No head can be silenced with a loss of at most {_allowed(inspection)} of {words.score}: this "
            f"task needs all {total} (validation {words.score} {words.scale.text(inspection.accuracy)}, "
            f"{inspection.judged})."
        )
    counts = ", ".join(str(len(heads.needed)) for heads in inspection.heads)
    layers = [heads.layer for heads in inspection.heads]
    runs = layers == list(range(layers[0], layers[-1] + 1))
    where = f"{layers[0]}-{layers[-1]}" if runs and len(layers) > 1 else ", ".join(map(str, layers))
    noun = "layer" if len(layers) == 1 else "layers"
    return (
        f"This task needs about {counts} heads in {noun} {where} ({left} of {total}): with the other "
        f"{inspection.need.silenced} silenced, {_compared(inspection.need, inspection)}."
    )


def most_neurons(inspection: Inspection) -> Point | None:
    """The most silenced neurons that lose no more than `max_drop`; None if there is no curve."""
    within = [x for x in inspection.neuron_curve if -x.difference <= inspection.max_drop + 1e-9]
    return max(within, key=lambda x: x.silenced, default=None)


def neuron_sentence(inspection: Inspection) -> str:
    """A sentence on how many feed-forward neurons can be silenced with all heads active; may be empty."""
    point = most_neurons(inspection)
    if point is None:
        return ""
    total = inspection.neuron_curve[-1].silenced
    if point.silenced == 0:
        first = inspection.neuron_curve[1]
        return (
            f"Of {total:,} feed-forward neurons, silencing even the {first.silenced:,} least important ones "
            f"loses too much: {_compared(first, inspection)}."
        )
    return (
        f"Of {total:,} feed-forward neurons, the {point.silenced:,} least important ones "
        f"({whole_percent(point.silenced / total)}) can be silenced with all heads active: "
        f"{_compared(point, inspection)}."
    )


def _allowed(inspection: Inspection) -> str:
    scale = inspection.words.scale
    allowed = f"{scale.factor * inspection.max_drop:g}{scale.change_unit}"
    return "1 point" if allowed == "1 points" else allowed


def first_loss_beyond(inspection: Inspection) -> Point | None:
    """The point with the fewest silenced heads that loses more than `max_drop`, if fewer than chosen.

    The number of heads needed is then partly chance.
    """
    broken = [x for x in inspection.joint if -x.difference > inspection.max_drop + 1e-9]
    early = min(broken, key=lambda x: x.silenced, default=None)
    return None if early is None or early.silenced > inspection.need.silenced else early


def heads_needed(inspection: Inspection) -> tuple[int, int]:
    """Smallest and largest plausible number of heads needed; they differ if the curve is not monotonic."""
    total, early = inspection.joint[-1].silenced, first_loss_beyond(inspection)
    least = total - inspection.need.silenced
    if early is None:
        return least, least
    return least, total - max(x.silenced for x in inspection.joint if x.silenced < early.silenced)


def _not_monotonic(inspection: Inspection) -> tuple[str, ...]:
    early = first_loss_beyond(inspection)
    if early is None:
        return ()
    least, most = heads_needed(inspection)
    words = inspection.words
    lower = f"{words.scale.number(-early.difference)}{words.scale.change_unit}"
    return (
        f"The curve is not monotonic: {words.score} is {lower} lower with only "
        f"{early.silenced} heads silenced. The number of heads needed is between {least} and {most}.",
    )


def measurable_from(inspection: Inspection) -> tuple[int, int | None]:
    """The most silenced heads without a measurable loss, and the fewest with one; None if there is none."""
    lost = min((x.silenced for x in inspection.joint if x.high < 0), default=None)
    return max(x.silenced for x in inspection.joint if lost is None or x.silenced < lost), lost


def _first_measurable(inspection: Inspection) -> str:
    """A sentence on where the loss rises above noise; the allowed drop may be far below it."""
    without, lost = measurable_from(inspection)
    end = f"; from {lost} on it is" if lost is not None else ""
    return (
        f"With up to {without} of {inspection.joint[-1].silenced} heads silenced, no loss is measurable "
        f"on {inspection.judged}{end}. More rows would resolve smaller losses."
    )


def method(inspection: Inspection) -> tuple[str, ...]:
    """The method and its limits, one or two sentences each."""
    drop, score = _allowed(inspection), inspection.words.score
    return (
        _first_measurable(inspection),
        *_not_monotonic(inspection),
        "Silenced means that the output is multiplied by 0 in the float PyTorch model. Nothing is cut or "
        "retrained, and latency is not measured here; pruning with recovery training can go further.",
        f"Importance is the Taylor score (Michel et al. 2019) over {inspection.calibration_rows:,} training "
        "rows, divided by each layer's L2 norm so that layers are comparable.",
        f"{capital(score)} was measured on {inspection.validation_rows:,} validation rows; no test rows were "
        f"used. The smallest of the tried sets of heads that loses at most {drop} was chosen on these same "
        f"rows, so its {score} is slightly optimistic, and another sample of rows may give a different "
        "number: the allowed drop is often smaller than the noise.",
        f"A difference whose 95 % interval contains 0 may be noise. {inspection.evaluations} passes over the "
        "validation rows were made; some of that many intervals do not contain the true value.",
    )
