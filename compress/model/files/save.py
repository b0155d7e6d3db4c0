"""Save and load a module whose shapes differ from its definition.

Three files: model.safetensors (weights), structure.json (definition, and each module of another shape or
kind, buffer of another shape and separate parameter of another shape), and definition.py for a file model.
Weights load without running code; a model file is code, and loading a bundle of a file model runs it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import nn

from compress.errors import CompressError, ModelError, OutputError, shortened
from compress.model.files.computed_weights import computed_weights
from compress.model.files.definition import Definition, definition_of
from compress.model.layers.embedding import FactorizedEmbedding
from compress.model.layers.kinds import QUANTIZED_KINDS
from compress.model.layers.multihead import opened_weights
from compress.model.layers.removed import Removed
from compress.system.disk import bytes_text, free_bytes
from compress.system.files import read_json
from compress.tasks.registry import FIRST_HEAD

__all__ = ["load_module", "module_fingerprint", "save_module"]

_FORMAT = 1
_TORCH: dict[str, Any] = {
    "linear": nn.Linear,
    "embedding": nn.Embedding,
    "layer_norm": nn.LayerNorm,
    "rms_norm": nn.RMSNorm,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "batch_norm1d": nn.BatchNorm1d,
    "batch_norm2d": nn.BatchNorm2d,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
# Constructor arguments by kind, except bias; each is also the name of an attribute.
_BUILT_WITH: dict[str, tuple[str, ...]] = {
    "linear": ("in_features", "out_features"),
    "embedding": ("num_embeddings", "embedding_dim", "padding_idx"),
    "layer_norm": ("normalized_shape", "eps", "elementwise_affine"),
    "rms_norm": ("normalized_shape", "eps", "elementwise_affine"),
    "batch_norm1d": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "lstm": ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"),
}
_BUILT_WITH["conv1d"] = _BUILT_WITH["conv2d"] = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "padding_mode",
)
_BUILT_WITH["batch_norm2d"] = _BUILT_WITH["batch_norm1d"]
_BUILT_WITH["gru"] = _BUILT_WITH["lstm"]
_HAVE_BIAS = ("linear", "layer_norm", "conv1d", "conv2d")
_OWN: dict[str, Any] = {**QUANTIZED_KINDS, "removed": Removed, "factorized_embedding": FactorizedEmbedding}
_OWN_KINDS = tuple(_OWN.values())
_WEIGHTS, _STRUCTURE, _CODE = "model.safetensors", "structure.json", "definition.py"


def save_module(module: nn.Module, directory: Path) -> None:
    """Write a module that has a definition into an existing directory.

    Raises:
        ModelError: modelpress did not build it, or it was changed in a way that can't be described.
        OutputError: the weights can't be written.
    """
    definition = definition_of(module)
    if definition is None:
        raise ModelError(
            f"{type(module).__name__} was not built by modelpress, so it can't be saved for loading; load "
            "it with model.file and model.builder"
        )
    plain = not computed_weights(module)
    fresh = definition.build(plain=plain)
    changed = _changed_modules(fresh, module)
    structure = {
        "format": _FORMAT,
        "definition": definition.to_dict(),
        "plain": plain,
        "modules": changed,
        "buffers": _changed_buffers(fresh, module, changed),
        "parameters": _changed_parameters(fresh, module, changed),
        "shared": _shared(module),
        "tied": _tied(module),
    }
    (directory / _STRUCTURE).write_text(json.dumps(structure, indent=1) + "\n", encoding="utf-8")
    if definition.kind == "file":
        (directory / _CODE).write_text(definition.code, encoding="utf-8")
    try:
        save_model(module, str(directory / _WEIGHTS))
    except SafetensorError as error:  # what safetensors raises on a full disk
        free = bytes_text(free_bytes(directory))
        failed = OutputError(f"cannot write {directory / _WEIGHTS}: {error} ({free} free on its file system)")
        failed.exit_code = 1  # the input was valid
        raise failed from error


def load_module(directory: Path) -> nn.Module:
    """Rebuild the module and load its weights; it is in eval mode, on the CPU.

    Raises:
        ModelError: a file is missing or corrupt, or the weights don't fit.
    """
    structure = _read_structure(directory / _STRUCTURE)
    try:
        module = _built(structure, directory)
    except CompressError:
        raise
    except Exception as error:  # missing keys, wrong types and wrong shapes share no class
        raise ModelError(
            f"{directory / _STRUCTURE} does not describe a module ({type(error).__name__}: "
            f"{shortened(str(error), 200)}); the file may be damaged"
        ) from error
    load_weights_(module, directory / _WEIGHTS)
    return module.eval()


def _built(structure: dict[str, Any], directory: Path) -> nn.Module:
    """The module that a structure describes, without loaded weights."""
    definition = _read_definition(structure["definition"], directory)
    module = definition.build(plain=structure.get("plain", False))  # older bundles kept computed weights
    for path, changed in structure["modules"].items():
        module.set_submodule(path, _build_changed(changed))
    for path, first in structure.get("shared", {}).items():  # a rebuilt module is in one place only
        module.set_submodule(path, module.get_submodule(first))
    for path, buffer in structure.get("buffers", {}).items():
        holder, _, name = path.rpartition(".")
        empty = torch.empty(buffer["shape"], dtype=getattr(torch, buffer["dtype"]))
        module.get_submodule(holder).register_buffer(name, empty, persistent=True)
    for path, shape in structure.get("parameters", {}).items():
        holder, _, name = path.rpartition(".")
        owner = module.get_submodule(holder)
        setattr(owner, name, nn.Parameter(torch.empty(shape)))
        if isinstance(owner, nn.LayerNorm):  # of a class of its own, such as ConvNeXt's
            owner.normalized_shape = tuple(shape)
    for path, first in structure.get("tied", {}).items():  # rebuilt modules don't share parameters
        holder, _, name = path.rpartition(".")
        setattr(module.get_submodule(holder), name, module.get_parameter(first))
    return module


def load_weights_(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module; the names must match exactly.

    Raises:
        ModelError: the file is missing or corrupt, or names and shapes don't fit.
    """
    try:
        state = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights {path} ({error}); the file may be damaged") from error
    own, state = module.state_dict(), opened_weights(module, state)
    # safetensors stores tensors that share memory once; the omitted names are filled by sharing.
    pointers = {own[name].data_ptr() for name in state if name in own}
    missing = [name for name in own if name not in state and own[name].data_ptr() not in pointers]
    wrong = [name for name in state if name not in own or own[name].shape != state[name].shape]
    if missing or wrong:
        raise ModelError(
            f"{path} does not match the model: missing {missing[:3]}, unknown or of another shape {wrong[:3]}"
        )
    module.load_state_dict(state, strict=False)


