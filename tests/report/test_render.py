"""Markdown, HTML, the model card and the JSON file of one report."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import compress.report
from compress.errors import OutputError
from compress.page import Table
from compress.report import (
    EpochRecord,
    PartSize,
    RunReport,
    StageRecord,
    compare_reports,
    load_report,
    to_html,
    to_markdown,
    to_model_card,
    write_reports,
)
from compress.report.charts.curves import loss_curve
from compress.report.charts.measured import latency_boxes
from compress.report.plain_facts import facts_of
from compress.report.sections.task import page_of
from compress.tasks.spec import Breakdown

MakeReport = Callable[..., RunReport]
Extents = Callable[[Any, str], list[tuple[float, float, float, float]]]
INPUTS = ("input_ids", "attention_mask")
VOID = {"meta", "br", "hr", "img", "input", "link"}


class _Page(HTMLParser):
    """Checks that tags close in order, and collects what a browser would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [
            v or "" for k, v in attrs if k in {"src", "href", "srcset", "action", "data", "poster"}
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _check_page(text: str) -> _Page:
    page = _Page(text)
    assert not page.open
    assert all(link.startswith("#") for link in page.loads)
    assert not page.tags & {"link", "iframe", "img"}
    (script,) = re.findall("<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "</" not in script
    assert "url(" not in text.replace("url(#", "") and "@import" not in text
    assert len(text.encode()) < 2_000_000
    return page


def _check_tables(markdown: str) -> int:
    rows = [line.replace("\\|", "") for line in markdown.splitlines()]
    widths: list[int] = []
    tables = 0
    for line in rows:
        if line.startswith("|"):
            assert line.endswith("|")
            widths.append(line.count("|"))
        elif widths:
            assert len(widths) >= 2 and len(set(widths)) == 1
            widths, tables = [], tables + 1
    return tables


def test_public_names_are_sorted_and_exist() -> None:
    names = compress.report.__all__
    assert list(names) == sorted(names)
    assert all(hasattr(compress.report, name) for name in names)


def test_importing_reports_loads_neither_torch_nor_onnxruntime() -> None:
    code = "import sys, compress.report; print({'torch', 'onnxruntime', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_html_is_one_self_contained_page_whose_charts_have_titles(int8: RunReport) -> None:
    text = to_html(int8, INPUTS)
    assert {"svg", "title", "table", "details"} <= _check_page(text).tags
    assert text.count("<svg") == text.count('role="img"') == text.count("<title>") - 1  # and the page's own
    assert "3.7x smaller and 2.1x faster" in text and "np.array([encoding.ids]" in text


def test_html_escapes_names_that_are_markup(make_report: MakeReport) -> None:
    bad = "<script>alert(1)</script>"
    report = make_report(name=bad)
    stage = report.stages[0].model_copy(update={"facts": {bad: [[bad]], "note": bad}, "name": bad})
    report = report.model_copy(
        update={"stages": (stage,), "warnings": (bad,), "command": bad, "recipe": {bad: bad}}
    )
    for text in (to_html(report, (bad,)), compare_reports([report]).to_html()):
        _check_page(text)
        assert bad not in text and "&lt;script&gt;alert" in text


def test_page_stays_small_with_very_many_facts(int8: RunReport) -> None:
    facts = {"sparsity": {f"layer.{i}.{'x' * 40}": 0.5 for i in range(5_000)}, "text": "y" * 1_000_000}
    stage = int8.stages[0].model_copy(update={"facts": facts})
    text = to_html(int8.model_copy(update={"stages": (stage,)}))
    _check_page(text)
    assert "4500 more rows" in text
    assert len(text) < 400_000


def test_markdown_has_verdict_warnings_and_whole_tables_in_this_order(sparse: RunReport) -> None:
    text = to_markdown(sparse, INPUTS)
    places = [
        text.index(x)
        for x in ("**Not smaller", "## At a glance", "## Warnings", "## Figures", "## Latency", "## Stages")
    ]
    assert places == sorted(places)
    assert _check_tables(text) == 7


def test_markdown_shows_odd_names_as_they_are(make_report: MakeReport) -> None:
    report = make_report(name="a|b <i> *c*", command="echo ``` | cat")
    text = to_markdown(report)
    assert text.startswith("# a\\|b &lt;i&gt; \\*c\\*")
    assert "````sh\necho ``` | cat\n````" in text
    _check_tables(compare_reports([report]).to_markdown())


def test_deploy_program_is_python_and_feeds_each_input(int8: RunReport) -> None:
    for inputs in (INPUTS, ("patches",)):
        program = to_markdown(int8, inputs).split("```python\n")[1].split("```")[0]
        compile(program, "deploy", "exec")
        assert all(f'"{name}"' in program for name in inputs)
        assert ("Tokenizer" in program) == (inputs == INPUTS)
    assert "## Deploy" not in to_markdown(int8)


def test_facts_become_pairs_and_tables() -> None:
    pairs, tables = facts_of(
        {
            "heads_kept": ((0, 1), ()),
            "rank": 4,
            "bytes_after": 4_200_000,
            "bits": {"a": {"w": 8}, "b": {"w": 4, "x": True}},
        }
    )
    assert pairs == [("rank", "4"), ("bytes after", "4.20 MB")]
    heads, bits = tables
    assert (heads.columns, heads.rows) == (
        ("layer", "count", "heads kept"),
        (("0", "2", "0, 1"), ("1", "0", "none")),
    )
    assert (bits.columns, bits.rows) == (("name", "w", "x"), (("a", "8", ""), ("b", "4", "yes")))


def test_loss_that_ran_away_survives_json_and_is_drawn(int8: RunReport, tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    curve = (EpochRecord(epoch=1, train_loss=nan, validation_loss=inf, validation_metric=0.5),)
    assert "nan" not in str(loss_curve(curve))
    stage = int8.stages[0].model_copy(update={"curve": curve})
    report = int8.model_copy(update={"stages": (stage,)})
    write_reports(report, tmp_path)
    again = load_report(tmp_path).stages[0].curve[0]
    assert again.train_loss != again.train_loss and again.validation_loss == inf


def test_reports_are_the_same_before_and_after_json(int8: RunReport, tmp_path: Path) -> None:
    write_reports(int8, tmp_path / "new" / "run", INPUTS)
    again = load_report(tmp_path / "new" / "run")
    assert again.model_dump_json() == int8.model_dump_json()
    assert to_markdown(again, INPUTS) == (tmp_path / "new" / "run" / "report.md").read_text(encoding="utf-8")
    assert to_html(again, INPUTS) == (tmp_path / "new" / "run" / "report.html").read_text(encoding="utf-8")


def test_report_without_stages_or_latency_renders(int8: RunReport) -> None:
    measurement = int8.measurement.model_copy(update={"latency": ()})
    model = int8.model.model_copy(update={"training": ()})
    bare = int8.model_copy(update={"stages": (), "measurement": measurement, "model": model})
    _check_page(to_html(bare))
    _check_tables(to_markdown(bare))
    _check_page(compare_reports([bare]).to_html())


def test_model_card_opens_with_front_matter_of_the_hub(int8: RunReport) -> None:
    _, front, body = to_model_card(int8, INPUTS).split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["pipeline_tag"] == "text-classification" and facts["base_model"] == "owner/model"
    assert facts["tags"] == ["onnx", "onnxruntime", "modelpress", "pruned", "quantized"]
    assert "3.7x smaller" in body and "pip install numpy onnxruntime tokenizers" in body


def test_model_card_does_not_publish_local_paths(int8: RunReport) -> None:
    model = int8.model.model_copy(update={"source": "/home/someone/models/mine"})
    report = int8.model_copy(
        update={"model": model, "recipe": {"model": {"hf": "/home/someone/models/mine"}}}
    )
    card = to_model_card(report, ("patches",))
    assert "someone" not in card and "from mine" in card
    assert "pipeline_tag" not in card


def _broken(change: str, report: RunReport) -> str:
    content = json.loads(report.model_dump_json())
    if change == "cut":
        return json.dumps(content)[:500]
    if change == "list":
        return "[]"
    if change == "newer":
        content["schema_version"] = 3
    if change == "lacking":
        del content["measurement"]["latency"]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("cut", "invalid JSON"),
        ("list", "schema_version is missing"),
        ("newer", "schema_version 3 is newer than 2"),
        ("lacking", "measurement.latency: Field required"),
    ],
)
def test_an_invalid_report_is_refused_with_the_reason(
    change: str, says: str, int8: RunReport, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text(_broken(change, int8), encoding="utf-8")
    with pytest.raises(OutputError, match=says):
        load_report(tmp_path)


def _as_version_1(report: RunReport) -> str:
    """As it was written before rows and units were told apart: rows are then units, tokens for one."""
    content = json.loads(report.model_dump_json())
    content["schema_version"] = 1
    measured = content["measurement"]
    for each in (measured["baseline"]["accuracy"], measured["candidate"]["accuracy"], measured["difference"]):
        each["rows"] = each.pop("units")
    return json.dumps(content)


def test_a_report_of_version_1_is_read_with_rows_and_units_separated(
    int8: RunReport, of_language: Callable[..., RunReport], tmp_path: Path
) -> None:
    language = of_language(int8, 21.0)
    for report in (int8, language):
        (tmp_path / "report.json").write_text(_as_version_1(report), encoding="utf-8")
        assert load_report(tmp_path) == report
    accuracy = language.measurement.candidate.accuracy
    assert (accuracy.rows, accuracy.units) == (10, 1_000)


def test_a_missing_report_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no report\.json here"):
        load_report(tmp_path)


def test_directory_that_cannot_be_made_is_an_output_error(int8: RunReport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_reports(int8, tmp_path / "file" / "run")


def test_a_reused_stage_is_marked(int8: RunReport) -> None:
    stage: StageRecord = int8.stages[0].model_copy(update={"reused": True})
    assert "reused from an earlier run" in to_markdown(int8.model_copy(update={"stages": (stage,)}))


def test_weights_by_part_are_shown_if_they_were_counted(int8: RunReport) -> None:
    assert "Weights by part" not in to_markdown(int8) + to_html(int8)
    parts = (
        PartSize(name="embeddings", baseline_bytes=46_900_000, candidate_bytes=11_800_000),
        PartSize(name="rest", baseline_bytes=0, candidate_bytes=0),
    )
    report = int8.model_copy(update={"parts": parts})
    for page in (to_markdown(report), to_html(report)):
        assert "Weights by part" in page and "46.9 MB" in page and "4.0x smaller" in page


def test_latency_shows_quartiles_if_they_were_recorded(int8: RunReport, extents: Extents) -> None:
    spread = {"p05_ms": 1.0, "p25_ms": 2.0, "p50_ms": 3.0, "p75_ms": 4.0, "p95_ms": 5.0}
    first = int8.measurement.latency[0]
    known = first.model_copy(update={"candidate": first.candidate.model_copy(update=spread)})
    assert "line: median; whisker: to p95" in to_html(int8)
    (unknown,) = extents(latency_boxes([first]), "fill: var(--candidate)")
    assert unknown[0] == unknown[2]  # no box
    (box,) = extents(latency_boxes([known]), "fill: var(--candidate)")
    pixels = 312 / (first.baseline.p95_ms * 1.04)  # a millisecond
    assert (box[0], box[2]) == pytest.approx((76 + 2 * pixels, 76 + 4 * pixels), abs=0.01)
    measured = int8.measurement.model_copy(update={"latency": (known, *int8.measurement.latency[1:])})
    page = to_html(int8.model_copy(update={"measurement": measured}))
    assert "box: the middle half" in page


def test_charts_are_reproducible_and_ignore_the_users_matplotlib_settings(int8: RunReport) -> None:
    from matplotlib import rc_context, rcParams

    before, once = dict(rcParams), to_html(int8)
    with rc_context({"font.size": 40, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert to_html(int8) == once
    assert dict(rcParams) == before


@pytest.mark.parametrize(("classes", "tables"), [(25, [25]), (26, [20, 6])])
def test_the_end_of_a_long_breakdown_is_folded(
    make_report: MakeReport, classes: int, tables: list[int]
) -> None:
    rows = tuple((f"class {at}", str(at)) for at in range(classes))
    found = Breakdown(title="Each class", sentences=("All.",), columns=("class", "rows"), rows=rows)
    report = make_report()
    measurement = report.measurement.model_copy(update={"answers": None, "breakdown": found})
    report = report.model_copy(update={"measurement": measurement})
    (section,) = page_of(report).sections(report)
    shown = [part for part in section.parts if isinstance(part, Table)]
    assert [len(each.rows) for each in shown] == tables
    assert [bool(each.folded) for each in shown] == [False, True][: len(tables)]
    assert sum((each.rows for each in shown), ()) == rows
