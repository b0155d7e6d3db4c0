"""Measure what each loss adds, what training rows are worth, and what keeping a teacher's answers saves.

    python tests/benchmarks/distillation.py MODEL_DIR DATA_DIR [--what losses rows cache students]
        [--seeds 0 1 2] [--layers 3] [--epochs 3] [--keep spaced] [--rows 0] [--only NAME ...]
        [--threads 2] [--precision auto]

MODEL_DIR is a Hugging Face classifier, DATA_DIR holds train.csv, validation.csv and test.csv (columns text
and label). A student of some of the teacher's layers is trained in each way and with each seed. Accuracies
are those of the best epoch on validation, by PyTorch in fp32 (whose exported file answers the same); test
rows are answered once, at the end, and nothing is chosen by them. Means and, in brackets, least and most over
seeds; minutes are those of one seed, asking the teacher included where it had not been asked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from compress.data import FileData, Splits, TextEncoder, load_splits
from compress.distill.stage import StudentDistillation
from compress.losses import TargetPlace
from compress.model import ModelConfig, load_model, predict_logits
from compress.progress import Silent
from compress.stage import Context
from compress.train import evaluate

LOSSES: dict[str, dict[str, Any]] = {
    "labels": {"labels": 1},
    "logits": {"logits": 1},
    "labels + logits": {"labels": 0.3, "logits": 1},
    "+ hidden": {"labels": 0.3, "logits": 1, "hidden": 1},
    "+ attention": {"labels": 0.3, "logits": 1, "attention": 1},
    "+ relations": {"labels": 0.3, "logits": 1, "relations": 1},
    "+ embedding": {"labels": 0.3, "logits": 1, "embedding": 1},
    "+ hidden + attention": {"labels": 0.3, "logits": 1, "hidden": 1, "attention": 1},
    "+ hidden + relations": {"labels": 0.3, "logits": 1, "hidden": 1, "relations": 1},
    "hidden first, then labels + logits": {
        "hidden": {"between": [0, 0.5]},
        "labels": {"weight": 0.3, "between": [0.5, 1]},
        "logits": {"between": [0.5, 1]},
    },
}


class Said(Silent):
    """Keeps what is said, for the size of the teacher's answers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        """Keep a line."""
        self.lines.append(message)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--what", nargs="*", default=["losses"], choices=["losses", "rows", "cache", "students"]
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--keep", default="spaced")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--rows", type=int, default=0, help="training rows; 0: all")
    parser.add_argument(
        "--only", nargs="*", default=[], help="of the losses, rows or students, by their names"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        model, splits, context = loaded(given, Path(scratch))
        if "cache" in given.what:
            print_cache(given, model, context)
        print("| what | validation | test | answers as the teacher's | minutes |")
        print("| --- | ---: | ---: | ---: | ---: |", flush=True)
        print_line("the teacher", [scores(model, model, splits)], 0)
        if "losses" in given.what:
            for name, losses in LOSSES.items():
                if not given.only or name in given.only:
                    measure(name, given, {"losses": losses}, model, splits, context)
        if "rows" in given.what:
            print_rows(given, model, splits, context)
        if "students" in given.what:
            print_students(given, model, splits, context)


def loaded(given: argparse.Namespace, scratch: Path) -> tuple[nn.Module, Splits, Context]:
    """The teacher, all rows, and a context that keeps the teacher's answers in scratch."""
    found = load_model(ModelConfig.model_validate({"hf": str(given.model)}), seed=0, scratch=scratch)
    assert found.tokenizer is not None
    encoder = TextEncoder.from_directory(found.tokenizer, input_names=found.text_inputs)
    files = {part: given.data / f"{part}.csv" for part in ("train", "validation", "test")}
    splits = load_splits(FileData.model_validate(files), reader=encoder, label_order=found.label_order)
    train = splits.train.take(given.rows or len(splits.train), seed=0)
    place = TargetPlace(scratch / "targets")
    context = Context(
        splits.task, train, splits.validation, teacher=found.module, reader=encoder, targets=place
    )
    return found.module, splits, context


def stage_of(given: argparse.Namespace, settings: dict[str, Any]) -> StudentDistillation:
    """A student of some layers, learning as the settings say."""
    student = {"layers": given.layers, "keep": given.keep}
    train = {
        "epochs": given.epochs,
        "batch_size": 32,
        "learning_rate": given.rate,
        "precision": given.precision,
    }
    return StudentDistillation.model_validate({"student": student, "train": train, **settings})


def measure(
    name: str,
    given: argparse.Namespace,
    settings: dict[str, Any],
    model: nn.Module,
    splits: Splits,
    context: Context,
) -> None:
    """Train with each seed, and print a line."""
    began, found = time.perf_counter(), []
    for seed in given.seeds:
        student = stage_of(given, settings).apply(model, replace(context, seed=seed)).model
        found.append(scores(student, model, splits))
    print_line(name, found, (time.perf_counter() - began) / 60 / len(given.seeds))


def scores(student: nn.Module, teacher: nn.Module, splits: Splits) -> tuple[float, float, float]:
    """Accuracy on validation and on test, and on test the share of answers that are the teacher's."""
    mine, theirs = (predict_logits(each, splits.test, splits.task).argmax(1) for each in (student, teacher))
    accuracy = [
        evaluate(student, part, splits.task)["validation_metric"] for part in (splits.validation, splits.test)
    ]
    return accuracy[0], accuracy[1], float((mine == theirs).float().mean())


def print_line(name: str, found: list[tuple[float, float, float]], minutes: float) -> None:
    """Means over seeds, with the least and the most."""
    columns = [
        f"{mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"
        if len(values) > 1
        else f"{values[0]:.1%}"
        for values in zip(*found, strict=True)
    ]
    print(f"| {name} | {' | '.join(columns)} | {minutes:.1f} |", flush=True)


def print_rows(given: argparse.Namespace, model: nn.Module, splits: Splits, context: Context) -> None:
    """The same student on other rows, as many steps in each: epochs are fewer where rows are more."""
    unlabelled = replace(context.train, labels=context.train.labels * 0 - 1, name="unlabelled")
    count = len(context.train)
    ways: dict[str, tuple[dict[str, Any], Context, int]] = {
        "train": ({}, context, 1),
        "train, 3 changed copies": ({"augment": 3}, context, 4),
        "train's texts without labels": ({"train": False}, replace(context, unlabelled=unlabelled), 1),
        "no text: random tokens": ({"train": False, "synthetic": count}, context, 1),
        "no text: random tokens, 4 times as many": ({"train": False, "synthetic": 4 * count}, context, 4),
    }
    for name, (rows, around, times) in ways.items():
        if given.only and name not in given.only:
            continue
        fewer = argparse.Namespace(**{**vars(given), "epochs": max(1, round(given.epochs * 4 / times))})
        losses = {"logits": 1, "hidden": 1} | ({"labels": 0.3} if rows.get("train", True) else {})
        measure(name, fewer, {"rows": rows, "losses": losses}, model, splits, around)


def print_students(given: argparse.Namespace, model: nn.Module, splits: Splits, context: Context) -> None:
    """The plain student that one would write, and ours with few and with more epochs."""
    ours = {"labels": 0.3, "logits": 1, "hidden": 1}
    ways: dict[str, tuple[dict[str, Any], int, float]] = {
        "plain: answers and labels, 3 epochs": ({"losses": {"labels": 0.5, "logits": 0.5}}, 3, 5e-5),
        "plain, 7 epochs": ({"losses": {"labels": 0.5, "logits": 0.5}}, 7, 1e-4),
        "ours, 6 epochs": ({"losses": ours}, 6, 1e-4),
        "ours, 2 changed copies of each row, 8 epochs": ({"losses": ours, "rows": {"augment": 2}}, 8, 1e-4),
    }
    for name, (settings, epochs, rate) in ways.items():
        if given.only and name not in given.only:
            continue
        fixed = argparse.Namespace(**{**vars(given), "epochs": epochs, "rate": rate})
        measure(name, fixed, settings, model, splits, context)


def print_cache(given: argparse.Namespace, model: nn.Module, context: Context) -> None:
    """Seconds of an epoch that runs the teacher, of one that reads its answers, and of asking it once."""
    losses = {"labels": 0.3, "logits": 1, "hidden": 1}
    one = argparse.Namespace(**{**vars(given), "epochs": 1})
    print("| an epoch | seconds | what was said |\n| --- | ---: | --- |")
    ways = {
        "the teacher runs": replace(context, targets=TargetPlace(context.targets.folder, 0)),
        "the teacher is asked first": context,
        "its answers are there": context,
    }
    for name, around in ways.items():
        said = Said()
        began = time.perf_counter()
        stage_of(one, {"losses": losses}).apply(model, replace(around, progress=said))
        print(f"| {name} | {time.perf_counter() - began:.0f} | {'; '.join(said.lines)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
