from __future__ import annotations

import pytest

from compress.data.labels import order_labels
from compress.errors import DataError


def test_labels_are_sorted_and_numbers_by_value() -> None:
    assert order_labels(["b", "a", "b"], None) == (("a", "b"), ())
    assert order_labels(["10", "9", "-1"], None)[0] == ("-1", "9", "10")
    assert order_labels(["10", "9", "x"], None)[0] == ("10", "9", "x")


def test_models_order_wins_over_the_sorted_and_the_declared_one() -> None:
    assert order_labels(["a", "b"], ["b", "a"], declared=["a", "b"]) == (("b", "a"), ())


def test_models_class_without_rows_keeps_its_index() -> None:
    labels, notes = order_labels(["a", "c"], ["c", "b", "a"])
    assert labels == ("c", "b", "a")
    assert notes == ("the data has no row of the model's label 'b'",)


def test_declared_order_is_used_without_a_model_and_leaves_out_names_without_rows() -> None:
    assert order_labels(["world", "business"], None, declared=["world", "sports", "business"])[0] == (
        "world",
        "business",
    )


def test_made_up_names_of_hugging_face_give_way_to_the_sorted_order_with_a_note() -> None:
    labels, notes = order_labels(["pos", "neg"], ["LABEL_0", "LABEL_1"])
    assert labels == ("neg", "pos")
    assert notes == ("the model's labels have no names; taken in order: neg, pos",)
    assert order_labels(["pos", "neg"], ["LABEL_0", "LABEL_1", "LABEL_2"])[0] == ("neg", "pos")


def test_made_up_names_give_way_to_the_declared_order() -> None:
    assert order_labels(["a", "b"], ["LABEL_0", "LABEL_1"], declared=["b", "a"])[0] == ("b", "a")


def test_number_stays_the_index_of_a_model_without_names_even_where_one_is_missing() -> None:
    assert order_labels(["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"])[0] == ("0", "1", "2")
    assert order_labels(["1", "2"], ["LABEL_0", "LABEL_1"])[0] == ("1", "2")


def test_made_up_names_that_the_data_really_has_are_taken_as_they_are() -> None:
    assert order_labels(["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"]) == (("LABEL_0", "LABEL_1"), ())


def test_label_that_the_model_lacks_is_refused_with_both_lists() -> None:
    with pytest.raises(
        DataError, match=r"label neu: the data has neg, neu, pos; the model has neg, pos \(rename"
    ):
        order_labels(["neg", "neu", "pos"], ["neg", "pos"])
    with pytest.raises(
        DataError, match="labels a, b, c: the data has a, b, c; the model has LABEL_0, LABEL_1"
    ):
        order_labels(["a", "b", "c"], ["LABEL_0", "LABEL_1"])


def test_model_that_names_a_label_twice_is_refused() -> None:
    with pytest.raises(DataError, match="the model names a label twice: a, a"):
        order_labels(["a", "b"], ["a", "a"])
