"""Sections of a comparison: a table, charts whose points link to the runs' reports, and verdicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from compress.page import Bullets, Cell, Chart, Page, Row, Section, Table, Text, parts_of
from compress.page.format import (
    MB_NOTE,
    SCALES,
    capital,
    counted,
    interval_text,
    milliseconds,
    percent,
    plural,
    size,
)
from compress.report.charts.scatter import Dot, names_fit, scatter
from compress.report.compare.data import Column, ComparedRuns, ComparisonRow, shown
from compress.report.phrases import accuracy_words

__all__ = [
    "comparison_page",
    "difference_of",
    "flags",
    "interval_of",
    "legend",
    "marked",
]

_NAMES: dict[Column, str] = {  # of the first column the task has the name
    "perplexity": "perplexity",
    "p50_ms": "p50 ms",
    "speedup": "speed-up",
    "file_bytes": "file MB",
    "gzip_bytes": "gzip MB",
    "smaller": "smaller by",
    "peak_memory_bytes": "peak memory MB",
}
_MOST_NAMES = 8  # next to the points; numbers replace more, or those that do not fit
_MOST_NUMBERS = 40  # above this, only models on the fronts are numbered, if those are few enough
_MOST_LISTED = 20
_CAPTION = (
    "Hover over a point for its name and figures; click on it to open its report. Hollow: baseline; filled: "
    "candidates; stepped line: the Pareto front. Vertical lines are 95 % intervals of the difference from "
    "the baseline, whose {quality} is the dashed line: if one crosses it, no difference is measurable. The "
    "{quality} axis does not start at 0{up}."
)

_Over = Literal["p50_ms", "file_bytes"]


def comparison_page(comparison: ComparedRuns, folder: Path | None = None) -> Page:
    """The whole page.

    Args:
        folder: where it will be written; None: links to reports are absolute.
    """
    links = {row.name: _link(row, folder) for row in comparison.rows}
    first, *others = legend(comparison)
    doubts = tuple(flags(comparison))
    figures = parts_of(_figures(comparison, links), [Text(line, "note") for line in others])
    verdicts = tuple((row.name, row.verdict) for row in comparison.rows if not row.is_baseline)
    sections = (
        Section("Figures", figures, "figures"),
        Section("Warnings", (Bullets(doubts),), "doubts", style="warnings") if doubts else None,
        _charts(comparison, links),
        _section("Runs compared in pairs", "pairs", _pairs(comparison)),
        _section("Differences between the recipes", "differs", _differs(comparison)),
        _section("Verdicts", "verdicts", Table(("run", "verdict"), verdicts, "ll", sorts=False)),
    )
    return Page(
        name=f"Comparison of {counted(len(verdicts), 'run')}",
        title="Comparison · modelpress",
        lead="",
        notes=(first,),
        sections=tuple(section for section in sections if section is not None),
    )


def _section(title: str, key: str, table: Table | None) -> Section | None:
    return None if table is None or not table.rows else Section(title, (table,), key)


def _figures(comparison: ComparedRuns, links: dict[str, str]) -> Table:
    first, *others = (_name(comparison, column) for column in comparison.columns)
    rows = []
    for row in comparison.rows:
        difference, interval = difference_of(row)
        change = Cell(difference, interval, row.difference.value if row.difference else None)
        cells = [_cell(row, column) for column in comparison.columns]
        name = Cell(row.name, row.stages, link=links[row.name])
        rows.append((name, cells[0], change, *cells[1:]))
    columns = ("run", first, "difference", *others)
    return Table(columns, tuple(rows), "l" + "r" * (len(columns) - 1), pinned=True)


def _cell(row: ComparisonRow, column: Column) -> Cell:
    raw = getattr(row, column)
    value = None if raw is None else float(getattr(raw, "value", raw))
    return Cell(marked(row, column), ", ".join(interval_of(row, column)), value, column in row.best)


def _name(comparison: ComparedRuns, column: Column) -> str:
    return comparison.score if column == "accuracy" else _NAMES[column]


def _quality(comparison: ComparedRuns) -> str:
    return comparison.score if comparison.test_tokens is None else "perplexity"


def _charts(comparison: ComparedRuns, links: dict[str, str]) -> Section:
    """Quality over latency and over size, and the models on each Pareto front."""
    drawn = [row for row in comparison.rows if _drawable(row, "p50_ms") or _drawable(row, "file_bytes")]
    numbers, quality = _numbers(drawn), _quality(comparison)
    perplexity = comparison.test_tokens is not None
    over: dict[_Over, list[Dot]] = {
        x: [_dot(row, x, numbers[row.name], links[row.name]) for row in drawn if _drawable(row, x)]
        for x in get_args(_Over)
    }
    named = len(drawn) <= _MOST_NAMES and all(names_fit(x, perplexity=perplexity) for x in over.values())
    charts = tuple(_chart(comparison, x, dots, named) for x, dots in over.items())
    notes = [_CAPTION.format(quality=quality, up=", and up is better" if perplexity else "")]
    if not named:
        some = "the baseline and the models on the fronts " if len(drawn) > _MOST_NUMBERS else ""
        key = ", ".join(f"{numbers[x.name]} {x.name}" for x in drawn if numbers[x.name])
        notes.insert(0, f"Numbers of {some or 'the runs'}, omitted if there is no room: {key}.")
    parts = parts_of(Row(charts), [Text(note, "note") for note in notes], _fronts(comparison))
    return Section(f"{capital(quality)} by latency and by size", parts, "charts", nav="Charts")


def _chart(comparison: ComparedRuns, over: _Over, dots: list[Dot], named: bool) -> Chart:
    what = "latency p50, ms (left is faster)" if over == "p50_ms" else "file, MB (left is smaller)"
    left_out = [row.name for row in comparison.rows if not _drawable(row, over)]
    caption = f"Not shown, because not comparable: {_listed(left_out)}." if left_out else ""
    draw = partial(
        scatter,
        dots,
        what,
        perplexity=comparison.test_tokens is not None,
        quality=comparison.score,
        scale=comparison.written,
        numbered=not named,
    )
    return Chart(draw, caption)


def _fronts(comparison: ComparedRuns) -> list[Text]:
    better = f"higher in {comparison.score}" if comparison.test_tokens is None else "lower in perplexity"
    fronts = (
        ("faster", [row.name for row in comparison.rows if row.on_front]),
        ("smaller", [row.name for row in comparison.rows if row.on_size_front]),
    )
    return [
        Text(
            f"No other comparable model is both {cheaper} and {better} than {_listed(names)} (by value, "
            "without intervals)."
        )
        for cheaper, names in fronts
        if names
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _link(row: ComparisonRow, folder: Path | None) -> str:
    """Link to the run's own report; empty without one."""
    if row.page is None:
        return ""
    page = Path(row.page)
    if folder is not None:
        try:
            return quote(Path(os.path.relpath(page, folder)).as_posix())
        except ValueError:
            pass  # on another drive
    return page.absolute().as_uri()


