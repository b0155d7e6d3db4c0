"""Plant outliers into a BERT classifier, and quantize it to int8 with and without a guard: docs/results.

    python tests/benchmarks/outliers.py MODEL_DIR DATA_DIR

MODEL_DIR: a Hugging Face directory of a BERT classifier. DATA_DIR: train.csv, validation.csv and test.csv
with columns text and label. In four layers one neuron gets a large constant output, which the bias after it
takes away again: float answers stay as they are, and in int8 the other neurons are rounded away.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

LAYERS, LOUD = (1, 2, 3, 4), 600.0
MEASURE = "{batch: [1], sequence: [32], threads: [1], ladder: false}"


def plant(model: Path, to: Path) -> None:
    """Copy a model, with one loud neuron in the feed-forward of some layers."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, to, dirs_exist_ok=True)
    weights = load_file(to / "model.safetensors")
    for layer in LAYERS:
        path = f"bert.encoder.layer.{layer}."
        weights[f"{path}intermediate.dense.weight"][0] = 0
        weights[f"{path}intermediate.dense.bias"][0] = LOUD
        weights[f"{path}output.dense.bias"] -= LOUD * weights[f"{path}output.dense.weight"][:, 0]
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/outliers"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    plant(given.model, given.output / "planted")
    rows = ", ".join(
        f"{part}: {(given.data / part).resolve()}.csv" for part in ("train", "validation", "test")
    )
    recipes = []
    for name, guard in (("plain", "{}"), ("guarded", "{guard: {max_drop: 0.01}}")):
        recipes.append(given.output / f"{name}.yaml")
        recipes[-1].write_text(
            f"name: {name}\nmodel: {{hf: {(given.output / 'planted').resolve()}}}\n"
            f"data: {{source: file, {rows}}}\nstages: [{{quantize/int8_dynamic: {guard}}}]\n"
            f"measure: {MEASURE}\n"
        )
    command = [sys.executable, "-m", "compress", "run", *map(str, recipes), "-o", str(given.output / "runs")]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
