"""How the cost of structured pruning grows: seconds and peak memory at 6, 12 and 24 layers.

    python tests/benchmarks/growth.py [--layers 6 12 24] [--rows 512]

A BERT of width 384 with random weights and synthetic rows of 24 tokens, cut to half its multiply-adds without
training. The model's own size stands beside the memory. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np

_TOKENS = 24


def main() -> None:
    """Run each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="*", default=[6, 12, 24])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.rows)
        return
    print("| layers | model MB | seconds | peak memory above the model, MB |\n| ---: | ---: | ---: | ---: |")
    for layers in given.layers:
        command = [sys.executable, __file__, "--one", str(layers), "--rows", str(given.rows)]
        subprocess.run(command, check=True)


def one(layers: int, rows: int) -> None:
    """Cut one model and print its line."""
    from compress.data.split import Split
    from compress.measure.load import PeakMemory
    from compress.model import Definition
    from compress.model.counts import stored_bytes
    from compress.prune.structured import StructuredPruning
    from compress.stage import Context
    from compress.task import InputSpec, Task

    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    arguments = {"model_type": "bert", "num_hidden_layers": layers, "vocab_size": 30522, **sizes}
    model = Definition("hf", arguments).build(seed=0)
    inputs = tuple(InputSpec(name, "int64", ("sequence_length",)) for name in ("input_ids", "attention_mask"))
    draw = np.random.default_rng(0)

    def split(name: str, count: int) -> Split:
        made = tuple(
            {
                "input_ids": draw.integers(0, 30522, _TOKENS),
                "attention_mask": np.ones(_TOKENS, dtype=np.int64),
            }
            for _ in range(count)
        )
        return Split(name, made, np.arange(count) % 2, inputs)

    context = Context(Task(inputs, ("no", "yes")), split("train", rows), split("validation", 64))
    began = time.perf_counter()
    with PeakMemory() as memory:
        StructuredPruning(macs=0.5, calibration_rows=rows).apply(model, context)
    seconds = time.perf_counter() - began
    sizes_mb = f"{stored_bytes(model) / 1e6:.0f} | {seconds:.0f} | {memory.above_start_bytes / 1e6:.0f}"
    print(f"| {layers} | {sizes_mb} |", flush=True)


if __name__ == "__main__":
    main()
