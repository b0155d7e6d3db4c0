from __future__ import annotations

import pytest

from compress.page.format import (
    NUMBER,
    PERCENT,
    SCALES,
    amount,
    capital,
    counted,
    duration,
    interval_text,
    is_smaller,
    milliseconds,
    points,
    ratio_text,
    size,
    size_words,
)


def test_interval_that_just_leaves_out_the_border_is_not_shown_as_touching_it() -> None:
    assert points(-0.01, -0.02, -0.0002) == ("−1.00", "−2.00 to −0.02")
    assert interval_text(1.05, 1.004, 1.1) == "1.004 to 1.100"
    assert ratio_text(1.05, 1.004, 1.1) == "1.050x"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12_340_000, "12.3 MB"), (46_300, "0.046 MB"), (1_234_000_000, "1,234 MB"), (0, "0.000 MB")],
)
def test_sizes_are_millions_of_bytes_in_three_digits(value: int, shown: str) -> None:
    assert size(value) == shown


def test_times_are_short_and_have_their_unit() -> None:
    assert [milliseconds(x) for x in (0.4217, 5.857, 123.4)] == ["0.422 ms", "5.86 ms", "123 ms"]
    assert [duration(x) for x in (3.21, 252, 3_900)] == ["3.2 s", "4 min 12 s", "1 h 05 min"]
    assert milliseconds(float("nan")) == "not known"


def test_size_words_name_the_direction() -> None:
    assert size_words(100, 27) == "3.7x smaller"
    assert size_words(100, 120) == "1.20x larger"
    assert size_words(100_000, 99_999) == "not smaller"
    assert size_words(100, 98, "less", "more", noise=0.05) == "not less"
    assert size_words(100, 0) == "not known"


def test_only_a_change_beyond_noise_is_smaller() -> None:
    assert is_smaller(100, 99) and not is_smaller(1000, 999) and not is_smaller(99, 100)
    assert not is_smaller(100, 0)


def test_amounts_are_in_the_unit_of_their_budget() -> None:
    shown = [amount(kind, 3.0) for kind in ("speedup", "latency_ms", "size_mb", "macs")]
    assert shown == ["3.0x", "3.00 ms", "3.00 MB", "300.0 %"]


def test_counts_agree_with_their_noun() -> None:
    assert (counted(1, "row"), counted(1200, "row"), capital("no loss")) == ("1 row", "1,200 rows", "No loss")
    assert [counted(2, noun) for noun in ("query", "class", "day")] == ["2 queries", "2 classes", "2 days"]
    assert (capital("nDCG@10"), capital("F1"), capital("a")) == ("nDCG@10", "F1", "A")
    assert (capital("train.csv: 4 rows"), capital("one row.")) == ("train.csv: 4 rows", "One row.")


def test_a_metric_is_written_in_its_own_scale() -> None:
    assert (PERCENT.text(0.9123), NUMBER.text(0.9123), NUMBER.text(-0.05)) == ("91.2 %", "0.912", "−0.050")
    assert PERCENT.change(-0.002, -0.011, 0.007) == ("−0.2", "−1.1 to +0.7")
    assert NUMBER.change(-0.0627, -0.105, -0.0231) == ("−0.063", "−0.105 to −0.023")
    assert NUMBER.change(0.0006, 0.0002, 0.001) == ("+0.0006", "+0.0002 to +0.0010")  # excludes 0
    assert (PERCENT.signed(-1e-9), NUMBER.number(-1e-9, 1)) == ("+0.0", "0.0000")
    assert (PERCENT.of_change(), NUMBER.of_change()) == (" in points", "")
    assert set(SCALES) == {"percent", "number"}
