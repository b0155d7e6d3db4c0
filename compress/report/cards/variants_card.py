"""README.md of a directory of variants: a table, and how to run one with onnxruntime alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.page import Table
from compress.page.format import (
    MB_NOTE,
    PERCENT,
    Scale,
    capital,
    interval_text,
    place,
    plural,
    ratio_text,
    size,
)
from compress.report.cards.model_card import front_matter
from compress.report.render.markdown import escape_markdown, fenced, table_markdown
from compress.report.schema import RunReport
from compress.report.sections.deploy import deploy_packages, deploy_snippet
from compress.tasks import task_of_measurement

__all__ = ["to_variants_card", "variants_table"]


def variants_table(entries: Sequence[Mapping[str, Any]], scale: Scale = PERCENT) -> Table:
    """One row per manifest entry: file, size, quality, and speed-up at the first setting."""
    score = entries[0].get("metric", "accuracy")
    language = any("perplexity" in each for each in entries)
    rows = tuple(
        (
            each["name"],
            each["file"],
            size(each["size_bytes"]),
            *([_perplexity(each)] if language else []),
            f"{scale.text(each['accuracy']['value'])} ({scale.signed(each['accuracy']['difference'])})",
            _speedup(each["latency"][0]),
            each["figures_hold"]["accuracy"],
        )
        for each in entries
    )
    columns = (
        "variant",
        "file",
        "size",
        *(["perplexity (ratio, 95 %)"] if language else []),
        f"{'next-token ' if language else ''}{score} ({scale.change_unit.strip() or 'change'})",
        "speed-up (95 %)",
        f"{score} valid on",
    )
    return Table(columns, rows, "llrrrrl" if language else "llrrrl")


def _perplexity(entry: Mapping[str, Any]) -> str:
    value, low, high = (entry["perplexity_ratio"][key] for key in ("value", "low", "high"))
    shown = f"{entry['perplexity']:.3f}"
    if (value, low, high) == (1.0, 1.0, 1.0):
        return shown
    return f"{shown} ({value:.3f}x, {low:.3f} to {high:.3f})"


def _speedup(latency: Mapping[str, Any]) -> str:
    value, low, high = (latency[key] for key in ("speedup", "speedup_low", "speedup_high"))
    if (value, low, high) == (1.0, 1.0, 1.0):
        return "1"
    return f"{ratio_text(value, low, high)} ({interval_text(value, low, high)})"


def to_variants_card(
    name: str, entries: Sequence[Mapping[str, Any]], report: RunReport, inputs: Sequence[str]
) -> str:
    """Write the card.

    Args:
        name: name of the directory.
        entries: the manifest's entries.
        report: report of any of the runs; they share labels, machine and lengths.
        inputs: names of the ONNX models' inputs.
    """
    language = report.measurement.language
    first = entries[0]["latency"][0]
    judged = report.measurement.baseline.accuracy
    rows = f"{judged.units:,} test {plural(judged.unit)}"
    where = place(first["batch"], first["sequence"], first["threads"])
    what = f"{capital(entries[0].get('metric', 'accuracy'))} was measured on {rows}"
    if language is not None:
        rows = f"{language.tokens:,} tokens of {judged.rows:,} test rows"
        what = f"Perplexity and next-token accuracy were measured on {rows}"
    scale = task_of_measurement(report.measurement).words.scale
    decision = {key: entries[0][key] for key in report.measurement.candidate.decision}
    labels = "inputs and labels" if language is None else "inputs and tokenizer"
    parts = [
        front_matter(report, inputs),
        f"# {escape_markdown(name)}",
        f"{len(entries)} ONNX files of one model, with the same {labels}. {what}; latency at "
        f"{where} with ONNX Runtime on {escape_markdown(report.measurement.environment.cpu)}, and is valid "
        "for that processor only. Differences and speed-ups are relative to the uncompressed model. "
        f"{MB_NOTE}",
        table_markdown(variants_table(entries, scale)),
        "## Use",
        f"`pip install {' '.join(deploy_packages(inputs))}`, then in this directory, with the file of your "
        "choice:",
        fenced(deploy_snippet(report, inputs, str(entries[0]["file"]), decision), "python"),
        "manifest.json has all figures and the SHA-256 of every file. With modelpress installed, "
        "`compress.load_variant(DIRECTORY, prefer='fastest', max_drop=0.01)` chooses a file by these "
        "figures, and its `.session()` opens it.",
    ]
    return "\n\n".join(parts) + "\n"
