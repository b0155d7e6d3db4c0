"""YAML as a recipe may use it: numbers and words of YAML 1.2, and what is refused at which line."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from compress.errors import RecipeError
from compress.recipe import load_recipe
from compress.recipe.yaml_source import dump_yaml, parse_yaml, shown


def parse(text: str) -> Any:
    return parse_yaml(text, lambda line: f"x.yaml:{line}")[0]


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    return str(caught.value)


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
    value, lines = parse_yaml("# first\na:\n  b: 1\n  c:\n    - x\n    - {d: [1,\n      2]}\n", str)
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
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: key 'a' stands twice; the first is on line 1"),
        ("x:\n  b: 2\n  c: {}\n  b:\n    - 3\n", "x.yaml:4: key 'b' stands twice; the first is on line 2"),
        (
            "a: 1\n<<: {b: 2}\n",
            "x.yaml:2: merge keys (<<) are not supported; use an alias (*name) for a whole value",
        ),
        ("a:\n  1: x\n", "x.yaml:2: a key must be text; put a key that looks like something else in quotes"),
        (
            "? [a, b]\n: x\n",
            "x.yaml:1: a key must be text; put a key that looks like something else in quotes",
        ),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "x.yaml:1: the YAML tag !!python/object/apply:os.system is not allowed; write plain values",
        ),
        (
            "a: !!python/name:os.system\n",
            "x.yaml:1: the YAML tag !!python/name:os.system is not allowed; write plain values",
        ),
        ("a: !mine 3\n", "x.yaml:1: the YAML tag !mine is not allowed; write plain values"),
        ("a: !!set {b}\n", "x.yaml:1: the YAML tag !!set is not allowed; write plain values"),
        ("a: !!bool no\n", "x.yaml:1: 'no' cannot be read as !!bool"),
        ("a: !!int x\n", "x.yaml:1: 'x' cannot be read as !!int"),
        ("a: 1\nb: .nan\n", "x.yaml:2: '.nan' is not a number that a recipe can hold; it must be finite"),
        ("a: -.INF\n", "x.yaml:1: '-.INF' is not a number that a recipe can hold; it must be finite"),
        ("a: 1e999\n", "x.yaml:1: '1e999' is not a number that a recipe can hold; it must be finite"),
        (
            f"a: {'9' * 19}\n",
            "x.yaml:1: '9999999999999999999' is not a number that a recipe can hold; it must be "
            "between -2^63 and 2^63",
        ),
        (
            f"a: {'9' * 5000}\n",
            f"x.yaml:1: '{'9' * 76}... is not a number that a recipe can hold; it must be between "
            "-2^63 and 2^63",
        ),
        ('a: "\\ud800"\n', "x.yaml:1: '\\ud800' holds half a character (a lone surrogate)"),
        ("a: *nowhere\n", "x.yaml:1: not YAML at column 4: found undefined alias 'nowhere'"),
        ("a: &a\n  b: *a\n", "x.yaml:1: an alias (*name) stands inside the value that it names"),
        (
            "a:\n\tb: 1\n",
            "x.yaml:2: not YAML at column 1: found character '\\t' that cannot start any token (while "
            "scanning for the next token); indent with spaces, not with tabs",
        ),
        ("a: b: c\n", "x.yaml:1: not YAML at column 5: mapping values are not allowed here"),
        (
            "a: 1\n---\nb: 1\n",
            "x.yaml:2: not YAML at column 1: but found another document (expected a single document in "
            "the stream)",
        ),
        ("a: 1\nb: \x07\n", "x.yaml:2: not YAML: character '\\x07' is not allowed"),
    ],
)
def test_yaml_that_a_recipe_may_not_hold_is_refused(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
            "more than 10,000 values, aliases counted each time they are used",
        ),
        (
            "a: [" + "1, " * 20_000 + "1]\n",
            "more than 10,000 values, aliases counted each time they are used",
        ),
        ("a: " + "[" * 900_000, "nested more than 50 levels deep"),
        ("- " * 400_000, "nested more than 50 levels deep"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000)),
            "nested more than 50 levels deep",
        ),
    ],
)
def test_a_bomb_is_refused_at_once(text: str, message: str) -> None:
    start = time.perf_counter()
    assert refusal(text).split(": ", 1)[1] == message
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


def file_refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_refused_with_the_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    keys = "name, model, data, stages, export, measure, gates, seed, device"
    assert file_refusal(file) == f"{file}: the file is empty; a recipe has the keys {keys}"


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("\n- a\n- b\n")
    keys = "name, model, data, stages, export, measure, gates, seed, device"
    assert file_refusal(file) == f"{file}:2: a recipe is a mapping with the keys {keys}; this is ['a', 'b']"


def test_a_syntax_error_has_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("model: {hf: a\ndata: 3\n")
    assert file_refusal(file).startswith(f"{file}:2: not YAML at column 5: expected ',' or '}}', but got ':'")


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"seed: 1\nname: caf\xe9\n")
    assert file_refusal(file) == f"{file}:2: not UTF-8 text; save the file as UTF-8"


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 1\r\nsead: 2\r\n")
    assert f"{file}:2: unknown key 'sead'; did you mean 'seed'?" in file_refusal(file)


def test_a_missing_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "prune-heads.yaml").write_text("")
    asked = tmp_path / "prune-head.yaml"
    nearest = tmp_path / "prune-heads.yaml"
    assert file_refusal(asked) == f"{asked}: no such file; did you mean '{nearest}'?"
    assert file_refusal(tmp_path / "none" / "x.yaml") == f"{tmp_path / 'none' / 'x.yaml'}: no such file"


def test_a_directory_is_refused_with_the_recipes_in_it(tmp_path: Path) -> None:
    assert file_refusal(tmp_path) == f"{tmp_path}: this is a directory; give a YAML file"
    (tmp_path / "a.yaml").write_text("")
    assert file_refusal(tmp_path) == f"{tmp_path}: this is a directory; give one of its recipes: a.yaml"


def test_a_file_below_a_file_or_with_too_long_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    inside = tmp_path / "a.yaml" / "x.yaml"
    assert file_refusal(inside) == f"{inside}: cannot be read: Not a directory"
    assert file_refusal(tmp_path / ("x" * 300)).endswith(": cannot be read: File name too long")


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in a folder")
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    assert "regular file; save the recipe to a file" in file_refusal(tmp_path / "x.yaml")
    assert "regular file; save the recipe to a file" in file_refusal(Path("/dev/zero"))


def test_a_stage_of_many_keys_does_not_quote_them_all(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"stages: [{{{', '.join(f'key{i}: 1' for i in range(3000))}}}]\n")
    assert "has the keys key0, key1" in file_refusal(tmp_path / "x.yaml")
    assert len(file_refusal(tmp_path / "x.yaml")) < 1000


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    with file.open("wb") as open_file:
        open_file.truncate(10**12)  # sparse: 1 TB that takes no space
    assert file_refusal(file) == f"{file}: more than 1,000,000 bytes; this is not a recipe"
