"""Compare runs, and decide which of their figures are comparable.

Latency is comparable only on one machine and at one setting, accuracy only on the same test rows, and figures
relative to the baseline only with the same baseline. A run that differs is shown with a flag, and is never
marked best in those columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from compress.errors import OutputError
from compress.measure.results import Interval, LatencyComparison
from compress.page.format import milliseconds
from compress.report.compare.comparison import Comparison
from compress.report.compare.data import COLUMNS, Column, ComparisonRow, ranked
from compress.report.compare.pairs import pair_differences, recipe_differences
from compress.report.compare.select import condition_of
from compress.report.phrases import headline, setting, stages_in_short
from compress.report.schema import REPORT_FILE, REPORT_PAGE, RunReport, load_report
from compress.report.sections.verdict import verdict
from compress.system.garbage import uncollected
from compress.tasks import task_of_measurement

__all__ = ["compare_reports"]

_BASELINE_DRIFT = 1.2
_T = TypeVar("_T", bound=Hashable)


def compare_reports(
    sources: Path | str | RunReport | Iterable[Path | str | RunReport], where: str | None = None
) -> Comparison:
    """Compare runs.

    Args:
        sources: one or more of: reports, report files, run directories, or folders of run directories
            (searched one level deep; hidden folders and those without a report are skipped).
        where: keep only runs that meet these conditions, such as `speedup > 2 and drop < 0.01`; see
            `select.SELECT_COLUMNS`. Comparability is decided before filtering.

    Raises:
        RecipeError: invalid conditions; raised before any report is read.
        OutputError: there is nothing to compare, or a named report cannot be read.
    """
    meets = None if where is None else condition_of(where)
    with uncollected():
        return _compared(sources, where, meets)


def _compared(
    sources: Path | str | RunReport | Iterable[Path | str | RunReport],
    where: str | None,
    meets: Callable[[ComparisonRow], bool] | None,
) -> Comparison:
    alone = isinstance(sources, Path | str | RunReport)
    runs, notes = _gather([sources] if alone else list(sources))  # type: ignore[list-item, arg-type]
    reports = [report for report, _ in runs]
    usual = _Usual(reports)
    names = _names(runs)
    rows = [
        _candidate(name, report, usual, _page(where_from))
        for name, (report, where_from) in zip(names, runs, strict=True)
    ]
    said = usual.drift(reports)
    if meets is not None:
        kept = [at for at, row in enumerate(rows) if meets(row)]
        if len(kept) < len(rows):
            said.append(f"{len(rows) - len(kept)} of {len(rows)} runs do not meet {where}.")
        rows, names = [rows[at] for at in kept], [names[at] for at in kept]
        reports = [reports[at] for at in kept]
    baseline = _baseline(usual.lender, usual.latency(usual.lender))
    first, accuracy = usual.latency(usual.lender), usual.lender.measurement.baseline.accuracy
    words = task_of_measurement(usual.lender.measurement).words
    return Comparison(
        setting=setting(first) if first else "latency not measured",
        test_rows=accuracy.rows,
        test_tokens=accuracy.units if accuracy.unit == "token" else None,
        units=accuracy.units,
        unit=accuracy.unit,
        score=words.score,
        same=words.same,
        rows=ranked([baseline, *rows]),
        notes=(*notes, *said),
        pairs=pair_differences(names, reports),
        differs=recipe_differences(names, reports),
    )


class _Usual:
    """The values that most runs share, which the other runs are compared against."""

    def __init__(self, reports: Sequence[RunReport]) -> None:
        self.machine = _most(x.measurement.environment.fingerprint for x in reports)
        self.test_rows = _most(x.data.test_fingerprint for x in reports)
        self.setting = _most(_setting_key(headline(x)) for x in reports)
        agreeing = [x for x in reports if self._same_place(x) and self.latency(x)] or list(reports[:1])
        self.baseline = _most(_baseline_key(x) for x in agreeing)
        # The baseline row is taken from this run, the first that agrees with the majority in everything.
        self.lender = next(x for x in agreeing if _baseline_key(x) == self.baseline)

    def _same_place(self, report: RunReport) -> bool:
        machine = report.measurement.environment.fingerprint
        return machine == self.machine and report.data.test_fingerprint == self.test_rows

    def latency(self, report: RunReport) -> LatencyComparison | None:
        """The run's latency at the setting that most runs list first."""
        return next((x for x in report.measurement.latency if _setting_key(x) == self.setting), None)

    def differences(self, report: RunReport) -> tuple[list[str], set[Column]]:
        """Why some figures of this run are not comparable, and in which columns."""
        flags, columns = [], set[Column]()
        if report.measurement.environment.fingerprint != self.machine:
            cpu = report.measurement.environment.cpu
            flags.append(f"measured in another environment ({cpu}): its latency is not comparable")
            columns |= {"p50_ms", "speedup"}
        if self.latency(report) is None and self.setting is not None:
            flags.append("not measured at this batch, sequence and threads: its latency is not comparable")
            columns |= {"p50_ms", "speedup"}
        if report.data.test_fingerprint != self.test_rows:
            score = task_of_measurement(report.measurement).words.score
            flags.append(f"other test rows ({report.data.test_rows:,}): its {score} is not comparable")
            columns |= {"accuracy"} if report.measurement.language is None else {"accuracy", "perplexity"}
        # Baseline accuracy distinguishes models trained twice, but only with the same rows and kernels.
        facts = 3 if self._same_place(report) else 2
        if _baseline_key(report)[:facts] != self.baseline[:facts]:
            flags.append("another baseline: its difference, speed-up and ratio are relative to its own")
            columns |= {"speedup", "smaller"}
        return flags, columns

    def drift(self, reports: Sequence[RunReport]) -> list[str]:
        """A note if timings of the same baseline vary widely between runs."""
        latencies = [self.latency(x) for x in reports if not self.differences(x)[0]]
        p50s = [x.baseline.p50_ms for x in latencies if x is not None]
        if not p50s or max(p50s) < _BASELINE_DRIFT * min(p50s):
            return []
        low, high = milliseconds(min(p50s)), milliseconds(max(p50s))
        return [
            f"The baseline's p50 ranged from {low} to {high} between these runs: the speed-ups, timed in "
            "turns with it, are more reliable than p50."
        ]


