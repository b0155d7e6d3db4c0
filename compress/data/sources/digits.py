"""scikit-learn's handwritten digits as rows of patches, to try a Transformer on without any download.

Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (the UCI test part, 1,797 images).
Shapes: n = images, s = 16 patches, f = 4 pixels of a 2x2 patch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.table import Table
from compress.tasks import InputSpec

__all__ = ["DIGITS_INPUTS", "read_digits"]

DIGITS_INPUTS = (InputSpec("features", "float32", ("sequence_length", 4)),)


def read_digits() -> tuple[Table, NDArray[np.float32]]:
    """Read the digits.

    Returns:
        The labels "0" to "9" and bytes of the rows; and their features [n, 16, 4] in [-1, 1].
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    features = _patches(np.asarray(bunch.images))
    table = Table(
        name="scikit-learn digits",
        where="scikit-learn digits",
        items=tuple(row.tobytes() for row in features),
        labels=tuple(str(label) for label in bunch.target),
    )
    return table, features


def _patches(images: NDArray[Any]) -> NDArray[np.float32]:
    """Cut images [n, 8, 8] of 0..16 to patches [n, 16, 4] of -1..1."""
    grid = images.reshape(-1, 4, 2, 4, 2)  # [n, patch row, pixel row, patch column, pixel column]
    patches = grid.transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)  # [n, s, f]
    return np.ascontiguousarray(patches / 8 - 1, dtype=np.float32)
