"""Run recipes, and export models that are not compressed."""

from compress.pipeline.export import export_model
from compress.pipeline.prepare import Prepared, prepare
from compress.pipeline.run import Outcome, run

__all__ = ["Outcome", "Prepared", "export_model", "prepare", "run"]
