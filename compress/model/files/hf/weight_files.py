"""Checks on the weight files of a local Hugging Face directory, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.data.table import listed
from compress.errors import ModelError, Problem
from compress.system.files import read_json

__all__ = ["check_weight_files", "refuse_adapter"]

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_SHOWN = 5


def refuse_adapter(name: str) -> None:
    """Refuse a directory that holds an adapter of another model.

    Raises:
        ModelError: it does; the message names the other model.
    """
    path = Path(name)
    if not (path / _ADAPTER).is_file() or (path / "config.json").is_file():
        return
    base = _read(path / _ADAPTER).get("base_model_name_or_path") or "its base model"
    raise _refused(
        name,
        f"{name} is an adapter of {base}, not a whole model; merge it into that (peft: "
        "merge_and_unload(), then save_pretrained) and set model.hf to the result",
    )


def check_weight_files(name: str, config: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, incomplete, pickled or already quantized.

    Args:
        config: the config.json of the directory.

    Raises:
        ModelError: they are; the message gives the file and the remedy.
    """
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise _refused(
            name,
            f"{name} is quantized already ({method or 'quantization_config'} in its config.json); set "
            "model.hf to the float model that it was made from",
        )
    path = Path(name)
    if not path.is_dir() or (path / _WEIGHTS).is_file():
        return
    if (path / _INDEX).is_file():
        shards = sorted(set(_read(path / _INDEX).get("weight_map", {}).values()))
        missing = [each for each in shards if not (path / each).is_file()]
        if missing:
            raise _refused(
                name,
                f"{name} lacks {len(missing)} of the {len(shards)} weight files that {_INDEX} names: "
                f"{listed(missing, _SHOWN)}; copy them there",
            )
        return
    pickled = next((each.name for each in sorted(path.glob("*.bin"))), None)
    if pickled is not None:
        raise _refused(
            name,
            f"{name} has only pickled weights ({pickled}), which may run code when they are read; where you "
            f"trust them, load the model with transformers and save_pretrained it, which writes {_WEIGHTS}",
        )
    if not any(path.glob("*.safetensors")):
        raise _refused(name, f"{name} has no weights: {_WEIGHTS} is missing; copy it there")


def _refused(name: str, text: str) -> ModelError:
    return ModelError(Problem(text, key="model.hf", value=name))


def _read(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {file}: {type(error).__name__}: {error}") from error
    return found if isinstance(found, dict) else {}
