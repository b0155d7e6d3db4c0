"""Reader: how a model's rows are read, whether texts, images or numbers.

Everything that depends on the modality is here and in the subclasses (`TextEncoder`, `ImageProcessor`):
contents of a row, files that a bundle ships so that deployed programs read rows the same way, and wording.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from compress.data.split import Row, Split
from compress.errors import DataError
from compress.tasks import InputSpec

__all__ = ["Modality", "NumbersReader", "Reader", "reader_of_numbers"]

Modality = Literal["text", "image", "numbers"]


class Reader(ABC):
    """How rows are read.

    Class attributes:
        modality: type of a row.
        made_up: description of synthetic rows, for messages.
    """

    modality: ClassVar[Modality]
    made_up: ClassVar[str] = ""

    def settings(self) -> str | None:
        """Settings that change the rows or the training, for cache keys; None if there are none."""
        return None

    def synthetic(self, count: int, longest: int, *, seed: int) -> Split:
        """Make synthetic rows, for a model without data.

        Args:
            longest: maximum number of positions, if rows differ in length.

        Raises:
            DataError: if that is not possible.
        """
        raise DataError(
            "synthetic rows of numbers are not supported; use a recipe with this model and its data"
        )

    def shown(self, row: Row) -> tuple[str, ...] | None:
        """A word for each position of a row; None if positions only have numbers."""
        del row
        return None

    def doubts(self, split: Split, whose: str = "the tokenizer") -> tuple[str, ...]:
        """Caveats for the report on how these rows were read, a sentence each."""
        del split, whose
        return ()

    def longest_words(self, inputs: Sequence[InputSpec], length: int) -> str:
        """Size of the largest row, for an error message."""
        shape = inputs[0].shape
        if isinstance(shape[0], int):
            return f"of shape [{', '.join(map(str, shape))}]"
        return f"the longest has {length} positions"

    def shipped(self) -> tuple[Path, ...]:
        """Files of the model that are copied into a bundle if they exist."""
        return ()

    def write_(self, directory: Path, longest: int | None, *, generates: bool = False) -> None:
        """Write the files that a bundle needs to read rows.

        Args:
            longest: maximum positions of a row, at which rows are truncated unless the model generates.
            generates: whether rows are prompts for the model to continue.
        """
        del directory, longest, generates

    @property
    def vocab_size(self) -> int:
        """Number of tokens; 0 if rows are not tokens."""
        return 0

    @property
    def end_id(self) -> int | None:
        """End token of generated text; None if there is none."""
        return None

    def facts(self) -> dict[str, Any]:
        """Facts about the reader for a manifest."""
        return {}

    @property
    def how(self) -> str:
        """How rows were read when accuracy was measured, for a manifest."""
        return "one row at a time, no padding"


class NumbersReader(Reader):
    """Reader of rows that are numbers already and need no encoding."""

    modality: ClassVar[Modality] = "numbers"


def reader_of_numbers(reader: Reader | None) -> Reader:
    """Reader of encoded rows; keeps the model's tokenizer, which later stages may use."""
    return reader if reader is not None and reader.modality == "text" else NumbersReader()
