"""Bundle: the directory to deploy (written as described in `compress.system.disk.new_directory`).

It follows the Hub's layout of ONNX models, so that transformers.js, optimum-onnx and sentence-transformers
find their files; running it needs only onnxruntime and tokenizers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import PREPROCESSOR_FILE, Reader
from compress.data.readers.tokenize import GENERATION_FILE, TOKENIZER_FILES
from compress.errors import ModelError, OutputError
from compress.model.decoder_cache import cache_layers, context_length
from compress.model.files.save import save_module
from compress.model.files.sentence_chain import write_chain_
from compress.model.limits import switch_length
from compress.model.structure.find import structure_of
from compress.system.files import read_json
from compress.tasks import Task

__all__ = [
    "BESIDE",
    "HUB_FILES",
    "MANIFEST_VERSION",
    "ONNX_PATH",
    "broken_seals",
    "described",
    "read_manifest",
    "seal_",
    "sha256_of",
    "write_bundle_",
    "write_manifest_",
]

ONNX_PATH = Path("onnx") / "model.onnx"
MANIFEST_VERSION = 1
_MANIFEST = "manifest.json"
_FINDER = ".DS_Store"  # created by macOS in any folder it has displayed
BESIDE = (".gitattributes", ".gitignore", ".git", ".cache/huggingface")
"""Files left in a bundle by git and the Hub's download; not in any manifest, and never read."""
HUB_FILES = ("config.json", "tokenizer.json", PREPROCESSOR_FILE, GENERATION_FILE, *TOKENIZER_FILES)
"""Files that other libraries read alongside the ONNX file."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bundle_(
    directory: Path,
    module: nn.Module,
    onnx_file: Path,
    task: Task,
    *,
    reader: Reader,
    max_length: int | None,
) -> None:
    """Write model, configuration and reader files into a directory; `write_manifest_` must come last.

    Args:
        reader: reader of the rows; a classifier's tokenizer.json is written so that it truncates to
            `max_length`, like the rows that accuracy is measured on.
    """
    (directory / "onnx").mkdir(exist_ok=True)
    for source in sorted(onnx_file.parent.glob(f"{onnx_file.name}*")):
        shutil.copy(source, directory / "onnx" / source.name)
    (directory / "pytorch").mkdir(exist_ok=True)
    save_module(module, directory / "pytorch")
    for weights in (directory / "pytorch").iterdir():
        weights.chmod(0o666 & ~_umask())  # safetensors writes files that only the owner can read
    _write_json(directory / "config.json", _hub_config(module, task, reader))
    # Rows of a language model are chunks of documents; a prompt may be as long as the model's context.
    longest = context_length(module) if task.keeps_past else max_length
    reader.write_(directory, longest, generates=task.keeps_past)
    write_chain_(module, directory, longest)


def _hub_config(module: nn.Module, task: Task, reader: Reader) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {"model_type": "modelpress"}
    known.pop("_name_or_path", None)  # a path on the machine that built the bundle
    known["architectures"] = [type(getattr(module, "wrapped", module)).__name__]
    if hasattr(config, "to_dict"):
        known |= _sizes_left(module, config, known)
    if task.keeps_past:
        known = _decoder_config(known, module, task, reader.end_id)
    return known | task.hub_entries()


def _sizes_left(module: nn.Module, config: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Remaining heads and neurons after pruning, under the configuration's own names.

    If layers differ, the configuration has no key for it, so they are listed per layer. `hidden_size` stays
    the trained one, because loaders divide it by the number of heads; a cut width has a key of its own. What
    the structure doesn't know, such as heads that can't be cut, is as it was.
    """
    try:
        structure = structure_of(module)
    except ModelError:
        return {}
    sites = (*structure.sites, *structure.removed)
    layers = sorted({site.layer for site in sites})

    def units(kind: str) -> dict[int, int]:
        found = dict.fromkeys(layers, 0)
        for site in sites:
            found[site.layer] += site.units(module) if site.kind == kind else 0
        return found

    queries = max((site.queries for site in sites), default=1)
    groups, neurons = units("attention"), units("feed_forward")
    kinds = {site.kind for site in sites}
    counts: dict[str, list[int]] = {}
    if "attention" in kinds:
        counts["num_attention_heads"] = [count * queries for count in groups.values()]
        if "num_key_value_heads" in known:
            counts["num_key_value_heads"] = list(groups.values())
    if "feed_forward" in kinds:
        counts["intermediate_size"] = list(neurons.values())
    found: dict[str, Any] = {}
    for name, each in counts.items():
        own = getattr(config, "attribute_map", {}).get(name, name)
        before = getattr(config, name, None)
        if not isinstance(before, int) or set(each) == {before}:  # Swin has a number for each stage
            continue
        if len(set(each)) == 1:
            found[own] = each[0]
        else:
            found.setdefault("layers_after_pruning", {})[own] = each
    heads = getattr(config, "num_attention_heads", None)
    if "num_attention_heads" in counts and heads and set(counts["num_attention_heads"]) != {heads}:
        # If absent, it is derived from the number of heads, which has changed.
        found["head_dim"] = known.get("head_dim") or int(config.hidden_size) // int(heads)
    trained, paths = getattr(config, "hidden_size", None), structure.hidden.norms if structure.hidden else ()
    weights = (getattr(module.get_submodule(path), "weight", None) for path in paths)
    widths = {len(weight) for weight in weights if weight is not None}  # norms are never quantized
    if trained is not None and len(widths) == 1 and widths != {trained}:
        found["hidden_size_after_pruning"] = widths.pop()
    return found


