"""Blocks of a Markdown page, and how to run its commands in seconds: small stand-ins, short measurements."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "measure.rounds=3",
    "measure.seconds=0.01",
    "measure.batch=[1]",
    "measure.threads=[1]",
    "measure.runtimes=[onnxruntime]",
    "measure.ladder=false",
)
QUICK_TEXT = (*QUICK, "measure.sequence=[8]", "data.max_length=16")
SMALL = (
    "model.args.d_model=32",
    "model.args.nhead=4",
    "model.args.num_layers=2",
    "model.args.dim_feedforward=64",
)
QUICK_DIGITS = (
    *QUICK,
    *SMALL,
    "model.train.epochs=1",
    "data.train_limit=200",
    "data.test_fraction=0.06",
    "export.min_agreement=0.9",
    "export.max_metric_difference=0.1",
)


def blocks(page: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language; `no-run` after it makes another language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> Iterator[list[str]]:
    """The commands of all sh blocks, in order, as lists of words."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


def shortened(words: Sequence[str]) -> list[str]:
    """A `modelpress` command that does the same work in seconds."""
    digits = any("/digits/" in word for word in words)
    if words[1] in ("run", "show", "check"):
        return [*words[1:], *(QUICK_DIGITS if digits else QUICK_TEXT)]
    if words[1] == "export":
        return [*words[1:], "--max-length", "16"]
    return list(words[1:])


def write_stand_ins(folder: Path) -> None:
    """Write my-model, a tiny BERT of two labels, and train.csv and test.csv of texts that it can read."""
    from ..conftest import _write_reviews, write_hf_model

    write_hf_model(folder / "my-model", "bert")
    head, *rows = _write_reviews(folder / "all.csv", 240).read_text().splitlines()
    (folder / "all.csv").unlink()
    for name, part in (("train", [r for i, r in enumerate(rows) if i % 4]), ("test", rows[::4])):
        (folder / f"{name}.csv").write_text("\n".join([head, *part]) + "\n")
