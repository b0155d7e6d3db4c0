"""Key figures as tiles, and accuracy, latency, size, memory and load time as a table."""

from __future__ import annotations

from compress.measure.results import Accuracy
from compress.page import Section, Table, Text, Tile, Tiles
from compress.page.format import MB_NOTE, RUN_NOISE, capital, milliseconds, percent, size, size_words
from compress.report.phrases import accuracy_clauses, difference_text, headline, setting, speedup_words
from compress.report.schema import RunReport
from compress.report.sections.task import page_of
from compress.tasks import task_of_measurement

__all__ = ["at_a_glance", "figures_table", "section"]

_NOTE = (
    "Baseline is the uncompressed model, candidate the compressed one, both as ONNX files run by ONNX "
    f"Runtime. Intervals are 95 % intervals. {MB_NOTE}"
)


def at_a_glance(report: RunReport) -> Section:
    """Key figures: the outcome in words, and values before and after."""
    measured = report.measurement
    before, after = measured.baseline, measured.candidate
    words, proof = accuracy_clauses(measured.difference)
    shown = percent(before.accuracy.value), percent(after.accuracy.value)
    memory = before.peak_memory_bytes, after.peak_memory_bytes
    tiles = [
        Tile(capital(task_of_measurement(measured).words.score), capital(words), *shown, proof),
        *page_of(report).tiles(report),
        Tile(
            "File",
            capital(size_words(before.size.file_bytes, after.size.file_bytes)),
            size(before.size.file_bytes),
            size(after.size.file_bytes),
            f"gzip: {size(before.size.gzip_bytes)} → {size(after.size.gzip_bytes)}",
        ),
        Tile(
            "Peak memory",
            capital(size_words(*memory, "less", "more", RUN_NOISE)),
            size(before.peak_memory_bytes),
            size(after.peak_memory_bytes),
            "to load the model and answer rows",
        ),
    ]
    return Section("At a glance", (Tiles(tuple(tiles)),), "glance")


def section(report: RunReport) -> Section:
    """The table of figures."""
    return Section("Figures", (Text(_NOTE, "note"), figures_table(report)), "figures")


def figures_table(report: RunReport) -> Table:
    """Accuracy, headline latency, size, memory and load time: baseline, candidate, change."""
    measured, latency = report.measurement, headline(report)
    before, after = measured.baseline, measured.candidate
    rows = _accuracy_rows(report)
    if latency is not None:
        p50 = milliseconds(latency.baseline.p50_ms), milliseconds(latency.candidate.p50_ms)
        rows.append((f"latency p50, {setting(latency)}", *p50, speedup_words(latency)))
    memory, load = (before.peak_memory_bytes, after.peak_memory_bytes), (before.load_ms, after.load_ms)
    rows += [
        _bytes_row("file size", before.size.file_bytes, after.size.file_bytes),
        _bytes_row("file size, gzip", before.size.gzip_bytes, after.size.gzip_bytes),
        ("peak memory", *map(size, memory), size_words(*memory, "less", "more", RUN_NOISE)),
        ("time to load", *map(milliseconds, load), size_words(*load, "shorter", "longer", RUN_NOISE)),
    ]
    return Table(("figure", "baseline", "candidate", "change"), tuple(rows), "lrrl", sorts=False)


def _accuracy_rows(report: RunReport) -> list[tuple[str, ...]]:
    measured, words = report.measurement, task_of_measurement(report.measurement).words
    before, after, difference = measured.baseline.accuracy, measured.candidate.accuracy, measured.difference
    same = ": no measurable difference" if difference.low <= 0 <= difference.high else ""
    return [
        (
            f"{words.metric}, {after.units:,} test {difference.unit}s (95 % interval)",
            _accuracy(before),
            _accuracy(after),
            f"{difference_text(difference)} points{same}",
        ),
        (
            f"{words.score} in {words.batches} of {after.batched_size}",
            percent(before.batched_value),
            percent(after.batched_value),
            f"{before.batched_disagreements:,} and {after.batched_disagreements:,} {difference.unit}s "
            f"predicted differently than {words.alone}",
        ),
        (
            f"same {words.answer} as the baseline",
            "",
            percent(difference.agreement),
            f"{difference.gained:,} {difference.unit}s that only the candidate gets right, "
            f"{difference.lost:,} that only the baseline does",
        ),
    ]


def _accuracy(accuracy: Accuracy) -> str:
    return f"{percent(accuracy.value)} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"


def _bytes_row(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, size(before), size(after), size_words(before, after)
