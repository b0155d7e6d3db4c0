"""Key figures as tiles and as a table; latency at every setting, size, memory, and weight bytes by part."""

from __future__ import annotations

from functools import partial

from compress.measure.results import Accuracy
from compress.page import Chart, Row, Section, Table, Text, Tile, Tiles, parts_of
from compress.page.format import (
    MB_NOTE,
    RUN_NOISE,
    Scale,
    capital,
    interval_text,
    milliseconds,
    percent,
    plural,
    ratio_text,
    size,
    size_words,
)
from compress.report.charts.measured import latency_boxes, part_bars, size_bars
from compress.report.phrases import accuracy_clauses, difference_text, headline, setting, speedup_words
from compress.report.schema import RunReport
from compress.report.sections.task import page_of
from compress.tasks import task_of_measurement

__all__ = ["at_a_glance", "figures_table", "latency_and_size", "latency_table", "section"]

_NOTE = (
    "Baseline is the uncompressed model, candidate the compressed one, both as ONNX files run by ONNX "
    f"Runtime. Intervals are 95 % intervals. {MB_NOTE}"
)

_TIMED = "Baseline and candidate were timed in turns in one process; the speed-up is the median over rounds."
_WHO = "Hollow: baseline; filled: candidate."


def at_a_glance(report: RunReport) -> Section:
    """Key figures: the outcome in words, and values before and after."""
    measured = report.measurement
    before, after = measured.baseline, measured.candidate
    terms = task_of_measurement(measured).words
    words, proof = accuracy_clauses(measured.difference, scale=terms.scale)
    shown = terms.scale.text(before.accuracy.value), terms.scale.text(after.accuracy.value)
    memory = before.peak_memory_bytes, after.peak_memory_bytes
    tiles = [
        Tile(capital(terms.score), capital(words), *shown, proof),
        *page_of(report).tiles(report),
        Tile(
            "File size",
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
            "to load the model and answer the test rows",
        ),
    ]
    return Section("At a glance", (Tiles(tuple(tiles)),), "glance", style="bare")


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
    return Table(("figure", "baseline", "candidate", "change"), tuple(rows), "lrrl", sorts=False, stacks=True)


def _accuracy_rows(report: RunReport) -> list[tuple[str, ...]]:
    measured, words = report.measurement, task_of_measurement(report.measurement).words
    before, after, difference = measured.baseline.accuracy, measured.candidate.accuracy, measured.difference
    same = ": no measurable difference" if difference.low <= 0 <= difference.high else ""
    return [
        (
            f"{words.metric}, {after.units:,} test {plural(difference.unit)} (95 % interval)",
            _accuracy(before, words.scale),
            _accuracy(after, words.scale),
            f"{difference_text(difference, words.scale)}{words.scale.change_unit}{same}",
        ),
        (
            f"{words.score} in {words.batches} of {after.batched_size}",
            words.scale.text(before.batched_value),
            words.scale.text(after.batched_value),
            _in_batches(before.batched_disagreements, after.batched_disagreements, words.alone, words.unit),
        ),
        (
            f"{words.agreement} as the baseline",
            "",
            percent(difference.agreement),
            ""
            if after.correct is None
            else f"{difference.gained:,} {plural(difference.unit)} are right only in the candidate, "
            f"{difference.lost:,} only in the baseline",
        ),
    ]


def _in_batches(before: int, after: int, alone: str, unit: str) -> str:
    """How many answers batches change, in the baseline and in the candidate."""
    if before == after == 0:
        return f"the same answers as {alone}"
    counts = f"{before:,} and {after:,}" if before and after else f"{before or after:,}"
    who = "" if before and after else f" of the {'baseline' if before else 'candidate'}"
    return f"{counts} {plural(unit)}{who} get other answers than {alone}"


def _accuracy(accuracy: Accuracy, scale: Scale) -> str:
    return f"{scale.text(accuracy.value)} ({scale.number(accuracy.low)} to {scale.number(accuracy.high)})"


def _bytes_row(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, size(before), size(after), size_words(before, after)


def latency_and_size(report: RunReport) -> Section:
    """Charts of latency and size, with their numbers."""
    measured = report.measurement
    sizes = Chart(
        partial(size_bars, measured.baseline, measured.candidate),
        f"Bytes. Peak memory has its own scale. {_WHO}",
    )
    charts = [_boxes(report), sizes] if measured.latency else [sizes]
    note = Text(_TIMED, "note")
    parts = parts_of(Row(tuple(charts)), latency_table(report), note, _where_the_bytes_are(report))
    return Section("Latency and size", parts, "latency", nav="Latency")


def _boxes(report: RunReport) -> Chart:
    latency = report.measurement.latency
    lines = "line: median; whisker: to p95"
    if any(x.candidate.p25_ms is not None for x in latency):
        lines = "box: the middle half; line: median; whiskers: p5 to p95"
    caption = f"Time per call ({lines}). Each setting has its own scale, from 0. {_WHO}"
    return Chart(partial(latency_boxes, latency), caption)


def latency_table(report: RunReport) -> Table:
    """Every setting: p50 and p95 of both models, speed-up with its interval, rows per second."""
    has_sequence = any(x.sequence is not None for x in report.measurement.latency)
    rows = tuple(
        (
            str(x.batch),
            *([str(x.sequence)] if has_sequence else []),
            str(x.threads),
            milliseconds(x.baseline.p50_ms, unit=False),
            milliseconds(x.baseline.p95_ms, unit=False),
            milliseconds(x.candidate.p50_ms, unit=False),
            milliseconds(x.candidate.p95_ms, unit=False),
            ratio_text(x.speedup, x.speedup_low, x.speedup_high),
            interval_text(x.speedup, x.speedup_low, x.speedup_high),
            _in_words(x.speedup_low, x.speedup_high),
            f"{x.candidate.throughput_per_s:,.0f}",
        )
        for x in report.measurement.latency
    )
    place = ("batch", "sequence", "threads") if has_sequence else ("batch", "threads")
    columns = ("baseline p50 ms", "p95 ms", "candidate p50 ms", "p95 ms", "speed-up", "95 % interval")
    columns = (*place, *columns, "in words", "candidate rows/s")
    return Table(columns, rows, f"{'r' * (len(columns) - 2)}lr")


def _in_words(low: float, high: float) -> str:
    return "faster" if low > 1 else "slower" if high < 1 else "no measurable speed-up"


def _where_the_bytes_are(report: RunReport) -> Section | None:
    """Weight bytes by part; None in reports from before they were counted."""
    if not report.parts:
        return None
    rows = tuple(
        (
            part.name,
            size(part.baseline_bytes),
            size(part.candidate_bytes),
            size_words(part.baseline_bytes, part.candidate_bytes) if part.baseline_bytes else "",
        )
        for part in report.parts
    )
    caption = f"Bytes of stored weights by part, on one scale. {_WHO}"
    table = Table(("weights of", "baseline", "candidate", "change"), rows, "lrrr")
    return Section("Weights by part", (Chart(partial(part_bars, report.parts), caption), table))
