"""Bundle: the directory that is deployed. Written to a temporary sibling and renamed when whole.

Laid out as the Hub lays out ONNX models, so that transformers.js, optimum-onnx and sentence-transformers find
what they look for; running it needs onnxruntime and tokenizers alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import PREPROCESSOR_FILE, ImageProcessor, TextEncoder
from compress.errors import ModelError, OutputError
from compress.model.cached import cache_layers, context_length
from compress.model.save import save_module
from compress.model.structure import structure_of
from compress.task import Task

__all__ = [
    "HUB_FILES",
    "MANIFEST_VERSION",
    "ONNX_PATH",
    "broken_seals",
    "new_directory",
    "read_manifest",
    "seal_",
    "sha256_of",
    "write_bundle_",
    "write_manifest_",
]

ONNX_PATH = Path("onnx") / "model.onnx"
MANIFEST_VERSION = 1
GENERATION_FILE = "generation_config.json"
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)

HUB_FILES = ("config.json", "tokenizer.json", PREPROCESSOR_FILE, GENERATION_FILE, *_TOKENIZER_FILES)
"""What other libraries read beside the ONNX file."""


@contextmanager
def new_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary sibling of `target`; it becomes `target` when the block ends without an error.

    Raises:
        OutputError: `target` exists (and `replace` is false), or nothing can be written there.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise OutputError(f"{target} exists already")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write in {target.parent}: {error.strerror or error}") from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if target.exists():
            _swap(partial, target)
        else:
            os.replace(partial, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(new: Path, target: Path) -> None:
    """Put a directory in the place of another, which comes back if that fails or is interrupted."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    try:
        os.replace(target, aside / "old")
        try:
            os.replace(new, target)
        except BaseException:
            os.replace(aside / "old", target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
    encoder: TextEncoder | None,
    max_length: int,
    processor: ImageProcessor | None = None,
) -> None:
    """Put model, configuration, and how texts or pictures are read into a directory.

    `write_manifest_` comes last.

    Args:
        encoder: of a model that reads text; a classifier's tokenizer.json is written such that it truncates
            to `max_length` by itself, as the rows were that the accuracy is measured on.
        processor: of a model that reads pictures.
    """
    (directory / "onnx").mkdir(exist_ok=True)
    for source in sorted(onnx_file.parent.glob(f"{onnx_file.name}*")):
        shutil.copy(source, directory / "onnx" / source.name)
    (directory / "pytorch").mkdir(exist_ok=True)
    save_module(module, directory / "pytorch")
    for weights in (directory / "pytorch").iterdir():
        weights.chmod(0o666 & ~_umask())  # safetensors lets nobody but the owner read what it writes
    _write_json(directory / "config.json", _hub_config(module, task, encoder))
    if processor is not None:
        _write_json(directory / PREPROCESSOR_FILE, processor.to_config())
    if encoder is None:
        return
    for name in (*_TOKENIZER_FILES, *([GENERATION_FILE] if task.vocabulary else [])):
        if (encoder.directory / name).is_file():
            shutil.copyfile(encoder.directory / name, directory / name)
    longest: int | None = max_length
    if task.vocabulary:  # rows were cut out of documents; a prompt may be as long as the model can see
        longest = context_length(module)
    shipped = encoder.tokenizer_json(max_length=None if task.vocabulary else max_length)
    (directory / "tokenizer.json").write_text(shipped, encoding="utf-8")
    # What reads this file instead (transformers.js, optimum) then truncates at the same place.
    settings = directory / "tokenizer_config.json"
    known = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    if known.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5's name for this class: 4, which optimum-onnx needs, knows the old one only, 5 both.
        known["tokenizer_class"] = "PreTrainedTokenizerFast"
    if task.vocabulary and encoder.end_id is not None:  # the one that stood between documents
        known["eos_token"] = encoder.tokenizer.id_to_token(encoder.end_id)
    # Of a class that says nothing of it, transformers 4 would give token types, too.
    known["model_input_names"] = list(encoder.input_names)
    if longest is not None:
        known["model_max_length"] = longest
    _write_json(settings, known)


