"""YAML in recipes: scalars of YAML 1.2, and the line and key of each error."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from compress.errors import Problem, RecipeError
from compress.recipe import load_recipe
from compress.recipe.yaml_source import dump_yaml, parse_yaml, shown


def parse(text: str) -> Any:
    return parse_yaml(text, Problem(file="x.yaml"))[0]


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert caught.value.file == "x.yaml"
    assert str(caught.value).startswith(f"x.yaml:{caught.value.line}: ")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("TRUE", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("'3'", "3"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
        ("=", "="),
        ("nan", "nan"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    made = parse(f"key: {text}")["key"]
    assert made == value
    assert type(made) is type(value)


def test_each_key_and_entry_has_its_line() -> None:
    value, lines = parse_yaml("# first\na:\n  b: 1\n  c:\n    - x\n    - {d: [1,\n      2]}\n", Problem())
    assert value == {"a": {"b": 1, "c": ["x", {"d": [1, 2]}]}}
    assert lines == {
        (): 2, ("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6, ("a", "c", 1, "d", 0): 6, ("a", "c", 1, "d", 1): 7,
    }  # fmt: skip


def test_an_alias_is_a_copy_of_its_own() -> None:
    value = parse("a: &a {x: [1]}\nb: *a\n")
    value["a"]["x"].append(2)
    assert value == {"a": {"x": [1, 2]}, "b": {"x": [1]}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n<<: {b: 2}\n", 2),
        ("a:\n  1: x\n", 2),
        ("? [a, b]\n: x\n", 1),
        ("a: !!python/object/apply:os.system [ls]\n", 1),
        ("a: !!python/name:os.system\n", 1),
        ("a: !mine 3\n", 1),
        ("a: !!set {b}\n", 1),
        ("a: !!bool no\n", 1),
        ("a: !!int x\n", 1),
        ("a: 1\nb: .nan\n", 2),
        ("a: -.INF\n", 1),
        ("a: 1e999\n", 1),
        (f"a: {'9' * 19}\n", 1),
        (f"a: {'9' * 5000}\n", 1),
        ('a: "\\ud800"\n', 1),
        ("a: *nowhere\n", 1),
        ("a: &a\n  b: *a\n", 1),
        ("a:\n\tb: 1\n", 2),
        ("a: b: c\n", 1),
        ("a: 1\n---\nb: 1\n", 2),
        ("a: 1\nb: \x07\n", 2),
    ],
)
def test_yaml_that_a_recipe_cannot_contain_is_refused_with_its_line(text: str, line: int) -> None:
    error = refused(text)
    assert error.line == line
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [("a: 1\nb: 2\na: 3\n", 3, "a", 1), ("x:\n  b: 2\n  c: {}\n  b:\n    - 3\n", 4, "b", 2)],
)
def test_a_duplicate_key_is_refused_with_both_lines(text: str, line: int, key: str, first: int) -> None:
    error = refused(text)
    assert (error.line, error.key) == (line, key)
    assert f"line {first}" in str(error)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n\tb: 1\n", "spaces"),
        ("a: b: c\n", "quotes"),
        ("a:\n  1: x\n", "quotes"),
        (f"a: {'9' * 19}\n", "-2^63 and 2^63"),
        ("a: .nan\n", "finite"),
    ],
)
def test_a_common_mistake_is_refused_with_a_hint(text: str, hint: str) -> None:
    assert hint in str(refused(text))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
            "10,000 values",
        ),
        ("a: [" + "1, " * 20_000 + "1]\n", "10,000 values"),
        ("a: " + "[" * 900_000, "50 levels"),
        ("- " * 400_000, "50 levels"),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000)), "50 levels"),
    ],
)
def test_a_bomb_is_refused_at_once(text: str, limit: str) -> None:
    start = time.perf_counter()
    assert limit in str(refused(text))
    assert (
        time.perf_counter() - start < 10
    )  # seconds; without the bounds it would be hours, or a dead process


def test_what_is_written_is_read_back_as_it_was() -> None:
    data = {
        "text": [
            "no",
            "0o10",
            "5e-5",
            "1_0",
            "1:30",
            "2020-01-01",
            "",
            "~",
            "null",
            "=",
            "<<",
            "é\n",
            " x: #",
            "\x85",
        ],
        "numbers": [5e-5, 1e22, -0.0, 3, True, None, 1e-300],
        "twice": [[1], [1]],
    }
    again = parse(dump_yaml(data))
    assert again == data
    assert [type(value) for value in again["numbers"]] == [type(value) for value in data["numbers"]]
    assert math.copysign(1, again["numbers"][2]) == -1


def test_a_value_is_shown_on_one_short_line() -> None:
    assert [shown(value) for value in (None, True, "a\nb", (1, 2))] == ["null", "true", r"'a\nb'", "[1, 2]"]
    assert len(shown("x" * 1000)) == 80


def file_refused(path: Path) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.file == str(path) and str(caught.value).startswith(str(path))
    return caught.value


KEYS = ("name", "model", "data", "stages", "export", "measure", "gates", "seed", "device")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_refused_with_the_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    error = file_refused(file)
    assert (error.line, error.allowed) == (None, KEYS)
    assert ", ".join(KEYS) in str(error)


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("\n- a\n- b\n")
    error = file_refused(file)
    assert (error.line, error.value, error.allowed) == (2, ["a", "b"], KEYS)


def test_a_syntax_error_has_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("model: {hf: a\ndata: 3\n")
    error = file_refused(file)
    assert error.line == 2 and "column 5" in str(error)


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"seed: 1\nname: caf\xe9\n")
    error = file_refused(file)
    assert error.line == 2 and "UTF-8" in str(error)


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 1\r\nsead: 2\r\n")
    assert [each.key for each in file_refused(file).problems if each.line == 2] == ["sead"]


def test_a_missing_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "prune-heads.yaml").write_text("")
    assert file_refused(tmp_path / "prune-head.yaml").nearest == str(tmp_path / "prune-heads.yaml")
    assert file_refused(tmp_path / "none" / "x.yaml").nearest is None
    assert "modelpress init" in str(file_refused(tmp_path / "recipes" / "digits" / "x.yaml"))


def test_a_directory_is_refused_with_the_recipes_in_it(tmp_path: Path) -> None:
    assert "give a YAML file" in str(file_refused(tmp_path))
    (tmp_path / "a.yaml").write_text("")
    assert "a.yaml" in str(file_refused(tmp_path))
    for name in "bcdefg":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text("")
    message = str(file_refused(tmp_path))
    assert "e/x.yaml" in message and "f/x.yaml" not in message


def test_a_file_below_a_file_or_with_too_long_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    assert "Not a directory" in str(file_refused(tmp_path / "a.yaml" / "x.yaml"))
    assert "File name too long" in str(file_refused(tmp_path / ("x" * 300)))


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in a folder")
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    for path in (tmp_path / "x.yaml", Path("/dev/zero")):
        assert "save the recipe to a file" in str(file_refused(path))


def test_a_stage_of_many_keys_does_not_quote_them_all(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"stages: [{{{', '.join(f'key{i}: 1' for i in range(3000))}}}]\n")
    error = file_refused(tmp_path / "x.yaml")
    assert "key0, key1" in str(error)
    assert len(str(error)) < 1000


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    with file.open("wb") as open_file:
        open_file.truncate(10**12)  # sparse: 1 TB that takes no space
    assert "1,000,000 bytes" in str(file_refused(file))
