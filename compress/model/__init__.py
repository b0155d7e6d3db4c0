"""Models: load, save, call, and the structure that can be cut.

Names are loaded when they are first used, so that reading a recipe's `model:` part doesn't import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.model.calls import accepted_inputs, logits, predict_logits, to_tensors
    from compress.model.config import ModelConfig
    from compress.model.cut import keep_units_
    from compress.model.definition import Definition, definition_of
    from compress.model.load import LoadedModel, load_model
    from compress.model.removed import Removed
    from compress.model.save import load_module, save_module
    from compress.model.structure import Site, Structure, known_architectures, structure_of

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
    "calls": ("accepted_inputs", "logits", "predict_logits", "to_tensors"),
    "config": ("ModelConfig",),
    "cut": ("keep_units_",),
    "definition": ("Definition", "definition_of"),
    "load": ("LoadedModel", "load_model"),
    "removed": ("Removed",),
    "save": ("load_module", "save_module"),
    "structure": ("Site", "Structure", "known_architectures", "structure_of"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"compress.model.{home}"), name)
    raise AttributeError(f"module 'compress.model' has no attribute '{name}'")
