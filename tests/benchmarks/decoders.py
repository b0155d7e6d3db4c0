"""A language model in each weight-only scheme: perplexity, speed, size and memory, with llama.cpp beside it.

    python tests/benchmarks/decoders.py MODEL [--text FILE_OR_FOLDER] [--schemes NAME ...] [--rows 64]
        [--length 256] [--threads 1 2] [--rounds 7] [--gguf FILE ...] [--llama PYTHON]

MODEL is a Hugging Face directory or a .gguf file. Perplexity is that of the ONNX file on rows of --length
tokens, each from an empty past, of the text (the standard library's source where none is given; validation
rows choose nothing here, test rows are asked once). Times are medians of rounds in turns with the float file:
writing is one more token after --length tokens, reading is --length tokens at once. Memory is the peak of a
process that loads the file and answers a few rows, above that before loading.

In turns threads do not spin while they wait, which a file of many small products feels when it has two: so
its speed of writing is also taken as ONNX Runtime comes, with threads that spin, in a process of its own,
three times after the float file's (ratios: the middle one, the least and the most).

--gguf names files of the same weights for llama.cpp, --llama a Python that has llama-cpp-python: its times
are those of a prompt of as many tokens on as many threads, after ours; its perplexity is of the same rows.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data import CorpusData, Split, Splits, StdlibData, TextEncoder, load_splits
from compress.export import export_onnx
from compress.measure.accuracy import predict
from compress.measure.decoding import compare_decoding
from compress.measure.latency import Rounds, compare_latency
from compress.measure.process.loading import Probe, measure_load
from compress.measure.rows import steady_batch
from compress.measure.runtimes.session import create_session
from compress.measure.size import model_size
from compress.model import ModelConfig, load_model
from compress.pipeline.fitting import fitting
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context, Stage
from compress.tasks.language_modelling import RowLosses
from compress.timing import Setting

FAST = {"activations": "int8"}
SCHEMES: dict[str, Stage | None] = {
    "float32": None,
    "int8 g32": Int8WeightOnly.model_validate({"group_size": 32, **FAST}),
    "int8 per token": Int8Dynamic(),
    "int4 g32 rtn": Int4WeightOnly.model_validate({"algorithm": "rtn"}),
    "int4 g32 rtn, zero points": Int4WeightOnly.model_validate({"algorithm": "rtn", "zero_points": True}),
    "int4 g32 hqq, zero points": Int4WeightOnly.model_validate({"algorithm": "hqq", "zero_points": True}),
    "int4 g32 gptq, zero points": Int4WeightOnly.model_validate(
        {"algorithm": "gptq", "zero_points": True, "calibration_rows": 64}
    ),
    "int4 g32 rtn, zero points, int8 activations": Int4WeightOnly.model_validate(
        {"algorithm": "rtn", "zero_points": True, **FAST}
    ),
    "int4 g32 gptq, zero points, int8 activations": Int4WeightOnly.model_validate(
        {"algorithm": "gptq", "zero_points": True, "calibration_rows": 64, **FAST}
    ),
    "the same, values and down in int8": Int4WeightOnly.model_validate(
        {
            "algorithm": "gptq",
            "zero_points": True,
            "calibration_rows": 64,
            "int8_layers": ("*.v_proj", "*.down_proj"),
            **FAST,
        }
    ),
    "the same, values, down and output layer in int8": Int4WeightOnly.model_validate(
        {
            "algorithm": "gptq",
            "zero_points": True,
            "calibration_rows": 64,
            "int8_layers": ("*.v_proj", "*.down_proj", "lm_head"),
            **FAST,
        }
    ),
}
_ASK_LLAMA = """
import json, sys, time
import numpy as np
from llama_cpp import Llama
job = json.load(open(sys.argv[1]))
model = Llama(job["file"], n_ctx=job["length"] + 8, n_batch=job["length"], n_threads=job["threads"],
              n_threads_batch=job["threads"], logits_all=True, verbose=False)
