"""What every source of rows has: how it is split, which files it names, and `read`.

A source is a frozen pydantic model whose fields are the keys of a recipe's `data:`; a new one is a file in
`sources/` and a line in `config`. No torch here: a bad recipe is refused before it is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from compress.data.partition import Partition, partition
from compress.data.paths import what_is_there
from compress.data.readers.reader import Modality, Reader
from compress.data.split import Splits
from compress.data.table import Table
from compress.errors import DataError, did_you_mean
from compress.tasks import task_class
from compress.tasks.registry import default_task, tasks_of_rows
from compress.tasks.spec import RowKind, TaskName

__all__ = ["DataSource"]

_PARTS = ("train", "validation", "test", "unlabelled")


class DataSource(BaseModel, ABC):
    """Where rows come from: the `data:` part of a recipe.

    Class attributes:
        rows: what rows are labelled with, which says what tasks there may be.
        several_labels: rows can have any number of labels, if the task wants that.
        modality: what a row is.
        paths_to: what its paths name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: ClassVar[RowKind] = "labelled"
    several_labels: ClassVar[bool] = False
    modality: ClassVar[Modality] = "numbers"
    paths_to: ClassVar[Literal["FILE", "DIR", "FILE or DIR"]] = "FILE"
    if TYPE_CHECKING:
        source: str

    task: TaskName = Field(default="", validate_default=True)
    """What is learnt from the rows; where nothing is said, the first task of this kind of rows."""
    seed: int = 0
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    train_limit: int | None = Field(default=None, ge=2)

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        allowed = [
            each
            for each in tasks_of_rows(cls.rows)
            if cls.several_labels or not task_class(each).several_labels
        ]
        if name and name not in allowed:
            raise ValueError(f"no task '{name}' of these rows{did_you_mean(name, allowed)}")
        return name or default_task(cls.rows)

    @model_serializer(mode="wrap")
    def _without_implied_task(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        if found.get("task") == default_task(self.rows):
            del found["task"]
        return found

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> Self:
        drawn = [part for part in ("validation", "test") if getattr(self, part, None) is None]
        if sum(getattr(self, f"{part}_fraction") for part in drawn) >= 1:
            raise ValueError(
                "validation_fraction and test_fraction leave no rows to train on: their sum is 1 or more"
            )
        return self

    @abstractmethod
    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """Read, deduplicate, split and encode the rows.

        Args:
            reader: how the model reads rows, but for what the source itself says; None: nothing is known.
            label_order: class names by the model's output index; None: the data decides.

        Returns:
            The splits, with the reader that encoded them.

        Raises:
            DataError: data that is missing, empty, leaking between splits or mislabelled; or needs a reader.
        """

    @property
    def longest(self) -> int | None:
        """Tokens to which rows are cut; None: they aren't."""
        return getattr(self, "max_length", None)

    def paths(self) -> dict[str, Path]:
        """The paths that it names, by key."""
        named = {part: getattr(self, part, None) for part in _PARTS}
        return {part: path for part, path in named.items() if isinstance(path, Path)}

    def notes(self) -> tuple[str, ...]:
        """What a reader of the report must know of what is read, a sentence each."""
        return ()

    def check_files(self) -> None:
        """Check that the files and directories that it names are there.

        Raises:
            DataError: one is not.
        """
        for part, path in self.paths().items():
            wrong, others = _wrong(path, self.paths_to)
            if wrong:
                raise DataError(
                    f"data.{part}: {path} {wrong}; give yours with data.{part}={self.paths_to}{others}"
                )

    def divided(self, tables: Mapping[str, Table]) -> Partition:
        """Pick the rows of each split of tables that were read.

        Raises:
            DataError: as `partition`.
        """
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        kind = task_class(self.task)
        return partition(tables, fractions=fractions, task=kind, train_limit=self.train_limit, seed=self.seed)


def _wrong(path: Path, wanted: str) -> tuple[str, str]:
    """Why a path is not what is wanted, empty if it is; and other sources that could read it."""
    if path.is_dir() and wanted != "FILE":
        return "", ""
    if wanted == "DIR":
        return ("is no folder" if path.exists() else "does not exist"), ""
    return what_is_there(path), _sources_of_directory(path) if path.is_dir() else ""


def _sources_of_directory(path: Path) -> str:
    """Name the data sources that read a directory, the likely one alone where its files show which."""
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return f", or read it with data.source=datasets data.name={path}"
    return "; data.source=images (a folder a class), datasets (save_to_disk) and corpus read directories"
