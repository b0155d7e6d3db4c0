"""CheckReport: results of measuring a bundle again, for people, programs and CI; and a run's summary."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from compress.facts import Record
from compress.measure.results import Measurement
from compress.page import Bullets, Section, Table, Text, parts_of
from compress.page.format import milliseconds, plural, size
from compress.report.phrases import accuracy_words, setting, speedup_words
from compress.report.render.markdown import section_markdown
from compress.report.schema import GateRecord, RunReport
from compress.report.sections.figures import figures_table
from compress.report.sections.gates import commonest_words, gate_sentence
from compress.report.sections.verdict import caveats, verdict
from compress.safe_text import visible
from compress.tasks import task_of_measurement
from compress.tasks.spec import TaskWords

__all__ = [
    "CheckRecord",
    "CheckReport",
    "check_lines",
    "check_summary",
    "gate_checks",
    "junit_xml",
    "run_summary",
]

_NOT_XML = re.compile("[^\\t\\n\\r\\u0020-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


class CheckRecord(Record):
    """One check.

    Attributes:
        holds: whether it passes, as far as it was judged.
        found: what was found, in words.
        judged: False for a speed gate when the machine was too busy to tell.
    """

    name: str
    holds: bool
    found: str
    judged: bool = True

    @property
    def fails(self) -> bool:
        """Whether it was judged and does not hold."""
        return self.judged and not self.holds


class CheckReport(Record):
    """Results of checking a bundle on this machine.

    Attributes:
        against: the reference bundle; None without one.
        checks: in the order they ran; checks skipped after a failure are absent.
        measurement: None if files or predictions were wrong. Without a reference bundle, its baseline is the
            bundle itself.
        seconds: duration of the check.
    """

    bundle: str
    against: str | None
    created: str
    modelpress_version: str
    checks: tuple[CheckRecord, ...]
    measurement: Measurement | None
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every check holds; a check that was not judged does not."""
        return all(check.holds for check in self.checks)

    @property
    def fails(self) -> bool:
        """Whether any check fails; a check that was not judged does not."""
        return any(check.fails for check in self.checks)


def gate_checks(gates: Sequence[GateRecord], words: TaskWords | None = None) -> list[CheckRecord]:
    """Convert gates to checks.

    Args:
        words: of the task.
    """
    return [
        CheckRecord(
            name=f"gate {x.name}", holds=x.holds, found=gate_sentence(x, words), judged=not x.not_judged
        )
        for x in gates
    ]


def check_lines(report: CheckReport) -> list[str]:
    """The measured figures, as sentences."""
    measured = report.measurement
    if measured is None:
        return []
    model, words = measured.candidate, task_of_measurement(measured).words
    lines = [
        f"{words.score} {words.scale.text(model.accuracy.value)} of {model.accuracy.units:,} test "
        f"{plural(model.accuracy.unit)}, file {size(model.size.file_bytes)}, "
        f"peak memory {size(model.peak_memory_bytes)}, on {measured.environment.cpu}"
    ]
    if report.against is not None:
        change = accuracy_words(measured.difference, scale=words.scale)
        lines.append(f"compared with {report.against}: {words.score} {change}")
    for each in measured.latency:
        timed = (
            f"{setting(each)}: p50 {milliseconds(each.candidate.p50_ms)}, p95 "
            f"{milliseconds(each.candidate.p95_ms)}"
        )
        lines.append(timed if report.against is None else f"{timed}; {speedup_words(each)}")
    constant = commonest_words(measured, "candidate")
    return lines if constant is None else [*lines, constant]


def check_summary(report: CheckReport) -> str:
    """The checks as Markdown, for the summary of a CI job."""
    notes = (*check_lines(report), *(report.measurement.noise if report.measurement else ()))
    parts = parts_of(_checks_table(report.checks), Bullets(notes) if notes else None)
    return section_markdown(Section(f"modelpress check {report.bundle}", parts), level=3) + "\n"


def run_summary(report: RunReport, gates: Sequence[GateRecord]) -> str:
    """Verdict, gates, figures and warnings of a run as Markdown, for the summary of a CI job.

    Args:
        gates: as judged now; a run that is not repeated may have other ones than its report.
    """
    checks = gate_checks(gates, task_of_measurement(report.measurement).words)
    warnings = tuple(each.text for each in caveats(report))
    parts = parts_of(
        Text(verdict(report)),
        _checks_table(checks) if checks else None,
        figures_table(report),
        Bullets(warnings) if warnings else None,
    )
    return section_markdown(Section(f"modelpress run {report.name}", parts), level=3) + "\n"


def _checks_table(checks: Sequence[CheckRecord]) -> Table:
    rows = tuple(
        ("holds" if x.holds else "FAILS" if x.fails else "not judged", x.name, x.found) for x in checks
    )
    return Table(("", "check", "found"), rows, "lll")


def junit_xml(report: CheckReport) -> str:
    """The checks as JUnit XML, one test case each; a gate that was not judged is skipped."""
    suite = ET.Element(
        "testsuite",
        name="modelpress check",
        tests=str(len(report.checks)),
        failures=str(sum(check.fails for check in report.checks)),
        errors="0",
        skipped=str(sum(not check.judged for check in report.checks)),
        time=f"{report.seconds:.1f}",
        timestamp=report.created,
    )
    for check in report.checks:
        case = ET.SubElement(
            suite, "testcase", classname=_xml_text(report.bundle), name=_xml_text(check.name), time="0"
        )
        if check.holds:
            ET.SubElement(case, "system-out").text = _xml_text(check.found)
        elif not check.judged:
            ET.SubElement(case, "skipped", message=_xml_text(check.found))
        else:
            ET.SubElement(case, "failure", message=_xml_text(check.found)).text = _xml_text(check.found)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml_text(text: str) -> str:
    """The text with control characters made visible and characters not allowed in XML 1.0 removed."""
    return _NOT_XML.sub("", visible(text))
