"""Where calibration rows come from, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.data import Splits
from compress.data.split import Split
from compress.errors import RecipeError, StageError
from compress.model.files.definition import Definition
from compress.quantize.calibrate import calibration_rows
from compress.quantize.int8_static import Int8Static
from compress.quantize.weight_only import Int4WeightOnly
from compress.recipe import load_recipe
from compress.stage import Context

ROWS = 32


@pytest.fixture
def unlabelled(text_context: Context) -> Split:
    """The training rows, their labels forgotten."""
    rows = text_context.train
    return Split.without_labels("unlabelled", rows.rows, rows.inputs)


def test_rows_without_labels_calibrate_as_the_same_rows_with_labels_do(
    text_model: nn.Module, text_context: Context, unlabelled: Split
) -> None:
    without = replace(text_context, train=text_context.train.take(0, seed=0), unlabelled=unlabelled)
    labelled = Int8Static(calibration_rows=ROWS).apply(text_model, text_context)
    stage = Int8Static(calibration_rows=ROWS, calibration="unlabelled")
    made = stage.apply(text_model, without)
    first, second = labelled.model.state_dict(), made.model.state_dict()
    assert all(first[name].equal(second[name]) for name in first) and first.keys() == second.keys()
    assert labelled.facts["calibration"] == "training rows, no labels used"
    assert (made.facts["calibration"], made.facts["calibration_rows"]) == ("rows without labels", ROWS)


def test_synthetic_rows_need_no_data_at_all(text_model: nn.Module, text_context: Context) -> None:
    empty = text_context.train.take(0, seed=0)
    context = replace(text_context, train=empty, validation=empty)
    made = Int8Static(calibration_rows=ROWS, calibration="synthetic").apply(text_model, context)
    done = made.model
    assert all(float(layer.input_scale) > 0 for layer in done.modules() if hasattr(layer, "input_scale"))
    assert made.facts["calibration"] == "synthetic rows (random tokens), no data used"
    assert made.facts["calibration_rows"] == ROWS


def test_synthetic_rows_are_as_long_as_texts_may_be_and_follow_the_seed(text_context: Context) -> None:
    def drawn(seed: int) -> Split:
        return calibration_rows(replace(text_context, seed=seed), 64, "synthetic")

    lengths = [len(row["input_ids"]) for row in drawn(0).rows]
    assert lengths == sorted(lengths) and (lengths[0], lengths[-1]) == (4, 16)
    assert drawn(0).fingerprint() == drawn(0).fingerprint() != drawn(1).fingerprint()


def test_an_algorithm_that_looks_at_data_takes_each_source(
    text_model: nn.Module, text_context: Context, unlabelled: Split
) -> None:
    context = replace(text_context, unlabelled=unlabelled)
    for source in ("unlabelled", "synthetic"):
        stage = Int4WeightOnly(algorithm="gptq", calibration=source, calibration_rows=ROWS)
        made = stage.apply(text_model, context)
        assert made.facts["calibration_rows"] == ROWS


def test_what_cannot_be_had_is_refused(
    text_context: Context, context: Context, unlabelled: Split, splits: Splits
) -> None:
    with pytest.raises(StageError, match="calibration: unlabelled: "):
        calibration_rows(text_context, ROWS, "unlabelled")
    few = replace(text_context, unlabelled=unlabelled.take(3, seed=0))
    with pytest.raises(StageError, match="3 rows without labels .*at least 16"):
        calibration_rows(few, ROWS, "unlabelled")
    with pytest.raises(StageError, match="calibration: synthetic: .*calibration: train"):
        calibration_rows(context, ROWS, "synthetic")
    assert text_context.encoder is not None
    text_context.encoder.tokenizer.no_truncation()
    with pytest.raises(StageError, match="enable_truncation"):
        calibration_rows(text_context, ROWS, "synthetic")


@pytest.mark.parametrize(
    ("stage", "data", "message"),
    [
        (
            {"quantize/int8_static": {"calibration": "unlabelled"}},
            {"source": "file", "train": "a.csv"},
            "calibration: unlabelled needs data.unlabelled",
        ),
        (
            {"quantize/int8_static": {"calibration": "synthetic"}},
            {"source": "digits"},
            "calibration: synthetic is for texts only.*calibration: train",
        ),
        (
            {"quantize/int4_weight_only": {"calibration": "unlabelled", "algorithm": "gptq"}},
            {"source": "digits"},
            "calibration: unlabelled is for texts only",
        ),
        (
            {"quantize/int8_static": {"calibration": "none"}},
            {"source": "digits"},
            "calibration is 'none'; it must be 'train', 'unlabelled' or 'synthetic'",
        ),
        (
            "quantize/int8_static",
            {"source": "digits", "unlabelled": "u.csv"},
            "unknown key 'unlabelled' in data",
        ),
    ],
)
def test_a_recipe_is_refused_with_its_line_before_anything_is_read(
    stage: object, data: object, message: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_recipe(tmp_path / "r.yaml", stage, data=data)
    with pytest.raises(RecipeError, match=r"r\.yaml:\d+: .*" + message):
        load_recipe(file)


def test_a_stage_that_looks_at_no_data_may_say_where_it_would_come_from(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    stage = {"quantize/int4_weight_only": {"calibration": "unlabelled"}}
    assert load_recipe(write_recipe(tmp_path / "r.yaml", stage)).stages[0].name == "quantize/int4_weight_only"


def test_tokens_of_rows_drawn_from_the_unlabelled_are_those_rows(
    text_context: Context, unlabelled: Split
) -> None:
    rows = calibration_rows(replace(text_context, unlabelled=unlabelled), ROWS, "unlabelled").rows
    pool = {row["input_ids"].tobytes() for row in unlabelled.rows}
    assert len(rows) == ROWS and {row["input_ids"].tobytes() for row in rows} <= pool
    assert len(np.unique([row["input_ids"].tobytes() for row in rows])) > 1


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once and were made within; `most` is the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and each.untyped_storage().nbytes() > LARGE:
                reference = StorageWeakRef(each.untyped_storage())
                if reference.cdata not in self.alive:
                    self.alive = {i: held for i, held in self.alive.items() if not held[0].expired()}
                    self.alive[reference.cdata] = (reference, each.untyped_storage().nbytes())
                    self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return made


LARGE = 4096  # bytes: vectors are left out, which changes little but the time


def most_held(stage: Int8Static | Int4WeightOnly, model: nn.Module, context: Context) -> int:
    """Bytes above the model itself."""
    with Held() as held:
        stage.apply(model, context)
    return held.most


def repeated(context: Context, times: int) -> Context:
    """Training rows, so many times, which are more than a batch holds."""
    rows = context.train.take(64, seed=0)
    more = replace(rows, rows=rows.rows * times, labels=np.tile(rows.labels, times), texts=())
    assert sum(len(row["input_ids"]) for row in more.rows) > 1024
    return replace(context, train=more)


@pytest.mark.parametrize(
    "stage",
    [Int8Static(calibration_rows=5000), Int4WeightOnly(algorithm="gptq", calibration_rows=5000)],
    ids=str,
)
def test_what_is_held_does_not_grow_with_the_number_of_rows(
    stage: Int8Static | Int4WeightOnly, text_model: nn.Module, text_context: Context
) -> None:
    few, many = (most_held(stage, text_model, repeated(text_context, times)) for times in (5, 40))
    # Batches hold up to 1,024 tokens: how many fit depends a little on how long the rows are.
    assert many < 1.1 * few


@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
def test_less_than_three_times_the_model_is_held(algorithm: Any, text_context: Context) -> None:
    """A small BERT, most of whose weights are its table; what a batch holds doesn't shrink with the model."""
    sizes = {"hidden_size": 192, "num_attention_heads": 4, "intermediate_size": 768, "vocab_size": 20_000}
    model = Definition("hf", {"model_type": "bert", "num_hidden_layers": 3, **sizes}).build(seed=0)
    own = sum(p.nbytes for p in model.parameters())
    stage = Int8Static(algorithm=algorithm, calibration_rows=512)
    assert most_held(stage, model, repeated(text_context, 8)) < 2 * own, "and the model itself"
