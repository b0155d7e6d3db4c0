"""The chain of modules of a sentence-transformers directory: read from its files, and written for a bundle.

Read: Transformer, Pooling (mean, cls, max or last token), Dense, Normalize, in this order, as modules.json
names them. Any other module is refused by its name: vectors without it would be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from compress.errors import ModelError
from compress.model.files.definition import definition_of
from compress.model.files.embedder import ACTIVATIONS, POOLINGS, Embedder
from compress.system.files import read_json

__all__ = ["Chain", "MODULES_FILE", "read_chain", "write_chain_"]

MODULES_FILE = "modules.json"
_LIBRARY = "sentence_transformers."
_LAST = "lasttoken"  # the library's name of pooling `last`
_FLAG = "pooling_mode_"
_FLAGS = {f"{_FLAG}cls_token": "cls", f"{_FLAG}mean_tokens": "mean", f"{_FLAG}max_tokens": "max"}
_WEIGHTS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_SETTINGS, _LIMITS = "config_sentence_transformers.json", "sentence_bert_config.json"

GetFile = Callable[[str], Path | None]
"""Returns the path of a file of the directory or Hub name; None if it has no such file."""


@dataclass(frozen=True)
class Chain:
    """What follows the encoder of a sentence-transformers directory.

    Attributes:
        folder: folder of the encoder in it; empty: the directory itself.
        tail: keyword arguments of `Embedder`.
        weights: of the dense layers, by their names in the embedder.
        longest: most tokens of a text; None: not given.
        lower_case: whether texts are made lower case before they are split.
        notes: for the report, a sentence each.
    """

    folder: str
    tail: dict[str, Any]
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    longest: int | None = None
    lower_case: bool = False
    notes: tuple[str, ...] = ()


def read_chain(name: str, get: GetFile) -> Chain | None:
    """Read the chain of a directory or Hub name; None if it has no modules.json.

    Raises:
        ModelError: a module is not supported, or its files are missing or are only a pickle.
    """
    listing = get(MODULES_FILE)
    if listing is None:
        return None
    modules = _modules(name, listing)
    first, pooling, *others = modules
    tail: dict[str, Any] = {"pooling": _pooling(name, pooling[1], get), "dense": [], "normalize": False}
    weights: dict[str, torch.Tensor] = {}
    for kind, folder in others:
        if kind == "Normalize":
            tail["normalize"] = True
            continue
        number = len(tail["dense"])
        layer, own = _dense(name, folder, get)
        tail["dense"].append(layer)
        weights |= {f"dense.{number}.linear.{key}": value for key, value in own.items()}
    settings, limits = _json(get(_SETTINGS)), _json(get(f"{first[1]}/{_LIMITS}".lstrip("/")))
    notes = _notes_(tail, settings)
    longest = limits.get("max_seq_length")
    return Chain(
        first[1],
        tail,
        weights,
        longest if isinstance(longest, int) and longest > 1 else None,
        bool(limits.get("do_lower_case")),
        notes,
    )


def _modules(name: str, listing: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in a supported order."""
    try:
        entries = read_json(listing)
        found = [(str(each["type"]), str(each["path"]).strip("/")) for each in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{listing} is not a list of modules with type and path: {error}") from error
    kinds = []
    for at, (kind, folder) in enumerate(found):
        short = kind.rpartition(".")[2]
        if not kind.startswith(_LIBRARY) or short not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise ModelError(
                f"{name}: module {at} in {MODULES_FILE} is {kind}, which is not supported, and vectors "
                "without it would be wrong; supported: Transformer, Pooling, Dense and Normalize of "
                "sentence-transformers",
                see="how-to/embeddings",
            )
        kinds.append((short, folder))
    order = [kind for kind, _ in kinds]
    middle = order[2:-1] if order[-1:] == ["Normalize"] else order[2:]
    if order[:2] != ["Transformer", "Pooling"] or set(middle) - {"Dense"}:
        raise ModelError(
            f"{name}: {MODULES_FILE} has {', '.join(order) or 'no modules'}; supported: Transformer, "
            "Pooling, any number of Dense, and Normalize at the end, in this order",
            see="how-to/embeddings",
        )
    return kinds


def _pooling(name: str, folder: str, get: GetFile) -> str:
    said = _needed(name, f"{folder}/config.json", get)
    on = [key for key, value in said.items() if key.startswith(_FLAG) and value is True]
    if "pooling_mode" in said:
        given = said["pooling_mode"]
        modes = list(given) if isinstance(given, list) else [str(given)]
    else:
        modes = [_FLAGS.get(key, key.removeprefix(_FLAG)) for key in on]
    modes = ["last" if mode == _LAST else mode for mode in modes]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ModelError(
            f"{name}: {folder}/config.json pools by {' and '.join(modes) or 'nothing'}; supported: one of "
            f"{', '.join(POOLINGS)}"
        )
    if said.get("include_prompt") is False:
        raise ModelError(
            f"{name}: {folder}/config.json has include_prompt: false (the prompt's tokens are left out of "
            "pooling), which is not supported"
        )
    return modes[0]


def _dense(name: str, folder: str, get: GetFile) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Arguments and weights of a dense layer."""
    said = _needed(name, f"{folder}/config.json", get)
    activation = str(said.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ModelError(
            f"{name}: {folder}/config.json has the activation {activation}; supported: "
            f"{', '.join(ACTIVATIONS)}"
        )
    for key in ("module_input_name", "module_output_name"):
        if said.get(key) not in (None, "sentence_embedding"):
            raise ModelError(f"{name}: {folder}/config.json has {key}: {said[key]}, which is not supported")
    file = get(f"{folder}/{_WEIGHTS}")
    if file is None:
        pickled = get(f"{folder}/{_PICKLED}") is not None
        raise ModelError(
            f"{name}: {folder} has no {_WEIGHTS}"
            + (
                f", only {_PICKLED}, a pickle, which may run code when it is read; save the model again with "
                "sentence-transformers (model.save writes safetensors)"
                if pickled
                else "; copy it there"
            )
        )
    try:
        weights = {key.removeprefix("linear."): value.float() for key, value in load_file(str(file)).items()}
        size_out, size_in = weights["weight"].shape
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"cannot read {file} as the weights of a Dense module: {error}") from error
    layer = {
        "in_features": size_in,
        "out_features": size_out,
        "bias": "bias" in weights,
        "activation": activation,
    }
    return layer, weights


def _notes_(tail: dict[str, Any], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Keep the prompts in the tail, and say that they are not added to texts."""
    tail["similarity"] = str(settings.get("similarity_fn_name") or "cosine")
    given = settings.get("prompts")
    prompts = {str(key): str(text) for key, text in given.items()} if isinstance(given, dict) else {}
    tail["prompts"] = prompts
    tail["default_prompt"] = settings.get("default_prompt_name")
    if not any(prompts.values()):
        return ()
    named = ", ".join(key for key, text in prompts.items() if text)
    return (f"the model has prompts ({named}), which are not added to texts; put them into the data",)


def _needed(name: str, file: str, get: GetFile) -> dict[str, Any]:
    found = get(file)
    if found is None:
        raise ModelError(f"{name}: {MODULES_FILE} needs {file}, which does not exist; copy it there")
    return _json(found)


def _json(path: Path | None) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    if path is None:
        return {}
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} must be a JSON object, not {type(found).__name__}")
    return found


