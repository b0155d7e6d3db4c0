"""Commands on what recipes can contain: `list` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from compress.cli.common import echo, load_recipes
from compress.errors import RecipeError

__all__ = ["list_", "show"]


def list_() -> None:
    """List the stages, models and tasks that a recipe can name, a line each."""
    from compress.cli.console import console, listing

    console.print(listing())


def show(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE [KEY=VALUE...]", help="A recipe, and values that replace its own."),
    ],
    shapes: Annotated[
        bool,
        typer.Option("--shapes", help="Show the model and what each stage leaves of it; no work is done."),
    ] = False,
) -> None:
    """Show a recipe as it would be run, with every default; or the model and what each stage leaves of it."""
    recipes = load_recipes(words)
    if len(recipes) != 1:
        raise RecipeError("show takes one recipe")
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
