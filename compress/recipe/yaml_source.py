"""YAML text to plain data, with the line of every key.

Scalars follow YAML 1.2's core schema, not PyYAML's 1.1: `5e-5` is a number, `010` is ten;
`no`, `on`, `1_000`, dates and `1:30` are text.
Rejected: duplicate keys, tags, merge keys, NaN and infinity, and aliases that expand too far.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from compress.errors import Problem, RecipeError, did_you_mean, nearest_name, shortened
from compress.system.files import read_regular

__all__ = ["KeyPath", "dump_yaml", "parse_yaml", "read_text", "shown"]

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
MAX_DEPTH = 50
_SHOWN = 5  # recipes in a message
_LOOKED_AT = 1000

_RULES = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_TAG = "tag:yaml.org,2002:"


class _Refused(Exception):
    def __init__(self, text: str, line: int, key: str | None = None) -> None:
        super().__init__(text)
        self.text, self.line, self.key = text, line, key


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._values += 1
        self._depth += 1
        _bound(self._values, self._depth, self.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # The extra line breaks of YAML 1.1 are lost outside double quotes.
    style = '"' if re.search("[\\x85\\u2028\\u2029]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _text_node)
for _name, _rule in _RULES.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_rule})$"), None)
    # In addition to PyYAML's rules: quote text that YAML 1.1 or 1.2 would read as another type.
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_rule})$"), None)


def _bound(values: int, depth: int, line: int) -> None:
    if values > MAX_VALUES:
        raise _Refused(f"more than {MAX_VALUES:,} values (an alias counts at each use)", line)
    if depth > MAX_DEPTH:
        raise _Refused(f"nested more than {MAX_DEPTH} levels deep", line)


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    if len(text) > 40 or abs(value := int(text, base)) >= 2**63:  # int() rejects text over 4,300 digits
        raise OverflowError("it must be between -2^63 and 2^63")
    return value


def _float(text: str) -> float:
    value = float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1:].isalpha() else text)
    if not math.isfinite(value):
        raise OverflowError("it must be finite")
    return value


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": lambda text: _float(text.lower()),
    "str": str,
}


@dataclass
class _Builder:
    """Builds plain data from YAML nodes; every use of an alias is a separate copy."""

    text: Callable[[str], str]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    values: int = 0

    def build(self, node: yaml.Node, path: KeyPath, around: tuple[yaml.Node, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.values += 1
        if any(node is outer for outer in around):
            raise _Refused("an alias (*name) is inside the value that it names", line)
        _bound(self.values, len(around) + 1, line)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, (*around, node))
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, i), (*around, node)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        raise _Refused(
            f"the YAML tag {shortened(node.tag.replace(_TAG, '!!'))} is not allowed; write plain values", line
        )

    def _mapping(
        self, node: yaml.MappingNode, path: KeyPath, around: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        made: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node, line) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise _Refused("a key must be text; put quotes around numbers and the like", line)
            if key == "<<":
                raise _Refused(
                    "merge keys (<<) are not supported; use an alias (*name) for a whole value", line
                )
            if key in made:
                raise _Refused(
                    f"duplicate key '{shortened(key)}', first used on line {first[key]}", line, key
                )
            first[key] = line
            self.lines[(*path, key)] = line
            made[key] = self.build(value_node, (*path, key), around)
        return made

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        read = _SCALARS.get(node.tag.removeprefix(_TAG))
        if read is None:
            tag = shortened(node.tag.replace(_TAG, "!!"))
            raise _Refused(f"the YAML tag {tag} is not allowed; write plain values", line)
        try:
            value = read(node.value)
        except OverflowError as error:
            short = shown(node.value)
            raise _Refused(f"{short} is outside the range of numbers in a recipe; {error}", line) from None
        except (KeyError, ValueError):
            tag = node.tag.removeprefix(_TAG)
            raise _Refused(f"{shown(node.value)} cannot be read as !!{tag}", line) from None
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _Refused(f"{shown(value)} contains half a character (a lone surrogate)", line)
        return self.text(value) if isinstance(value, str) else value


def shown(value: Any) -> str:
    """Format a value for a message as YAML would write it, on one line and shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(str(value) if isinstance(value, str) else list(value) if isinstance(value, tuple) else value)
    return shortened(text)


def read_text(path: Path) -> str:
    """Read a recipe's text.

    Raises:
        RecipeError: the file does not exist, is not a regular file, is over 1 MB, or is not UTF-8.
    """

    def refusal(text: str, nearest: str | None = None, line: int | None = None) -> RecipeError:
        return RecipeError(Problem(text, file=str(path), line=line, nearest=nearest))

    try:
        raw = read_regular(path, most_bytes=MAX_BYTES + 1)
    except FileNotFoundError:
        others = [str(other) for other in _recipes_in(path.parent)]
        init = "; `modelpress init DIR` writes the example recipes" if "recipes" in path.parts else ""
        hint = did_you_mean(str(path), others) if others else init
        raise refusal(f"no such file{hint}", nearest_name(str(path), others)) from None
    except IsADirectoryError:
        inside = [
            other.relative_to(path).as_posix()
            for other in (*_recipes_in(path), *_recipes_in(path, deep=True))
        ]
        more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
        hint = f"one of its recipes: {', '.join(inside[:_SHOWN])}{more}" if inside else "a YAML file"
        raise refusal(f"this is a directory; give {hint}") from None
    except OSError as error:
        hint = "; save the recipe to a file" if error.errno == errno.EINVAL else ""
        raise refusal(f"cannot be read: {error.strerror or error}{hint}") from error
    if len(raw) > MAX_BYTES:
        raise refusal(f"larger than {MAX_BYTES:,} bytes; this is not a recipe")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise refusal("not UTF-8 text; save the file as UTF-8", line=line) from None


def _recipes_in(directory: Path, *, deep: bool = False) -> list[Path]:
    if not directory.is_dir():
        return []
    found = directory.glob("*/*.y*ml" if deep else "*.y*ml")
    return sorted(islice((other for other in found if other.suffix in (".yaml", ".yml")), _LOOKED_AT))


def parse_yaml(
    text: str, place: Problem, make_text: Callable[[str], str] = str
) -> tuple[Any, dict[KeyPath, int]]:
    """Parse one YAML document.

    Args:
        place: where the text is from; lines are reported if it is a file.
        make_text: converts text values.

    Returns:
        The value, and the line of each key and list entry in it.

    Raises:
        RecipeError: invalid YAML, or YAML that is not allowed in a recipe.
    """

    def refusal(text: str, line: int, key: str | None = None) -> RecipeError:
        return RecipeError(replace(place, text=text, key=key, line=line if place.file else None))

    builder = _Builder(make_text)
    try:
        node = _Loader(text).get_single_node()
        value = None if node is None else builder.build(node, (), ())
    except _Refused as refused:
        raise refusal(refused.text, refused.line, refused.key) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise refusal(
            f"not valid YAML: the character {chr(error.character)!r} is not allowed", line
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = f"{error.problem} ({error.context})" if error.context else str(error.problem)
        hint = "; indent with spaces, not with tabs" if r"'\t'" in problem else ""
        if error.problem == "mapping values are not allowed here":
            hint = "; if the value contains ': ', put quotes around it"
        raise refusal(f"not valid YAML at column {column}: {problem}{hint}", line) from None
    return value, builder.lines


def dump_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML that `parse_yaml` reads back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