def write_chain_(module: nn.Module, directory: Path, max_length: int | None) -> None:
    """Write the files by which sentence-transformers builds the chain around the encoder's file.

    Nothing is written for a module that is not an embedder.
    """
    if not isinstance(module, Embedder):
        return
    definition = definition_of(module)
    tail = {} if definition is None else definition.tail
    entries = [("Transformer", ""), ("Pooling", "1_Pooling")]
    width = module.described("")["outputs"][0]["shape"][-1]
    mode = _LAST if module.pooling == "last" else f"{module.pooling}_token"
    mode += "s" if module.pooling in ("mean", "max") else ""
    flags = {**dict.fromkeys(_FLAGS, False), f"{_FLAG}{mode}": True}
    _write(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    for layer in module.dense:
        folder = f"{len(entries)}_Dense"
        entries.append(("Dense", folder))
        _write_dense(layer, directory / folder)
    if module.normalize:
        entries.append(("Normalize", f"{len(entries)}_Normalize"))
    listing = [
        {"idx": at, "name": str(at), "path": folder, "type": f"{_LIBRARY}models.{kind}"}
        for at, (kind, folder) in enumerate(entries)
    ]
    _write(directory / MODULES_FILE, listing)
    _write(directory / _LIMITS, {"max_seq_length": max_length, "do_lower_case": False})
    settings = {
        "prompts": tail.get("prompts", {}),
        "default_prompt_name": tail.get("default_prompt"),
        "similarity_fn_name": tail.get("similarity", "cosine"),
    }
    _write(directory / _SETTINGS, settings)


def _write_dense(layer: Any, folder: Path) -> None:
    """Write a dense layer, in float if it is quantized."""
    with torch.no_grad():
        size = layer.linear.in_features
        zero = layer.linear(torch.zeros(1, size))[0]
        bias = zero if getattr(layer.linear, "bias", None) is not None else None
        whole = getattr(layer.linear, "dequantize", None)
        weight = layer.linear.weight if whole is None else whole()
    tensors = {"linear.weight": weight.detach().float().contiguous()}
    if bias is not None:
        tensors["linear.bias"] = bias.detach().float().contiguous()
    said = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": f"{type(layer.activation).__module__}.{type(layer.activation).__name__}",
    }
    _write(folder / "config.json", said)
    save_file(tensors, str(folder / _WEIGHTS))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
