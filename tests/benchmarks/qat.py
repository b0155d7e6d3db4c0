"""Quantization-aware training against integers that are only chosen: accuracy and agreement, over seeds.

    python tests/benchmarks/qat.py MODEL_DIR DATA_DIR [--seeds 0 1 2] [--epochs 2] [--rate 2e-5] [--rows 0]
        [--only NAME ...] [--threads 2]

MODEL_DIR is a Hugging Face classifier, DATA_DIR holds train.csv, validation.csv and test.csv (columns text
and label). Answers are those of the layers of integers, which are the exported file's. Test rows are answered
once, at the end. Means and, in brackets, least and most over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from distillation import loaded, print_line, scores

from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.qat import QatConfig
from compress.quantize.stage import QuantizeLayers
from compress.quantize.weight_only import Int4WeightOnly

STAGES: dict[str, QuantizeLayers] = {
    "int8_dynamic": Int8Dynamic(),
    "int8_dynamic, per tensor": Int8Dynamic(activations="tensor"),
    "int8_static": Int8Static(),
    "int4, groups of 32": Int4WeightOnly(),
    "int4, groups of 128": Int4WeightOnly(group_size=128),
    "int4, groups of 128, zero points, gptq": Int4WeightOnly(
        group_size=128, zero_points=True, algorithm="gptq"
    ),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--rows", type=int, default=0, help="training rows; 0: all")
    parser.add_argument("--only", nargs="*", default=[], help="of the stages, by their names")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        model, splits, context = loaded(given, Path(scratch))
        print("| what | validation | test | answers as the float model's | minutes |")
        print("| --- | ---: | ---: | ---: | ---: |", flush=True)
        print_line("float", [scores(model, model, splits)], 0)
        for name, stage in STAGES.items():
            if given.only and name not in given.only:
                continue
            for way, qat in (
                ("", None),
                (", trained", QatConfig(epochs=given.epochs, learning_rate=given.rate)),
            ):
                began, found, kept = time.perf_counter(), [], []
                for seed in given.seeds if qat or stage.looks_at_data else given.seeds[:1]:
                    around = replace(context, seed=seed)
                    made = stage.model_copy(update={"qat": qat}).apply(model, around)
                    found.append(scores(made.model, model, splits))
                    kept.append(str(made.facts.get("kept", "")))
                minutes = (time.perf_counter() - began) / 60 / len(found)
                print_line(f"{name}{way}", found, minutes)
                if any("first" in each for each in kept):
                    print(f"  kept: {kept}", flush=True)


if __name__ == "__main__":
    main()
