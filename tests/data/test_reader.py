"""Readers: what all sources of one modality share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compress.data import PIXELS, PREPROCESSOR_FILE, DigitsData, ImageProcessor, NumbersReader, TextEncoder
from compress.data.config import DataConfig
from compress.data.readers.reader import reader_of_numbers
from compress.data.source import DataSource
from compress.errors import DataError

IMAGES = ImageProcessor(size=(6, 4), channels=1, mean=(0.5,), std=(0.5,))


def test_images_are_made_up_in_the_shape_that_the_model_reads_and_alike_for_one_seed() -> None:
    rows = IMAGES.synthetic(3, 128, seed=0)
    assert [row[PIXELS].shape for row in rows.rows] == [(1, 6, 4)] * 3
    assert rows.inputs == IMAGES.inputs(6, 4)
    again, other = (IMAGES.synthetic(3, 128, seed=seed) for seed in (0, 1))
    assert np.array_equal(rows.rows[0][PIXELS], again.rows[0][PIXELS])
    assert not np.array_equal(rows.rows[0][PIXELS], other.rows[0][PIXELS])


def test_rows_that_nobody_knows_the_shape_of_are_not_made_up() -> None:
    for reader in (NumbersReader(), ImageProcessor()):
        with pytest.raises(DataError):
            reader.synthetic(3, 128, seed=0)


def test_a_bundle_is_shipped_what_reads_its_rows(tmp_path: Path) -> None:
    NumbersReader().write_(tmp_path, 128)
    assert not list(tmp_path.iterdir())
    IMAGES.write_(tmp_path, None)
    assert json.loads((tmp_path / PREPROCESSOR_FILE).read_text()) == IMAGES.to_config()
    assert IMAGES.facts()["image"]["colours"] == "grey" and NumbersReader().facts() == {}


def test_numbers_keep_a_tokenizer_for_later_stages_and_nothing_else(bert_directory: Path) -> None:
    encoder = TextEncoder.from_directory(bert_directory)
    assert reader_of_numbers(encoder) is encoder
    assert {reader_of_numbers(each).modality for each in (IMAGES, None)} == {"numbers"}
    assert DigitsData().read(encoder, None).reader is encoder


def test_every_source_reads_itself_and_names_its_rows() -> None:
    sources = DataConfig.__origin__.__args__  # type: ignore[attr-defined]
    assert len(sources) == 9 and all(issubclass(each, DataSource) for each in sources)
    assert not any(getattr(each, "__abstractmethods__", ()) for each in sources)
    assert {each.modality for each in sources} == {"text", "image", "numbers"}


def test_a_manifest_says_truncated_only_of_rows_that_are(encoder: TextEncoder) -> None:
    assert "max_length" in encoder.how
    assert "max_length" not in NumbersReader().how
