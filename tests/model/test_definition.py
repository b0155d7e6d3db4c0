"""A model file is loaded by path; what is wrong with it is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.errors import ModelError
from compress.model import Definition


def written(directory: Path, code: str, builder: str = "build", **arguments: object) -> Definition:
    (directory / "net.py").write_text(code)
    return Definition.from_file(directory / "net.py", builder, arguments)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_numbers_alone(
    definition: Definition,
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = definition.build(seed=3).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second, other = definition.build(seed=3).state_dict(), definition.build(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_file_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.py:2 raised ZeroDivisionError: division by zero"):
        written(tmp_path, "x = 1\ny = x / 0\n").build()


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.py:1 raised SyntaxError"):
        written(tmp_path, "def build(:\n").build()


def test_a_missing_builder_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.py has no builder 'bild'; did you mean 'build'\?"):
        written(tmp_path, "def build():\n    pass\n", builder="bild").build()


def test_a_builder_that_returns_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"build\(\) returned int, not a torch\.nn\.Module"):
        written(tmp_path, "def build():\n    return 3\n").build()


def test_a_builder_that_raises_says_what(definition: Definition) -> None:
    with pytest.raises(ModelError, match=r"transformer\.py: patch_classifier\(\) raised ValueError: .*nhead"):
        definition.changed({"nhead": 5}).build()


def test_an_unknown_argument_is_named_with_the_nearest(definition: Definition) -> None:
    with pytest.raises(ModelError, match=r"no argument 'num_layer'; did you mean 'num_layers'\?"):
        definition.changed({"num_layer": 1})


def test_a_missing_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"build\(\): missing a required argument: 'width'"):
        written(tmp_path, "def build(width):\n    pass\n").build()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read model file .*gone\.py"):
        Definition.from_file(tmp_path / "gone.py", "build", {})
