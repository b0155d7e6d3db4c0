"""Commands on what recipes can contain: `list` and `show`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from compress.cli.common import echo, load_recipes
from compress.errors import Problem, RecipeError, UnknownNameError, did_you_mean, nearest_name, shortened
from compress.system.garbage import uncollected

if TYPE_CHECKING:
    from rich.table import Table

    from compress.recipe.describe import Key

__all__ = ["list_", "show"]

Rows = Iterator[tuple[str, str]]
Listed = Literal["stages", "tasks", "models", "data"]
_LISTS = get_args(Listed)


@uncollected()
def list_(
    what: Annotated[
        Listed | None,
        typer.Argument(metavar="WHAT", help="Omit it to list everything."),
    ] = None,
) -> None:
    """List the stages, tasks, models and data sources for recipes."""
    from compress.cli.console import console

    sections: dict[str, tuple[str, Callable[[], Rows]]] = {
        "stages": ("Stages, under stages: in a recipe (keys: modelpress show STAGE)", _stages),
        "tasks": ("Tasks, data.task in a recipe", _tasks),
        "models": ("Models, under model: in a recipe", _models),
        "data": ("Data sources, data.source in a recipe (keys: modelpress show SOURCE)", _data),
    }
    for i, (heading, rows) in enumerate(sections.values() if what is None else [sections[what]]):
        console.print(f"{chr(10) if i else ''}[bold cyan]{heading}[/]", highlight=False, soft_wrap=True)
        console.print(_table(rows()))


def show(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|PART|KEY=VALUE",
            help="A recipe and values that override its own, or one part of recipes: a stage, a data source, "
            "or model, export, measure or gates.",
        ),
    ],
    shapes: Annotated[
        bool,
        typer.Option("--shapes", help="Show the sizes of the model after each stage, without running any."),
    ] = False,
) -> None:
    """Show a recipe with all defaults, or the keys of a stage."""
    if len(words) == 1 and not shapes and _is_part(words[0]):
        _show_part(words[0])
        return
    recipes = load_recipes(words)
    if len(recipes) != 1:
        raise RecipeError(f"show takes one recipe; {len(recipes)} were given")
    if not shapes:
        echo(recipes[0].to_yaml(), nl=False, as_data=True)
        return
    from compress.cli.console import console, say
    from compress.pipeline import recipe_shapes
    from compress.report import shapes_note, shapes_table
    from compress.report.render.terminal import terminal_table

    found = recipe_shapes(recipes[0])
    console.print(terminal_table(shapes_table(found)))
    say(shapes_note(found), "dim", wrap=True)


def _is_part(word: str) -> bool:
    """Whether a word is meant as a part of recipes, not as a recipe's path."""
    from compress.recipe.describe import part_names

    path = Path(word)
    known = word in _LISTS or word in part_names()
    return not path.is_file() if known else not path.suffix and not path.exists()


def _show_part(name: str) -> None:
    if name in _LISTS:
        list_(cast(Listed, name))
        return
    from compress.cli.console import console, say
    from compress.recipe.describe import about, keys_of, part_named, part_names
    from compress.registry import STAGES, stage_class

    names = part_names()
    if name not in names:
        problem = Problem(
            f"no recipe, stage, data source or section '{shortened(name)}'{did_you_mean(name, names)}",
            value=name,
            allowed=names,
            nearest=nearest_name(name, names),
            unknown_name=True,
        )
        raise UnknownNameError(problem)
    part = part_named(name)
    keys = keys_of(part)
    say(name, "bold", f": {stage_class(name).summary if name in STAGES else about(part)}", wrap=True)
    say("")
    if not keys:
        say("It has no keys.")
    table = _table([(key.name, key.default or "required", _meaning(key)) for key in keys])
    console.print(table)
    page = "stages" if name in STAGES else "gates" if name == "gates" else "recipe"
    say(f"\nMore: modelpress docs reference/{page}", "dim")


def _meaning(key: Key) -> str:
    allowed = f"one of {', '.join(key.allowed)}" if key.allowed else ""
    return "; ".join(filter(None, (key.meaning.rstrip("."), allowed)))


def _table(rows: Sequence[Sequence[str]] | Rows) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for name, *others in rows:
        table.add_row(f"  [bold]{escape(name)}[/]", *map(escape, others))
    table.columns[0].no_wrap = True
    return table


def _stages() -> Rows:
    from compress.registry import stage_class, stage_names

    for name in stage_names():
        yield name, stage_class(name).summary


def _tasks() -> Rows:
    from compress.tasks import TASKS, task_class

    for name in TASKS:
        yield name, task_class(name).words.summary


def _models() -> Rows:
    from compress.model.structure.layouts import LAYOUTS
    from compress.recipe.starter import starter_folder
    from compress.tasks.registry import all_heads

    yield "hf: DIR or NAME", "a Hugging Face model, from a directory or the Hub, for one of these tasks:"
    for task, head in all_heads():
        kind = "" if head.problem_type is None else f" with problem_type {head.problem_type}"
        yield "", f"{task}, {head.modality}: ...{' or ...'.join(head.endings)}{kind}"
    yield "", f"can be pruned: {', '.join(sorted(LAYOUTS))}; others can be quantized, distilled and exported"
    yield "hf: FILE.gguf", "a language model of llama.cpp, converted to float weights"
    yield "bundle: DIR", "a model that modelpress wrote, to compress further"
    yield "file: FILE.py", "your own PyTorch module; examples, which `modelpress init` writes:"
    for path in sorted((starter_folder() / "models").glob("*.py")):
        yield "", f"models/{path.name}: {_first_line(path.read_text(encoding='utf-8'))}"


def _data() -> Rows:
    from compress.recipe.describe import about, data_sources

    for name, source in data_sources().items():
        yield name, about(source)


def _first_line(code: str) -> str:
    import ast

    return (ast.get_docstring(ast.parse(code)) or "").split("\n")[0]
