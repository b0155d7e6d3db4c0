"""The wording of every page: one snapshot per renderer of a report that has every section, one of each other
page, and one of sentences that depend on the figures.

Rewrite them with UPDATE_SNAPSHOTS=1, and read the difference before you commit it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from compress.facts import Saturation
from compress.measure.answers import pack_answers
from compress.measure.explain.explanation import Explanation, FileExplanation, KindTime, RoleTime
from compress.measure.results import (
    AccuracyDifference,
    Answers,
    Floor,
    Interval,
    Rung,
)
from compress.measure.runtimes.results import RuntimeFile, Runtimes, RuntimeTiming
from compress.recipe.gates import GatesConfig
from compress.report import (
    CheckReport,
    PartSize,
    RunReport,
    caveats,
    check_summary,
    compare_reports,
    gate_checks,
    gate_sentence,
    judged,
    report_page,
    report_sections,
    saturation_sentence,
    to_model_card,
    verdict,
)
from compress.report.render.html import page_html
from compress.report.render.markdown import page_markdown
from compress.report.render.terminal import terminal_section
from compress.report.sections.cut import StageCut, cuts_of
from compress.report.sections.ladder import ladder_sentences
from compress.report.sections.promise import promise_of, promise_sentences
from compress.tasks import Score, task_of_measurement

INPUTS = ("input_ids", "attention_mask")
Kept = Callable[[str, str], None]


def _explained(file: str, ms: float) -> FileExplanation:
    part = RoleTime(role="integer", nodes=1, macs=9_000_000, macs_share=1.0, ms=ms, share=0.5, bound=2.0)
    kind = KindTime(kind="MatMulInteger", role="integer", nodes=1, ms=ms, share=0.5, numbers=10)
    return FileExplanation(
        file=file,
        nodes=2,
        wall_ms=2 * ms,
        nodes_ms=ms,
        between_ms=0.2 * ms,
        floor_ms=0.003,
        profiling_ms=0.4,
        calls=20,
        parts=(part,),
        kinds=(kind,),
        float_products=(),
        float_product_count=0,
        low_bits=(),
        low_bits_by_block=False,
        counts={"Cast": 1},
        uncounted={},
        if_quantized=None,
    )


def _rung(name: str, change: float, speedup: float) -> Rung:
    difference = AccuracyDifference(
        value=change,
        low=change - 0.01,
        high=change + 0.01,
        rows=500,
        units=500,
        gained=3,
        lost=5,
        agreement=0.98,
    )
    ratio = Interval(value=speedup, low=speedup * 0.95, high=speedup * 1.05)
    return Rung(
        name=name,
        rows=500,
        accuracy=0.9 + change,
        agreement=0.97,
        change=difference,
        p50_ms=12.0 / speedup,
        speedup=ratio,
        gain=ratio,
        file_bytes=int(90e6 / speedup),
    )


@pytest.fixture
def everything(structured: RunReport, int8: RunReport) -> RunReport:
    """A report with every section that a classifier's can have."""
    timings = tuple(
        RuntimeTiming(
            runtime=runtime, file=file, batch=1, sequence=128, threads=2, rounds_ms=(ms, ms + 0.1, ms)
        )
        for runtime, file, ms in (
            ("onnxruntime", "baseline", 24.0),
            ("onnxruntime", "candidate", 8.0),
            ("openvino", "candidate", 6.0),
            ("openvino", "baseline", 20.0),
        )
    )
    file = RuntimeFile(
        runtime="openvino", version="2026.4", file="candidate", precision="f32", agreement=0.999, accuracy=0.9
    )
    refused = RuntimeFile(runtime="openvino", version="2026.4", file="baseline", refused="no such operator")
    explanation = Explanation(
        batch=1,
        sequence=128,
        threads=2,
        cores=2,
        made_up="",
        baseline=_explained("base", 8.0),
        candidate=_explained("small", 2.0),
        instruction_sets=("avx512_vnni",),
        advice="Half of the time is around products.",
    )
    measurement = structured.measurement.model_copy(
        update={
            "runtimes": Runtimes(files=(file, refused), timings=timings),
            "explanation": explanation,
            "noise": ("The machine was busy.",),
        }
    )
    mapped = {"q": {"scheme": "int8", "divergence_int8": 0.001, "divergence_int4": 0.02}}
    facts = {"map": mapped, "sensitivity_rows": 64, "heads_before": [8, 8], "heads_kept": [3, 8]}
    mixed = int8.stages[1].model_copy(update={"facts": facts, "reused": True})
    safe = Saturation(layers=3, pairs=10, pairs_at_risk=0, outputs=5, outputs_at_risk=0)
    labels = np.arange(60) % 3
    answers = Answers(
        labels=pack_answers(labels),
        baseline=pack_answers(np.where(np.arange(60) % 7 == 0, 0, labels)),
        candidate=pack_answers(np.where(np.arange(60) % 5 == 0, 1, labels)),
    )
    measurement = measurement.model_copy(update={"answers": answers})
    return structured.model_copy(
        update={
            "floor": _floor(structured),
            "measurement": measurement,
            "stages": (*structured.stages, mixed),
            "warnings": ("Mind the *gap* <here>.",),
            "gates": judged(GatesConfig(max_accuracy_drop=0.01, min_speedup=2.0), structured.measurement),
            "parts": (PartSize(name="embeddings", baseline_bytes=46_900_000, candidate_bytes=11_800_000),),
            "ladder": (_rung("original", 0.0, 1.0), _rung("prune/structured", -0.02, 2.0)),
            "saturation": safe,
        }
    )


