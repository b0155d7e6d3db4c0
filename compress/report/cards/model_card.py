"""README.md of a bundle: front matter for the Hugging Face Hub, figures, and usage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from compress.data.readers.feeds import feed_of
from compress.page.format import MB_NOTE
from compress.report.render.markdown import escape_markdown, fenced, table_markdown
from compress.report.schema import RunReport
from compress.report.sections.about import saturation_sentence
from compress.report.sections.cut import cuts_of, widths_line
from compress.report.sections.deploy import deploy_packages, deploy_snippet
from compress.report.sections.figures import figures_table
from compress.report.sections.verdict import caveats, verdict
from compress.tasks import task_of_measurement

__all__ = ["front_matter", "to_model_card"]

_TAGS = {"prune": "pruned", "distill": "distilled", "quantize": "quantized"}


def to_model_card(report: RunReport, inputs: Sequence[str]) -> str:
    """Write the model card.

    Args:
        report: report of the run.
        inputs: names of the ONNX model's inputs.
    """
    families = dict.fromkeys(stage.name.split("/", 1)[0] for stage in report.stages)
    tags = [_TAGS[family] for family in families if family in _TAGS]
    head = front_matter(report, inputs, _hub_name(report), tags)
    parts = [head, f"# {escape_markdown(report.name)}", escape_markdown(verdict(report))]
    machine, warnings = report.measurement.environment, caveats(report)
    lines = [widths_line(cut.facts) for cut in cuts_of(report)]
    if report.saturation is not None:
        score = task_of_measurement(report.measurement).words.score
        lines.append(saturation_sentence(report.saturation, machine.instruction_sets, score))
    parts += [
        f"Compressed by modelpress {report.modelpress_version} from {escape_markdown(_origin(report))}. "
        f"Measured with ONNX Runtime on {escape_markdown(machine.cpu)}; the baseline is the uncompressed "
        f"model. {MB_NOTE}",
        table_markdown(figures_table(report)),
        *(["\n".join(f"- {escape_markdown(str(each))}" for each in warnings)] if warnings else []),
        *(escape_markdown(line) for line in lines if line),
        "## Use",
        f"`pip install {' '.join(deploy_packages(inputs))}`, then in this directory:",
        fenced(deploy_snippet(report, inputs), "python"),
        "report.md and report.html are the full report, recipe.resolved.yaml is the recipe.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(
    report: RunReport, inputs: Sequence[str], base: str | None = None, tags: Sequence[str] = ()
) -> str:
    """YAML front matter for the Hub (task, base model, tags), between two `---` lines."""
    front: dict[str, Any] = {"library_name": "onnx"}
    task, modality = task_of_measurement(report.measurement), feed_of(inputs).modality
    head = task.head_for("image" if modality == "image" else "text")
    if head is not None and (task.keeps_past or modality != "numbers"):
        front["pipeline_tag"] = head.pipeline_tag
    if base is not None:
        front["base_model"] = base
    front["tags"] = ["onnx", "onnxruntime", "modelpress", *tags]
    front["metrics"] = [task.words.hub_metric]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _hub_name(report: RunReport) -> str | None:
    """The base model's name on the Hub; None for a local path, which is not published."""
    model = report.recipe.get("model")
    name = model.get("hf") if isinstance(model, dict) else None
    return name if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) else None


def _origin(report: RunReport) -> str:
    # Only the last path component: a card is published, a home directory should not be.
    return _hub_name(report) or re.split(r"[/\\]", report.model.source.rstrip("/\\"))[-1]
