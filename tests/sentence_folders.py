"""A tiny sentence-transformers directory, written by hand, and texts whose vectors differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from compress.model.files.embedder import Embedder
from compress.pipeline.prepare import prepare
from compress.pipeline.stages import with_truth
from compress.recipe import load_recipe
from compress.stage import Context
from tests.hf_families import FAMILIES, WORDS, write_family

__all__ = ["prepared_embedder", "texts", "write_sentence_folder", "write_texts"]

_LIBRARY = "sentence_transformers.models"


def write_sentence_folder(
    directory: Path,
    *,
    family: str = "bert",
    pooling: str = "mean_tokens",
    dense: tuple[int, ...] = (),
    normalize: bool = True,
    inner: str = "",
    others: tuple[str, ...] = (),
    sizes: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a directory.

    Args:
        pooling: ending of its key in 1_Pooling/config.json.
        dense: outputs of the dense layers.
        inner: folder of the encoder.
        others: types of further modules.
        sizes: of the encoder, other than the family's.
        settings: of config_sentence_transformers.json.
    """
    encoder = directory / inner
    write_family(encoder, FAMILIES[family], **(sizes or {}))
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    kind = config["architectures"][0].replace("ForSequenceClassification", "Model")
    _write(encoder / "config.json", {**config, "architectures": [kind]})
    kinds = [("Transformer", inner), ("Pooling", "1_Pooling")]
    flags = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens")}
    _write(directory / "1_Pooling/config.json", {**flags, f"pooling_mode_{pooling}": True})
    size = 32
    for number, width in enumerate(dense):
        folder = f"{len(kinds)}_Dense"
        kinds.append(("Dense", folder))
        (directory / folder).mkdir()
        draw = torch.Generator().manual_seed(number)
        weights = {"linear.weight": torch.randn(width, size, generator=draw) / size**0.5}
        save_file({**weights, "linear.bias": torch.zeros(width)}, directory / folder / "model.safetensors")
        activation = {"activation_function": "torch.nn.modules.activation.Tanh"}
        _write(directory / folder / "config.json", activation)
        size = width
    if normalize:
        kinds.append(("Normalize", f"{len(kinds)}_Normalize"))
    listing = [{"path": folder, "type": f"{_LIBRARY}.{kind}"} for kind, folder in kinds]
    _write(directory / "modules.json", [*listing, *({"path": "x", "type": each} for each in others)])
    _write(encoder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    _write(directory / "config_sentence_transformers.json", settings)
    return directory


def texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of known words."""
    draw = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.choice(WORDS, int(draw.integers(3, 12))))] = None
    return list(found)


def write_texts(path: Path, count: int, seed: int = 0) -> Path:
    """A text a line; in a .csv with its heading."""
    head = ["text"] if path.suffix == ".csv" else []
    path.write_text("\n".join([*head, *texts(count, seed)]) + "\n", encoding="utf-8")
    return path


def prepared_embedder(folder: Path) -> tuple[Embedder, Context]:
    """An embedder of 32 dimensions, and what a stage is given for 150 texts."""
    write_sentence_folder(folder / "st")
    data = {"source": "file", "task": "embedding", "train": str(write_texts(folder / "texts.txt", 150))}
    recipe = {"model": {"hf": str(folder / "st")}, "data": data, "stages": ["quantize/int8_dynamic"]}
    _write(folder / "recipe.yaml", recipe)  # JSON is YAML
    made = prepare(load_recipe(folder / "recipe.yaml"), folder)
    module = made.loaded.module
    assert isinstance(module, Embedder)
    splits = with_truth(module, made.splits)
    return module, Context(splits.task, splits.train, splits.validation, teacher=module, reader=splits.reader)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
