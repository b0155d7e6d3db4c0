"""Measure how the cost of structured pruning and quantization grows with the model: seconds and peak memory.

    python tests/benchmarks/growth.py [--what prune int8_dynamic int8_static int4_gptq] [--rows 512]
        [--sizes 6x384 12x768 24x1024]

BERTs with random weights (layers x width; 22, 110 and 335 million parameters) and synthetic rows of 24
tokens. Pruning cuts half of the multiply-adds without training. Memory is the peak above the model and its
rows; the next columns are the model's own size, and the total including the model in multiples of that size.
Each line comes from its own process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from compress.stage import Context, Stage

_TOKENS = 24
_WHAT = ("prune", "int8_dynamic", "int8_static", "int4_gptq")


def main() -> None:
    """Run each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="*", default=_WHAT, choices=_WHAT)
    parser.add_argument("--sizes", nargs="*", default=["6x384", "12x768", "24x1024"])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.what[0], given.sizes[0], given.rows)
        return
    print("| what | size | model MB | seconds | peak memory above the model, MB | in models |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for what in given.what:
        for size in given.sizes:
            command = [sys.executable, __file__, "--one", "--what", what, "--sizes", size]
            subprocess.run([*command, "--rows", str(given.rows)], check=True)


def one(what: str, size: str, rows: int) -> None:
    """Compress one model and print its line."""
    from compress.measure.process.probe import PeakMemory
    from compress.model.counts import stored_bytes

    _stage(what, 32).apply(_bert(1, 48), _context(32))  # libraries that it loads are no part of the cost
    layers, width = (int(number) for number in size.split("x"))
    model, context, stage = _bert(layers, width), _context(rows), _stage(what, rows)
    began = time.perf_counter()
    with PeakMemory() as memory:
        stage.apply(model, context)
    seconds = time.perf_counter() - began
    own, above = stored_bytes(model), memory.above_start_bytes
    print(
        f"| {what} | {size} | {own / 1e6:.0f} | {seconds:.0f} | {above / 1e6:.0f} | {above / own + 1:.1f} |",
        flush=True,
    )


def _bert(layers: int, width: int) -> nn.Module:
    from compress.model import Definition

    sizes = {
        "hidden_size": width,
        "num_attention_heads": max(width // 64, 12),
        "intermediate_size": 4 * width,
    }
    arguments = {"model_type": "bert", "num_hidden_layers": layers, "vocab_size": 30522, **sizes}
    return Definition("hf", arguments).build(seed=0)


def _context(rows: int) -> Context:
    from compress.data.split import Split
    from compress.stage import Context
    from compress.tasks import Classification, InputSpec

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

    return Context(Classification(inputs, ("no", "yes")), split("train", rows), split("validation", 64))


def _stage(what: str, rows: int) -> Stage:
    from compress.prune.structured.stage import StructuredPruning
    from compress.quantize.int8_dynamic import Int8Dynamic
    from compress.quantize.int8_static import Int8Static
    from compress.quantize.weight_only import Int4WeightOnly

    if what == "prune":
        return StructuredPruning(macs=0.5, calibration_rows=rows)
    if what == "int8_dynamic":
        return Int8Dynamic()
    if what == "int8_static":
        return Int8Static(calibration_rows=rows)
    return Int4WeightOnly(algorithm="gptq", calibration_rows=rows)


if __name__ == "__main__":
    main()
