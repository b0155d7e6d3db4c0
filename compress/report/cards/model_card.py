"""README.md of a bundle: front matter that the Hugging Face Hub reads, figures, and how to run it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from compress.report.cards.deploy import deploy_packages, deploy_snippet, reads_text, sees_pictures
from compress.report.render.markdown import escape_markdown, fenced, table_markdown
from compress.report.schema import RunReport
from compress.report.sections.cut import cuts_of
from compress.report.sections.cut_words import widths_line
from compress.report.tables import figures_table
from compress.report.words import MB_NOTE, caveats, verdict
from compress.tasks import task_of_measurement

__all__ = ["to_model_card"]

_TAGS = {"prune": "pruned", "distill": "distilled", "quantize": "quantized"}


def to_model_card(report: RunReport, inputs: Sequence[str]) -> str:
    """Write the model card.

    Args:
        report: what the run said.
        inputs: names of the ONNX model's inputs.
    """
    head = yaml.safe_dump(_front_matter(report, inputs), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---", f"# {escape_markdown(report.name)}", escape_markdown(verdict(report))]
    warnings = caveats(report)
    if warnings:
        parts.append("\n".join(f"- {escape_markdown(text)}" for text in warnings))
    machine = report.measurement.environment
    parts += [
        f"Made by modelpress {report.modelpress_version} from {escape_markdown(_origin(report))}. Measured "
        f"with ONNX Runtime on {escape_markdown(machine.cpu)}; baseline is the uncompressed model. {MB_NOTE}",
        *(escape_markdown(line) for line in map(widths_line, cuts_of(report)) if line),
        table_markdown(figures_table(report)),
        "## Use",
        f"`pip install {' '.join(deploy_packages(inputs))}`, then inside this directory:",
        fenced(deploy_snippet(report, inputs), "python"),
        "The full report is in report.md and report.html, the recipe in recipe.resolved.yaml.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(report: RunReport, inputs: Sequence[str]) -> dict[str, Any]:
    families = dict.fromkeys(stage.name.split("/", 1)[0] for stage in report.stages)
    front: dict[str, Any] = {"library_name": "onnx"}
    task = task_of_measurement(report.measurement)
    head = task.head_for("image" if sees_pictures(inputs) else "text")
    if head is not None and (reads_text(inputs) or sees_pictures(inputs)):
        front["pipeline_tag"] = head.pipeline_tag
    base = _hub_name(report)
    if base is not None:
        front["base_model"] = base
    front["tags"] = ["onnx", "onnxruntime", "modelpress", *(_TAGS[x] for x in families if x in _TAGS)]
    front["metrics"] = [task.words.hub_metric]
    return front


def _hub_name(report: RunReport) -> str | None:
    """The original's name on the Hub; a local path is nobody's business but the report's."""
    model = report.recipe.get("model")
    name = model.get("hf") if isinstance(model, dict) else None
    return name if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) else None


def _origin(report: RunReport) -> str:
    # Only the last part: a card is published, a home directory should not be.
    return _hub_name(report) or re.split(r"[/\\]", report.model.source.rstrip("/\\"))[-1]
