"""Run recipes, export models that are not compressed, and inspect models."""

from compress.pipeline.export import export_model
from compress.pipeline.inspect import inspect_model, inspection_recipe
from compress.pipeline.prepare import Prepared, check_can_be_made, check_files, prepare
from compress.pipeline.run import Outcome, run

__all__ = [
    "Outcome",
    "Prepared",
    "check_can_be_made",
    "check_files",
    "export_model",
    "inspect_model",
    "inspection_recipe",
    "prepare",
    "run",
]