def _decoder_config(
    known: dict[str, Any], module: nn.Module, task: Task, end_id: int | None
) -> dict[str, Any]:
    """Configuration entries that text-generation libraries read: number of keys and values, end token.

    They infer a file's inputs from the model type, so a module without a known type uses Llama's, whose
    inputs have the same names.
    """
    layers = cache_layers(module)
    heads = {each.heads for each in layers}
    if known["model_type"] == "modelpress":
        known = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "modelpress": f"describes the ONNX file's inputs; the module is {known['architectures'][0]}",
            "vocab_size": task.classes,
            "num_hidden_layers": len(layers),
            "num_attention_heads": layers[0].heads,
            "num_key_value_heads": layers[0].heads,
            "head_dim": layers[0].head_size,
            "hidden_size": layers[0].heads * layers[0].head_size,
        }
        length = context_length(module)
        known |= {} if length is None else {"max_position_embeddings": length}
    elif len(heads) == 1 and "num_key_value_heads" in known:  # fewer, if all layers were pruned equally
        known["num_key_value_heads"] = heads.pop()
    ends = known.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if end_id is not None and end_id not in listed:
        known["eos_token_id"] = [*listed, end_id] if listed else end_id
    return {**known, "use_cache": True}  # it is disabled during training


def described(module: nn.Module, task: Task) -> dict[str, Any]:
    """Entries of the manifest that a module has of its own, such as how it pools; empty: none."""
    own = getattr(module, "described", None)
    switch = switch_length(module) if task.keeps_past else None
    return (own(task.output) if callable(own) else {}) | ({} if switch is None else {"cache_until": switch})


def write_manifest_(directory: Path, task: Task, facts: dict[str, Any]) -> None:
    """Write manifest.json: inputs, labels, how accuracy was measured, and the SHA-256 of every other file."""
    seal_(
        directory,
        {
            "manifest_version": MANIFEST_VERSION,
            "task": task.name,
            "inputs": [
                {
                    "name": s.name,
                    "dtype": s.dtype,
                    "shape": ["batch_size", *s.shape],
                    "pad_value": s.pad_value,
                }
                for s in task.inputs
            ],
            "outputs": [
                {"name": task.output, "dtype": "float32", "shape": ["batch_size", *task.answer_shape]}
            ],
            "labels": list(task.labels),
            **task.decision(),
            **facts,
        },
    )


def seal_(directory: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the SHA-256 of every other file in the directory; must be written last."""
    hashes = {name: sha256_of(path) for name, path in _entries(directory) if name != _MANIFEST}
    _write_json(directory / _MANIFEST, {**manifest, "sha256": hashes})


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a bundle.

    Raises:
        OutputError: if there is no readable manifest, so the bundle is unfinished.
    """
    try:
        manifest: dict[str, Any] = read_json(directory / _MANIFEST)
        if not isinstance(manifest["sha256"], dict):
            raise TypeError("sha256 is not a mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{directory} is not a finished bundle: it has no readable manifest.json"
        ) from error
    return manifest


def broken_seals(directory: Path, manifest: dict[str, Any]) -> list[str]:
    """List the problems with a bundle's files, a phrase each, including files missing from its manifest.

    Paths and symlinks that leave the bundle are problems, whatever they point to, with one exception: in the
    Hub's cache every file of a snapshot is a symlink into the sibling folder `blobs`. Files from git, the
    Hub's download and the Finder (`BESIDE`) are ignored: nothing reads them.
    """
    sealed: dict[str, Any] = manifest["sha256"]
    there, wrong = dict(_entries(directory)), []
    homes = [directory.resolve(), *_hub_blobs(directory)]
    for name, digest in sealed.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            wrong.append(f"{name} is outside the bundle")
        elif name not in there:
            wrong.append(f"{name} is missing")
        else:
            wrong += _broken(name, there[name], digest, homes)
    for name, path in there.items():
        if name not in sealed and (name != _MANIFEST or _leads_out(path, homes)):
            wrong.append(
                f"{name} is not in {_MANIFEST}"
                if name != _MANIFEST
                else f"{name} is a link out of the bundle"
            )
    return wrong


def _broken(name: str, path: Path, digest: object, homes: Sequence[Path]) -> list[str]:
    if _leads_out(path, homes):
        return [f"{name} is a link out of the bundle"]
    if not path.is_file():
        return [f"{name} is not a file"]
    try:
        same = sha256_of(path) == digest
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror or error}"]
    return [] if same else [f"{name} was changed (its SHA-256 differs)"]


def _leads_out(path: Path, homes: Sequence[Path]) -> bool:
    if not path.is_symlink():
        return False
    target = path.resolve()
    return not any(target.is_relative_to(home) for home in homes)


def _hub_blobs(directory: Path) -> list[Path]:
    """Folder in which the Hub's cache stores files, if the directory is one of its snapshots."""
    found = (each.parent / "blobs" for each in directory.resolve().parents if each.name == "snapshots")
    return [each for each in found if each.is_dir()]


def _entries(directory: Path) -> list[tuple[str, Path]]:
    """Names and paths of all non-folders in a directory, sorted; symlinks to folders are not followed."""
    found = []
    for root, folders, files in os.walk(directory):
        place = Path(root)
        links = [name for name in folders if (place / name).is_symlink()]
        folders[:] = [
            name
            for name in folders
            if name not in links and (place / name).relative_to(directory).as_posix() not in BESIDE
        ]
        for name in (*files, *links):
            known = (place / name).relative_to(directory).as_posix()
            if known not in BESIDE and name != _FINDER:
                found.append((known, place / name))
    return sorted(found)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
