"""Rows beyond the data: of the lengths that were asked for, and of real rows' own values."""

from __future__ import annotations

import numpy as np

from compress.data import Split, Splits
from compress.export import proof_lengths, proof_rows
from compress.tasks import NO_LABEL, Classification, InputSpec, LanguageModelling

INPUTS = (InputSpec("input_ids", "int64", ("sequence_length",)), InputSpec("size", "float32", (2,)))
TASK = Classification(INPUTS, ("a", "b"))
ROWS = tuple(
    {"input_ids": np.arange(start, start + length), "size": np.full(2, start, np.float32)}
    for start, length in ((10, 3), (20, 5), (30, 4))
)
SPLIT = Split("validation", ROWS, np.array([0, 1, 0]), INPUTS)


def test_each_row_is_of_its_length_and_of_values_that_occur() -> None:
    made = proof_rows(SPLIT, TASK, (1, 4, 40, 4))
    assert [len(row["input_ids"]) for row in made.rows] == [1, 4, 40, 4]
    known = set(np.concatenate([row["input_ids"] for row in ROWS]).tolist())
    for row in made.rows:
        assert set(row["input_ids"].tolist()) <= known
        assert row["size"].tolist() in [[10, 10], [20, 20], [30, 30]], "fixed inputs are whole"
        assert row["input_ids"][0] == row["size"][0], "of the row that was drawn first"
    assert made.labels.tolist() == [NO_LABEL] * 4
    assert len(next(made.at(np.array([2])).batches(1))["input_ids"][0]) == 40


def test_rows_are_those_of_the_seed() -> None:
    first, again, other = (proof_rows(SPLIT, TASK, (30,), seed=seed).fingerprint() for seed in (0, 0, 1))
    assert first == again != other


def test_lengths_are_one_shortest_longest_and_the_most_that_a_row_may_have() -> None:
    assert proof_lengths(SPLIT, TASK) == (1, 3, 5)
    assert proof_lengths(SPLIT, TASK, 16) == (1, 3, 5, 16)


def test_rows_of_a_language_model_have_lengths_too() -> None:
    inputs = (InputSpec("input_ids", "int64", ("sequence_length",)),)
    rows = tuple({"input_ids": np.arange(6)} for _ in range(3))
    split = Split("validation", rows, np.ones((3, 6), np.int64), inputs)
    task = LanguageModelling(inputs, vocabulary=7)
    assert proof_lengths(split, task, 12) == (1, 6, 12)
    assert [len(row["input_ids"]) for row in proof_rows(split, task, (1, 12)).rows] == [1, 12]


def test_data_of_one_length_has_no_others(splits: Splits) -> None:
    assert proof_lengths(splits.validation, splits.task, 16) == ()


def test_lengths_beyond_a_window_are_those_of_the_module_and_not_of_the_rows() -> None:
    """As long as a language model's context, whatever the rows are; of a classification as `longest` says."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MistralConfig(**sizes, vocab_size=50, sliding_window=6, max_position_embeddings=40)
    module = MistralForCausalLM(config)
    inputs = (InputSpec("input_ids", "int64", ("sequence_length",)),)
    rows = tuple({"input_ids": np.arange(4)} for _ in range(3))
    split = Split("validation", rows, np.ones((3, 4), np.int64), inputs)
    assert proof_lengths(split, LanguageModelling(inputs, vocabulary=50), 5, module) == (1, 4, 5, 7, 13)
    assert proof_lengths(split, Classification(inputs, ("a", "b")), 12, module) == (1, 4, 7, 12)
    assert proof_lengths(split, Classification(inputs, ("a", "b")), 5, module) == (1, 4, 5)