def _numbers(rows: Sequence[ComparisonRow]) -> dict[str, str]:
    """The number of each point, by name; empty if it has none, because there are too many points."""
    numbered = {row.name for row in rows}
    if len(rows) > _MOST_NUMBERS:
        fronts = {row.name for row in rows if row.on_front or row.on_size_front}
        numbered = {row.name for row in rows if row.is_baseline}
        numbered |= fronts if len(fronts) <= _MOST_NUMBERS else set()
    return {row.name: str(place) if row.name in numbered else "" for place, row in enumerate(rows)}


def _drawable(row: ComparisonRow, over: _Over) -> bool:
    return getattr(row, over) is not None and not {"accuracy", over} & set(row.not_comparable)


def _dot(row: ComparisonRow, over: _Over, number: str, link: str) -> Dot:
    # The paired interval around the baseline's figure: it crosses that line if no difference is measurable.
    value = row.accuracy if row.perplexity is None else row.perplexity
    low = high = value
    if row.perplexity_ratio is not None:
        base = value / row.perplexity_ratio.value
        low, high = base * row.perplexity_ratio.low, base * row.perplexity_ratio.high
    elif row.perplexity is None and row.difference is not None:
        base = value - row.difference.value
        low, high = base + row.difference.low, base + row.difference.high
    on_front = row.on_front if over == "p50_ms" else row.on_size_front
    x = (row.p50_ms or 0.0) if over == "p50_ms" else row.file_bytes / 1e6
    return Dot(row.name, x, value, low, high, row.is_baseline, number, _words(row), link, on_front)


