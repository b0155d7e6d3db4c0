"""Measure time and memory of exporting decoders with a KV cache, float and int4.

    python tests/benchmarks/export.py [--sizes 30x576 32x960]

Llamas with random weights (layers x width; the shapes of SmolLM2: 135 and 362 million parameters, 49,152
tokens, output tied to the embedding). Seconds are those of `export_onnx` to a file, opset 23; memory is the
peak above the PyTorch model, which is held as well, and the total including the model, in multiples of it.
Each line comes from its own process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_WHAT = ("float32", "int4")
_VOCABULARY = 49_152


def main() -> None:
    """Run each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="*", default=_WHAT, choices=_WHAT)
    parser.add_argument("--sizes", nargs="*", default=["30x576", "32x960"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.what[0], given.sizes[0])
        return
    columns = [
        "weights",
        "size",
        "parameters, M",
        "model MB",
        "file MB",
        "seconds",
        "peak above, MB",
        "in models",
    ]
    print("| " + " | ".join(columns) + " |")
    print("| --- | --- |" + " ---: |" * 6, flush=True)
    for size in given.sizes:
        for what in given.what:
            subprocess.run([sys.executable, __file__, "--one", "--what", what, "--sizes", size], check=True)


def one(what: str, size: str) -> None:
    """Export one model and print its line."""
    import numpy as np

    from compress.data.split import Split
    from compress.export import export_onnx
    from compress.measure.process.probe import PeakMemory
    from compress.measure.size import model_size
    from compress.model import Definition
    from compress.model.counts import stored_bytes, weight_counts
    from compress.quantize.weight_only import Int4WeightOnly
    from compress.stage import Context
    from compress.tasks import InputSpec, LanguageModelling

    layers, width = (int(number) for number in size.split("x"))
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    rest = {
        "num_key_value_heads": width // 192,
        "intermediate_size": width * 8 // 3,
        "vocab_size": _VOCABULARY,
    }
    arguments = {"model_type": "llama", **shape, **rest, "tie_word_embeddings": True}
    arguments |= {"max_position_embeddings": 2048, "pad_token_id": None}
    model = Definition("hf", arguments, head="language-modelling").build(seed=0).eval()
    inputs = tuple(InputSpec(name, "int64", ("sequence_length",)) for name in ("input_ids", "attention_mask"))
    row = {"input_ids": np.arange(64, dtype=np.int64), "attention_mask": np.ones(64, dtype=np.int64)}
    rows = Split("validation", (row, row), np.zeros((2, 64), dtype=np.int64), inputs)
    task = LanguageModelling(inputs, vocabulary=_VOCABULARY)
    if what == "int4":
        model = (
            Int4WeightOnly(zero_points=True, activations="int8").apply(model, Context(task, rows, rows)).model
        )
    count, _ = weight_counts(model)
    with tempfile.TemporaryDirectory() as folder:
        path, began = Path(folder) / "model.onnx", time.perf_counter()
        with PeakMemory() as memory:
            export_onnx(model, rows, task, path, opset=23)
        seconds, stored = time.perf_counter() - began, model_size(path).file_bytes
    own, above = stored_bytes(model), memory.above_start_bytes
    cells = [what, size, f"{count / 1e6:.0f}", f"{own / 1e6:.0f}", f"{stored / 1e6:.0f}", f"{seconds:.0f}"]
    print("| " + " | ".join([*cells, f"{above / 1e6:.0f}", f"{above / own + 1:.1f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
