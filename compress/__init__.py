"""modelpress: compression recipes in, verified ONNX bundles and honest reports out.

    import compress

    outcome = compress.run("recipes/digits/prune-heads.yaml")
    print(outcome.report.measurement.difference)

Names are imported on first use, so importing this package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compress.version import __version__ as __version__

if TYPE_CHECKING:
    from compress.data import from_arrays, load_splits
    from compress.deploy.variants import load_variant
    from compress.distill.logits import LogitsDistillation
    from compress.distill.stage import StudentDistillation
    from compress.errors import CompressError
    from compress.export import export_onnx
    from compress.model.files.load import load
    from compress.pipeline.bundles.export import export_model
    from compress.pipeline.bundles.variants import bundle_variants
    from compress.pipeline.run import run
    from compress.prune.embeddings import EmbeddingFactorization
    from compress.prune.heads import HeadPruning
    from compress.prune.layers import LayerPruning
    from compress.prune.magnitude import MagnitudePruning
    from compress.prune.structured.stage import StructuredPruning
    from compress.prune.vocabulary import VocabularyPruning
    from compress.prune.width import WidthPruning
    from compress.quantize.float16 import Float16
    from compress.quantize.int8_dynamic import Int8Dynamic
    from compress.quantize.int8_static import Int8Static
    from compress.quantize.qat import QatConfig
    from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
    from compress.recipe import Recipe, load_recipe
    from compress.recovery import RecoveryConfig
    from compress.report import RunReport, compare_reports, load_report
    from compress.stage import Context, Stage, StageResult
    from compress.train import fit_
    from compress.train_config import TrainConfig


_HOMES = {
    "data": ("from_arrays", "load_splits"),
    "distill.logits": ("LogitsDistillation",),
    "distill.stage": ("StudentDistillation",),
    "errors": ("CompressError",),
    "export": ("export_onnx",),
    "deploy.variants": ("load_variant",),
    "model.files.load": ("load",),
    "pipeline": ("bundle_variants", "export_model", "run"),
    "prune.embeddings": ("EmbeddingFactorization",),
    "prune.heads": ("HeadPruning",),
    "prune.layers": ("LayerPruning",),
    "prune.magnitude": ("MagnitudePruning",),
    "prune.structured.stage": ("StructuredPruning",),
    "prune.vocabulary": ("VocabularyPruning",),
    "prune.width": ("WidthPruning",),
    "quantize.float16": ("Float16",),
    "quantize.int8_dynamic": ("Int8Dynamic",),
    "quantize.int8_static": ("Int8Static",),
    "quantize.qat": ("QatConfig",),
    "quantize.weight_only": ("Int4WeightOnly", "Int8WeightOnly"),
    "recipe": ("Recipe", "load_recipe"),
    "recovery": ("RecoveryConfig",),
    "report": ("RunReport", "compare_reports", "load_report"),
    "stage": ("Context", "Stage", "StageResult"),
    "train": ("fit_",),
    "train_config": ("TrainConfig",),
}

__all__ = [
    "CompressError",
    "Context",
    "EmbeddingFactorization",
    "Float16",
    "HeadPruning",
    "Int4WeightOnly",
    "Int8Dynamic",
    "Int8Static",
    "Int8WeightOnly",
    "LayerPruning",
    "LogitsDistillation",
    "MagnitudePruning",
    "QatConfig",
    "Recipe",
    "RecoveryConfig",
    "RunReport",
    "Stage",
    "StageResult",
    "StructuredPruning",
    "StudentDistillation",
    "TrainConfig",
    "VocabularyPruning",
    "WidthPruning",
    "bundle_variants",
    "compare_reports",
    "export_model",
    "export_onnx",
    "fit_",
    "from_arrays",
    "load",
    "load_recipe",
    "load_report",
    "load_splits",
    "load_variant",
    "run",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"compress.{home}"), name)
    raise AttributeError(f"module 'compress' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