losses = []
for row, labels in zip(job["rows"], job["labels"]):
    model.reset()
    model.eval(row)
    logits = np.array(model.scores[: len(row)], dtype=np.float64)
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1))
    losses.append(float((total - (logits[np.arange(len(row)), labels] - top[:, 0])).mean()))
read, write = [], []
for _ in range(job["rounds"]):
    model.reset()
    began = time.perf_counter()
    model.eval(job["rows"][0][:-1])
    read.append(1e3 * (time.perf_counter() - began))
    for _ in range(8):
        model.n_tokens = len(job["rows"][0]) - 1
        began = time.perf_counter()
        model.eval([job["rows"][0][-1]])
        write.append(1e3 * (time.perf_counter() - began))
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(json.dumps({"losses": losses, "read": read, "write": write, "peak": int(peak) * 1024}))
"""
_ASK_SPINNING = """
import sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
length = int(sys.argv[3])
feed = {"input_ids": np.full((1, 1), 5), "attention_mask": np.ones((1, length + 1), dtype=np.int64)}
for each in session.get_inputs():
    if each.name not in feed:
        shape = (1, each.shape[1], length, each.shape[3])
        feed[each.name] = np.random.default_rng(0).normal(size=shape).astype(np.float32)
times = []
while sum(times) < 3:
    began = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - began)
print(1 / np.median(times))
"""


def main() -> None:
    """Print a line for each scheme."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gguf", type=Path, nargs="*", default=[])
    parser.add_argument("--llama", type=Path, help="a Python that has llama-cpp-python")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits, context, model = loaded(given, folder)
        print(f"test text: {splits.source}, {splits.test.labels.size:,} tokens")
        columns = ["weights", "perplexity", "ratio (95 %)", "MB", "memory MB", "export s"]
        for count in given.threads:
            columns += [f"write/s, {count} thr.", "speed-up", f"read/s, {count} thr.", "speed-up"]
            columns += [f"write/s, {count} spinning", "speed-up"] if count > 1 else []
        print("| " + " | ".join(columns) + " |")
        print("|" + " --- |" * len(columns), flush=True)
        names = list(dict.fromkeys(["float32", *given.schemes]))
        first: tuple[Path, RowLosses] | None = None
        for each in names:
            stage = SCHEMES[each]
            path = folder / "float32.onnx" if stage is None else folder / "scheme.onnx"
            made = model if stage is None else stage.apply(model, context).model
            began = time.perf_counter()
            export_onnx(made, splits.validation, splits.task, path, opset=23)
            seconds = time.perf_counter() - began
            losses = RowLosses()
            session = create_session(path, threads=max(given.threads))
            predict(session, splits.test, 1, splits.task, tally=losses)
            del session, made
            first = first or (path, losses)
            print_line(each, given, splits, path, losses, first, seconds, folder)
        assert first is not None
        for file in given.gguf:
            print_llama(file, given, splits, first, folder)


def loaded(given: argparse.Namespace, folder: Path) -> tuple[Splits, Context, torch.nn.Module]:
    """The model in float, and the rows."""
    found = load_model(
        ModelConfig.model_validate({"hf": given.model}), seed=0, scratch=folder, task="language-modelling"
    )
    assert found.tokenizer is not None
    encoder = TextEncoder.from_directory(found.tokenizer, input_names=found.text_inputs)
    limits: dict[str, Any] = {"max_length": given.length, "test_limit": given.rows, "train_limit": 128}
    config = (
        StdlibData(train_bytes=500_000, **limits)
        if given.text is None
        else CorpusData.model_validate({"train": str(given.text), **limits})
    )
    splits = fitting(found, load_splits(config, reader=encoder))
    return splits, Context(splits.task, splits.train, splits.validation, reader=encoder), found.module


