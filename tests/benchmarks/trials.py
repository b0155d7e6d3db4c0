"""Every tiny family with every stage: what works, what is refused in our words, and what fails.

    python tests/benchmarks/trials.py [--only text/ decoder/llama] [--stages export prune/heads] [--jobs 2]
        [--results trials.jsonl] [--timeout 300] [--dry-run]

A trial is a recipe of one stage on a tiny model with random weights (`trial_families.py`), run to its
report; `export` writes the model unchanged, and then feeds the file with what transformers' own tokenizer
returns (mixed lengths, padded, and rows alone; a decoder with a prompt longer than its sliding window) and
compares with what transformers answers. The outcomes:

    worked    a bundle and a report were written, and the answers are those of transformers
    refused   one of our errors before work starts: wrong input, or something that is not supported
    stopped   one of our errors after work started: parity, a stage that cannot do what was asked
    wrong     a bundle was written whose file answers otherwise than transformers does
    failed    anything else: another exception, a dead process, no end

With `--dry-run` a recipe is only checked against its model and data, as `modelpress run --dry-run` does:
seconds for a family, and what it would refuse before work is seen.

`wrong` and `failed` must be 0: the exit status is 1 otherwise. Each family runs in a process of its own; the
results are kept in a file of JSON lines, and trials that are in it are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trial_families import FAMILIES, LENGTH, WORDS

OUTCOMES = ("worked", "refused", "stopped", "wrong", "failed")
_TRAIN = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "precision": "fp32"}
STAGES: dict[str, Any] = {
    "export": None,
    "prune/magnitude": {"sparsity": 0.5},
    "prune/heads": {"sparsity": 0.5},
    "prune/channels": {"sparsity": 0.5, "min_channels": 1, "multiple_of": 1, "calibration_rows": 32},
    "prune/layers": {"layers": 1},
    "prune/structured": {"macs": 0.7, "calibration_rows": 32, "search_rows": 16, "search_steps": 3},
    "prune/embeddings": {"rank": 8},
    "prune/vocabulary": {"min_count": 25},
    "prune/dimensions": {"keep": 16},
    "prune/width": {"width": 16},
    "quantize/float16": {},
    "quantize/int8_dynamic": {},
    "quantize/int8_static": {"calibration_rows": 32},
    "quantize/int8_weight_only": {},
    "quantize/int4_weight_only": {},
    "quantize/mixed": {"sensitivity_rows": 16, "max_accuracy_drop": 0.99},
    "distill/logits": {"train": _TRAIN},
    "distill/student": {"student": {"layers": 1}, "train": _TRAIN},
}


def main() -> int:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""], help="families, by how their names begin")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--results", type=Path, default=Path("trials.jsonl"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300, help="seconds a trial may take")
    parser.add_argument("--dry-run", action="store_true", help="check recipes, and run none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return _family(given.one, given.stages, given.results, dry_run=given.dry_run)
    families = [name for name in FAMILIES if name.startswith(tuple(given.only))]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda name: _watched(name, given), families))
    wanted = {(family, stage) for family in families for stage in given.stages}
    rows = [row for row in _read(given.results) if (row["family"], row["stage"]) in wanted]
    print(_table(rows, given.stages))
    counts = Counter(row["outcome"] for row in rows)
    print(", ".join(f"{counts[each]} {each}" for each in OUTCOMES))
    return int(counts["wrong"] + counts["failed"] > 0)


def _read(results: Path) -> list[dict[str, Any]]:
    lines = results.read_text().splitlines() if results.is_file() else []
    return [json.loads(line) for line in lines]


def _write(results: Path, **row: Any) -> None:
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{row['outcome']:8} {row['family']:28} {row['stage']:26} {row['said'][:120]}", flush=True)


def _watched(family: str, given: argparse.Namespace) -> None:
    """Run a family's trials in a process; one that dies or doesn't end has failed, and the next go on."""
    results, stages = given.results, given.stages
    while True:
        done = {row["stage"] for row in _read(results) if row["family"] == family}
        left = [stage for stage in stages if stage not in done]
        if not left:
            return
        command = [sys.executable, __file__, "--one", family, "--results", str(results), "--stages", *left]
        command += ["--dry-run"] if given.dry_run else []
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            _, said = child.communicate(timeout=given.timeout * len(left))
        except subprocess.TimeoutExpired:
            child.kill()
            said = "no end"
        done = {row["stage"] for row in _read(results) if row["family"] == family}
        stuck = next((stage for stage in left if stage not in done), None)
        if stuck is not None:
            last = (said or "").strip().splitlines()[-1:] or ["no message"]
            reason = f"process ended with {child.returncode}: {last[0]}"
            _write(results, family=family, stage=stuck, outcome="failed", said=reason, seconds=0.0)


def _family(family: str, stages: list[str], results: Path, *, dry_run: bool) -> int:
    """Write the family's model, then try each stage on it."""
    from compress.errors import CompressError

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="trial-") as scratch:
        directory = Path(scratch)
        model, data = FAMILIES[family](directory)
        for stage in stages:
            began = time.perf_counter()
            try:
                said = _trial(stage, model, data, directory, dry_run=dry_run)
                outcome = "wrong" if said else "worked"
            except CompressError as error:
                outcome = "refused" if error.exit_code == 2 else "stopped"
                said = f"{type(error).__name__}: {error}"
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome = "failed"
                said = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"
            seconds = round(time.perf_counter() - began, 1)
            _write(results, family=family, stage=stage, outcome=outcome, said=said, seconds=seconds)
    return 0


