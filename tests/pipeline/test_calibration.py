"""A run that calibrates on rows without labels: after the vocabulary has shrunk, and the report says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compress.pipeline import run

RECOVERY = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "precision": "fp32"}


def test_the_report_says_that_ranges_come_from_rows_without_labels(
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    write_reviews: Callable[..., Path],
    bert_directory: Path,
) -> None:
    train = write_reviews(tmp_path / "reviews.csv", 150)
    texts = [f"the plot was {first} {second}" for first in ("fine", "poor", "good") for second in WORDS]
    (tmp_path / "more.txt").write_text("\n".join(texts), encoding="utf-8")
    recipe = write_recipe(
        tmp_path / "r.yaml",
        "prune/vocabulary",  # plot, fine, poor and others go: ids of the old tokenizer would be out of range
        {"quantize/int8_static": {"calibration": "unlabelled", "calibration_rows": 16}},
        model={"hf": str(bert_directory), "train": RECOVERY},
        data={"source": "file", "train": str(train), "unlabelled": "more.txt", "max_length": 8},
    )
    report = run(recipe, tmp_path / "reports").report
    facts = report.stages[1].facts
    assert (facts["calibration"], facts["calibration_rows"]) == ("rows without labels", 16)
    assert report.data.source.endswith("more.txt (18 rows without labels)")
    assert report.data.train_rows < 150, "they are not rows of train"


WORDS = ("film", "a film", "very", "not", "bad", "the film")
