"""Code in a Hugging Face checkpoint is never run; a checkpoint that needs it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import ModelError

__all__ = ["NAMES_CODE", "check_code", "needs_own_code", "own_code_note"]

_INSTEAD = (
    "modelpress never runs a checkpoint's code; use a model that transformers has, or put the model "
    "into a Python file of your own and name it in a recipe with model.file and model.builder"
)
_KERNELS = (
    "attn_implementation",
    "experts_implementation",
    "_attn_implementation",
    "_experts_implementation",
)
NAMES_CODE = ("auto_map", *_KERNELS)
"""Keys of config.json that may name Python code or kernels."""


def check_code(name: str, config: Mapping[str, Any], known_architectures: Sequence[str] | None) -> None:
    """Refuse a checkpoint whose classes or kernels are its own code.

    Args:
        name: the directory or Hub name.
        config: its config.json.
        known_architectures: those of its architectures that transformers has; None: transformers doesn't have
            its model_type.

    Raises:
        ModelError: it can't be loaded without its own code.
    """
    for key in _KERNELS:
        said = config.get(key)
        named = said.values() if isinstance(said, dict) else [said]
        if any(isinstance(each, str) and "/" in each for each in named):
            raise ModelError(f"{name}: {key} in its config.json names a kernel, which is code; {_INSTEAD}")
    if not config.get("auto_map"):
        return
    if known_architectures is None or set(config.get("architectures") or ()) - set(known_architectures):
        raise needs_own_code(name, config["auto_map"])


def needs_own_code(name: str, auto_map: object = None) -> ModelError:
    """The error for a checkpoint that can't be loaded without its own code."""
    classes = [str(each) for each in auto_map.values()] if isinstance(auto_map, dict) else []
    which = f" ({', '.join(classes[:3])})" if classes else ""
    return ModelError(f"{name} needs its own Python code{which} (auto_map in its config.json); {_INSTEAD}")


def own_code_note(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Note for the report on a checkpoint that has its own code as well as transformers' classes."""
    if not config.get("auto_map"):
        return ()
    return (
        "the checkpoint has its own code (auto_map in its config.json), which is not run; its weights are "
        "loaded into the class of transformers",
    )
