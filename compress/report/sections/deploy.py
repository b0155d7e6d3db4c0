"""How to run a bundle: a short program using onnxruntime, with tokenizers for text or Pillow for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.data.readers.feeds import Feed, feed_of
from compress.page import Code, Section, Text
from compress.report.phrases import headline
from compress.report.schema import RunReport
from compress.safe_text import visible
from compress.tasks import task_of_measurement

__all__ = ["deploy_packages", "deploy_snippet", "section"]

_MOST_LABELS = 20


def section(report: RunReport, inputs: Sequence[str]) -> Section:
    """The program and its requirements."""
    needs = f"Requires {', '.join(deploy_packages(inputs))}; run it in the directory of the bundle."
    program = Code(deploy_snippet(report, inputs), "python")
    return Section("Deploy", (Text(needs, "note"), program), "deploy")


def deploy_packages(inputs: Sequence[str]) -> tuple[str, ...]:
    """Packages needed to run the bundle."""
    return ("numpy", "onnxruntime", *feed_of(inputs).packages)


def deploy_snippet(
    report: RunReport,
    inputs: Sequence[str],
    file: str = "onnx/model.onnx",
    decision: Mapping[str, float] | None = None,
) -> str:
    """A program that runs one row, from inside the bundle's directory.

    Args:
        decision: that of the file; None: the candidate's.
    """
    if decision is None:
        decision = report.measurement.candidate.decision
    task, latency = task_of_measurement(report.measurement), headline(report)
    # ONNX Runtime would use all cores of the host even in a container.
    threads = (
        ""
        if latency is None
        else f"options.intra_op_num_threads = {latency.threads}  # as measured; more may be faster"
    )
    own = task.program(file, f"{threads}\n" if threads else "")
    if own is not None:
        return own
    of_words = task.label_kind == "tags"
    feed = _feed(report, inputs, of_words=of_words)
    lines = [
        *((*feed.standard, "") if feed.standard else ()),
        "import numpy as np",
        "import onnxruntime as ort",
        *feed.imports,
        "",
        "options = ort.SessionOptions()",
        *([threads] if threads else []),
        f'session = ort.InferenceSession("{file}", options, providers=["CPUExecutionProvider"])',
        *feed.lines,
        task.result,
        *map(visible, task.snippet(report.data.labels, _MOST_LABELS, decision)),
    ]
    return "\n".join(lines) + "\n"


def _feed(report: RunReport, inputs: Sequence[str], *, of_words: bool) -> Feed:
    data = report.recipe.get("data")
    longest, text = (data.get(key) if isinstance(data, dict) else None for key in ("max_length", "text"))
    texts = len(text) if isinstance(text, list) else 1
    return feed_of(inputs, longest if isinstance(longest, int) else None, texts, of_words=of_words)
