"""Compare our quantization of a fine-tuned encoder with ONNX Runtime's own tools.

    python tests/benchmarks/quantization.py --model DIR --train CSV --validation CSV --test CSV -o OUT

Prints accuracy and agreement with the fp32 model on the test rows (one at a time, unpadded), file size, and
speed against ONNX Runtime's dynamic int8 of the same model, all files timed in turns in one process, with
95 % intervals over rounds. Files are kept in OUT and reused. --opset 21 shows what opset 23 changes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data import Splits
from compress.export import export_onnx
from compress.measure import create_session, predict
from compress.measure.latency import median_interval
from compress.measure.rows import steady_batch
from compress.measure.runtimes.session import feeds
from compress.model import to_tensors
from compress.pipeline.prepare import prepare
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.weight_only import Int4WeightOnly
from compress.recipe import load_recipe
from compress.stage import Context, Stage

RIVAL = "ONNX Runtime quantize_dynamic, per channel"
OURS: dict[str, Stage] = {
    "int8_dynamic": Int8Dynamic(),
    "int8_dynamic, activations: tensor": Int8Dynamic(activations="tensor"),
    "int8_static": Int8Static(),
    "int8_static, smooth: awq": Int8Static(smooth="awq"),
    "int4_weight_only": Int4WeightOnly(),
    "int4_weight_only, group 128, zero points, gptq": Int4WeightOnly(
        group_size=128, zero_points=True, algorithm="gptq"
    ),
}
POINTS = ((1, 128), (1, 32), (16, 64))


def main() -> None:
    """Make what is missing, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("model", "train", "validation", "test"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/quantization"))
    parser.add_argument("--opset", type=int, default=23)
    parser.add_argument("--threads", type=int, nargs="*", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    splits, files, seconds = made(given)
    print("| file | MB | accuracy | same answer as fp32 | made in s |\n| --- | ---: | ---: | ---: | ---: |")
    answers = {
        name: predict(create_session(path, threads=2), splits.test, 1, splits.task)
        for name, path in files.items()
    }
    truth = answers["fp32"]
    for name, path in files.items():
        found = answers[name]
        right, same = (found == splits.test.labels).mean(), (found == truth).mean()
        print(f"| {name} | {path.stat().st_size / 1e6:.1f} | {right:.1%} | {same:.1%} | {seconds[name]} |")
    for threads in given.threads:
        heads = [f"batch {batch}, {sequence} tokens" for batch, sequence in POINTS]
        print(f"\n{threads} threads, times as fast as {RIVAL}\n\n| file | {' | '.join(heads)} |")
        print("| --- | ---: | ---: | ---: |")
        columns = [in_turns(files, splits, *point, threads, given.rounds) for point in POINTS]
        for name in files:
            print(f"| {name} | {' | '.join(column[name] for column in columns)} |", flush=True)


def made(given: argparse.Namespace) -> tuple[Splits, dict[str, Path], dict[str, str]]:
    """Export the model, quantize it with the rival and with ours; seconds are those of choosing integers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    data = {name: str(getattr(given, name).resolve()) for name in ("train", "validation", "test")}
    file = given.output / "recipe.yaml"
    file.write_text(
        json.dumps(
            {
                "model": {"hf": str(given.model.resolve())},
                "data": {"source": "file", "max_length": 128, **data},
                "stages": ["quantize/int8_dynamic"],
            }
        ),
        encoding="utf-8",
    )
    prepared = prepare(load_recipe(file), given.output)
    splits, model = prepared.splits, prepared.loaded.module.eval()
    times = given.output / "seconds.json"
    seconds: dict[str, str] = json.loads(times.read_text()) if times.is_file() else {}

    def file_of(name: str, make: Callable[[Path], Any]) -> Path:
        path: Path = (
            given.output / f"{name.replace(' ', '_').replace(':', '').replace(',', '')}-{given.opset}.onnx"
        )
        if not path.is_file():
            began = time.perf_counter()
            make(path)
            seconds.setdefault(name, f"{time.perf_counter() - began:.0f}")
        return path

    def ours(stage: Stage, name: str, path: Path) -> None:
        context = Context(splits.task, splits.train, splits.validation)
        began = time.perf_counter()
        done = stage.apply(model, context).model
        seconds[name] = f"{time.perf_counter() - began:.0f}"
        export_onnx(done, splits.validation, splits.task, path, opset=given.opset)

    def rival(path: Path) -> None:
        plain = given.output / "plain.onnx"
        export_plainly(model, splits, plain)
        quantize_dynamic(plain, path, per_channel=True, weight_type=QuantType.QInt8)

    files = {
        "fp32": file_of(
            "fp32",
            lambda path: export_onnx(model, splits.validation, splits.task, path, opset=given.opset),
        ),
        RIVAL: file_of(RIVAL, rival),
    }
    for name, stage in OURS.items():
        files[name] = file_of(name, partial(ours, stage, name))
    times.write_text(json.dumps(seconds))
    return splits, files, {name: seconds.get(name, "-") for name in files}


def export_plainly(model: nn.Module, splits: Splits, path: Path) -> None:
    """As torch's own documentation says, without what modelpress makes of the graph."""
    names = list(splits.task.input_names)

    class ByPosition(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> Tensor:
            logits: Tensor = self.model(**dict(zip(names, inputs, strict=True))).logits
            return logits

    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    rows = to_tensors(next(splits.validation.by_length().batches(2)), splits.task.input_names)
    program = torch.onnx.export(
        ByPosition().eval(),
        tuple(rows.values()),
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=((dynamic,) * len(names),),
        opset_version=21,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def in_turns(
    files: dict[str, Path], splits: Splits, batch: int, sequence: int, threads: int, rounds: int
) -> dict[str, str]:
    """Time every file in every round; per file the ratio to the rival, and its interval over rounds."""
    rows = steady_batch(splits.validation, batch, sequence)
    calls = {}
    for name, path in files.items():
        session = create_session(path, threads=threads)
        calls[name] = partial(session.run, None, feeds(rows, session))
    medians: dict[str, list[float]] = {name: [] for name in files}
    for index in range(rounds + 1):
        for name, call in calls.items():
            times: list[float] = []
            end = time.perf_counter() + 0.05
            while time.perf_counter() < end or len(times) < 3:
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            if index:  # the first round is a warm-up
                medians[name].append(float(np.median(times)))
    cells = {}
    for name in files:
        ratios = np.array(medians[RIVAL]) / np.array(medians[name])
        low, high = median_interval(ratios.tolist(), seed=0)
        milliseconds = 1e3 * np.median(medians[name])
        cells[name] = f"{np.median(ratios):.2f}x ({low:.2f} to {high:.2f}), {milliseconds:.1f} ms"
    return cells


if __name__ == "__main__":
    main()