def _trial(
    stage: str, model: dict[str, Any], data: dict[str, Any], directory: Path, *, dry_run: bool = False
) -> str:
    """Run one; empty where all is right, or how its answers are wrong."""
    import yaml

    from compress.pipeline import export_model, prepare, run
    from compress.recipe import load_recipe
    from compress.system.disk import scratch_directory

    if stage == "export" and "hf" in model:
        output = directory / "exported"
        export_model(model["hf"], output, max_length=LENGTH)
        return _difference(Path(model["hf"]), output)
    settings = STAGES[stage]
    if stage == "distill/logits":
        settings = {**settings, "student": _smaller(model)}
    recipe = {
        "model": model,
        "data": data,
        "stages": [] if stage == "export" else [{stage: settings}],
        # Random weights answer near ties: what is tried here is whether it runs.
        "export": {"min_agreement": 0.8, "max_metric_difference": 0.2},
        "measure": {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.001, "ladder": False},
    }
    path = directory / f"{stage.replace('/', '-')}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    if stage == "export":
        export_model(path, directory / "exported")
        return ""
    if dry_run:
        with scratch_directory() as scratch:
            prepare(load_recipe(path), scratch)
        return ""
    run(path, directory / "reports")
    return ""


def _smaller(model: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a student of one layer, by the name that the model's own definition has for its depth."""
    given = json.loads((Path(model["hf"]) / "config.json").read_text()) if "hf" in model else model["args"]
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "blocks")
    depth = next((name for name in names if isinstance(given.get(name), int)), None)
    return {"hidden": 8} if depth is None else {depth: 1}


def _difference(source: Path, bundle: Path) -> str:
    """How the file's answers differ from those of transformers, fed by its own tokenizer; empty: nowhere."""
    import numpy as np
    import onnxruntime
    import torch
    import transformers

    session = onnxruntime.InferenceSession(str(bundle / "onnx" / "model.onnx"))
    inputs = {value.name: value for value in session.get_inputs()}
    kinds = transformers.AutoConfig.from_pretrained(source).architectures
    module = getattr(transformers, kinds[0]).from_pretrained(source, dtype=torch.float32).eval()
    for name, feed in _feeds(source, inputs):
        if "past" not in name and not feed.keys() <= inputs.keys():
            feed = {key: value for key, value in feed.items() if key in inputs}
        missing = {key for key in inputs if key not in feed and not key.startswith("past")}
        if missing:
            return f"{name}: the file wants {sorted(missing)}, which the tokenizer does not give"
        with torch.no_grad():
            wanted = module(**{key: torch.from_numpy(value) for key, value in feed.items()}).logits.numpy()
        for key, value in inputs.items():
            if key not in feed:
                shape = [len(feed["input_ids"]) if at == 0 else size for at, size in enumerate(value.shape)]
                feed[key] = np.zeros([size if isinstance(size, int) else 0 for size in shape], np.float32)
        found = session.run(["logits"], feed)[0]
        if found.shape != wanted.shape:
            return f"{name}: {found.shape} for {wanted.shape}"
        difference = float(np.abs(found - wanted).max() / max(float(wanted.std()), 1e-6))
        if difference > 1e-2:
            return f"{name}: differs by {difference:.2g} of the spread"
    return ""


def _feeds(source: Path, inputs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    import numpy as np
    import transformers

    draw = np.random.default_rng(0)
    if "pixel_values" in inputs:
        shape = [size if isinstance(size, int) else 2 for size in inputs["pixel_values"].shape]
        return [("pixels", {"pixel_values": draw.normal(0, 1, shape).astype(np.float32)})]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    lengths = (1, 4, 9, LENGTH - 3)
    texts = [" ".join(draw.choice(WORDS[6:], length)) for length in lengths]
    feeds = [(f"a row of {length} words", [text]) for length, text in zip(lengths, texts, strict=True)]
    if any(name.startswith("past") for name in inputs):
        feeds.append(("a long prompt", [" ".join(draw.choice(WORDS[6:], 2 * LENGTH))]))
    else:
        feeds.append(("padded rows", texts))
    return [
        (name, {key: np.asarray(value) for key, value in tokenizer(rows, padding=True).items()})
        for name, rows in feeds
    ]


def _table(rows: list[dict[str, Any]], stages: list[str]) -> str:
    found = {(row["family"], row["stage"]): row["outcome"] for row in rows}
    families = list(dict.fromkeys(row["family"] for row in rows))
    marks = {
        "worked": "yes",
        "refused": "refused",
        "stopped": "stopped",
        "wrong": "WRONG",
        "failed": "FAILED",
    }
    lines = [f"| family | {' | '.join(stages)} |", f"| --- |{' --- |' * len(stages)}"]
    for family in families:
        cells = [marks.get(found.get((family, stage), ""), "") for stage in stages]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
