"""Recipes: YAML to a frozen Recipe, fully validated before any work starts. No torch import.

yaml_source: text to plain data with line numbers. overrides: changes from the command line. problems:
pydantic's errors as sentences. config: the Recipe model. load: the entry point.
"""

from __future__ import annotations

from compress.recipe.config import ExportConfig, MeasureConfig, Recipe
from compress.recipe.load import load_recipe, recipe_of_model

__all__ = ["ExportConfig", "MeasureConfig", "Recipe", "load_recipe", "recipe_of_model"]
