"""Results of a stage that cuts to a budget: widths kept, the search, its steps, and the latency table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from compress.facts.cut import Cost, Cut, CutSite
from compress.page import Chart, Pairs, Part, Row, Section, Table, Text, parts_of
from compress.page.format import PERCENT, Scale, amount, capital, milliseconds, percent
from compress.report.charts.curves import cost_curve
from compress.report.charts.measured import Width, width_bars
from compress.report.schema import RunReport
from compress.tasks import task_of_measurement

__all__ = [
    "StageCut",
    "cost_tables",
    "costs_section",
    "cut_sentences",
    "cuts_of",
    "kept_chart",
    "per_stage",
    "section",
    "steps_table",
    "widths_line",
    "widths_table",
]

_COST_NOTE = (
    "Latency of one sub-layer by number of units, measured on exported layers, in excess of a nearly empty "
    "one. The latency of a model is estimated as the fixed part plus the sum over its sub-layers."
)
_WIDTHS_NOTE = "Hollow: before; filled: kept. Removed: nothing of the sub-layer is left."
_UNITS = {"attention": "heads", "feed_forward": "neurons"}
_ASKED = {
    "speedup": "{} the speed of the uncompressed model",
    "latency_ms": "{} per call",
    "size_mb": "{} of weights",
    "macs": "{} of the multiply-adds",
    "sparsity": "{} of the weights removed",
}


@dataclass(frozen=True)
class StageCut:
    """A stage of a run that cuts to a budget; `number` is its position in the recipe, from 1."""

    number: int
    stage: str
    facts: Cut


def cuts_of(report: RunReport) -> tuple[StageCut, ...]:
    """All stages of a run that cut to a budget, in order."""
    found = ((number, stage.name, stage.known.cut) for number, stage in enumerate(report.stages, start=1))
    return tuple(StageCut(number, name, cut) for number, name, cut in found if cut is not None)


def per_stage(
    title: str,
    key: str,
    cuts: Sequence[StageCut],
    parts: Callable[[StageCut], Iterable[Part]],
    note: Part | None = None,
) -> Section | None:
    """A section with the parts of each stage, with headings if there are several; None if all are empty."""
    found = [(cut, parts_of(parts(cut))) for cut in cuts]
    found = [(cut, own) for cut, own in found if own]
    if not found:
        return None
    if len(cuts) == 1:
        return Section(title, parts_of(note, found[0][1]), key)
    each = (Section(f"{cut.number}. {cut.stage}", own) for cut, own in found)
    return Section(title, parts_of(note, each), key)


def section(report: RunReport) -> Section | None:
    """What was cut; None if no stage cuts to a budget."""
    scale = task_of_measurement(report.measurement).words.scale
    return per_stage("What was cut", "cut", cuts_of(report), lambda stage: _parts(stage.facts, scale))


def _parts(cut: Cut, scale: Scale) -> Iterable[Part]:
    sentences = cut_sentences(cut, scale)
    if sentences:
        yield Text(" ".join(sentences))
    if cut.sites:
        charts = (_bars(kind, [x for x in cut.sites if x.kind == kind]) for kind in _kinds(cut.sites))
        yield Row(tuple(charts))
        yield replace(widths_table(cut), folded="Widths per layer")
    if len(cut.steps) > 1:
        yield steps_table(cut, scale)


def _bars(kind: str, sites: Sequence[CutSite]) -> Chart:
    return kept_chart(f"{capital(unit_words(kind))} kept in each layer", sites)


def kept_chart(title: str, sites: Sequence[CutSite]) -> Chart:
    """Bars of the units kept, in layer order."""
    widths = [
        Width(x.name if x.kind == "channels" else f"layer {x.layer}", x.before, x.kept, kept_words(x))
        for x in sorted(sites, key=lambda x: x.layer)
    ]
    return Chart(partial(width_bars, title, widths), _WIDTHS_NOTE, title)


def costs_section(report: RunReport) -> Section | None:
    """The latency tables used to choose widths; None if there are none."""
    note = Text(_COST_NOTE, "note")
    return per_stage("Latency table", "costs", cuts_of(report), lambda each: _costs(each.facts), note)


def _costs(cut: Cut) -> Iterable[Part]:
    if cut.latency_table is None:
        return
    yield Row(tuple(_cost_charts(cut)))
    yield Pairs(tuple(_cost_pairs(cut)))
    yield Section("Numbers of the latency table", (Row(tuple(cost_tables(cut))),), folded=True)


def _cost_charts(cut: Cut) -> Iterable[Chart]:
    assert cut.latency_table is not None
    most = max((max(x.ms) for x in cut.latency_table.kinds), default=0.0)
    for cost in cut.latency_table.kinds:
        units = unit_words(cost.kind)
        title = f"Milliseconds of one {_kind_words(cost.kind)} sub-layer by number of {units}"
        draw = partial(cost_curve, title, cost.units, cost.ms, most, units)
        yield Chart(draw, title=f"{_cost_name(cost, cut)}, ms per sub-layer")


def _kind_words(kind: str) -> str:
    """Name of a kind of sub-layer: `feed-forward`."""
    return kind.replace("_", "-")


def unit_words(kind: str) -> str:
    """Name of its units: `heads`, `neurons`."""
    return _UNITS.get(kind, f"units of {_kind_words(kind)}")


def kept_words(site: CutSite) -> str:
    """Units kept: `5 of 12`, or `0 of 12: removed`."""
    removed = ": removed" if site.kept == 0 else ""
    return f"{site.kept:,} of {site.before:,}{removed}"


def _kinds(sites: Iterable[CutSite]) -> list[str]:
    return list(dict.fromkeys(site.kind for site in sites))


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} million" if number >= 1_000_000 else f"{number:,}"


def cut_sentences(cut: Cut, scale: Scale = PERCENT) -> list[str]:
    """Sentences on the budget, the remaining size, the search, and a single step."""
    said = []
    if cut.budget is not None:
        asked = amount(cut.budget.kind, cut.budget.value)
        where = f" at {cut.point}" if cut.point is not None else ""
        how = f"; importance criterion: {cut.importance}" if cut.importance else ""
        said.append(f"Target: {_ASKED.get(cut.budget.kind, '{}').format(asked)}{where}{how}.")
    elif cut.importance:
        said.append(f"Importance criterion: {cut.importance}.")
    left = [
        f"{percent(change.after / change.before)} of their {name} "
        f"({_count(change.after)} of {_count(change.before)})"
        for name, change in (("weights", cut.parameters), ("multiply-adds", cut.macs))
        if change is not None
    ]
    if left:
        said.append(f"The sub-layers keep {' and '.join(left)}.")
    removed = sum(site.kept == 0 for site in cut.sites)
    if removed:
        were = "was" if removed == 1 else "were"
        said.append(f"{removed} of {len(cut.sites)} sub-layers {were} removed entirely.")
    if cut.search is not None:
        said.append(
            f"The search evaluated {cut.search.evaluations:,} sets of widths; the best has a loss of "
            f"{cut.search.loss_best:.3g}, the first {cut.search.loss_first:.3g}."
        )
    if len(cut.steps) == 1 and cut.steps[0].validation_cut is not None:
        recovered = cut.steps[0].validation_recovered
        then = "no recovery training" if recovered is None else f"after recovery {scale.text(recovered)}"
        said.append(f"Validation metric after the cut {scale.text(cut.steps[0].validation_cut)}; {then}.")
    return said


def widths_table(cut: Cut) -> Table:
    """Units kept, one row per layer and one column per kind of sub-layer."""
    kinds = _kinds(cut.sites)
    rows = []
    for layer in sorted({site.layer for site in cut.sites}):
        here = [site for site in cut.sites if site.layer == layer]
        cells = ("; ".join(kept_words(x) for x in here if x.kind == kind) for kind in kinds)
        rows.append((str(layer), *cells))
    columns = ("layer", *(f"{unit_words(kind)} kept" for kind in kinds))
    return Table(columns, tuple(rows), "l" + "r" * len(kinds), "widths per layer")


def widths_line(cut: Cut) -> str:
    """All widths in one line: `Heads kept per layer: 5, 0, 12 of 12; ...`; empty without widths."""
    parts = []
    for kind in _kinds(cut.sites):
        sites = sorted((x for x in cut.sites if x.kind == kind), key=lambda x: x.layer)
        before = {site.before for site in sites}
        kept = ", ".join(f"{x.kept}" if len(before) == 1 else f"{x.kept} of {x.before}" for x in sites)
        whole = f" of {before.pop()}" if len(before) == 1 else ""
        parts.append(f"{unit_words(kind)} kept per layer: {kept}{whole}")
    if not parts:
        return ""
    removed = " (0: sub-layer removed)" if any(site.kept == 0 for site in cut.sites) else ""
    return f"{capital('; '.join(parts))}{removed}."


def steps_table(cut: Cut, scale: Scale = PERCENT) -> Table:
    """Each step: its target, and the validation metric before and after recovery."""
    kind = cut.asked_kind
    rows = tuple(
        (
            str(number),
            amount(kind, step.target) if kind else f"{step.target:.4g}",
            amount(kind, step.promised) if kind else f"{step.promised:.4g}",
            "" if step.validation_cut is None else scale.text(step.validation_cut),
            "none" if step.validation_recovered is None else scale.text(step.validation_recovered),
        )
        for number, step in enumerate(cut.steps, start=1)
    )
    columns = ("step", "target", "predicted", "metric after the cut", "after recovery")
    return Table(columns, rows, "rrrrr", "steps and their validation metric")


def _cost_name(cost: Cost, cut: Cut) -> str:
    """Name of a kind of sub-layer, with its shape if several shapes share the kind."""
    assert cut.latency_table is not None
    name = capital(_kind_words(cost.kind))
    if sum(x.kind == cost.kind for x in cut.latency_table.kinds) > 1 and cost.shape:
        return f"{name} (shape {' x '.join(map(str, cost.shape))})"
    return name


def cost_tables(cut: Cut) -> list[Table]:
    """The latency table as tables of ms by number of units, one per kind."""
    if cut.latency_table is None:
        return []
    return [
        Table(
            (unit_words(cost.kind), "ms per sub-layer"),
            tuple((f"{n:,}", f"{ms:.3f}") for n, ms in zip(cost.units, cost.ms, strict=True)),
            "rr",
            _cost_name(cost, cut),
        )
        for cost in cut.latency_table.kinds
    ]


def _cost_pairs(cut: Cut) -> list[tuple[str, str]]:
    """The latency table's other figures: the whole model, the fixed part, the setting and the machine."""
    table = cut.latency_table
    if table is None:
        return []
    pairs = []
    if table.baseline_ms is not None and abs(table.baseline_ms / table.dense_ms - 1) > 1e-6:
        pairs.append(("uncompressed model", milliseconds(table.baseline_ms)))
    pairs.append(("model before the cut", milliseconds(table.dense_ms)))
    pairs.append(("fixed part, outside the sub-layers", milliseconds(table.fixed_ms)))
    if cut.point is not None:
        pairs.append(("measured at", str(cut.point)))
        if cut.point.precision:
            pairs.append(("precision", cut.point.precision))
    return [*pairs, *((str(key).replace("_", " "), str(value)) for key, value in table.machine.items())]
