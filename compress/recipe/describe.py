"""The keys of a recipe's parts, from their classes: name, default, allowed values and meaning."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from compress.data.config import DataConfig, DataSource
from compress.recipe.config import Recipe
from compress.recipe.yaml_source import shown
from compress.registry import STAGES, stage_class

__all__ = ["Key", "about", "data_sources", "keys_of", "meanings_of", "part_named", "part_names"]

_ENTRY = re.compile(r"^    (\w[\w, ]*):(?: |$)(.*(?:\n {8,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Attributes:
        default: as YAML; empty: the key is required.
        allowed: the values of a choice; empty: any of its type.
        meaning: one sentence or more; may be empty.
    """

    name: str
    default: str
    allowed: tuple[str, ...]
    meaning: str


def data_sources() -> dict[str, type[DataSource]]:
    """All data sources by the name in `data.source`."""
    classes = get_args(get_args(DataConfig)[0])
    return {each.model_fields["source"].default: each for each in classes}


def part_names() -> tuple[str, ...]:
    """Names that `part_named` knows: stages, data sources, and sections of a recipe."""
    return (*STAGES, *data_sources(), *_sections())


def part_named(name: str) -> type[BaseModel]:
    """The class of a stage, data source or section.

    Raises:
        KeyError: there is none of that name.
    """
    if name in STAGES:
        return stage_class(name)
    return {**data_sources(), **_sections()}[name]


def _sections() -> dict[str, type[BaseModel]]:
    found = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {
        name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def about(part: type[BaseModel]) -> str:
    """First paragraph of a class's docstring, on one line."""
    return _in_yaml(" ".join((inspect.getdoc(part) or "").split("\n\n")[0].split()))


def keys_of(part: type[BaseModel]) -> list[Key]:
    """The keys of a part, in the order of its class; those it shares with others come last."""
    meanings = meanings_of(part)
    own = [name for name in part.model_fields if name in part.__dict__.get("__annotations__", {})]
    order = [*own, *(name for name in part.model_fields if name not in own)]
    if issubclass(part, DataSource):
        order.remove("source")  # it selects the class
    made = []
    for name in order:
        field = part.model_fields[name]
        default = "" if field.is_required() else _yaml(field.get_default(call_default_factory=True))
        made.append(Key(name, default, tuple(_choices(field.annotation)), _in_yaml(meanings.get(name, ""))))
    return made


def meanings_of(part: type[BaseModel]) -> dict[str, str]:
    """What each field means: its description, or its entry under "Attributes:" in the class or a base."""
    found: dict[str, str] = {}
    for kind in reversed(part.__mro__):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
        for entry in _ENTRY.finditer(re.split(r"\n\S", text)[0]):
            names = (name.strip() for name in entry[1].split(","))
            found |= dict.fromkeys(names, " ".join(entry[2].split()))
    return found | {name: field.description for name, field in part.model_fields.items() if field.description}


def _in_yaml(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text)


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) is Annotated or annotation is not None:
        for inner in get_args(annotation):
            if get_origin(inner) is not None:
                yield from _choices(inner)


def _yaml(value: Any) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return plain if isinstance(plain, str) and plain else shown(plain)
