"""RunReport to one HTML page that needs no network and no font; one script of ours sorts tables."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compress.measure.results import Language
from compress.report import tables
from compress.report.cards.deploy import deploy_packages, deploy_snippet
from compress.report.render import charts
from compress.report.render.markdown import recipe_yaml
from compress.report.schema import EpochRecord, RunReport, StageRecord
from compress.report.sections import cut_charts, cut_words
from compress.report.sections.cut import Cut, cuts_of
from compress.report.sections.explanation import explanation_sentences, explanation_tables
from compress.report.sections.facts import facts_of, settings_of
from compress.report.sections.ladder import ladder_dots, ladder_note, ladder_sentences, ladder_table
from compress.report.sections.language import LANGUAGE_NOTE, language_sentences, language_tables
from compress.report.sections.promise import promise_of
from compress.report.sections.promise_words import promise_sentences, promise_table
from compress.report.sections.runtimes import runtime_sentences, runtime_table
from compress.report.sections.stage_charts import kept_pictures, sensitivity_map
from compress.report.words import (
    MB_NOTE,
    RUN_NOISE,
    accuracy_words,
    caveats,
    decode_setting,
    duration,
    headline,
    milliseconds,
    percent,
    setting,
    size,
    size_words,
    speedup_words,
    verdict,
)
from compress.safe_text import visible
from compress.tasks import task_of_measurement

__all__ = ["render", "to_html"]


def _visible(value: Any) -> Any:
    """What each `{{ }}` shows; markup is ours, and its texts went through here or `to_svg`."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    # Everything is escaped, whatever a template is called: names come from other people's files.
    return Environment(
        loader=PackageLoader("compress.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _script() -> dict[str, Markup | str]:
    """The one script of our pages, and what allows it and no other."""
    text = (files("compress.report") / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": f"sha256-{digest}"}


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill one of our templates."""
    return _environment().get_template(template).render({**_script(), **context})


def to_html(report: RunReport, inputs: Sequence[str] = ()) -> str:
    """Write the report as one HTML page.

    Args:
        report: what the run said.
        inputs: names of the ONNX model's inputs, for the program under Deploy; none: no program.
    """
    measured = report.measurement
    return render(
        "report.html.j2",
        {
            "report": report,
            "verdict": verdict(report),
            "caveats": caveats(report),
            "gates": tables.gates_table(report) if report.gates else None,
            "mb_note": MB_NOTE,
            "tiles": _tiles(report),
            "figures": tables.figures_table(report),
            "latency": tables.latency_table(report),
            "latency_boxes": charts.latency_boxes(measured.latency),
            "parts": _parts(report),
            "language": _language(report),
            "has_quartiles": any(x.candidate.p25_ms is not None for x in measured.latency),
            "size_bars": charts.size_bars(measured.baseline, measured.candidate),
            "runtimes": _runtimes(report),
            "why": _why(report),
            "ladder": _ladder(report),
            "stages": tables.stages_table(report),
            "cuts": [_cut(report, cut) for cut in cuts_of(report)],
            "cost_note": cut_words.COST_NOTE,
            "training": _curve(report.model.training) if report.model.training else None,
            "training_summary": tables.training_summary(report.model),
            "details": _stages(report),
            "parity": tables.parity_table(report),
            "data": tables.data_table(report),
            "environment": tables.environment_table(report),
            "operators": tables.operators_table(report),
            "recipe": recipe_yaml(report),
            "seconds": duration(report.seconds),
            "measure_seconds": duration(measured.seconds),
            "deploy": deploy_snippet(report, inputs) if inputs else "",
            "packages": ", ".join(deploy_packages(inputs)),
        },
    )


def _tiles(report: RunReport) -> list[dict[str, str]]:
    """Key figures: what, in words, baseline, candidate, and a note."""
    measured, latency = report.measurement, headline(report)
    before, after = measured.baseline, measured.candidate
    words, _, interval = accuracy_words(measured.difference).partition(" (")
    values = before.accuracy.value, after.accuracy.value
    tiles = [_tile("Accuracy", words, *values, percent, interval.rstrip(")"))]
    if measured.language is not None:
        tiles += _language_tiles(measured.language)
    elif latency is not None:
        words, _, interval = speedup_words(latency).partition(" (")
        values = latency.baseline.p50_ms, latency.candidate.p50_ms
        tiles.append(_tile("Latency", words, *values, milliseconds, f"p50 at {setting(latency)} ({interval}"))
    files, memory = (before.size, after.size), (before.peak_memory_bytes, after.peak_memory_bytes)
    note = f"gzip: {size(files[0].gzip_bytes)} → {size(files[1].gzip_bytes)}"
    words = size_words(files[0].file_bytes, files[1].file_bytes)
    tiles.append(_tile("File", words, files[0].file_bytes, files[1].file_bytes, size, note))
    words = size_words(*memory, "less", "more", RUN_NOISE)
    tiles.append(_tile("Peak memory", words, *memory, size, "to load the model and answer rows"))
    return tiles


def _language_tiles(language: Language) -> list[dict[str, str]]:
    """Perplexity, and a token's time at the first setting."""
    ratio, write = language.perplexity_ratio, language.decode[0]
    values = language.baseline.perplexity, language.candidate.perplexity
    same = ratio.low <= 1 <= ratio.high
    note = f"95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
    words = "no measurable change" if same else f"{ratio.value:.3f}x"
    tiles = [_tile("Perplexity", words, *values, lambda value: f"{value:.2f}", note)]
    words, _, interval = speedup_words(write).partition(" (")
    values = write.baseline.p50_ms, write.candidate.p50_ms
    note = f"p50 at {decode_setting(write)} ({interval}"
    return [*tiles, _tile("A token", words, *values, milliseconds, note)]


def _tile(
    name: str, words: str, before: float, after: float, shown: Callable[[float], str], note: str
) -> dict[str, str]:
    return {
        "name": name,
        "words": words[0].upper() + words[1:],
        "before": shown(before),
        "after": shown(after),
        "note": note,
    }


def _cut(report: RunReport, cut: Cut) -> dict[str, Any]:
    """What a stage that cuts to a budget did, promised and timed."""
    promise, table = promise_of(report, cut), cut.latency_table
    most = max((max(x.ms) for x in table.kinds), default=0.0) if table is not None else 0.0
    kinds = dict.fromkeys(site.kind for site in cut.sites)
    return {
        "title": f"{cut.number}. {cut.stage}",
        "sentences": " ".join(cut_words.cut_sentences(cut)),
        "bars": [
            (cut_words.unit_words(kind), cut_charts.width_bars([x for x in cut.sites if x.kind == kind]))
            for kind in kinds
        ],
        "widths": cut_words.widths_table(cut) if cut.sites else None,
        "steps": cut_words.steps_table(cut) if len(cut.steps) > 1 else None,
        "promise": None if promise is None else promise_table(promise),
        "kept": "" if promise is None else " ".join(promise_sentences(report, cut, promise)),
        "about": cut_words.cost_pairs(cut),
        "curves": []
        if table is None
        else [(cut_words.cost_name(cost, cut), cut_charts.cost_curve(cost, most)) for cost in table.kinds],
        "costs": cut_words.cost_tables(cut),
    }


def _runtimes(report: RunReport) -> dict[str, Any] | None:
    """Other runtimes, in reports that asked them."""
    found = report.measurement.runtimes
    if found is None:
        return None
    sentences = runtime_sentences(found, task_of_measurement(report.measurement).words)
    return {"table": runtime_table(found), "sentences": sentences}


def _language(report: RunReport) -> dict[str, Any] | None:
    """Perplexity and tokens a second, of language models."""
    found = report.measurement.language
    if found is None:
        return None
    return {
        "note": LANGUAGE_NOTE,
        "sentences": language_sentences(found),
        "tables": language_tables(report),
    }


def _why(report: RunReport) -> dict[str, Any] | None:
    """Where the time goes, in reports that know."""
    found = report.measurement.explanation
    if found is None:
        return None
    return {
        "advice": found.advice,
        "sentences": explanation_sentences(found),
        "tables": explanation_tables(found),
    }


def _parts(report: RunReport) -> dict[str, Any] | None:
    """Where the bytes are, in reports that know."""
    if not report.parts:
        return None
    return {"picture": charts.part_bars(report.parts), "table": tables.parts_table(report)}


def _ladder(report: RunReport) -> dict[str, Any] | None:
    """After every stage, in reports that have it."""
    first = headline(report)
    if not report.ladder or first is None:
        return None
    return {
        "note": ladder_note(report.ladder),
        "sentences": ladder_sentences(report.ladder),
        "table": ladder_table(report.ladder, setting(first)),
        "picture": charts.scatter(ladder_dots(report.ladder)),
    }


def _curve(curve: Sequence[EpochRecord]) -> dict[str, Any]:
    return {
        "loss": charts.loss_curve(curve),
        "metric": charts.metric_curve(curve),
        "table": tables.curve_table(tuple(curve)),
    }


def _stages(report: RunReport) -> list[dict[str, Any]]:
    metric, shown = report.model.validation_metric, []
    for stage in report.stages:
        shown.append(_stage(stage, metric))
        metric = stage.validation_metric
    return shown


def _stage(stage: StageRecord, metric_before: float) -> dict[str, Any]:
    pairs, fact_tables = facts_of(stage.facts)
    return {
        "name": stage.name,
        "summary": tables.stage_summary(stage, metric_before),
        "settings": settings_of(stage.settings),
        "pairs": pairs,
        "tables": fact_tables,
        "curve": _curve(stage.curve) if stage.curve else None,
        "kept": kept_pictures(stage.facts),
        "sensitivity": sensitivity_map(stage.facts),
    }