def _hub_config(module: nn.Module, task: Task, encoder: TextEncoder | None) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {"model_type": "modelpress"}
    known.pop("_name_or_path", None)  # a directory of the machine that made the bundle
    known["architectures"] = [type(module).__name__]
    if hasattr(config, "to_dict"):
        known |= _sizes_left(module, config, known)
    if task.vocabulary:
        return _decoder_config(known, module, task, None if encoder is None else encoder.end_id)
    return {
        **known,
        "id2label": {str(index): label for index, label in enumerate(task.labels)},
        "label2id": {label: index for index, label in enumerate(task.labels)},
    }


def _sizes_left(module: nn.Module, config: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Heads and neurons that are there now, where a stage has cut some, by the configuration's own names.

    Where layers have different numbers the configuration has no word for it: they are listed for each layer.
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
    counts = {"num_attention_heads": [count * queries for count in groups.values()]}
    if "num_key_value_heads" in known:
        counts["num_key_value_heads"] = list(groups.values())
    counts["intermediate_size"] = list(neurons.values())
    found: dict[str, Any] = {}
    for name, each in counts.items():
        own = getattr(config, "attribute_map", {}).get(name, name)
        before = getattr(config, name, None)
        if before is None or not each or set(each) == {before}:
            continue
        if len(set(each)) == 1:
            found[own] = each[0]
        else:
            found.setdefault("layers_after_pruning", {})[own] = each
    heads = getattr(config, "num_attention_heads", None)
    if "num_attention_heads" in counts and heads and set(counts["num_attention_heads"]) != {heads}:
        # Else it is computed of the number of heads, which has changed.
        found["head_dim"] = known.get("head_dim") or int(config.hidden_size) // int(heads)
    return found


def _decoder_config(
    known: dict[str, Any], module: nn.Module, task: Task, end_id: int | None
) -> dict[str, Any]:
    """What libraries that generate read off a configuration: how many keys and values there are, and the end.

    They know a file's inputs by the model's type, so a module of no known type goes by that of Llama, whose
    inputs have the same names.
    """
    layers = cache_layers(module)
    heads = {each.heads for each in layers}
    if known["model_type"] == "modelpress":
        known = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "modelpress": f"of the ONNX file's inputs alone: the module is {known['architectures'][0]}",
            "vocab_size": task.vocabulary,
            "num_hidden_layers": len(layers),
            "num_attention_heads": layers[0].heads,
            "num_key_value_heads": layers[0].heads,
            "head_dim": layers[0].head_size,
            "hidden_size": layers[0].heads * layers[0].head_size,
        }
        length = context_length(module)
        known |= {} if length is None else {"max_position_embeddings": length}
    elif len(heads) == 1 and "num_key_value_heads" in known:  # fewer, where all layers were cut alike
        known["num_key_value_heads"] = heads.pop()
    ends = known.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if end_id is not None and end_id not in listed:
        known["eos_token_id"] = [*listed, end_id] if listed else end_id
    return {**known, "use_cache": True}  # switched off for training


def write_manifest_(directory: Path, task: Task, facts: dict[str, Any]) -> None:
    """Write manifest.json: inputs, labels, how accuracy was measured, the SHA-256 of every other file."""
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
            **facts,
        },
    )


def seal_(directory: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, with the SHA-256 of every other file in the directory; it comes last."""
    hashes = {
        path.relative_to(directory).as_posix(): sha256_of(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    _write_json(directory / "manifest.json", {**manifest, "sha256": hashes})


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        OutputError: there is none that can be read, so this is no finished bundle.
    """
    try:
        manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if not isinstance(manifest["sha256"], dict):
            raise TypeError("sha256 is no mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{directory}: not a finished bundle: no manifest.json that can be read") from error
    return manifest


def broken_seals(directory: Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the files that a manifest names, a phrase each; a name outside is not followed."""
    wrong = []
    for name, digest in manifest["sha256"].items():
        file = directory / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            wrong.append(f"{name} is outside of the bundle")
        elif not file.is_file():
            wrong.append(f"{name} is missing")
        elif sha256_of(file) != digest:
            wrong.append(f"{name} is not the file that was written (SHA-256 differs)")
    return wrong


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