def module_fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _changed_modules(fresh: nn.Module, module: nn.Module) -> dict[str, dict[str, Any]]:
    """Modules that replace those of the definition, outer ones first."""
    originals = dict(fresh.named_modules())
    changed: dict[str, dict[str, Any]] = {}
    for path, child in module.named_modules():
        described = _describe(child)
        original = originals.get(path)
        if described is not None and (original is None or described != _describe(original)):
            changed[path] = described
    return changed


def _changed_buffers(fresh: nn.Module, module: nn.Module, changed: dict[str, Any]) -> dict[str, Any]:
    """Persistent buffers whose shape differs from the definition's, or that it doesn't save."""
    original, state = fresh.state_dict(), module.state_dict()
    return {
        name: {"shape": list(buffer.shape), "dtype": str(buffer.dtype).removeprefix("torch.")}
        for name, buffer in module.named_buffers()
        if name in state
        and name.rpartition(".")[0] not in changed
        and (name not in original or original[name].shape != buffer.shape)
    }


def _changed_parameters(fresh: nn.Module, module: nn.Module, changed: dict[str, Any]) -> dict[str, Any]:
    """Shapes of parameters that differ, outside rebuilt modules: e.g. a class token or a position table."""
    original = dict(fresh.named_parameters())
    return {
        name: list(parameter.shape)
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[0] not in changed
        and name in original
        and original[name].shape != parameter.shape
    }


def _shared(module: nn.Module) -> dict[str, str]:
    """Map paths of modules used more than once to their first path, without what is inside them."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if not inside and first.setdefault(id(child), path) != path:
            found[path] = first[id(child)]
    return found


def _tied(module: nn.Module) -> dict[str, str]:
    """Map names of shared parameters to their first name."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found[name] = first[id(parameter)]
    return found


def _describe(module: nn.Module) -> dict[str, Any] | None:
    """Plain data to rebuild a module of this kind and shape; None for a kind that is never cut."""
    if isinstance(module, _OWN_KINDS):
        kind = next(kind for kind, cls in _OWN.items() if type(module) is cls)
        return {"kind": kind, **module.config()}
    for kind, names in _BUILT_WITH.items():
        if type(module) is _TORCH[kind]:
            described = {name: _plain(getattr(module, name)) for name in names}
            if kind in _HAVE_BIAS:
                described["bias"] = module.bias is not None
            return {"kind": kind, **described}
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _build_changed(changed: dict[str, Any]) -> nn.Module:
    arguments = dict(changed)
    kind = arguments.pop("kind")
    cls = _TORCH.get(kind) or _OWN.get(kind)
    if cls is None:
        raise ModelError(f"structure.json has a module kind '{kind}', unknown to this version")
    built: nn.Module = cls(**arguments)
    return built


def _read_structure(path: Path) -> dict[str, Any]:
    try:
        structure: dict[str, Any] = read_json(path)
        if not isinstance(structure, dict):
            raise ValueError(f"it must be a JSON object, not {type(structure).__name__}")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if structure.get("format") != _FORMAT:
        raise ModelError(f"{path} has format {structure.get('format')}; this version reads format {_FORMAT}")
    return structure


def _read_definition(stored: dict[str, Any], directory: Path) -> Definition:
    if stored["kind"] == "hf":
        head, tail = stored.get("head", FIRST_HEAD), stored.get("tail", {})
        return Definition("hf", stored["args"], head=head, tail=tail)
    if stored["kind"] == "timm":
        return Definition("timm", stored["args"], builder=stored["builder"])
    read = Definition.from_file(directory / _CODE, stored["builder"], stored["args"])
    return Definition("file", read.args, builder=read.builder, code=read.code, file_name=stored["file_name"])
