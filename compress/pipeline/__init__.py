"""Run recipes, and export models that are not compressed."""

from compress.pipeline.export import export_model
from compress.pipeline.prepare import Prepared, check_files, prepare
from compress.pipeline.run import Outcome, run

__all__ = ["Outcome", "Prepared", "check_files", "export_model", "prepare", "run"]
