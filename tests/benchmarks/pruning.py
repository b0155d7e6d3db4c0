"""Structured pruning on a fine-tuned encoder: what was promised, what was measured, and what it cost.

    python tests/benchmarks/pruning.py --model DIR --train CSV --validation CSV --test CSV -o reports/pruning

Prints a table of docs/results/pruning.md: without training at 1.5x, with recovery at 2x, 3x and 4x, dynamic
int8 on top of each, and the smallest bundles; every ratio is against the fp32 ONNX file, timed in turns. Run
it on a quiet machine; it takes about an hour on 2 cores, and continues where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from compress.cli.console import shown_progress
from compress.measure import FilePair, Measurement, measure_pair
from compress.measure.rows import resolve_sequence
from compress.pipeline import run
from compress.pipeline.prepare import prepare
from compress.recipe import MeasureConfig, load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "reviews" / "prune-structured.yaml"
STAGE = {"batch": 1, "sequence": 128, "threads": 2}
ROUNDS, SECONDS = 41, 0.06
MEASURE = (
    "measure.batch=[1,16]",
    "measure.sequence=[128,64]",
    "measure.threads=[2]",
    f"measure.rounds={ROUNDS}",
    f"measure.seconds={SECONDS}",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    promise: float
    measurement: Measurement
    seconds: float

    def words(self) -> str:
        """The line, in Markdown."""
        found = self.measurement
        change = found.difference
        speeds = []
        for batch, sequence in ((1, 128), (16, 64)):
            this = next(each for each in found.latency if (each.batch, each.sequence) == (batch, sequence))
            speeds.append(f"{this.speedup:.2f}x ({this.speedup_low:.2f} to {this.speedup_high:.2f})")
        size = found.candidate.size.file_bytes / 1e6
        accuracy = (
            f"{found.candidate.accuracy.value:.1%}, {100 * change.value:+.1f} "
            f"({100 * change.low:+.1f} to {100 * change.high:+.1f})"
        )
        promise = f"{self.promise:.1f}x" if self.promise else "-"
        cells = [self.name, promise, *speeds, accuracy, f"{size:.1f}", f"{self.seconds:.0f}"]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| recipe | promised | batch 1, 128 tokens | batch 16, 64 tokens | accuracy, points against fp32 | "
    "file MB | stage s |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def recipe_file(directory: Path, name: str, model: dict[str, Any], stages: list[Any], data: Any) -> Path:
    """Write a recipe, as JSON, which YAML reads too."""
    path = directory / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "model": model, "data": data, "stages": stages}))
    return path


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("model", "train", "validation", "test"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/pruning"))
    parser.add_argument("--epochs", type=int, default=6, help="of recovery")
    parser.add_argument("--smallest", action="store_true", help="the smallest bundles too")
    parser.add_argument("--speedups", type=float, nargs="*", default=[2.0, 3.0, 4.0])
    given = parser.parse_args()
    output: Path = given.output
    output.mkdir(parents=True, exist_ok=True)
    data = {
        "source": "file",
        "max_length": 128,
        **{name: str(getattr(given, name).resolve()) for name in ("train", "validation", "test")},
    }
    model = {"hf": str(given.model.resolve())}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("free-1.5x", {"speedup": 1.5}),
        ("free-1.5x-fisher", {"speedup": 1.5, "importance": "fisher"}),
    ]
    recovery = {"epochs": given.epochs, "batch_size": 32, "learning_rate": 1e-4}
    cases += [(f"{speedup:g}x", {"speedup": speedup, "recovery": recovery}) for speedup in given.speedups]
    rows = []
    for name, settings in cases:
        file = recipe_file(output, name, model, [{"prune/structured": {**STAGE, **settings}}], data)
        outcome = go(file, output)
        report = outcome.report
        rows.append(Row(name, settings["speedup"], report.measurement, report.stages[0].seconds))
        print(rows[-1].words(), flush=True)
        if name.startswith("free"):
            continue
        int8 = recipe_file(
            output, f"{name}-int8", {"bundle": str(outcome.directory)}, ["quantize/int8_dynamic"], data
        )
        done = go(int8, output)
        rows.append(Row(f"{name} + int8", 0, on_top(file, done.directory, output, name), 0))
        print(rows[-1].words(), flush=True)
    narrow: list[Any] = [
        {"prune/vocabulary": {}},
        {"prune/embeddings": {"rank": 192}},
        {"prune/structured": {"macs": 0.5, "recovery": recovery}},
    ]
    last = {"smallest-int8": "quantize/int8_dynamic", "smallest-int4": "quantize/int4_weight_only"}
    for name, quantize in last.items() if given.smallest else ():
        stages = [*narrow, quantize]
        outcome = go(recipe_file(output, name, model, stages, data), output)
        seconds = sum(stage.seconds for stage in outcome.report.stages)
        rows.append(Row(name, 0, outcome.report.measurement, seconds))
        print(rows[-1].words(), flush=True)
    print("\n".join([HEAD, *(row.words() for row in rows)]))


def go(file: Path, output: Path) -> Any:
    """Run a recipe, or find it done."""
    with shown_progress() as progress:
        return run(load_recipe(file, MEASURE), output, progress=progress)


def on_top(file: Path, bundle: Path, output: Path, name: str) -> Measurement:
    """Measure a bundle that was made in two runs against the fp32 model that the first began with."""
    import tempfile

    from compress.export import ONNX_PATH, export_onnx

    kept = output / f"{name}-int8.json"
    if kept.is_file():
        return Measurement.model_validate_json(kept.read_text())
    with tempfile.TemporaryDirectory() as scratch, shown_progress() as progress:
        prepared = prepare(load_recipe(file, MEASURE), Path(scratch))
        splits = prepared.splits
        baseline = export_onnx(
            prepared.loaded.module, splits.validation, splits.task, Path(scratch) / "fp32.onnx"
        )
        how = MeasureConfig(
            batch=(1, 16),
            sequence=tuple(resolve_sequence(splits.test, length) for length in (128, 64)),
            threads=(2,),
            rounds=ROUNDS,
            seconds=SECONDS,
        )
        pair = FilePair(baseline, bundle / ONNX_PATH, splits.test, splits.task)
        found = measure_pair(pair, how, progress=progress)
    kept.write_text(found.model_dump_json())
    return found


if __name__ == "__main__":
    main()
