from __future__ import annotations

import pytest

from compress.data.labels import are_made_up, numbers_of, order_labels
from compress.errors import DataError


def test_labels_are_sorted_and_numbers_by_value() -> None:
    assert order_labels(["b", "a", "b"], None) == (("a", "b"), ())
    assert order_labels(["10", "9", "-1"], None)[0] == ("-1", "9", "10")
    assert order_labels(["10", "9", "x"], None)[0] == ("10", "9", "x")


def test_models_order_wins_over_the_sorted_and_the_declared_one() -> None:
    labels, notes = order_labels(["a", "b"], ["b", "a"], declared=["a", "b"])
    assert labels == ("b", "a")
    (note,) = notes
    assert note.kind == "other" and "a, b" in note and note.endswith(": b, a")
    for declared in ((), ("b", "a"), ("b", "x")):
        assert order_labels(["a", "b"], ["b", "a"], declared=declared) == (("b", "a"), ())


def test_labels_in_another_case_or_with_other_separators_are_matched_by_name_with_a_note() -> None:
    model = ("contradiction", "Not_Entailment", "entailment")
    data = ["ENTAILMENT", "not entailment", "contradiction"]
    labels, (note,) = order_labels(data, model)
    assert labels == model and note.kind == "other"
    assert "'not entailment' as 'Not_Entailment'" in note
    assert [numbers_of(labels, data)[name] for name in data] == [2, 1, 0]
    labels, notes = order_labels(data[:2], model, declared=["entailment", "not-entailment"])
    assert labels == model and len(notes) == 2 and "not the model's" in notes[1]


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (["Positive", "positive"], ["positive", "negative"]),  # two names for one class
        (["POS", "neg"], ["pos", "Pos", "neg"]),  # one name for two
        (["-1", "0"], ["0", "1"]),  # the sign of a number
        (["c++", "java"], ["c", "java"]),
        (["1-2", "3"], ["12", "3"]),
        (["Positive", "other"], ["positive", "negative"]),
    ],
)
def test_labels_that_are_alike_in_part_or_in_doubt_are_refused(data: list[str], model: list[str]) -> None:
    with pytest.raises(DataError, match="the model does not have the label"):
        order_labels(data, model)


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
    (note,) = notes
    assert note.kind == "guessed-labels" and note.endswith(": neg, pos")
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
    with pytest.raises(DataError, match="the same name: a, a"):
        order_labels(["a", "b"], ["a", "a"])


def test_made_up_names_in_the_data_are_numbers_of_the_models_classes() -> None:
    labels, notes = order_labels(["LABEL_1", "LABEL_0"], ["pos", "neg"])
    assert labels == ("pos", "neg")
    assert len(notes) == 1
    assert numbers_of(labels) == {"pos": 0, "neg": 1, "LABEL_0": 0, "LABEL_1": 1}
    assert order_labels(["LABEL_2"], ["a", "b", "c"])[0] == ("a", "b", "c")
    with pytest.raises(DataError, match="LABEL_2"):
        order_labels(["LABEL_0", "LABEL_2"], ["a", "b"])


def test_real_names_go_before_made_up_ones() -> None:
    assert numbers_of(["LABEL_1", "LABEL_0"]) == {"LABEL_1": 0, "LABEL_0": 1}


def test_made_up_names_are_in_the_order_of_their_numbers() -> None:
    names = [f"LABEL_{index}" for index in range(12)]
    assert order_labels(sorted(names), None)[0] == tuple(names)
    assert order_labels(["good", "LABEL_1"], None)[0] == ("LABEL_1", "good")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("LABEL_0", "LABEL_1"), True),
        (("LABEL_1", "LABEL_0"), False),
        (("0", "1"), False),
        (("LABEL_0", "pos"), False),
    ],
)
def test_only_the_whole_set_in_order_is_made_up(labels: tuple[str, ...], expected: bool) -> None:
    assert are_made_up(labels) is expected
