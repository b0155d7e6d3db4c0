"""RunReport to Markdown (GitHub's flavour)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml

from compress.report.cards.deploy import deploy_packages, deploy_snippet
from compress.report.schema import RunReport
from compress.report.sections.cut import cuts_of
from compress.report.sections.cut_words import (
    COST_NOTE,
    about_table,
    cost_tables,
    cut_sentences,
    steps_table,
    widths_table,
)
from compress.report.sections.explanation import explanation_sentences, explanation_tables
from compress.report.sections.facts import facts_of, plain, settings_of
from compress.report.sections.ladder import ladder_note, ladder_sentences, ladder_table
from compress.report.sections.language import LANGUAGE_NOTE, language_sentences, language_tables
from compress.report.sections.promise import promise_of
from compress.report.sections.promise_words import promise_sentences, promise_table
from compress.report.sections.runtimes import runtime_sentences, runtime_table
from compress.report.tables import (
    Table,
    curve_table,
    data_table,
    environment_table,
    figures_table,
    gates_table,
    latency_table,
    operators_table,
    parity_table,
    parts_table,
    stage_summary,
    stages_table,
    training_summary,
)
from compress.report.words import MB_NOTE, caveats, duration, headline, setting, verdict
from compress.safe_text import visible
from compress.tasks import task_of_measurement

__all__ = ["escape_markdown", "fenced", "recipe_yaml", "table_markdown", "to_markdown"]

_MOST_ROWS = 200


def escape_markdown(text: str) -> str:
    """Text that Markdown shows unchanged, on one line; what would hide in it is made visible."""
    text = visible(re.sub(r"\s*[\r\n]+\s*", " ", text))
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    # An underscore inside a word is left alone, so that names stay readable in the source.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def table_markdown(table: Table) -> str:
    """A table with its title above; rows past the 200th are left to report.json."""
    rule = ["---:" if letter == "r" else ":---" for letter in table.align]
    lines = [_line(map(escape_markdown, table.columns)), _line(rule)]
    lines += [_line(map(escape_markdown, row)) for row in table.rows[:_MOST_ROWS]]
    text = "\n".join(lines)
    if table.title:
        text = f"**{escape_markdown(table.title[:1].upper() + table.title[1:])}**\n\n{text}"
    left = len(table.rows) - _MOST_ROWS
    return text if left <= 0 else f"{text}\n\n{left:,} more rows are in report.json."


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def recipe_yaml(report: RunReport) -> str:
    """The resolved recipe as YAML; what would hide in a text is escaped as YAML does."""
    recipe = plain(report.recipe)
    text = str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    return text if visible(text) == text else str(yaml.safe_dump(recipe, sort_keys=False))


def to_markdown(report: RunReport, inputs: Sequence[str] = ()) -> str:
    """Write the report as Markdown.

    Args:
        report: what the run said.
        inputs: names of the ONNX model's inputs, for the program under Deploy; none: no program.
    """
    parts = [f"# {escape_markdown(report.name)}", f"**{escape_markdown(verdict(report))}**"]
    warnings = caveats(report)
    if warnings:
        parts += ["## Warnings", "\n".join(f"- {escape_markdown(text)}" for text in warnings)]
    if report.gates:
        parts += ["## Gates", table_markdown(gates_table(report))]
    parts += [
        "## Figures",
        "Baseline is the uncompressed model, candidate the compressed one, both as ONNX files run by ONNX "
        f"Runtime. Intervals are 95 % intervals. {MB_NOTE}",
        table_markdown(figures_table(report)),
        *_language(report),
        "## Latency",
        "Baseline and candidate were timed in turns in one process; the speed-up is the median over rounds.",
        table_markdown(latency_table(report)),
        *(["**Where the bytes are**", table_markdown(parts_table(report))] if report.parts else []),
        *_runtimes(report),
        *_why(report),
        *_ladder(report),
        *_cuts(report),
        *_stages(report),
        "## Parity",
        "Each ONNX file against the PyTorch model that it came from, on validation rows.",
        table_markdown(parity_table(report)),
        "## Data",
        table_markdown(data_table(report)),
        "## Environment",
        table_markdown(environment_table(report)),
        "**Operators that ONNX Runtime runs**",
        table_markdown(operators_table(report)),
        *_again(report),
    ]
    if inputs:
        parts += [
            "## Deploy",
            f"Needs {', '.join(deploy_packages(inputs))}; run it inside the bundle.",
            fenced(deploy_snippet(report, inputs), "python"),
        ]
    return "\n\n".join(parts) + "\n"


def _language(report: RunReport) -> list[str]:
    """Of a language model: perplexity, and tokens a second."""
    found = report.measurement.language
    if found is None:
        return []
    said = " ".join(map(escape_markdown, language_sentences(found)))
    return ["## Language", said, LANGUAGE_NOTE, *map(table_markdown, language_tables(report))]


def _why(report: RunReport) -> list[str]:
    """Where the time goes, in reports that know."""
    found = report.measurement.explanation
    if found is None:
        return []
    return [
        "## Why is it as fast as it is?",
        f"**{escape_markdown(found.advice)}**",
        *map(escape_markdown, explanation_sentences(found)),
        *map(table_markdown, explanation_tables(found)),
    ]


def _runtimes(report: RunReport) -> list[str]:
    """Other runtimes, in reports that asked them."""
    found = report.measurement.runtimes
    if found is None:
        return []
    return [
        "## Other runtimes",
        table_markdown(runtime_table(found)),
        *map(escape_markdown, runtime_sentences(found, task_of_measurement(report.measurement).words)),
    ]


def _ladder(report: RunReport) -> list[str]:
    """After every stage, in reports that have it."""
    first = headline(report)
    if not report.ladder or first is None:
        return []
    sentences = [f"- {escape_markdown(line)}" for line in ladder_sentences(report.ladder)]
    table = table_markdown(ladder_table(report.ladder, setting(first)))
    return ["## After every stage", ladder_note(report.ladder), "\n".join(sentences), table]


def _cuts(report: RunReport) -> list[str]:
    """What stages that cut to a budget did, promised and timed."""
    cuts = cuts_of(report)
    parts = ["## What was cut"] if cuts else []
    titles = [f"### {cut.number}. {escape_markdown(cut.stage)}" if len(cuts) > 1 else "" for cut in cuts]
    for cut, title in zip(cuts, titles, strict=True):
        parts += [title, escape_markdown(" ".join(cut_sentences(cut)))]
        if cut.sites:
            parts.append(table_markdown(widths_table(cut)))
        if len(cut.steps) > 1:
            parts.append(table_markdown(steps_table(cut)))
    promises = [promise_of(report, cut) for cut in cuts]
    if any(promises):
        parts.append("## Promised against measured")
    for cut, title, promise in zip(cuts, titles, promises, strict=True):
        if promise is not None:
            words = escape_markdown(" ".join(promise_sentences(report, cut, promise)))
            parts += [title, words, table_markdown(promise_table(promise))]
    timed = [(cut, title) for cut, title in zip(cuts, titles, strict=True) if cut.latency_table is not None]
    if timed:
        parts += ["## Latency table", COST_NOTE]
    for cut, title in timed:
        parts += [title, *map(table_markdown, (about_table(cut), *cost_tables(cut)))]
    return [part for part in parts if part]


def _stages(report: RunReport) -> list[str]:
    parts = [
        "## Stages",
        f"Original: {escape_markdown(report.model.source)}",
        table_markdown(stages_table(report)),
    ]
    if report.model.training:
        parts += ["### 0. Training of the original", *filter(None, [training_summary(report.model)])]
        parts.append(table_markdown(curve_table(report.model.training)))
    metric = report.model.validation_metric
    for number, stage in enumerate(report.stages, start=1):
        parts += [f"### {number}. {escape_markdown(stage.name)}", stage_summary(stage, metric)]
        metric = stage.validation_metric
        pairs, tables = facts_of(stage.facts)
        if stage.settings:
            settings = (
                f"{escape_markdown(k)} = {escape_markdown(v)}" for k, v in settings_of(stage.settings)
            )
            parts.append("Settings: " + "; ".join(settings))
        if pairs:
            parts.append("\n".join(f"- {escape_markdown(k)}: {escape_markdown(v)}" for k, v in pairs))
        parts += map(table_markdown, tables)
        if stage.curve:
            parts.append(table_markdown(curve_table(stage.curve)))
    return parts


def _again(report: RunReport) -> list[str]:
    return [
        "## Reproduce",
        f"Made {escape_markdown(report.created)} by modelpress {escape_markdown(report.modelpress_version)} "
        f"in {duration(report.seconds)}, of which measuring took {duration(report.measurement.seconds)}.",
        fenced(report.command, "sh"),
        "The resolved recipe:",
        fenced(recipe_yaml(report), "yaml"),
    ]
