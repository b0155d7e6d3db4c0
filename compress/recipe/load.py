"""Load a recipe from a file or for a single model, with command-line overrides; report all problems at once.

Whether the files that a recipe names exist is not checked here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.data.config import DataSource
from compress.errors import Problem, RecipeError, UnknownNameError, nearest_name, shortened
from compress.model.files.config import ModelConfig
from compress.recipe.config import Recipe
from compress.recipe.overrides import Source, apply_override, spell_out_stages
from compress.recipe.problems import check, problem_at
from compress.recipe.yaml_source import parse_yaml, read_text, shown
from compress.registry import stage_class
from compress.stage import Stage

__all__ = ["load_recipe", "recipe_of_model"]

_KEYS = tuple(Recipe.model_fields)
_MOST_PROBLEMS = 20


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, need_stages: bool = True
) -> Recipe:
    """Read and validate a recipe.

    Args:
        overrides: `key.sub=value` with a YAML value, applied in order; a stage is addressed by index or name
            (`stages.0.sparsity=0.3`, `prune/heads.sparsity=0.3`). Paths in them are relative to the working
            directory.
        need_stages: reject a recipe without stages.

    Raises:
        RecipeError: lists all problems, one per line.
        UnknownNameError: the only problems are unknown names.
    """
    file = Path(path)
    context = {"base": file.absolute().parent, "path": file.absolute(), "overrides": tuple(overrides)}
    return _checked(_read(file), overrides, context, need_stages)


def recipe_of_model(
    model: ModelConfig, name: str, overrides: Sequence[str] = (), *, data: DataSource | None = None
) -> Recipe:
    """Make a recipe without stages for a model; the overrides give its data, as in `data.train=FILE`.

    Args:
        data: the data source to override; None: a text file whose path the overrides must give.

    Raises:
        RecipeError, UnknownNameError: as `load_recipe`.
    """
    if data is None and not any(override.startswith(("data.", "data=")) for override in overrides):
        raise RecipeError(
            f"{name}: this is a model without data; add the data as in a recipe: data.train=FILE "
            "data.validation=FILE, or data.source=digits",
            see="reference/recipe",
        )
    given = model.model_dump(mode="json", exclude_defaults=True)
    rows = {"source": "file"} if data is None else data.model_dump(mode="json")
    source = Source(name, {"name": name, "model": given, "data": rows}, {})
    return _checked(source, overrides, {"base": Path.cwd(), "overrides": tuple(overrides)}, False)


def _checked(
    source: Source, overrides: Sequence[str], context: Mapping[str, Any], need_stages: bool
) -> Recipe:
    for override in overrides:
        apply_override(source, override, _KEYS)
    try:
        stages, problems = _check_stages(source, context, need_stages)
        recipe, more = check(Recipe, {**source.data, "stages": tuple(stages)}, source, (), context)
    except (OSError, RuntimeError) as error:  # a path too long to look up, or an unknown home directory
        raise RecipeError(Problem(f"a path in it cannot be looked up: {error}", file=source.name)) from error
    if recipe is not None and not problems:
        more += _check_data(source, stages, recipe)
    _refuse([*problems, *more])
    assert recipe is not None
    return recipe


def _check_data(source: Source, stages: Sequence[Stage], recipe: Recipe) -> list[Problem]:
    reasons = [stage.data_objection(recipe.data) for stage in stages]
    return [
        problem_at(source, ("stages", i), f"{stage.name} {reason}", value=stage.name)
        for i, (stage, reason) in enumerate(zip(stages, reasons, strict=True))
        if reason is not None
    ]


def _read(file: Path) -> Source:
    place = Problem(file=str(file), allowed=_KEYS, see="reference/recipe")
    data, lines = parse_yaml(read_text(file), Problem(file=str(file)))
    keys = f"a recipe is a mapping with the keys {', '.join(_KEYS)}"
    if data is None:
        raise RecipeError(replace(place, text=f"the file is empty; {keys}"))
    if not isinstance(data, dict):
        raise RecipeError(replace(place, text=f"{keys}; this is {shown(data)}", line=lines[()], value=data))
    spell_out_stages(data)
    return Source(str(file), data, dict(lines))


def _check_stages(
    source: Source, context: Mapping[str, Any], need_stages: bool
) -> tuple[list[Stage], list[Problem]]:
    entries = source.data.get("stages")
    misspelt = [key for key in source.data if key not in _KEYS and nearest_name(key, _KEYS) == "stages"]
    if entries is None and misspelt:
        return [], []  # the unknown key is the problem, and is reported as such
    if entries is None or entries == []:
        text = (
            "stages is empty; a recipe needs at least one stage (to convert a model without compression, use "
            "modelpress export)"
        )
        return [], [problem_at(source, ("stages",), text)] if need_stages else []
    if not isinstance(entries, list):
        return [], [
            problem_at(
                source, ("stages",), f"stages is {shown(entries)}; it must be a list of stages", value=entries
            )
        ]
    stages: list[Stage] = []
    problems: list[Problem] = []
    for i, entry in enumerate(entries):
        made, found = _check_stage(source, i, entry, context)
        stages += made
        problems += found
    if not problems:
        for i, stage in enumerate(stages):
            reason = stage.objection(stages[:i])
            if reason is not None:
                text = f"{stage.name} cannot be stage {i + 1} of this recipe: {reason}"
                problems.append(problem_at(source, ("stages", i), text, value=stage.name))
    return stages, problems


def _check_stage(
    source: Source, i: int, entry: Any, context: Mapping[str, Any]
) -> tuple[list[Stage], list[Problem]]:
    if not isinstance(entry, dict) or len(entry) != 1:
        form = "a stage is a name, or one name with its settings indented below it"
        this = (
            f"has the keys {shortened(', '.join(entry))}"
            if isinstance(entry, dict) and entry
            else f"is {shown(entry)}"
        )
        return [], [problem_at(source, ("stages", i), f"{form}; this {this}", value=entry)]
    ((name, settings),) = entry.items()
    path = ("stages", i, name)
    try:
        kind = stage_class(name)
    except UnknownNameError as error:
        fields = {"value": name, "allowed": error.allowed, "nearest": error.nearest}
        return [], [problem_at(source, path, str(error), unknown_name=True, **fields)]
    stage, problems = check(kind, settings, source, path, context)
    return [] if stage is None else [stage], problems


def _refuse(problems: list[Problem]) -> None:
    if not problems:
        return
    # Overrides come last: they have no line.
    ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
    texts = list(dict.fromkeys(str(problem) for problem in ordered))
    if len(texts) > _MOST_PROBLEMS:
        texts[_MOST_PROBLEMS:] = [f"... and {len(texts) - _MOST_PROBLEMS} more problems"]
    kind = UnknownNameError if all(problem.unknown_name for problem in problems) else RecipeError
    raise kind("\n".join(texts), problems=ordered)
