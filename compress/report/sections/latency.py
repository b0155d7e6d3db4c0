"""Latency at every setting, size and memory, and weight bytes by part."""

from __future__ import annotations

from functools import partial

from compress.page import Chart, Row, Section, Table, Text, parts_of
from compress.page.format import interval_text, milliseconds, ratio_text, size, size_words
from compress.report.charts.measured import latency_boxes, part_bars, size_bars
from compress.report.schema import RunReport

__all__ = ["latency_table", "section"]

_NOTE = "Baseline and candidate were timed in turns in one process; the speed-up is the median over rounds."
_WHO = "Hollow: baseline; filled: candidate."


def section(report: RunReport) -> Section:
    """Charts of latency and size, with their numbers."""
    measured = report.measurement
    sizes = Chart(
        partial(size_bars, measured.baseline, measured.candidate),
        f"Bytes. Peak memory has a scale of its own. {_WHO}",
    )
    charts = [_boxes(report), sizes] if measured.latency else [sizes]
    note = Text(_NOTE, "note")
    parts = parts_of(Row(tuple(charts)), latency_table(report), note, _where_the_bytes_are(report))
    return Section("Latency and size", parts, "latency", nav="Latency")


def _boxes(report: RunReport) -> Chart:
    latency = report.measurement.latency
    lines = "the line is the median, the whisker goes to p95"
    if any(x.candidate.p25_ms is not None for x in latency):
        lines = (
            "half of them lie in the box, the line in it is the median, and the whiskers go from p5 to p95"
        )
    caption = f"How long calls took: {lines}. Each setting has a scale of its own, from 0. {_WHO}"
    return Chart(partial(latency_boxes, latency), caption)


def latency_table(report: RunReport) -> Table:
    """Every setting: p50 and p95 of both models, speed-up with its interval, rows per second."""
    rows = tuple(
        (
            str(x.batch),
            str(x.sequence),
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
    columns = ("batch", "sequence", "threads", "baseline p50 ms", "p95 ms", "candidate p50 ms", "p95 ms")
    more = ("speed-up", "95 % interval", "in words", "candidate rows/s")
    return Table(columns + more, rows, "rrrrrrrrrlr")


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
    caption = f"Stored weights by part, on one scale. {_WHO}"
    table = Table(("weights of", "baseline", "candidate", "change"), rows, "lrrr")
    return Section("Where the bytes are", (Chart(partial(part_bars, report.parts), caption), table))