def _words(row: ComparisonRow) -> str:
    quality = (
        SCALES[row.scale].text(row.accuracy) if row.perplexity is None else f"perplexity {row.perplexity:.3f}"
    )
    figures = [quality, size(row.file_bytes)]
    if row.p50_ms is not None:
        figures.insert(1, milliseconds(row.p50_ms))
    return f"{row.name}: {row.stages}\n{', '.join(figures)}"


def marked(row: ComparisonRow, column: Column) -> str:
    """A figure with its mark: best in the column, or not comparable."""
    mark = "*" if column in row.best else "†" if column in row.not_comparable else ""
    return shown(row, column) + mark


def interval_of(row: ComparisonRow, column: Column) -> tuple[str, ...]:
    """Text below a figure: the interval of a speed-up; ratio and interval of perplexity; otherwise empty."""
    ratio, speedup = row.perplexity_ratio, row.speedup
    if column == "perplexity" and ratio is not None:
        return f"{ratio.value:.3f}x", f"{ratio.low:.3f} to {ratio.high:.3f}"
    if column == "speedup" and speedup is not None and not row.is_baseline:
        return (interval_text(speedup.value, speedup.low, speedup.high),)
    return ()


def difference_of(row: ComparisonRow) -> tuple[str, str]:
    """The difference and its interval, or two empty strings."""
    each = row.difference
    return ("", "") if each is None else SCALES[row.scale].change(each.value, each.low, each.high)


def legend(comparison: ComparedRuns) -> list[str]:
    """Meaning of the columns and marks."""
    what = f"{capital(comparison.score)} on {comparison.units:,} test {plural(comparison.unit)}"
    if comparison.test_tokens is not None:
        what = (
            f"Perplexity, which ranks language models, and next-token accuracy on "
            f"{comparison.test_tokens:,} tokens of {comparison.test_rows:,} test rows"
        )
    unit = comparison.written.of_change("in") or "in units"
    lines = [
        f"{what}; latency p50 at {comparison.setting}. Speed-up, difference "
        f"({unit} of {comparison.score}) and their 95 % intervals are relative to the run's own baseline. "
        f"{MB_NOTE}",
        "* marks the best of a column, as displayed; ties share it. A difference whose interval contains 0, "
        "or a speed-up whose interval contains 1, is not measurable.",
    ]
    if any(row.not_comparable for row in comparison.rows):
        lines.append("† is not comparable with the other rows, and not ranked.")
    return lines


def flags(comparison: ComparedRuns) -> list[str]:
    """What is not comparable and why, one sentence each."""
    return [f"{row.name}: {flag}." for row in comparison.rows for flag in row.flags] + list(comparison.notes)


def _pairs(comparison: ComparedRuns) -> Table:
    """Each pair of runs: whether one is measurably more accurate, and how often they agree."""
    rows = tuple(
        (
            x.one,
            x.other,
            accuracy_words(x.difference, scale=comparison.written),
            percent(x.difference.agreement),
        )
        for x in comparison.pairs
    )
    columns = (
        "run",
        "compared with",
        f"its {comparison.score} on the same test rows",
        comparison.same or "same answers",
    )
    return Table(columns, rows, "lllr")


def _differs(comparison: ComparedRuns) -> Table | None:
    """Settings that differ between the recipes, one column per run; None if there are none."""
    if not comparison.differs:
        return None
    names = list(comparison.differs[0].values)
    rows = tuple((each.key, *(each.values[name] for name in names)) for each in comparison.differs)
    return Table(("setting", *names), rows, "l" * (1 + len(names)))
