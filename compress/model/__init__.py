"""Models: load, save and call them, and find the structure that can be cut.

Names are imported on first use, so that reading a recipe's `model:` section doesn't import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.model.cutting.units import keep_units_
    from compress.model.files.config import ModelConfig
    from compress.model.files.definition import Definition, definition_of
    from compress.model.files.load import LoadedModel, load_model
    from compress.model.files.save import load_module, save_module
    from compress.model.forward import accepted_inputs, logits, predict_logits, to_tensors
    from compress.model.layers.removed import Removed
    from compress.model.structure.find import known_architectures, structure_of
    from compress.model.structure.sites import Site, Structure

__all__ = [
    "Definition",
    "LoadedModel",
    "ModelConfig",
    "Removed",
    "Site",
    "Structure",
    "accepted_inputs",
    "definition_of",
    "keep_units_",
    "known_architectures",
    "load_model",
    "load_module",
    "logits",
    "predict_logits",
    "save_module",
    "structure_of",
    "to_tensors",
]

_HOMES = {
    "forward": ("accepted_inputs", "logits", "predict_logits", "to_tensors"),
    "files.config": ("ModelConfig",),
    "cutting.units": ("keep_units_",),
    "files.definition": ("Definition", "definition_of"),
    "files.load": ("LoadedModel", "load_model"),
    "layers.removed": ("Removed",),
    "files.save": ("load_module", "save_module"),
    "structure.find": ("known_architectures", "structure_of"),
    "structure.sites": ("Site", "Structure"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"compress.model.{home}"), name)
    raise AttributeError(f"module 'compress.model' has no attribute '{name}'")
