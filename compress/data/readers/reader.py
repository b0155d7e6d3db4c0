"""Reader: how a model's rows are read, whatever they are: texts, images or numbers.

All that depends on the modality is here and in its subclasses (`TextEncoder`, `ImageProcessor`): what a row
holds, what a bundle ships so that a deployed program reads rows likewise, and the words for it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.errors import DataError
from compress.tasks import InputSpec

if TYPE_CHECKING:
    from compress.data.split import Row, Split

__all__ = ["Modality", "NumbersReader", "Reader", "reader_of_numbers"]

Modality = Literal["text", "image", "numbers"]


class Reader(ABC):
    """How rows are read.

    Class attributes:
        modality: what a row is.
        made_up: what synthetic rows hold, for people.
    """

    modality: ClassVar[Modality]
    made_up: ClassVar[str] = ""

    def settings(self) -> str | None:
        """What changes the rows or what is learnt from them, for keys; None: nothing."""
        return None

    def synthetic(self, count: int, longest: int, *, seed: int) -> Split:
        """Make rows up, for a model that comes without data.

        Args:
            longest: positions of a row, where rows differ in length.

        Raises:
            DataError: that can't be done.
        """
        raise DataError("rows of numbers can't be made up: give a recipe with this model and its data")

    def shown(self, row: Row) -> tuple[str, ...] | None:
        """A word for each position of a row; None: positions have numbers only."""
        del row
        return None

    def doubts(self, split: Split, whose: str = "the tokenizer") -> tuple[str, ...]:
        """What a reader of the report must know of how these rows were read, a sentence each."""
        del split, whose
        return ()

    def longest_words(self, inputs: Sequence[InputSpec], length: int) -> str:
        """The size of the largest row, for an error."""
        del inputs
        return f"the longest has {length} positions"

    def shipped(self) -> tuple[Path, ...]:
        """Files of the model's own that go into a bundle unchanged, if they are there."""
        return ()

    def write_(self, directory: Path, longest: int | None, *, generates: bool = False) -> None:
        """Write what reads rows in a bundle.

        Args:
            longest: positions that a row may have; rows are cut there, unless the model generates.
            generates: whether rows are prompts, which the model continues.
        """
        del directory, longest, generates

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; 0 where rows are no tokens."""
        return 0

    @property
    def end_id(self) -> int | None:
        """The token that ends what a model generates; None: there is none."""
        return None

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {}

    @property
    def how(self) -> str:
        """How rows were read when accuracy was measured, for a manifest."""
        return "one row at a time, truncated to max_length, no padding"


class NumbersReader(Reader):
    """Rows are what the source holds: nothing is encoded."""

    modality: ClassVar[Modality] = "numbers"


def reader_of_numbers(reader: Reader | None) -> Reader:
    """The reader of rows that are encoded already: the model's tokenizer may serve later stages."""
    return reader if reader is not None and reader.modality == "text" else NumbersReader()
