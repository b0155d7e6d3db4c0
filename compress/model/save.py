"""Save and load a module whose shapes are no longer those of its definition.

Three files: model.safetensors (weights), structure.json (definition, and each Linear or Embedding whose shape
or kind differs from it), and definition.py for a file model. Weights load without running code; a model file
is code, and loading a bundle of a file model runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import nn

from compress.errors import ModelError, OutputError
from compress.model.definition import Definition, definition_of
from compress.model.quantized import QUANTIZED_KINDS

__all__ = ["load_module", "save_module"]

_FORMAT = 1
_WEIGHTS, _STRUCTURE, _CODE = "model.safetensors", "structure.json", "definition.py"


def save_module(module: nn.Module, directory: Path) -> None:
    """Write a module that has a definition into an existing directory.

    Raises:
        ModelError: we did not build it, or it was changed in a way that can't be written down.
        OutputError: the weights can't be written.
    """
    definition = definition_of(module)
    if definition is None:
        raise ModelError(
            f"{type(module).__name__} was not built by modelpress, so it can't be saved to be loaded again; "
            "load it by a model file and builder"
        )
    structure = {
        "format": _FORMAT,
        "definition": definition.to_dict(),
        "modules": _changed_modules(definition.build(), module),
    }
    (directory / _STRUCTURE).write_text(json.dumps(structure, indent=1) + "\n", encoding="utf-8")
    if definition.kind == "file":
        (directory / _CODE).write_text(definition.code, encoding="utf-8")
    try:
        save_model(module, str(directory / _WEIGHTS))
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OutputError(f"cannot write {directory / _WEIGHTS}: {error}") from error


def load_module(directory: Path) -> nn.Module:
    """Build the module again and load its weights; it is in evaluation mode, on the CPU.

    Raises:
        ModelError: a file is missing or corrupt, or the weights don't fit.
    """
    structure = _read_structure(directory / _STRUCTURE)
    definition = _read_definition(structure["definition"], directory)
    module = definition.build()
    for path, changed in structure["modules"].items():
        module.set_submodule(path, _build_changed(changed))
    load_weights_(module, directory / _WEIGHTS)
    return module.eval()


def load_weights_(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module, all of it and nothing else.

    Raises:
        ModelError: the file is missing or corrupt, or names and shapes don't fit.
    """
    try:
        state = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights {path}: {error}; is the file whole?") from error
    own = module.state_dict()
    # safetensors keeps one copy of tensors that share memory; the names that were left out get it by sharing.
    pointers = {own[name].data_ptr() for name in state if name in own}
    missing = [name for name in own if name not in state and own[name].data_ptr() not in pointers]
    wrong = [name for name in state if name not in own or own[name].shape != state[name].shape]
    if missing or wrong:
        raise ModelError(
            f"{path} does not fit the model: missing {missing[:3]}, unknown or misshapen {wrong[:3]}"
        )
    module.load_state_dict(state, strict=False)


def _changed_modules(fresh: nn.Module, module: nn.Module) -> dict[str, dict[str, Any]]:
    kinds = {cls: kind for kind, cls in QUANTIZED_KINDS.items()}
    originals = dict(fresh.named_modules())
    changed: dict[str, dict[str, Any]] = {}
    for path, child in module.named_modules():
        if type(child) in kinds:
            changed[path] = {"kind": kinds[type(child)], **child.config()}
        elif isinstance(child, nn.Linear):
            original = originals.get(path)
            if not isinstance(original, nn.Linear) or original.weight.shape != child.weight.shape:
                changed[path] = {
                    "kind": "linear",
                    "in_features": child.in_features,
                    "out_features": child.out_features,
                    "bias": child.bias is not None,
                }
    return changed


def _build_changed(changed: dict[str, Any]) -> nn.Module:
    arguments = dict(changed)
    kind = arguments.pop("kind")
    if kind == "linear":
        return nn.Linear(**arguments)
    if kind not in QUANTIZED_KINDS:
        raise ModelError(f"structure.json names a module kind '{kind}' that this version does not know")
    built: nn.Module = QUANTIZED_KINDS[kind](**arguments)
    return built


def _read_structure(path: Path) -> dict[str, Any]:
    try:
        structure: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if structure.get("format") != _FORMAT:
        raise ModelError(f"{path} has format {structure.get('format')}; this version reads format {_FORMAT}")
    return structure


def _read_definition(stored: dict[str, Any], directory: Path) -> Definition:
    if stored["kind"] == "hf":
        return Definition("hf", stored["args"])
    read = Definition.from_file(directory / _CODE, stored["builder"], stored["args"])
    return Definition("file", read.args, builder=read.builder, code=read.code, file_name=stored["file_name"])