def print_line(
    name: str,
    given: argparse.Namespace,
    splits: Splits,
    path: Path,
    losses: RowLosses,
    first: tuple[Path, RowLosses],
    seconds: float,
    folder: Path,
) -> None:
    """What one file is, and how fast in turns with the float one."""
    test = splits.test
    rows = folder / "probe.npz"
    test.take(4, seed=0).save(rows)
    probe = Probe(model=path, rows=rows, inputs=test.inputs, threads=max(given.threads))
    _, memory = measure_load(probe, folder=folder)
    cells = [
        name,
        *perplexity(losses.values, first[1].values),
        f"{model_size(path).file_bytes / 1e6:.0f}",
        f"{memory / 1e6:.0f}",
        f"{seconds:.0f}",
    ]
    batch = steady_batch(test, 1, given.length)
    for count in given.threads:
        pair = [create_session(each, threads=count) for each in (first[0], path)]
        how = Setting(batch=1, sequence=given.length, threads=count), Rounds(given.rounds, 0.3)
        write = compare_decoding(*pair, batch, *how)
        read = compare_latency(*pair, batch, *how)
        for timed, tokens in ((write, 1), (read, given.length)):
            spread = f"{timed.speedup:.2f} ({timed.speedup_low:.2f} to {timed.speedup_high:.2f})"
            cells += [f"{timed.candidate.throughput_per_s * tokens:.0f}", spread]
        del pair
        if count > 1:
            speeds = [[spinning(each, count, given.length) for each in (first[0], path)] for _ in range(3)]
            low, middle, high = sorted(after / before for before, after in speeds)
            cells += [
                f"{np.median([after for _, after in speeds]):.0f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
            ]
    print("| " + " | ".join(cells) + " |", flush=True)


def spinning(path: Path, threads: int, length: int) -> float:
    """Tokens a second that a file writes by itself, as ONNX Runtime comes: with threads that spin."""
    asked = [sys.executable, "-c", _ASK_SPINNING, str(path), str(threads), str(length)]
    return float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def perplexity(losses: np.ndarray[Any, Any], baseline: np.ndarray[Any, Any]) -> tuple[str, str]:
    """Perplexity, and its ratio to the float model's with the interval over rows."""
    change = losses - baseline
    half = 1.96 * change.std(ddof=1) / math.sqrt(len(change))
    low, value, high = (math.exp(change.mean() + each) for each in (-half, 0, half))
    return f"{math.exp(losses.mean()):.3f}", f"{value:.3f} ({low:.3f} to {high:.3f})"


def print_llama(
    file: Path, given: argparse.Namespace, splits: Splits, first: tuple[Path, RowLosses], folder: Path
) -> None:
    """The same rows, prompt and threads in llama.cpp."""
    test: Split = splits.test
    cells: list[str] = []
    for count in given.threads:
        job = {
            "file": str(file),
            "length": given.length,
            "threads": count,
            "rounds": given.rounds,
            "rows": [row["input_ids"].tolist() for row in test.rows],
            "labels": test.labels.tolist(),
        }
        if count != given.threads[0]:  # perplexity is the same: one row is read for the times
            job |= {"rows": job["rows"][:1], "labels": job["labels"][:1]}
        asked, program = folder / "llama.json", folder / "llama.py"
        asked.write_text(json.dumps(job), encoding="utf-8")
        program.write_text(_ASK_LLAMA, encoding="utf-8")
        ended = subprocess.run([given.llama, program, asked], capture_output=True, text=True, check=True)
        said = json.loads(ended.stdout.strip().splitlines()[-1])
        if not cells:
            losses = np.array(said["losses"])
            cells = [f"llama.cpp {file.name}", *perplexity(losses, first[1].values)]
            cells += [f"{file.stat().st_size / 1e6:.0f}", f"{said['peak'] / 1e6:.0f} (whole process)", ""]
        write, read = np.median(said["write"]), np.median(said["read"])
        cells += [f"{1e3 / write:.0f}", "", f"{1e3 * (given.length - 1) / read:.0f}", ""]
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
