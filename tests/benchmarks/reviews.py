"""Measure the recipes of recipes/reviews on a real model and real sentences: a table of docs/results.md.

    python tests/benchmarks/reviews.py MODEL_DIR DATA_DIR [-o OUTPUT]

MODEL_DIR is a Hugging Face classifier, DATA_DIR holds train.csv, validation.csv and test.csv. Takes about
half an hour on 2 cores; run it on a machine that does nothing else. What is done already in OUTPUT is not
repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from compress.report import RunReport, load_report

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("quantize-int8", "quantize-int4", "prune-heads", "distill", "joint", "prune-magnitude")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/reviews"))
    arguments = parser.parse_args()
    recipes = [str(ROOT / "recipes" / "reviews" / f"{name}.yaml") for name in ORDER]
    files = [f"data.{part}={arguments.data / part}.csv" for part in ("train", "validation", "test")]
    command = [sys.executable, "-m", "compress", "run", *recipes, f"model.hf={arguments.model}", *files]
    code = subprocess.run([*command, "-o", str(arguments.output)]).returncode
    if code == 0:
        print(table([load_report(arguments.output / f"reviews-{name}") for name in ORDER]))
    return code


def table(reports: list[RunReport]) -> str:
    """One Markdown row a run; speed-ups at batch 1 by sequence and threads."""
    settings = [(32, 1), (128, 1), (128, 2)]
    heads = [
        f"speed-up, {sequence} tokens, {threads} thread{'s'[: threads - 1]}" for sequence, threads in settings
    ]
    lines = [
        f"| recipe | accuracy, points against fp32 | {' | '.join(heads)} | file MB | gzip MB |",
        "| --- | ---: | " + "---: | " * len(heads) + "---: | ---: |",
    ]
    first = reports[0].measurement.baseline
    lines.append(
        f"| fp32 ONNX | {first.accuracy.value:.1%} |{' 1.00x |' * len(heads)} "
        f"{first.size.file_bytes / 1e6:.1f} | {first.size.gzip_bytes / 1e6:.1f} |"
    )
    for report in reports:
        found = report.measurement
        speeds = [
            next(
                f"{p.speedup:.2f}x ({p.speedup_low:.2f} to {p.speedup_high:.2f})"
                for p in found.latency
                if (p.batch, p.sequence, p.threads) == (1, *setting)
            )
            if any((p.batch, p.sequence, p.threads) == (1, *setting) for p in found.latency)
            else "not in the recipe"
            for setting in settings
        ]
        gap = found.difference
        accuracy = (
            f"{found.candidate.accuracy.value:.1%}, {gap.value * 100:+.1f} "
            f"({gap.low * 100:+.1f} to {gap.high * 100:+.1f})"
        )
        size = found.candidate.size
        sizes = f"{size.file_bytes / 1e6:.1f} | {size.gzip_bytes / 1e6:.1f}"
        name = report.name.removeprefix("reviews-")
        lines.append(f"| `{name}` | {accuracy} | {' | '.join(speeds)} | {sizes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
