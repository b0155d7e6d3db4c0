"""Text that commands a terminal, turns a line around or computes in a spreadsheet is made visible."""

from __future__ import annotations

import json

import pytest

from compress.safe_text import csv_cell, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcödé 漢字 שלום 👩\u200d💻", "plain Ünïcödé 漢字 שלום 👩\u200d💻"),
        ("two\tcells\nand lines\r\n", "two\tcells\nand lines\n"),
        ("\x1b[31mred\x1b]0;title\x07", "\\u001b[31mred\\u001b]0;title\\u0007"),
        ("\x9b31m", "\\u009b31m"),
        ("over\rwritten\x7f\x00", "over\\u000dwritten\\u007f\\u0000"),
        ("a\u202eb\u2066c\u200fd\u061ce", "a\\u202eb\\u2066c\\u200fd\\u061ce"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\udc80", "\\udc80"),
        ("", ""),
    ],
)
def test_what_would_hide_is_made_visible_and_nothing_else(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_within_json_it_is_the_same_text() -> None:
    text = "a\u202eb\x9b\x1b"
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_a_cell_that_would_compute_is_text(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize("text", ["", "a=1", "1", "none", " =1"])
def test_other_cells_stay(text: str) -> None:
    assert csv_cell(text) == text
