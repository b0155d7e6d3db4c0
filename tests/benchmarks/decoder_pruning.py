"""A language model cut in width and in depth to a speed-up: with and without a short recovery.

    python tests/benchmarks/decoder_pruning.py MODEL -o DIRECTORY [--speedup 1.25] [--layers 22]
        [--rows 384] [--validation 16] [--length 128] [--only NAME ...]

MODEL is a Hugging Face directory or a .gguf file; texts are the standard library's source. Width: heads and
neurons go (`prune/structured`, a promised speed-up of reading a prompt, on one thread), and recovery goes on
from that bundle (`distill/student`, the first model being the teacher), so that nothing is searched twice.
Depth: that many layers stay, those without the others of which the answers on validation rows change least
(`prune/layers`); with recovery the same ones. Everything is what `modelpress run` reports on test rows that
nothing was chosen by; it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from compress.cli.console import shown_progress
from compress.pipeline import run

TRAIN = {"epochs": 1, "batch_size": 8, "learning_rate": 5e-5}
NAMES = ["width", "width, recovery", "depth", "depth, recovery"]
SEARCH = {"calibration_rows": 96, "search_rows": 16, "search_steps": 12}


def recipes(given: argparse.Namespace, layers: int | list[int]) -> dict[str, dict[str, Any]]:
    """What is compared, by name: the model to begin with, and the stage."""
    first = {"hf": given.model}
    learn = {"teachers": [first], "train": TRAIN}
    return {
        "width": {"model": first, "stages": [{"prune/structured": {"speedup": given.speedup, **SEARCH}}]},
        "width, recovery": {
            "model": {"bundle": str(given.output.resolve() / "width")},
            "stages": [{"distill/student": learn}],
        },
        "depth": {"model": first, "stages": [{"prune/layers": {"layers": layers}}]},
        "depth, recovery": {
            "model": first,
            "stages": [{"prune/layers": {"layers": layers, "recovery": TRAIN}}],
        },
    }


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--speedup", type=float, default=1.25)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--validation", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    given = parser.parse_args()
    data = {
        "source": "stdlib",
        "train_bytes": 2_000_000,
        "train_limit": given.rows,
        "max_length": given.length,
        "validation_limit": given.validation,
        "test_limit": 48,
    }
    rest = {
        "data": data,
        "export": {"opset": 23, "parity_rows": 4, "min_agreement": 0.98},
        "measure": {"batch": [1], "threads": [1], "rounds": 9, "sequence": [given.length], "ladder": False},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    columns = ["cut", "file MB", "perplexity", "against", "read a prompt", "write a token", "stage s"]
    print("| " + " | ".join(columns) + " |\n| --- |" + " ---: |" * (len(columns) - 1), flush=True)
    layers: int | list[int] = given.layers
    for name in given.only:
        recipe = given.output / f"{name.replace(', ', '-')}.yaml"
        settings = {"name": recipe.stem, **rest, **recipes(given, layers)[name]}
        recipe.write_text(json.dumps(settings), encoding="utf-8")
        with shown_progress() as progress:
            report = run(recipe, given.output, progress=progress).report
        layers = report.stages[0].facts.get("layers_kept", layers)
        found = report.measurement
        language, latency = found.language, found.latency[0]
        assert language is not None
        (decoding,), ratio = language.decode, language.perplexity_ratio
        cells = [
            name,
            f"{found.candidate.size.file_bytes / 1e6:.0f} of {found.baseline.size.file_bytes / 1e6:.0f}",
            f"{language.candidate.perplexity:.2f}",
            f"{language.baseline.perplexity:.2f}: {ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})",
            f"{latency.speedup:.2f}x ({latency.speedup_low:.2f} to {latency.speedup_high:.2f})",
            f"{decoding.speedup:.2f}x ({decoding.speedup_low:.2f} to {decoding.speedup_high:.2f})",
            f"{sum(each.seconds for each in report.stages):.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
