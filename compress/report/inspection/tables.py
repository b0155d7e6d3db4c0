"""Text tables of an Inspection, shared by Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence

from compress.page import Table
from compress.page.format import whole_percent
from compress.report.inspection.data import HeadLook, Inspection, Point
from compress.report.inspection.words import alike_pairs
from compress.tasks.spec import TaskWords

__all__ = [
    "curve_table",
    "importance_table",
    "layers_table",
    "look_words",
    "looks_table",
    "neurons_table",
    "pairs_table",
    "quantization_table",
]

_SHARES = ("itself", "first", "separator", "previous", "next", "other")


def importance_table(inspection: Inspection) -> Table:
    """Importance of every head; * marks the heads that are needed."""
    most = max(len(each.importance) for each in inspection.heads)
    rows = []
    for each in inspection.heads:
        marks = (f"{x:.2f}{'*' if i in each.needed else ''}" for i, x in enumerate(each.importance))
        cells = [*marks, *[""] * (most - len(each.importance))]
        rows.append((str(each.layer), f"{len(each.needed)} of {len(each.importance)}", *cells))
    return Table(("layer", "needed", *map(str, range(most))), tuple(rows), "lr" + "r" * most)


def curve_table(curve: Sequence[Point], unit: str, words: TaskWords) -> Table:
    """The task's metric and its difference by number of units silenced."""
    rows = []
    for point in curve:
        value, interval = words.scale.change(point.difference, point.low, point.high)
        change = ("", "") if point.silenced == 0 else (value, interval)
        rows.append((f"{point.silenced:,}", words.scale.text(point.accuracy), *change))
    columns = (f"{unit} silenced", words.score, words.scale.change_unit.strip() or "change", "95 % interval")
    return Table(columns, tuple(rows), "rrrr")


def layers_table(inspection: Inspection) -> Table:
    """Change of the metric from silencing heads of one layer alone; * where it is measurable."""
    scale = inspection.words.scale
    most = max(len(each.curve) for each in inspection.heads) - 1
    rows = []
    for each in inspection.heads:
        cells = [scale.change(x.difference, -1, 1)[0] + ("*" if x.measurable else "") for x in each.curve[1:]]
        rows.append((str(each.layer), *cells, *[""] * (most - len(cells))))
    return Table(("layer", *(str(k) for k in range(1, most + 1))), tuple(rows), "l" + "r" * most)


def pairs_table(inspection: Inspection) -> Table:
    """Pairs of heads with nearly the same output."""
    rows = [(str(x.layer), f"{x.first} and {x.second}", f"{x.cka:.2f}") for x in alike_pairs(inspection)]
    return Table(("layer", "heads", "CKA"), tuple(rows), "llr")


def neurons_table(inspection: Inspection) -> Table:
    """Distribution of each layer's importance over its neurons."""
    rows = tuple(
        (
            str(x.layer),
            f"{x.neurons:,}",
            *(whole_percent(share) for share in (x.top10, x.top25, x.top50)),
            f"{x.for90:,} ({whole_percent(x.for90 / x.neurons)})",
            f"{x.for99:,} ({whole_percent(x.for99 / x.neurons)})",
        )
        for x in inspection.neurons
    )
    columns = ("layer", "neurons", "share of top 10 %", "top 25 %", "top 50 %", "90 % is in", "99 % is in")
    return Table(columns, rows, "lrrrrrr")


def quantization_table(inspection: Inspection) -> Table:
    """Cost of each group of layers in each scheme alone: divergence in thousandths, change of the metric."""
    scale = inspection.words.scale
    schemes = list(inspection.quantization[0].divergence)
    rows = tuple(
        (
            group.name,
            *(
                f"{1000 * group.divergence[scheme]:.2f} ({scale.change(group.difference[scheme], -1, 1)[0]})"
                for scheme in schemes
            ),
        )
        for group in inspection.quantization
    )
    return Table(("layers", *schemes), rows, "l" + "r" * len(schemes))


def looks_table(inspection: Inspection) -> Table:
    """Where each head attends: shares of its attention."""
    facts = inspection.attention
    rows = tuple(
        (
            f"{x.layer}.{x.head}",
            look_words(x, facts.first_token),
            *(whole_percent(getattr(x, share)) for share in _SHARES),
        )
        for x in facts.looks
    )
    columns = ("layer.head", "mostly", "itself", facts.first_token, "separator", "previous", "next", "other")
    return Table(columns, rows, "llrrrrrr")


def look_words(look: HeadLook, first_token: str) -> str:
    """The category that a head attends to most, with its share: `[CLS] 64 %`."""
    place, share = look.mostly
    if place == "other" and look.position is not None:
        return f"position {look.position + 1}: {whole_percent(look.position_share)}"
    names = {"first": first_token, "other": "other tokens"}
    return f"{names.get(place, place)} {whole_percent(share)}"
