"""scikit-learn's handwritten digits, as rows of patches or as images; nothing is downloaded.

Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (the UCI test part, 1,797 images).
Shapes: n = images, s = 16 patches, f = 4 pixels of a 2x2 patch, p = channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress.data.readers.image_processor import ImageProcessor
from compress.data.readers.reader import Modality, Reader, reader_of_numbers
from compress.data.source import DataSource
from compress.data.sources.images import Images, image_splits
from compress.data.splits import Splits, assemble
from compress.data.table import Table
from compress.tasks import InputSpec
from compress.tasks.spec import LabelKind

__all__ = [
    "DIGITS_INPUTS",
    "DIGIT_PROCESSOR",
    "DigitImagesData",
    "DigitsData",
    "read_digit_images",
    "read_digits",
]

DIGITS_INPUTS = (InputSpec("features", "float32", ("sequence_length", 4)),)
_PROPERTIES = {"closed loop": "0689", "even": "02468", "multiple of three": "0369"}
DIGIT_PROCESSOR = ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))


class DigitsData(DataSource):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, as 16 patches of 2x2; nothing is downloaded.

    For a task with several labels a row these are "closed loop", "even" and "multiple of three", as far as
    they are true of the digit: 1, 5 and 7 have none.
    """

    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("class", "classes")

    source: Literal["digits"] = "digits"

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """See `DataSource.read`."""
        table, features = read_digits()
        if self.kind.label_kind == "classes":
            table = replace(table, labels=tuple(_properties(str(label)) for label in table.labels))
        tables = {"train": table}
        parts = self.divided(tables)
        rows = {
            part: tuple({"features": features[i]} for i in picked) for part, picked in parts.indices.items()
        }
        return assemble(
            self.kind, tables, parts, rows, DIGITS_INPUTS, label_order, reader=reader_of_numbers(reader)
        )


class DigitImagesData(DataSource):
    """The same digits as grey images, `pixel_values` [1, 8, 8], for a vision Transformer or a CNN."""

    modality: ClassVar[Modality] = "image"

    source: Literal["digit-images"] = "digit-images"

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """See `DataSource.read`; preprocessing is fixed."""
        return image_splits(self, {"train": read_digit_images()}, DIGIT_PROCESSOR, label_order)


def _properties(digit: str) -> tuple[str, ...]:
    return tuple(name for name, digits in _PROPERTIES.items() if digit in digits)


def read_digits() -> tuple[Table, NDArray[np.float32]]:
    """Read the digits as patches.

    Returns:
        A table with labels "0" to "9" and rows as bytes; and the features [n, 16, 4] in [-1, 1].
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
    """Cut images [n, 8, 8] in 0..16 into patches [n, 16, 4] in -1..1."""
    grid = images.reshape(-1, 4, 2, 4, 2)  # [n, patch row, pixel row, patch column, pixel column]
    patches = grid.transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)  # [n, s, f]
    return np.ascontiguousarray(patches / 8 - 1, dtype=np.float32)


def read_digit_images() -> Images:
    """Read scikit-learn's digits (Alpaydin and Kaynak 1998) as images [n, 1, 8, 8] in [-1, 1]."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    values = np.ascontiguousarray(np.asarray(bunch.images)[:, None] / 8 - 1, dtype=np.float32)
    table = Table(
        name="scikit-learn digits",
        where="scikit-learn digits",
        items=tuple(image.tobytes() for image in values),
        labels=tuple(str(label) for label in bunch.target),
    )
    return Images(table, values)
