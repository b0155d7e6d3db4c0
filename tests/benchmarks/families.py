"""Print the tables of every family and of every task in docs/results.md, from reports/reference.

    python tests/benchmarks/families.py

Nothing is measured here: `python3 .ci/dev.py reference` measures the shipped recipes of families, `tasks.py`
those of tasks. Speeds of a report that was measured beside other work are left out ("not quiet").
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.recipe import load_recipe
from compress.report import RunReport, load_report
from compress.tasks import task_of_measurement

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {
    "Transformer encoder": "digits",
    "decoder": "decoder",
    "vision Transformer": "vit",
    "CNN": "cnn",
    "RNN": "rnn",
}
TASKS = ("pairs", "reranking", "regression", "token-labels", "embedding")
_ALSO = ("magnitude", "width", "student", "static", "weights", "float16", "mixed", "qat")  # of the digits


def table() -> str:
    """The table, in Markdown."""
    columns = ["family", "recipe", "file MB", "accuracy, points; or perplexity", "batch 1"]
    columns.append("batch 8; or one more token")
    lines = [f"| {' | '.join(columns)} |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for family, folder in FAMILIES.items():
        for path in sorted((ROOT / "recipes" / folder).glob("*.yaml")):
            if folder != "digits" or not path.stem.endswith(_ALSO):
                report = load_report(ROOT / "reports" / "reference" / load_recipe(path).run_name)
                cells = [family, f"`{folder}/{path.stem}`{_first(report, folder)}", *figures(report)]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(report: RunReport) -> list[str]:
    """File size, accuracy or perplexity, and two ratios of time on one thread."""
    found = report.measurement
    after, before = (each.size.file_bytes / 1e6 for each in (found.candidate, found.baseline))
    times = {each.batch: each for each in found.latency if each.threads == 1}
    if found.language is None:
        change = found.difference
        points = (100 * each for each in (change.value, change.low, change.high))
        result = f"{found.candidate.accuracy.value:.1%}, " + "{:+.1f} ({:+.1f} to {:+.1f})".format(*points)
        second = times[8]
    else:
        ratio = found.language.perplexity_ratio
        result = f"{ratio.value:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})"
        second = next(each for each in found.language.decode if each.threads == 1)
    speeds = [_speed(each.speedup, each.speedup_low, each.speedup_high) for each in (times[1], second)]
    # Reports written before `disturbed_rounds` existed mention other work in words only.
    quiet = not any(note.startswith("other work") for note in found.noise)
    return [f"{after:.3g} of {before:.3g}", result, *(speeds if quiet else ["not quiet"] * 2)]


def tasks_table() -> str:
    """The table of tasks, in Markdown: those recipes that have a report."""
    columns = ["recipe", "metric", "fp32", "change", "file MB", "1 thread", "2 threads, 128 tokens"]
    lines = [f"| {' | '.join(columns)} |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for task in TASKS:
        for path in sorted((ROOT / "recipes" / task).glob("*.yaml")):
            directory = ROOT / "reports" / "reference" / f"{task}-{path.stem}"
            if directory.is_dir():
                found = task_figures(load_report(directory))
                lines.append(f"| `{task}/{path.stem}` | {' | '.join(found)} |")
    return "\n".join(lines)


def task_figures(report: RunReport) -> list[str]:
    """Metric, its change, file sizes, and ratios of time at batch 1: the shortest rows, and 128 tokens."""
    found = report.measurement
    scale = task_of_measurement(found).words.scale
    value, interval = scale.change(found.difference.value, found.difference.low, found.difference.high)
    after, before = (each.size.file_bytes / 1e6 for each in (found.candidate, found.baseline))
    alone = [each for each in found.latency if each.batch == 1]
    one = min((each for each in alone if each.threads == 1), key=lambda each: each.sequence or 0)
    two = next((each for each in alone if each.threads == 2 and each.sequence == 128), None)
    speeds = [_speed(x.speedup, x.speedup_low, x.speedup_high) if x else "" for x in (one, two)]
    return [
        found.difference.metric,
        scale.text(found.baseline.accuracy.value),
        f"{value}{scale.change_unit} ({interval})",
        f"{after:.3g} of {before:.3g}",
        *(["not quiet"] * 2 if found.noise else [f"{one.sequence} tokens: {speeds[0]}", speeds[1]]),
    ]


def _first(report: RunReport, folder: str) -> str:
    """Name the recipe's first model if it belongs to another family."""
    return ", from a Transformer" if folder in ("cnn", "rnn") and "transformer" in report.model.source else ""


def _speed(value: float, low: float, high: float) -> str:
    digits = 0 if value >= 10 else 1
    return f"{value:.{digits}f}x ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    print(f"{table()}\n\n{tasks_table()}")
