"""Commands on what can be said in a recipe: `list` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from compress.cli.common import load_recipes
from compress.errors import RecipeError

__all__ = ["list_", "show"]


def list_() -> None:
    """List the stages, models and tasks that a recipe can name, a line each."""
    from compress.console import console, listing

    console.print(listing())


def show(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE [KEY=VALUE...]", help="A recipe, and values that replace its own."),
    ],
) -> None:
    """Show a recipe as it would be run, with every default."""
    recipes = load_recipes(words)
    if len(recipes) != 1:
        raise RecipeError("show takes one recipe")
    typer.echo(recipes[0].to_yaml(), nl=False)
