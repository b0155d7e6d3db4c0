"""A recipe's plain data with the origin of each value, and overrides from the command line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from compress.data.config import CommandLineText
from compress.errors import Problem, RecipeError, UnknownNameError, did_you_mean, nearest_name, shortened
from compress.recipe.yaml_source import MAX_DEPTH, KeyPath, parse_yaml, shown

__all__ = ["Source", "apply_override", "spell_out_stages"]


@dataclass
class Source:
    """A recipe's plain data, and the origin of each value.

    Attributes:
        origins: path -> line of the file, or the override that set it; missing paths inherit their parent's.
    """

    name: str
    data: dict[str, Any]
    origins: dict[KeyPath, int | str]

    def origin(self, path: KeyPath) -> int | str:
        """The line or override that a value came from; that of its nearest parent if it is not there."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, 1)

    def overrides_in(self, path: KeyPath) -> list[str]:
        """The overrides that set something inside the value at `path`."""
        inside = (o for at, o in self.origins.items() if isinstance(o, str) and at[: len(path)] == path)
        return list(dict.fromkeys(inside))

    def place(self, path: KeyPath, *, whole: bool = False) -> Problem:
        """Where the value at `path` is from, as a problem without a text.

        Args:
            whole: the problem concerns a whole mapping, so overrides inside it may be the cause.
        """
        origin = self.origin(path)
        if isinstance(origin, str):
            return Problem(overrides=(origin,))
        return Problem(file=self.name, line=origin, overrides=tuple(self.overrides_in(path)) if whole else ())

    def set(self, path: KeyPath, value: Any, override: str) -> None:
        """Store an override's value at `path`, creating missing mappings on the way.

        Raises:
            RecipeError: the path enters a value that is neither a mapping nor a list, or exceeds a list.
        """
        holder: Any = self.data
        for depth, key in enumerate(path):
            last = depth == len(path) - 1
            at = path[: depth + 1]
            if isinstance(holder, list):
                if not isinstance(key, int) or key >= len(holder):
                    indices = f"use an index from 0 to {len(holder) - 1}" if holder else "the list is empty"
                    raise _refused(
                        override, path[:depth], f"has no entry {shown(str(key))}; {indices}", list(holder)
                    )
            elif not isinstance(holder, dict):
                raise _refused(override, path[:depth], f"is {shown(holder)}, which has no keys", holder)
            if last or (isinstance(holder, dict) and holder.get(str(key)) is None):
                self.origins = {old: o for old, o in self.origins.items() if old[: len(at)] != at}
                self.origins[at] = override
                holder[key] = value if last else {}
            holder = holder[key]


def _refused(override: str, path: KeyPath, text: str, value: Any = None) -> RecipeError:
    key = ".".join(map(str, path))
    return RecipeError(Problem(f"{shortened(key)} {text}", overrides=(override,), key=key, value=value))


def spell_out_stages(data: dict[str, Any]) -> None:
    """Give each stage that is a bare name empty settings, in place: `x` -> `{x: {}}`."""
    stages = data.get("stages")
    if not isinstance(stages, list):
        return
    for i, entry in enumerate(stages):
        if isinstance(entry, str):
            stages[i] = {entry: {}}
        elif isinstance(entry, dict) and list(entry.values()) == [None]:
            stages[i] = dict.fromkeys(entry, {})


def apply_override(source: Source, override: str, keys: Iterable[str]) -> None:
    """Change a recipe by `key.sub=value`.

    Args:
        keys: the allowed top-level keys.

    Raises:
        RecipeError: wrong form, invalid YAML value, or unknown path.
    """
    key, equals, text = override.partition("=")
    place = Problem(overrides=(override,))
    if not equals or not all(key.strip().split(".")):
        raise RecipeError(
            replace(place, text="write an override as key=value or key.sub=value, for example seed=1")
        )
    if key.count(".") > MAX_DEPTH:
        raise RecipeError(replace(place, text=f"more than {MAX_DEPTH} dots in the key; no key is that deep"))
    value, lines = parse_yaml(text, place, CommandLineText)
    if not lines:
        hint = f"to remove a value, write {shortened(key.strip())}=null"
        raise RecipeError(replace(place, text=f"the value is missing; {hint}", key=key.strip()))
    source.set(_key_path(source.data, key.strip(), place, keys), value, override)
    spell_out_stages(source.data)


def _key_path(data: dict[str, Any], key: str, place: Problem, keys: Iterable[str]) -> KeyPath:
    stages = data.get("stages")
    entries = stages if isinstance(stages, list) else []
    names = [next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else "" for entry in entries]
    for name in filter(None, names):
        if key == name or key.startswith(f"{name}."):
            if names.count(name) > 1:
                places = tuple(f"stages.{i}" for i, other in enumerate(names) if other == name)
                text = f"the recipe has {len(places)} stages '{name}'; write {' or '.join(places)} instead"
                raise RecipeError(replace(place, text=text, key=key, value=name, allowed=places))
            path = ["stages", str(names.index(name)), name]
            return _with_indices(data, [*path, *filter(None, key[len(name) + 1 :].split("."))])
    first, *_ = parts = key.split(".")
    if first not in keys:
        allowed = sorted({*keys, *filter(None, names)})
        problem = replace(
            place,
            text=f"unknown key '{shortened(first)}'{did_you_mean(first, allowed)}",
            key=first,
            allowed=tuple(allowed),
            nearest=nearest_name(first, allowed),
            unknown_name=True,
            see="reference/recipe",
        )
        raise UnknownNameError(problem)
    if first == "stages" and len(parts) > 2 and parts[1].isdecimal() and int(parts[1]) < len(names):
        name = names[int(parts[1])]
        if name and parts[2] != name:
            parts.insert(2, name)
    return _with_indices(data, parts)


def _with_indices(data: Any, parts: list[str]) -> KeyPath:
    path: list[str | int] = []
    holder = data
    for part in parts:
        if isinstance(holder, list) and part.isdecimal():
            index = int(part)
            path.append(index)
            holder = holder[index] if index < len(holder) else None
        else:
            path.append(part)
            holder = holder.get(part) if isinstance(holder, dict) else None
    return tuple(path)