def _gather(
    sources: Sequence[Path | str | RunReport],
) -> tuple[list[tuple[RunReport, Path | None]], list[str]]:
    runs: list[tuple[RunReport, Path | None]] = []
    notes: list[str] = []
    seen: set[Path] = set()
    for source in sources:
        if isinstance(source, RunReport):
            runs.append((source, None))
            continue
        path = Path(source)
        named = not path.is_dir() or (path / REPORT_FILE).is_file()
        found = [path] if named else sorted(x.parent for x in path.glob(f"*/{REPORT_FILE}"))
        for each in found if named else (x for x in found if not x.name.startswith(".")):
            file = (each / REPORT_FILE if each.is_dir() else each).resolve()
            if file in seen:
                continue
            seen.add(file)
            try:
                runs.append((load_report(each), file.parent))
            except OutputError as error:
                if named:
                    raise
                notes.append(f"Left out: {error}")
    if not runs:
        where = ", ".join(str(x) for x in sources) or "nothing given"
        said = "".join(f"; {note[0].lower()}{note[1:]}" for note in notes)
        raise OutputError(
            f"no report to compare in {where}{said}; give run directories, {REPORT_FILE} files, or a folder "
            "of run directories"
        )
    return runs, notes


def _names(runs: Sequence[tuple[RunReport, Path | None]]) -> list[str]:
    """The runs' names; duplicates are prefixed with enough parent folders to tell them apart."""
    names = [report.name for report, _ in runs]
    for depth in range(2, 12):
        twice = {name for name, count in Counter(names).items() if count > 1}
        if not twice:
            return names
        names = [
            "/".join(where.parts[-depth:]).lstrip("/") if name in twice and where is not None else name
            for name, (_, where) in zip(names, runs, strict=True)
        ]
    counts = Counter[str]()
    for place, name in enumerate(names):
        counts[name] += 1
        names[place] = name if counts[name] == 1 else f"{name} ({counts[name]})"
    return names


def _most(values: Iterable[_T]) -> _T:
    """The most frequent value; the first one if tied."""
    return Counter(values).most_common(1)[0][0]


def _setting_key(latency: LatencyComparison | None) -> tuple[int, int, int] | None:
    return None if latency is None else latency.setting.key


def _baseline_key(report: RunReport) -> tuple[int, int, float]:
    baseline = report.measurement.baseline
    return report.model.parameters, baseline.size.file_bytes, baseline.accuracy.value


def _page(directory: Path | None) -> str | None:
    page = None if directory is None else directory / REPORT_PAGE
    return str(page) if page is not None and page.is_file() else None


def _row(
    name: str,
    report: RunReport,
    who: Literal["baseline", "candidate"],
    latency: LatencyComparison | None,
    **others: Any,
) -> ComparisonRow:
    """The figures of one of a run's two models."""
    measured = report.measurement
    model, language = getattr(measured, who), measured.language
    return ComparisonRow(
        name=name,
        is_baseline=who == "baseline",
        accuracy=model.accuracy.value,
        scale=task_of_measurement(measured).words.scale.name,
        perplexity=None if language is None else getattr(language, who).perplexity,
        p50_ms=None if latency is None else getattr(latency, who).p50_ms,
        file_bytes=model.size.file_bytes,
        gzip_bytes=model.size.gzip_bytes,
        smaller=measured.baseline.size.file_bytes / max(model.size.file_bytes, 1),
        peak_memory_bytes=model.peak_memory_bytes,
        **others,
    )


def _candidate(name: str, report: RunReport, usual: _Usual, page: str | None) -> ComparisonRow:
    measured, latency = report.measurement, usual.latency(report)
    difference, language = measured.difference, measured.language
    flags, not_comparable = usual.differences(report)
    return _row(
        name,
        report,
        "candidate",
        latency,
        stages=stages_in_short(report),
        difference=Interval(value=difference.value, low=difference.low, high=difference.high),
        perplexity_ratio=None if language is None else language.perplexity_ratio,
        speedup=Interval(value=latency.speedup, low=latency.speedup_low, high=latency.speedup_high)
        if latency
        else None,
        verdict=verdict(report),
        flags=tuple(flags),
        not_comparable=tuple(column for column in COLUMNS if column in not_comparable),
        page=page,
    )


def _baseline(report: RunReport, latency: LatencyComparison | None) -> ComparisonRow:
    speedup = Interval(value=1, low=1, high=1) if latency else None
    return _row(
        "baseline",
        report,
        "baseline",
        latency,
        stages=f"fp32, of {report.name}",
        difference=None,
        speedup=speedup,
        verdict="",
    )
