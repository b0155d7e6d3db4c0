"""pydantic's errors in a recipe as problems: location, key, value, what is allowed, nearest name."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from compress.errors import Problem, did_you_mean, nearest_name, shortened
from compress.recipe.overrides import Source
from compress.recipe.yaml_source import KeyPath, shown

__all__ = ["check", "label", "problem_at"]

Model = TypeVar("Model", bound=BaseModel)

_MUST_BE = {
    "bool_type": "true or false",
    "dict_type": "a mapping of keys",
    "float_type": "a number",
    "int_type": "a whole number",
    "is_instance_of": "a path",  # the only class checked by isinstance, see compress/data/config.py
    "list_type": "a list",
    "model_attributes_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "path_type": "a path",
    "string_type": "text",
    "tuple_type": "a list",
}
_PAGES = {"stages": "reference/stages", "gates": "reference/gates"}
_OTHER_PAGE = "reference/recipe"


def problem_at(source: Source, path: KeyPath, text: str, *, whole: bool = False, **fields: Any) -> Problem:
    """Describe a problem with the value at `path`.

    Args:
        whole: the problem concerns a whole mapping, so an override inside it may be the cause.
        fields: further fields of `Problem`.
    """
    place = source.place(path, whole=whole)
    page = _PAGES.get(str(path[0]), _OTHER_PAGE) if path else _OTHER_PAGE
    return replace(place, text=text, **{"key": label(path), "see": page, **fields})


def check(
    model: type[Model], data: Any, source: Source, path: KeyPath, context: Mapping[str, Any]
) -> tuple[Model | None, list[Problem]]:
    """Build a model from plain data, strictly: neither text nor booleans count as numbers.

    Args:
        path: location of the data in the recipe.
        context: passed to the models' validators.
    """
    while True:
        try:
            return model.model_validate(data, strict=True, context=dict(context)), []
        except ValidationError as error:
            errors: Sequence[Mapping[str, Any]] = error.errors(include_url=False)
        # Strict pydantic requires tuples, which YAML does not have: convert lists where it asks for one.
        lists = [e for e in errors if e["type"] == "tuple_type" and isinstance(e["input"], list)]
        if not lists:
            return None, _problems(model, errors, source, path)
        for e in lists:
            data = _with(data, _place(model, e["loc"])[0], tuple(e["input"]))


def _with(data: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    if isinstance(data, dict):
        return {**data, path[0]: _with(data[path[0]], path[1:], value)}
    return type(data)(_with(item, path[1:], value) if i == path[0] else item for i, item in enumerate(data))


def _problems(
    model: type[BaseModel], errors: Sequence[Mapping[str, Any]], source: Source, base: KeyPath
) -> list[Problem]:
    found: list[Problem] = []
    keys: list[Problem] = []
    wanted: dict[KeyPath, list[str]] = {}  # each arm of a union reports what it expects of the same value
    values: dict[KeyPath, Any] = {}
    allowed: dict[KeyPath, tuple[str, ...]] = {}
    for error in errors:
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts only the valid entries here, and reports the invalid ones separately
        inner, models = _place(model, error["loc"])
        path = (*base, *inner)
        if error["type"] in ("missing", "union_tag_not_found", "extra_forbidden"):
            keys.append(_key_problem(error, path, models, source))
        elif error["type"] == "value_error" and isinstance(error["input"], dict):
            text = f"{label(path)}: {error['ctx']['error']}"
            found.append(problem_at(source, path, text, whole=True, value=error["input"]))
        else:
            value = error["input"]
            if error["type"] == "union_tag_invalid":
                path = (*path, error["ctx"]["discriminator"].strip("'"))
                value = value[path[-1]]
            values[path] = value
            allowed[path] = (*allowed.get(path, ()), *_options(error))
            wanted.setdefault(path, []).append(_wanted(error, value))
    misspelt = {(_holder(each), each.nearest) for each in keys if each.unknown_name}
    found += [each for each in keys if each.unknown_name or (_holder(each), _name(each)) not in misspelt]
    for path, texts in wanted.items():
        rest = "".join(f" or {text.removeprefix('it must be ')}" for text in texts[1:])
        value, options = values[path], allowed[path]
        near = nearest_name(value, options) if isinstance(value, str) else None
        hint = "" if near is None else f"; did you mean '{near}'?"
        text = f"{label(path)} is {shown(value)}; {texts[0]}{rest}{hint}"
        found.append(problem_at(source, path, text, value=value, allowed=options, nearest=near))
    return found


def _key_problem(
    error: Mapping[str, Any], path: KeyPath, models: list[type[BaseModel]], source: Source
) -> Problem:
    allowed: tuple[str, ...] = ()
    if error["type"] == "union_tag_not_found":
        path = (*path, error["ctx"]["discriminator"].strip("'"))
        arms = [arm for model in models for arm in _arms(model.model_fields[str(path[-2])].annotation)]
        allowed = tuple(arm.model_fields[path[-1]].default for arm in arms)
    name = str(path[-1])
    inside = f" in {label(path[:-1])}" if len(path) > 1 else ""
    if error["type"] != "extra_forbidden":
        hint = f"; it must be {_alternatives(allowed)}" if allowed else ""
        text = f"missing key '{shortened(name)}'{inside}{hint}"
        return problem_at(source, path[:-1], text, whole=True, key=label(path), allowed=allowed)
    allowed = tuple(sorted({name for model in models for name in model.model_fields}))
    hint = did_you_mean(name, allowed) if allowed else "; it has no keys"
    near = nearest_name(name, allowed)
    text = f"unknown key '{shortened(name)}'{inside}{hint}"
    return problem_at(source, path, text, allowed=allowed, nearest=near, unknown_name=True)


def _holder(problem: Problem) -> str:
    """The mapping that a key is in or missing from."""
    return (problem.key or "").rpartition(".")[0]


def _name(problem: Problem) -> str:
    return (problem.key or "").rpartition(".")[2]


def _options(error: Mapping[str, Any]) -> tuple[str, ...]:
    """The values that a choice allows."""
    context = error.get("ctx", {})
    return tuple(re.findall(r"'([^']*)'", context.get("expected_tags") or str(context.get("expected", ""))))


def _alternatives(options: Sequence[str]) -> str:
    *others, last = map(repr, options)
    return f"{', '.join(others)} or {last}" if others else last


def _wanted(error: Mapping[str, Any], value: Any) -> str:
    kind = error["type"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind in ("literal_error", "union_tag_invalid"):
        return f"it must be {_alternatives(_options(error)) if _options(error) else error['ctx']['expected']}"
    if kind in ("too_short", "string_too_short"):
        least = error["ctx"]["min_length"]
        return "it must not be empty" if least == 1 else f"it must have a length of at least {least}"
    if kind in ("int_type", "float_type") and isinstance(value, str) and re.search(r"\d", value):
        return f"it must be {_MUST_BE[kind]}, without quotes or underscores"
    if kind in _MUST_BE:
        return f"it must be {_MUST_BE[kind]}"
    text = re.sub("^Input should ", "it must ", str(error["msg"]))
    return text.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")


def label(path: KeyPath) -> str:
    """A path as messages show it: model.train, prune/heads.recovery, measure.batch[0]."""
    if path[:1] == ("stages",) and len(path) > 2:
        path = path[2:]
    parts = (f"[{part}]" if isinstance(part, int) else f".{shortened(part)}" for part in path)
    return "".join(parts).lstrip(".")


def _place(annotation: Any, loc: tuple[str | int, ...]) -> tuple[KeyPath, list[type[BaseModel]]]:
    """Path in the data of pydantic's `loc`, and the models that hold its last key.

    A `loc` also contains the arm of a union that was tried: ("data", "file", "train") is data.train.
    """
    arms = _arms(annotation)
    if len(arms) > 1 and loc:
        arms, loc = [arm for arm in arms if _is_arm(arm, loc[0])], loc[1:]
    models = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, BaseModel)]
    if len(loc) < 2:
        return loc, models
    inner: Any = None
    for arm in arms:
        if arm in models:
            held = arm.model_fields.get(loc[0])
            inner = held.annotation if held else inner
        elif get_args(arm):
            inner = get_args(arm)[-1 if get_origin(arm) is dict else 0]
    path, holders = _place(inner, loc[1:])
    return (loc[0], *path), holders


def _arms(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _arms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [arm for part in get_args(annotation) for arm in _arms(part) if arm is not type(None)]
    return [annotation]


def _is_arm(arm: Any, name: str | int) -> bool:
    if isinstance(arm, type) and issubclass(arm, BaseModel):
        return arm.__name__ == name or any(held.default == name for held in arm.model_fields.values())
    return True
