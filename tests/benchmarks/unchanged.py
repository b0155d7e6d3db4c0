"""Whether a change of the source changes what recipes make: weights, accuracies, and what reports hold.

    python tests/benchmarks/unchanged.py record before.json --source ../other-checkout
    python tests/benchmarks/unchanged.py record after.json
    python tests/benchmarks/unchanged.py compare before.json after.json

`record` runs the recipes that need no file of the user (digits, cnn, rnn, decoder, vit) with the source of
a checkout: one epoch a training, few rows, and an untimed budget where a clock would choose. It keeps, of
each recipe: the constants of the ONNX file (type, shape, SHA-256; sorted), how often each operator occurs,
accuracy and agreement, the keys of report.json, the sections of the pages and their number of tables and
charts. `compare` prints each difference; the exit status is 1 where weights, operators or accuracies
differ, or where a key, a section, a table or a chart is gone. What is new is printed too. Recipes that are
in the file already are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("digits", "cnn", "rnn", "decoder", "vit")
ROWS = {
    "stdlib": {"train_bytes": 100_000, "max_length": 64, "validation_limit": 32, "test_limit": 32},
    "other": {"train_limit": 256},
}
MEASURE = {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.001}


def main() -> int:
    """Record or compare; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record")
    record.add_argument("file", type=Path)
    record.add_argument("--source", type=Path, default=ROOT, help="the checkout whose compress is run")
    record.add_argument("--only", nargs="*", default=[""], help="recipes, by how their names begin")
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "compare":
        return _compare(json.loads(given.before.read_text()), json.loads(given.after.read_text()))
    return _record(given.file, given.source.resolve(), tuple(given.only))


def _record(file: Path, source: Path, only: tuple[str, ...]) -> int:
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    paths = [path for folder in FOLDERS for path in sorted((source / "recipes" / folder).glob("*.yaml"))]
    for path in paths:
        name = f"{path.parent.name}/{path.stem}"
        if name in found or not name.startswith(only):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = _run(path, source, Path(scratch))
        file.write_text(json.dumps(found, indent=1, sort_keys=True))
        print(f"{name:32} {found[name].get('failed') or found[name]['accuracy']}", flush=True)
    return int(any("failed" in each for each in found.values()))


def _run(path: Path, source: Path, scratch: Path) -> dict[str, Any]:
    import yaml

    text = path.read_text().replace("../../models", str(path.parents[2] / "models"))
    recipe = _short(yaml.safe_load(text))
    recipe["data"] |= ROWS["stdlib" if recipe["data"]["source"] == "stdlib" else "other"]
    recipe["measure"] = MEASURE
    recipe["name"] = "run"
    recipe["export"] = {"min_agreement": 0.5, "max_metric_difference": 0.5, "max_relative_error": 1.0}
    recipe.pop("gates", None)
    (scratch / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "compress", "run", "recipe.yaml", "-o", "reports", "--quiet"]
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr or done.stdout).strip()[-300:]}
    return _kept(scratch / "reports" / "run")


def _short(part: Any) -> Any:
    """One epoch for each training, few rows for each calibration, and no promise of milliseconds."""
    if isinstance(part, list):
        return [_short(each) for each in part]
    if not isinstance(part, dict):
        return part
    short = {key: _short(value) for key, value in part.items()}
    if "speedup" in short:
        short["macs"] = round(1 / short.pop("speedup"), 3)
    for key, most in (("epochs", 1), ("calibration_rows", 32), ("search_steps", 20)):
        if key in short:
            short[key] = min(short[key], most)
    return short


def _kept(folder: Path) -> dict[str, Any]:
    import onnx

    report = json.loads((folder / "report.json").read_text())
    graph = onnx.load(str(next(folder.rglob("model.onnx")))).graph
    page = (folder / "report.html").read_text()
    measurement = report["measurement"]
    return {
        "constants": sorted(_digest(each) for each in graph.initializer),
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "accuracy": [measurement[each]["accuracy"]["value"] for each in ("baseline", "candidate")],
        "parity": report["parity"]["agreement"] if report.get("parity") else None,
        "keys": sorted(set(_keys(report))),
        "markdown sections": _headings((folder / "report.md").read_text()),
        "html sections": re.findall(r"<h[23][^>]*>(.*?)</h[23]>", page),
        "tables": len(re.findall("<table", page)),
        "charts": len(re.findall("<svg", page)),
    }


def _digest(tensor: Any) -> str:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return f"{values.dtype}{list(values.shape)} {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


def _keys(part: Any, path: str = "") -> list[str]:
    if isinstance(part, list):
        return [key for each in part for key in _keys(each, f"{path}[]")]
    if isinstance(part, dict):
        return [key for name, each in part.items() for key in _keys(each, f"{path}.{name}")]
    return [path]


def _headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def _compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    differences = 0
    for name, old in before.items():
        new = after.get(name)
        if new is None or "failed" in old or "failed" in new:
            print(f"{name}: {'not run' if new is None else old.get('failed') or new['failed']}")
            differences += new is None or "failed" not in old
            continue
        for key, was in old.items():
            if was == new[key]:
                continue
            if isinstance(was, list) and key != "accuracy":
                gone = sorted((Counter(map(str, was)) - Counter(map(str, new[key]))).elements())
                more = sorted((Counter(map(str, new[key])) - Counter(map(str, was))).elements())
            elif key in ("tables", "charts"):
                gone, more = [was] * (new[key] < was), [new[key]]
            else:
                gone, more = [was], [new[key]]
            differences += len(gone)
            print(f"{name}: {key}: gone {gone[:8]}, new {more[:8]}")
    print(f"{len(before)} recipes, {differences} differences")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
