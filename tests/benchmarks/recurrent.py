"""One LSTM in int8 against its float file in ONNX Runtime: size and speed.

    python tests/benchmarks/recurrent.py [--units 96 128 256] [--steps 16 128] [--batch 1 8] [--threads 1 2]

Both are exported as a recipe exports them, with as many inputs as units and random weights, and timed in
turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.export.trace import trace
from compress.measure import create_session
from compress.measure.latency import Rounds, compare_latency
from compress.quantize.integers.grid import Grid
from compress.quantize.recurrent import int8_lstm_of
from compress.timing import Setting


class Alone(nn.Module):
    """Its hidden states, without the states at the end."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def export(layer: nn.Module, units: int, file: Path) -> Path:
    dynamic = torch.export.Dim.DYNAMIC
    names = {"inputs": ("x",), "outputs": ("y",)}
    shapes = ({0: dynamic, 1: dynamic},)
    program = trace(Alone(layer), (torch.randn(3, 5, units),), dynamic_shapes=shapes, opset=21, **names)
    program.save(str(file))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("units", [96, 128, 256]), ("steps", [16, 128]), ("batch", [1, 8])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for units in given.units:
            torch.manual_seed(0)
            layer = nn.LSTM(units, units, batch_first=True).eval()
            both = {"float": layer, "int8": int8_lstm_of("lstm", layer, Grid(8, None), "rtn")}
            files = [export(each, units, Path(scratch) / f"{name}.onnx") for name, each in both.items()]
            before, after = (file.stat().st_size for file in files)
            print(f"{units} units: {before:,} bytes to {after:,}, {before / after:.1f}x smaller")
            for threads in given.threads:
                sessions = [create_session(file, threads=threads) for file in files]
                for batch in given.batch:
                    for steps in given.steps:
                        x = np.random.default_rng(0).normal(size=(batch, steps, units)).astype(np.float32)
                        found = compare_latency(
                            *sessions,
                            {"x": x},
                            Setting(batch=batch, sequence=steps, threads=threads),
                            Rounds(given.rounds, given.seconds),
                        )
                        interval = f"{found.speedup_low:.2f} to {found.speedup_high:.2f}"
                        print(
                            f"  {threads} threads, batch {batch}, {steps} steps: "
                            f"{found.baseline.p50_ms:.3f} ms, {found.speedup:.2f}x ({interval})",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
