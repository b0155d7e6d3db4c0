"""Predicted classes of many rows as short text, so that a report can be compared row by row with another."""

from __future__ import annotations

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_classes", "unpack_classes"]

_MOST_BYTES = 1 << 28  # of unpacked classes: a text of few bytes must not fill the memory


def pack_classes(classes: NDArray[np.int64]) -> str:
    """Class indices [n] as base64 of deflated little-endian 32-bit numbers."""
    return base64.b64encode(zlib.compress(classes.astype("<u4").tobytes(), 9)).decode("ascii")


def unpack_classes(text: str) -> NDArray[np.int64]:
    """Undo `pack_classes`: [n].

    Raises:
        ValueError: the text is not what `pack_classes` writes.
    """
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"not packed classes: {error}") from error
    if not unpacker.eof or len(raw) % 4:
        raise ValueError("not packed classes: cut off, or too many")
    return np.frombuffer(raw, dtype="<u4").astype(np.int64)
