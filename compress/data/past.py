"""Inputs and outputs of an ONNX decoder's key/value cache, with the Hub's names.

Shapes: b = batch, k = key/value heads, p = past tokens, t = all tokens, d = head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from compress.data.split import Array, Batch
from compress.errors import ModelError

__all__ = ["PAST", "PRESENT", "empty_past", "is_past", "past_names", "past_of_present", "present_names"]

PAST = "past_key_values"
PRESENT = "present"


class _Value(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[Any]: ...


def past_names(layers: int) -> list[str]:
    """Input names: key and value of each layer in turn."""
    return [f"{PAST}.{index}.{part}" for index in range(layers) for part in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """Output names, in the same order."""
    return [f"{PRESENT}.{index}.{part}" for index in range(layers) for part in ("key", "value")]


def is_past(name: str) -> bool:
    """Whether an input holds past keys or values."""
    return name.startswith(f"{PAST}.")


def empty_past(inputs: Sequence[_Value], batch: int) -> Batch:
    """Empty past inputs of a session for rows without a past: [b, k, 0, d] each.

    Raises:
        ModelError: if the graph does not fix the number and the size of heads.
    """
    found = {}
    for value in inputs:
        if not is_past(value.name):
            continue
        shape = list(value.shape)
        if len(shape) != 4 or not all(isinstance(shape[at], int) for at in (1, 3)):
            raise ModelError(
                f"the ONNX file's input {value.name} has shape {shape}; it must be [batch, heads, past "
                "tokens, head size] with fixed heads and head size"
            )
        dtype = np.float16 if getattr(value, "type", "") == "tensor(float16)" else np.float32
        found[value.name] = np.zeros((batch, shape[1], 0, shape[3]), dtype=dtype)
    return found


def past_of_present(outputs: Mapping[str, Array]) -> Batch:
    """A session's present outputs, [b, k, t, d] each, under the names of the past inputs."""
    return {
        f"{PAST}{name.removeprefix(PRESENT)}": array
        for name, array in outputs.items()
        if name.startswith(f"{PRESENT}.")
    }
