"""Predicted classes of many rows as compact text, so that two reports can be compared row by row."""

from __future__ import annotations

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_classes", "unpack_classes"]

_MOST_BYTES = 1 << 28  # unpacked bytes; keeps a short, malicious text from filling the memory


def pack_classes(classes: NDArray[np.int64]) -> str:
    """Encode class indices [n] as base64 of deflated little-endian 32-bit integers."""
    return base64.b64encode(zlib.compress(classes.astype("<u4").tobytes(), 9)).decode("ascii")


def unpack_classes(text: str) -> NDArray[np.int64]:
    """Decode what `pack_classes` wrote; returns [n].

    Raises:
        ValueError: if the text was not written by `pack_classes`.
    """
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"invalid packed classes: {error}") from error
    if not unpacker.eof or len(raw) % 4:
        raise ValueError("invalid packed classes: truncated, or too many")
    return np.frombuffer(raw, dtype="<u4").astype(np.int64)
