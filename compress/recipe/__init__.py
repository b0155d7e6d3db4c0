"""Recipes: YAML in, a frozen Recipe out, checked whole before any work starts. No torch here.

yaml_source: text -> plain data with lines. overrides: the command line's changes. problems: what pydantic
finds, as sentences. config: what a recipe is. load: all of it.
"""

from __future__ import annotations

from compress.recipe.config import ExportConfig, MeasureConfig, Recipe
from compress.recipe.load import load_recipe, recipe_of_model

__all__ = ["ExportConfig", "MeasureConfig", "Recipe", "load_recipe", "recipe_of_model"]
