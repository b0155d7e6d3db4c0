"""Where the time goes and why, in a report, or in the terminal for a single file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.measure.explain.advice import instruction_words
from compress.measure.explain.explanation import Explanation, FileExplanation, KindTime, RoleTime
from compress.measure.explain.products import ROLES, Role
from compress.page import Part as PagePart
from compress.page import Section, Table, Text
from compress.page.format import capital, milliseconds, percent, place, whole_percent
from compress.report.schema import RunReport

__all__ = ["explanation_parts", "explanation_sentences", "explanation_tables", "section"]

_ROLE_WORDS: dict[Role, str] = {
    "integer": "integer products",
    "low_bit": "products with low-bit weights",
    "float_weight": "products with float weights",
    "activations": "products of two activations",
    "unpacking": "constants computed again in each call",
    "quantizing": "quantizing activations, scaling products",
    "other": "all other operators",
}
_BETWEEN = "runtime overhead: launching nodes"
_SHORT_WORDS: dict[Role, str] = {
    "integer": "integer product",
    "low_bit": "low-bit product",
    "float_weight": "float product",
    "activations": "attention product",
    "unpacking": "constants",
    "quantizing": "quantizing",
    "other": "",
}
_SMALLEST_SHARE = 0.01  # an operator kind below one percent in both files is grouped under others
_MOST_FLOATS = 10


def section(report: RunReport) -> Section | None:
    """Where the time goes; None if the report does not have it."""
    found = report.measurement.explanation
    if found is None:
        return None
    return Section("Where the time goes", explanation_parts(found), "why", nav="Time")


def explanation_parts(found: Explanation) -> tuple[PagePart, ...]:
    """The advice first, then tables, then their explanation."""
    first, *others = explanation_tables(found)
    folded = (replace(table, folded=capital(table.title)) for table in others)
    notes = (Text(sentence, "note") for sentence in explanation_sentences(found))
    return (Text(found.advice, "strong"), first, *folded, *notes)


def explanation_sentences(found: Explanation) -> list[str]:
    """Meaning of the figures, and how they were measured."""
    said = [_summary("The candidate" if found.baseline else "This file", found.candidate)]
    if found.baseline is not None:
        said.append(_summary("The baseline", found.baseline))
    said.append(f"This processor has {instruction_words(found.instruction_sets)}")
    said.append(
        "Speed-up if free: Amdahl's bound, the speed-up of a call if this part took no time and nothing else "
        "changed. GMAC/s: billions of multiply-adds per second."
    )
    batch = f" The batch is {found.made_up}." if found.made_up else ""
    files = [found.candidate] if found.baseline is None else [found.baseline, found.candidate]
    cost = " and ".join(milliseconds(each.profiling_ms) for each in files)
    floor = " and ".join(f"{1e3 * each.floor_ms:.1f}" for each in files)
    calls = " and ".join(str(each.calls) for each in files)
    said.append(
        f"From ONNX Runtime's own profile at {place(found.batch, found.sequence, found.threads)}: "
        f"medians over {calls} calls{', taken in turns' if len(files) > 1 else ''}.{batch} Profiling added "
        f"{cost} to a call, which is not included; {floor} µs were subtracted from each node for launching "
        "and timing it. Shares are more reliable than milliseconds."
    )
    if any(each.profiling_ms > each.wall_ms for each in files):
        said.append(
            "Profiling takes longer than the call itself here and resolves whole microseconds only: shares "
            "of small nodes are rough."
        )
    return said


def _summary(who: str, file: FileExplanation) -> str:
    parts = [
        f"{whole_percent(part.macs_share)} of its multiply-adds in {_ROLE_WORDS[part.role]}, for "
        f"{whole_percent(part.share)} of the time"
        for part in file.parts
        if part.macs
    ]
    unknown = f"products of unknown size, for {whole_percent(file.uncounted_share)} of the time"
    made = "; ".join([*parts, *([unknown] if file.uncounted_share else [])]) or "no products"
    text = f"{who} has {made}; {whole_percent(file.around_share)} of the time is outside products."
    if file.if_quantized is not None:
        text += (
            " If its products with float weights ran at the rate of the integer products measured here, and "
            f"quantizing activations took no time, a call would be {file.if_quantized:.2f}x faster."
        )
    if file.counts:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in file.counts.items())
        text += f" Of its {file.nodes:,} nodes, {listed}."
    if file.uncounted:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(file.uncounted.items()))
        text += f" Multiply-adds of {listed} are not counted."
    return text


def explanation_tables(found: Explanation) -> list[Table]:
    """Time by role, by operator kind, and of each product with float weights."""
    tables = [_parts_table(found), _kinds_table(found)]
    floats = found.candidate.float_products[:_MOST_FLOATS]
    if floats:
        rows = tuple(
            (
                each.name,
                each.kind,
                f"{each.macs / 1e6:,.2f}",
                milliseconds(each.ms, unit=False),
                percent(each.share),
                "dequantized in each call" if each.made else "stored as float",
            )
            for each in floats
        )
        more = found.candidate.float_product_count - len(floats)
        title = f"products with float weights, which could be quantized{f' ({more} more)' if more else ''}"
        columns = ("layer", "operator", "million MACs", "ms", "share", "weight")
        tables.append(Table(columns, rows, "llrrrl", title))
    return tables


def _parts_table(found: Explanation) -> Table:
    """Table by role. Of the baseline only times are shown: a sentence has its multiply-adds."""
    before, after = found.baseline, found.candidate
    files = [after] if before is None else [before, after]
    roles = [role for role in ROLES if any(_has(each.part(role)) for each in files)]
    rows: list[tuple[str, ...]] = []
    rows += [(_ROLE_WORDS[role], *(c for x in files for c in _part_cells(x.part(role)))) for role in roles]
    rows.append((_BETWEEN, *(cell for each in files for cell in _between_cells(each))))
    rows.append(("whole call", *(c for x in files for c in _time_cells(x.wall_ms, 1.0, ""))))
    heads: tuple[str, ...] = ("ms", "share", "MACs", "GMAC/s", "speed-up if free")
    if before is not None:
        # Its ms and share; then all of the candidate's.
        rows = [(*row[:3], *row[1 + len(heads) :]) for row in rows]
        heads = ("baseline ms", "share", "candidate ms", *heads[1:])
    return Table(("purpose", *heads), tuple(rows), "l" + "r" * len(heads), sorts=False)


def _time_cells(ms: float, share: float, bound: str) -> tuple[str, ...]:
    return milliseconds(ms, unit=False), percent(share), "", "", bound


def _between_cells(file: FileExplanation) -> tuple[str, ...]:
    left = file.wall_ms - file.between_ms
    if not file.between_ms or left <= 0:
        return "not separable", "", "", "", ""
    return _time_cells(file.between_ms, file.between_share, f"{file.wall_ms / left:.2f}x")


def _has(part: RoleTime) -> bool:
    return bool(part.nodes or part.macs)


def _part_cells(part: RoleTime) -> tuple[str, ...]:
    if not _has(part):
        return "", "", "", "", ""
    rate = part.gmacs_per_s
    return (
        milliseconds(part.ms, unit=False),
        percent(part.share),
        percent(part.macs_share) if part.macs else "",
        f"{rate:,.0f}" if rate is not None else "",
        f"{part.bound:.2f}x" if part.bound is not None else "",
    )


def _kinds_table(found: Explanation) -> Table:
    files = [found.candidate] if found.baseline is None else [found.baseline, found.candidate]
    named = [{(each.kind, each.role): each for each in file.kinds} for file in files]
    keys = list(dict.fromkeys(key for kinds in named for key in kinds))
    keys.sort(key=lambda key: -max(kinds[key].ms if key in kinds else 0.0 for kinds in named))
    shown = [k for k in keys if any(k in kinds and kinds[k].share >= _SMALLEST_SHARE for kinds in named)]
    rows = [
        (kind, _SHORT_WORDS[role], *_kind_cells([[kinds.get((kind, role))] for kinds in named]))
        for kind, role in shown
    ]
    left = [key for key in keys if key not in set(shown)]
    if left:
        rows.append((f"{len(left)} others", "", *_kind_cells([[x.get(key) for key in left] for x in named])))
    times = ("ms", "share") if found.baseline is None else ("baseline ms", "share", "candidate ms", "share")
    columns = ("operator", "purpose", "nodes", *times)
    return Table(columns, tuple(rows), "ll" + "r" * (len(columns) - 2), "by operator")


def _kind_cells(files: Sequence[Sequence[KindTime | None]]) -> tuple[str, ...]:
    """Node counts of the files, then milliseconds and share of each."""
    counts, times = [], []
    for kinds in files:
        there = [kind for kind in kinds if kind is not None]
        ms, share = sum(each.ms for each in there), sum(each.share for each in there)
        counts.append(f"{sum(each.nodes for each in there):,}")
        times += [milliseconds(ms, unit=False), percent(share)] if there else ["", ""]
    return " → ".join(counts), *times
