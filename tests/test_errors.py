"""Exceptions: what their fields are, and what survives a copy to another process."""

from __future__ import annotations

import pickle

import pytest

from compress.errors import DataError, ParityError, Problem, RecipeError, did_you_mean, nearest_name


def test_the_fields_of_an_exception_are_those_of_its_first_problem() -> None:
    first = Problem("it is wrong", file="r.yaml", line=3, key="a.b", value=1, allowed=("x",), nearest="x")
    error = RecipeError("two problems", problems=[first, Problem("and this")])
    assert (error.file, error.line, error.key, error.value) == ("r.yaml", 3, "a.b", 1)
    assert (error.allowed, error.nearest, len(error.problems)) == (("x",), "x", 2)
    assert str(RecipeError(first)) == str(first) == "r.yaml:3: it is wrong"


def test_a_page_is_the_exceptions_own_or_its_problems_or_its_classs() -> None:
    problem = Problem("x", see="reference/stages")
    assert RecipeError("x").see is None and DataError("x").see == "reference/recipe"
    assert DataError(problem).see == "reference/stages"
    assert DataError("x", problems=[problem], see="faq").see == "faq"


def test_a_location_is_a_file_with_its_line_and_overrides() -> None:
    assert str(Problem("no")) == "no"
    assert str(Problem("no", file="r.yaml")) == "r.yaml: no"
    assert str(Problem("no", overrides=("a=1",))) == "override 'a=1': no"
    location = str(Problem("no", file="r.yaml", line=2, overrides=tuple(f"a={i}" for i in range(8))))
    assert location.startswith("r.yaml:2 with override 'a=0', ") and "and 3 more" in location
    assert "a=4" in location and "a=5" not in location


def test_an_exception_survives_pickling() -> None:
    error = ParityError(Problem("no", key="k"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ParityError
    assert (str(again), again.key, again.see) == (str(error), "k", "explanation/numerics")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("prune/headz", "prune/heads"), ("prune/wanda", None), ("x", None), ("y" * 9999, None)],
)
def test_the_nearest_name_or_all_that_are_allowed(name: str, nearest: str | None) -> None:
    allowed = ["prune/heads", "prune/width", "quantize/float16"]
    assert nearest_name(name, allowed) == nearest
    hint = did_you_mean(name, allowed)
    assert all(each in hint for each in ([nearest] if nearest else allowed))
