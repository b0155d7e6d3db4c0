"""Names, labels and keys from other people's files: hidden characters are shown, and markup has no effect."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from compress.cli.common import echo, print_check, print_error
from compress.cli.console import console, say, shown_progress
from compress.errors import RecipeError
from compress.page import Table
from compress.report import (
    CheckRecord,
    CheckReport,
    GateRecord,
    RunReport,
    check_summary,
    compare_reports,
    comparison_csv,
    junit_xml,
    to_html,
    to_markdown,
    to_model_card,
)
from compress.report.render.terminal import terminal_section, terminal_table
from compress.report.sections.about import data, recipe_yaml
from compress.report.sections.deploy import deploy_snippet

EVIL = "=a\x1b[31mb\x9bc\u202ed\u2066e\rf[red]<b>"
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def evil(make_report: Callable[..., RunReport]) -> RunReport:
    """A report with such a text wherever it holds a text."""
    report = make_report("int8")
    data = report.data.model_copy(update={"source": EVIL, "labels": (EVIL, "other"), "notes": (EVIL,)})
    model = report.model.model_copy(update={"source": EVIL})
    stage = report.stages[0].model_copy(
        update={"name": EVIL, "facts": {EVIL: EVIL, "layers": {EVIL: {EVIL: EVIL}}}, "settings": {EVIL: EVIL}}
    )
    machine = report.measurement.environment.model_copy(update={"cpu": EVIL, "system": EVIL})
    measured = report.measurement
    operators = measured.candidate.model_copy(update={"operators": {EVIL: 1}})
    measured = measured.model_copy(update={"environment": machine, "candidate": operators, "noise": (EVIL,)})
    return report.model_copy(
        update={
            "name": EVIL,
            "command": f"modelpress run {EVIL}",
            "recipe": {"data": {EVIL: EVIL}},
            "data": data,
            "model": model,
            "stages": (stage,),
            "measurement": measured,
            "warnings": (EVIL,),
            "gates": (GateRecord(name="max_size_mb", limit=1, value=2, where=EVIL, holds=False),),
        }
    )


def _checked(report: RunReport) -> CheckReport:
    return CheckReport(
        bundle=EVIL,
        against=EVIL,
        created="2026-01-31T12:00:00+00:00",
        modelpress_version="0.1.0",
        checks=tuple(CheckRecord(name=EVIL, holds=holds, found=EVIL) for holds in (True, False)),
        measurement=report.measurement,
        seconds=1.0,
    )


RENDERED: dict[str, Callable[[RunReport], str]] = {
    "report.md": lambda report: to_markdown(report, ("input_ids",)),
    "report.html": lambda report: to_html(report, ("input_ids",)),
    "README.md": lambda report: to_model_card(report, ("input_ids",)),
    "compare.md": lambda report: compare_reports([report, report]).to_markdown(),
    "compare.html": lambda report: compare_reports([report, report]).to_html(),
    "summary.md": lambda report: check_summary(_checked(report)),
    "junit.xml": lambda report: junit_xml(_checked(report)),
}


@pytest.mark.parametrize("file", RENDERED)
def test_nothing_hides_in_what_is_written(file: str, evil: RunReport) -> None:
    text = RENDERED[file](evil)
    assert HIDDEN.findall(text) == []
    assert re.search(r"u001b.{0,8}31mb.{0,2}u009bc.{0,2}u202ed", text), "but it is there, and can be seen"


def test_a_page_has_no_tag_of_a_label(evil: RunReport) -> None:
    tags: set[str] = set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            tags.add(tag)

    Parser().feed(to_html(evil))
    assert "b" not in tags and "svg" in tags


def test_junit_of_such_names_is_xml(evil: RunReport) -> None:
    cases = ET.fromstring(junit_xml(_checked(evil))).findall("testsuite/testcase")
    assert [case.get("name", "").count("\\u001b") for case in cases] == [1, 1]


def test_a_program_and_a_recipe_in_a_report_mean_the_same_text(evil: RunReport) -> None:
    line = next(each for each in deploy_snippet(evil, ("x",)).splitlines() if each.startswith("labels = "))
    assert eval(line.removeprefix("labels = ")) == [EVIL, "other"]
    assert yaml.safe_load(recipe_yaml(evil)) == evil.recipe


def test_a_spreadsheet_computes_nothing_and_numbers_stay_numbers(
    make_report: Callable[..., RunReport],
) -> None:
    worse = make_report("=HYPERLINK(1)", difference=(0.012, 0.004, 0.02))
    stage = worse.stages[0].model_copy(update={"name": "@SUM(A1)"})
    text = comparison_csv(compare_reports([worse.model_copy(update={"stages": (stage,)})]))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[1]["run"] == "'=HYPERLINK(1)" and rows[1]["stages"] == "'@SUM(A1)"
    assert float(rows[1]["drop"]) == -0.012


def _printed(evil: RunReport) -> None:
    say(EVIL, wrap=True)
    say(EVIL, "bold", EVIL, "dim", error=True)
    print_error(RecipeError(EVIL))
    print_check(CheckRecord(name=EVIL, holds=False, found=EVIL))
    echo(EVIL)
    echo(EVIL, err=True)
    console.print(terminal_section(data(evil)))
    console.print(terminal_table(Table((EVIL,), ((EVIL,),), "l", EVIL)))
    console.print(compare_reports([evil, evil]).to_table())
    with shown_progress() as progress:
        progress.say(EVIL)
        with progress.bar(EVIL, 2) as bar:
            bar.advance(1, EVIL)


def test_the_terminal_is_given_nothing_to_obey(
    evil: RunReport, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _printed(evil)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert HIDDEN.findall(text) == []
        assert "[red]" in text and "\\u001b[31m" in text, "shown as it is, not as markup"


def test_a_terminal_s_own_colours_stay(evil: RunReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_force_terminal", True, raising=False)
    monkeypatch.setattr(console, "_color_system", 1)
    with console.capture() as capture:
        say("word", "bold", EVIL)
    assert "\x1b[1mword" in capture.get() and "\x1b[31mb" not in capture.get()


def test_data_for_a_program_is_exact_and_for_a_terminal_visible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    echo("a\u202eb", as_data=True)
    assert capsys.readouterr().out == "a\u202eb\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    echo("a\u202eb", as_data=True)
    assert capsys.readouterr().out == "a\\u202eb\n"