def _floor(report: RunReport) -> Floor:
    """Of 91.0 %, 0.4 points below the candidate, which is not measurable."""
    measured = report.measurement
    change = {"value": 0.004, "low": -0.006, "high": 0.014}
    return Floor(
        model="logistic regression",
        rows=900,
        words=21_000,
        strength=3.0,
        score=Score(metric="accuracy", value=0.91, low=0.89, high=0.93, rows=1000, units=1000),
        baseline=measured.difference.model_copy(update={"value": 0.006, "low": 0.001, "high": 0.011}),
        candidate=measured.difference.model_copy(update=change),
        fit_seconds=2.5,
        row_ms=0.31,
    )


def _html(report: RunReport) -> str:
    """The page without style, script and drawings, whose bytes are Matplotlib's."""
    text = page_html(report_page(report, INPUTS))
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"'sha256-[^']*'", "", text)
    return re.sub(r"<svg[^>]*>.*?</svg>", "<svg/>", text, flags=re.DOTALL)


def _terminal(report: RunReport) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        for section in report_sections(report):
            console.print(terminal_section(section))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _checked(report: RunReport) -> str:
    return check_summary(
        CheckReport(
            bundle="bundle",
            against="other",
            created="2026-01-31T12:00:00+00:00",
            modelpress_version="0.1.0",
            checks=tuple(gate_checks(report.gates)),
            measurement=report.measurement,
            seconds=1.0,
        )
    )


RENDERED: dict[str, Callable[[RunReport], str]] = {
    "report.md": lambda report: page_markdown(report_page(report, INPUTS)),
    "report.html": _html,
    "report.txt": _terminal,
    "card.md": lambda report: to_model_card(report, INPUTS),
    "check.md": _checked,
}


@pytest.mark.parametrize("name", RENDERED)
def test_pages_equal_their_snapshots(name: str, everything: RunReport, same_as_kept: Kept) -> None:
    same_as_kept(name, RENDERED[name](everything))


def test_a_comparison_equals_its_snapshot(
    int8: RunReport, int4: RunReport, make_report: Callable[..., RunReport], same_as_kept: Kept
) -> None:
    others = (make_report("there", machine="m2"), make_report("rows", test_rows="t2", base_ms=20.0))
    same_as_kept("comparison.md", compare_reports([int8, int4, *others]).to_markdown())


def _sentences(make: Callable[..., RunReport], of_language: Callable[..., RunReport]) -> dict[str, list[str]]:
    """Sentences of reports with different figures, by what is different."""
    reports = {
        "faster": make(),
        "slower and worse": make("int4", "int4", speedup=(0.87, 0.85, 0.9), difference=(-0.02, -0.03, -0.01)),
        "sparse": make("sparse", "sparse", speedup=(1.01, 0.97, 1.05), file_mb=266.0),
        "wide interval": make(difference=(0.0, -0.041, 0.04)),
        "language": of_language(make(), 21.0),
    }
    for name, facts in {
        "target missed": {"speedup": (2.7, 2.6, 2.8)},
        "target exceeded": {"speedup": (3.6, 3.5, 3.7)},
    }.items():
        reports[name] = make("structured", "structured", base_ms=24.4, threads=2, **facts)
    found = {}
    for name, report in reports.items():
        gates = judged(GatesConfig(max_accuracy_drop=0.01, min_speedup=2.05), report.measurement)
        words = task_of_measurement(report.measurement).words
        found[name] = [
            verdict(report),
            *(f"{each.kind}: {each}" for each in caveats(report)),
            *(gate_sentence(each, words) for each in gates),
            *(x for cut in cuts_of(report) for x in _of_target(report, cut)),
        ]
    return found


def _of_target(report: RunReport, cut: StageCut) -> list[str]:
    promise = promise_of(report, cut)
    return [] if promise is None else promise_sentences(report, cut, promise)


def test_sentences_equal_their_snapshot(
    make_report: Callable[..., RunReport], of_language: Callable[..., RunReport], same_as_kept: Kept
) -> None:
    found = _sentences(make_report, of_language)
    risk = Saturation(
        layers=38,
        pairs=1_000_000,
        pairs_at_risk=3,
        outputs=200,
        outputs_at_risk=50,
        convolutions=2,
        convolutions_at_risk=1,
        rows=64,
        sums=10_000,
        sums_cut=123,
        answers_changed=1,
    )
    found["overflow"] = [
        saturation_sentence(risk, sets, "micro F1") for sets in (("avx512_vnni",), ("avx2",), ())
    ]
    rungs = (_rung("original", 0.0, 1.0), _rung("prune/heads", -0.005, 1.02), _rung("distill/logits", 0, 1.0))
    found["ladder"] = ladder_sentences(rungs, "micro F1")
    text = "".join(f"== {name}\n" + "".join(f"{x}\n" for x in lines) for name, lines in found.items())
    same_as_kept("sentences.txt", text)


def test_every_section_is_in_the_snapshots(everything: RunReport) -> None:
    keys = [section.key for section in report_sections(everything)]
    assert keys == [
        "glance",
        "warnings",
        "gates",
        "figures",
        "breakdown",
        "floor",
        "latency",
        "runtimes",
        "why",
        "ladder",
        "cut",
        "promise",
        "costs",
        "stages",
        "parity",
        "data",
        "environment",
        "reproduce",
    ]


def test_a_language_model_has_a_section_of_its_own_after_the_figures(
    int8: RunReport, of_language: Callable[..., RunReport]
) -> None:
    keys = [section.key for section in report_sections(of_language(int8, 21.0))]
    assert keys[keys.index("figures") + 1] == "language"
    assert "language" not in [section.key for section in report_sections(int8)]
