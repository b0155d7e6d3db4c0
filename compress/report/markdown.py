"""RunReport to Markdown (GitHub's flavour)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml

from compress.report.deploy import deploy_packages, deploy_snippet
from compress.report.facts import facts_of, plain, settings_of
from compress.report.schema import RunReport
from compress.report.tables import (
    Table,
    curve_table,
    data_table,
    environment_table,
    figures_table,
    latency_table,
    operators_table,
    parity_table,
    stage_summary,
    stages_table,
)
from compress.report.words import MB_NOTE, caveats, duration, verdict

__all__ = ["escape_markdown", "fenced", "recipe_yaml", "table_markdown", "to_markdown"]

_MOST_ROWS = 200


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = re.sub(r"\s*[\r\n]+\s*", " ", text)
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    # An underscore inside a word is left alone, so that names stay readable in the source.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


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
    """The resolved recipe as YAML."""
    return str(yaml.safe_dump(plain(report.recipe), sort_keys=False, allow_unicode=True))


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
    parts += [
        "## Figures",
        "Baseline is the uncompressed model, candidate the compressed one, both as ONNX files run by ONNX "
        f"Runtime. Intervals are 95 % intervals. {MB_NOTE}",
        table_markdown(figures_table(report)),
        "## Latency",
        "Baseline and candidate were timed in turns in one process; the speed-up is the median over rounds.",
        table_markdown(latency_table(report)),
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


def _stages(report: RunReport) -> list[str]:
    parts = [
        "## Stages",
        f"Original: {escape_markdown(report.model.source)}",
        table_markdown(stages_table(report)),
    ]
    if report.model.training:
        parts += ["### 0. Training of the original", table_markdown(curve_table(report.model.training))]
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
