"""The section on where the time goes, and reports from before it existed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.measure.explain.explanation import (
    Explanation,
    FileExplanation,
    FloatProduct,
    KindTime,
    RoleTime,
)
from compress.page import Table, Text
from compress.report import (
    RunReport,
    load_report,
    write_reports,
)
from compress.report.sections.explanation import explanation_sentences, explanation_tables, section


def _file(name: str, role: str, kind: str, ms: float, wall_ms: float, *, floats: int = 0) -> FileExplanation:
    """One product and one Softmax, with a tenth of the call between them."""
    around = wall_ms * 0.9 - ms
    shares = ms / wall_ms, around / wall_ms
    return FileExplanation(
        file=name,
        nodes=2,
        wall_ms=wall_ms,
        nodes_ms=ms + around,
        between_ms=wall_ms * 0.1,
        floor_ms=0.003,
        profiling_ms=0.4,
        calls=20,
        parts=(
            RoleTime(
                role=role,
                nodes=1,
                macs=9_000_000,
                macs_share=1.0,
                ms=ms,
                share=shares[0],
                bound=1 / (1 - shares[0]),
            ),
            RoleTime(role="other", nodes=1, macs=0, macs_share=0.0, ms=around, share=shares[1], bound=2.0),
        ),
        kinds=(
            KindTime(kind=kind, role=role, nodes=1, ms=ms, share=shares[0], numbers=10),
            KindTime(kind="Softmax", role="other", nodes=1, ms=around, share=shares[1], numbers=10),
        ),
        float_products=tuple(
            FloatProduct(name=f"<b>{i}|", kind="MatMul", macs=1, ms=1.0, share=0.1, made=i == 0) for i in
            range(floats)
        ),
        float_product_count=floats,
        low_bits=(),
        low_bits_by_block=False,
        counts={"Cast": 1},
        uncounted={"Einsum": 2} if floats else {},
        if_quantized=1.5 if floats else None,
    )  # fmt: skip


@pytest.fixture
def explanation() -> Explanation:
    return Explanation(
        batch=1,
        sequence=128,
        threads=1,
        cores=2,
        made_up="",
        baseline=_file("base", "float_weight", "MatMul", 8.0, 10.0, floats=12),
        candidate=_file("small", "integer", "MatMulInteger", 1.0, 5.0),
        instruction_sets=("avx512_vnni",),
        advice="50 % of the time is <outside> products.",
    )


@pytest.fixture
def report(int8: RunReport, explanation: Explanation) -> RunReport:
    measurement = int8.measurement.model_copy(update={"explanation": explanation})
    return int8.model_copy(update={"measurement": measurement})


def test_the_section_opens_with_the_advice(report: RunReport, explanation: Explanation) -> None:
    found = section(report)
    assert found is not None and found.key == "why"
    assert found.parts[0] == Text(explanation.advice, "strong")
    tables = [part for part in found.parts if isinstance(part, Table)]
    assert [table.rows for table in tables] == [table.rows for table in explanation_tables(explanation)]
    assert not tables[0].folded and all(table.folded for table in tables[1:])


def test_parts_hold_both_files_times_and_the_candidates_bounds(explanation: Explanation) -> None:
    parts = explanation_tables(explanation)[0]
    rows = {row[0]: row[1:] for row in parts.rows}
    assert parts.columns[1:4] == ("baseline ms", "share", "candidate ms")
    assert rows["integer products"] == ("", "", "1.00", "20.0 %", "100.0 %", "9", "1.25x")
    assert rows["products with float weights"] == ("8.00", "80.0 %", "", "", "", "", "")
    assert rows["runtime overhead: launching nodes"] == (
        "1.00",
        "10.0 %",
        "0.500",
        "10.0 %",
        "",
        "",
        "1.11x",
    )
    assert rows["whole call"][:4] == ("10.0", "100.0 %", "5.00", "100.0 %")


def test_operator_kinds_below_a_percent_in_both_are_summed(explanation: Explanation) -> None:
    tiny = tuple(
        KindTime(kind=f"K{i}", role="other", nodes=2, ms=0.01, share=0.002, numbers=1) for i in range(3)
    )
    candidate = explanation.candidate.model_copy(update={"kinds": explanation.candidate.kinds + tiny})
    kinds = explanation_tables(explanation.model_copy(update={"candidate": candidate}))[1]
    assert [row[0] for row in kinds.rows] == ["MatMul", "Softmax", "MatMulInteger", "3 others"]
    assert kinds.rows[1][2:] == ("1 → 1", "1.00", "10.0 %", "3.50", "70.0 %")
    assert kinds.rows[3][2:] == ("0 → 6", "", "", "0.030", "0.6 %")


def test_a_file_alone_has_no_columns_of_a_baseline_and_names_what_stayed_float(
    explanation: Explanation,
) -> None:
    assert explanation.baseline is not None
    alone = explanation.model_copy(
        update={"baseline": None, "candidate": explanation.baseline, "made_up": "made up: ones"}
    )
    parts, _, floats = explanation_tables(alone)
    assert parts.columns[:3] == ("purpose", "ms", "share")
    assert len(floats.rows) == 10 and "(2 more)" in floats.title
    assert (floats.rows[0][-1], floats.rows[1][-1]) == (
        "dequantized in each call",
        "stored as float",
    )
    said = " ".join(explanation_sentences(alone))
    for figure in ("100 %", "80 %", "1.50x", "2 Einsum", "made up: ones", "0.400 ms"):
        assert figure in said


def test_what_the_profile_cannot_resolve_is_stated(explanation: Explanation) -> None:
    update = {"between_ms": 0.0, "nodes_ms": 5.0, "profiling_ms": 6.0}
    hidden = explanation.model_copy(update={"candidate": explanation.candidate.model_copy(update=update)})
    rows = {row[0]: row[1:] for row in explanation_tables(hidden)[0].rows}
    assert rows["runtime overhead: launching nodes"][2] == "not separable"
    assert len(explanation_sentences(hidden)) == len(explanation_sentences(explanation)) + 1


def test_both_files_are_summed_up_in_words(explanation: Explanation) -> None:
    said = explanation_sentences(explanation)
    assert "candidate" in said[0] and "100 %" in said[0] and "integer products" in said[0]
    assert "baseline" in said[1] and "products with float weights" in said[1]
    assert "2 nodes, 1 Cast" in said[0] and "VNNI (avx512_vnni)" in said[2]


def test_an_explanation_survives_json_and_a_report_from_before_has_none(
    report: RunReport, tmp_path: Path
) -> None:
    write_reports(report, tmp_path)
    assert load_report(tmp_path) == report
    file = tmp_path / "report.json"
    content = json.loads(file.read_text())
    del content["measurement"]["explanation"]
    file.write_text(json.dumps(content))
    before = load_report(tmp_path)
    assert before.measurement.explanation is None
    assert section(before) is None
