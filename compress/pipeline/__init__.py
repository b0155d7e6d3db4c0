"""Run recipes, check bundles, export models without compression, inspect models, and bundle variants."""

from compress.pipeline.bundles.check import check_bundle
from compress.pipeline.bundles.export import export_model
from compress.pipeline.bundles.variants import bundle_variants
from compress.pipeline.inspection.inspect import inspect_model, inspection_recipe
from compress.pipeline.output import check_can_be_made
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.requirements import check_files
from compress.pipeline.run import Outcome, outcome_of, run
from compress.pipeline.shapes import recipe_shapes

__all__ = [
    "Outcome",
    "Run",
    "bundle_variants",
    "check_bundle",
    "check_can_be_made",
    "check_files",
    "export_model",
    "inspect_model",
    "inspection_recipe",
    "outcome_of",
    "prepare",
    "recipe_shapes",
    "run",
]
