"""Compare the algorithms that choose 4-bit integers, for docs/results/quantization.md.

    python tests/benchmarks/rounding.py --model DIR --train CSV --validation CSV --test CSV

Prints, of the quantized PyTorch module (which answers as its file): divergence from the float model's answers
and the share of equal answers on validation rows, accuracy on test rows, and the seconds of the stage.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.data import Split
from compress.model.forward import logits, to_tensors
from compress.pipeline.prepare import prepare
from compress.quantize.weight_only import Int4WeightOnly
from compress.recipe import load_recipe
from compress.stage import Context

ALGORITHMS = ("rtn", "mse", "hqq", "gptq", "auto_round")
GRIDS = {"groups of 32": (32, False), "groups of 128, zero points": (128, True)}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("model", "train", "validation", "test"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = {name: str(getattr(given, name).resolve()) for name in ("train", "validation", "test")}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "recipe.yaml"
        recipe = {
            "model": {"hf": str(given.model.resolve())},
            "data": {"source": "file", "max_length": 128, **data},
            "stages": ["quantize/int4_weight_only"],
        }
        file.write_text(json.dumps(recipe), encoding="utf-8")
        prepared = prepare(load_recipe(file), Path(scratch))
        splits, model = prepared.splits, prepared.loaded.module.eval()
    context = Context(splits.task, splits.train, splits.validation, seed=given.seed)
    exact = answers(model, splits.validation, context)
    print("| 4 bits | algorithm | KL, nats | same answers | test accuracy | s |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for words, (size, zero_points) in GRIDS.items():
        for algorithm in given.algorithms:
            began = time.perf_counter()
            stage = Int4WeightOnly(group_size=size, zero_points=zero_points, algorithm=algorithm)
            made = stage.apply(model, context).model
            seconds = time.perf_counter() - began
            near = answers(made, splits.validation, context)
            divergence = float((exact.exp() * (exact - near)).sum(-1).mean())
            same = float((near.argmax(-1) == exact.argmax(-1)).float().mean())
            right = answers(made, splits.test, context).argmax(-1).numpy() == splits.test.by_length().labels
            cells = f"{divergence:.4f} | {same:.1%} | {right.mean():.1%} | {seconds:.0f}"
            print(f"| {words} | `{algorithm}` | {cells} |", flush=True)


def answers(model: nn.Module, split: Split, context: Context) -> Tensor:
    """Log probabilities of the rows, shortest first: [n, c]."""
    names = context.task.input_names
    with torch.no_grad():
        parts = [logits(model, to_tensors(each, names)) for each in split.by_length().token_batches(2048)]
    return torch.cat(parts).log_softmax(-1)


if __name__ == "__main__":
    main()
