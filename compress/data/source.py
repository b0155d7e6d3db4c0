"""Base class of data sources: split settings, file paths, and `read`.

A source is a frozen pydantic model whose fields are the keys of a recipe's `data:`; to add one, add a file in
`sources/` and a line in `config`. Must not import torch, so that a bad recipe is refused quickly.
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
from compress.data.paths import near_path, what_is_there
from compress.data.readers.reader import Modality, Reader
from compress.data.splits import Splits
from compress.data.table import Table
from compress.errors import DataError, Problem
from compress.tasks import Task, task_class
from compress.tasks.registry import default_task, task_of_labels, tasks_of_rows
from compress.tasks.spec import LabelKind, RowKind, TaskName

__all__ = ["DataSource", "load_splits"]

_PARTS = ("train", "validation", "test", "unlabelled")


class DataSource(BaseModel, ABC):
    """Source of rows: the `data:` section of a recipe.

    Class attributes:
        rows: kind of rows, which determines the possible tasks too.
        label_kinds: the labels that its rows can have, which determine the possible tasks.
        modality: type of a row.
        paths_to: what its paths refer to.
        column: what holds one value a row.

    Attributes:
        task: the task to learn; empty: the first task for this kind of rows.
        seed: of drawing splits and samples.
        validation_fraction: share of train drawn for validation, if validation is not given.
        test_fraction: share of train drawn for test, if test is not given.
        train_limit: most rows to train on, sampled by the seed; None: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: ClassVar[RowKind] = "labelled"
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("class",)
    modality: ClassVar[Modality] = "numbers"
    paths_to: ClassVar[Literal["FILE", "DIR", "FILE or DIR"]] = "FILE"
    column: ClassVar[str] = "column"
    if TYPE_CHECKING:
        source: str

    task: TaskName = Field(default="", validate_default=True)
    seed: int = 0
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    train_limit: int | None = Field(default=None, ge=2)

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        allowed = cls.tasks()
        if name and name not in allowed:
            raise ValueError(f"no task '{name}' for the rows of this source; allowed: {', '.join(allowed)}")
        return name or default_task(cls.rows)

    @model_serializer(mode="wrap")
    def _without_implied_task(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        if found.get("task") == default_task(self.rows):
            del found["task"]
        if found.get("group", "") is None:  # a key newer than stored recipes
            del found["group"]
        return found

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> Self:
        drawn = [part for part in ("validation", "test") if getattr(self, part, None) is None]
        if sum(getattr(self, f"{part}_fraction") for part in drawn) >= 1:
            raise ValueError(
                "validation_fraction and test_fraction leave no rows to train on; their sum must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _groups_are_of_the_task(self) -> Self:
        group = getattr(self, "group", None)
        if "group" in type(self).model_fields and self.kind.has_groups() != (group is not None):
            raise ValueError(
                f"task {self.task} needs group: the name of the {self.column} with each row's query"
                if group is None
                else "group is for candidates of a query; set data.task="
                f"{task_of_labels('graded')} too, or omit group"
            )
        return self

    @classmethod
    def tasks(cls) -> tuple[TaskName, ...]:
        """Names of the tasks that its rows can serve."""
        names = tasks_of_rows(cls.rows)
        return tuple(name for name in names if task_class(name).label_kind in cls.label_kinds)

    @abstractmethod
    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """Read, deduplicate, split and encode the rows.

        Args:
            reader: the model's reader, which the source's own settings override; None if there is none.
            label_order: class names by the model's output index; None lets the data decide.

        Returns:
            The splits, with the reader that encoded them.

        Raises:
            DataError: if data is missing, empty, leaking between splits or mislabelled, or needs a reader.
        """

    @property
    def kind(self) -> type[Task]:
        """The class of the task."""
        return task_class(self.task)

    @property
    def longest(self) -> int | None:
        """Maximum tokens of a row; None if rows are not truncated."""
        return getattr(self, "max_length", None)

    def paths(self) -> dict[str, Path]:
        """Paths in the source's settings, by key."""
        named = {part: getattr(self, part, None) for part in _PARTS}
        return {part: path for part, path in named.items() if isinstance(path, Path)}

    def notes(self) -> tuple[str, ...]:
        """Caveats for the report on what is read, a sentence each."""
        return ()

    def check_files(self) -> None:
        """Check that the source's files and directories exist.

        Raises:
            DataError: if one does not.
        """
        for part, path in self.paths().items():
            wrong, others = _wrong(path, self.paths_to)
            if wrong:
                text = f"data.{part}: {path} {wrong}; set data.{part}={self.paths_to}{others}"
                near = near_path(path)
                raise DataError(
                    Problem(text, key=f"data.{part}", value=path, nearest=None if near is None else str(near))
                )

    def divided(self, tables: Mapping[str, Table]) -> Partition:
        """Assign the rows of tables to splits.

        Raises:
            DataError: as in `partition`.
        """
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        return partition(
            tables, fractions=fractions, task=self.kind, train_limit=self.train_limit, seed=self.seed
        )


def load_splits(
    config: DataSource, *, reader: Reader | None = None, label_order: Sequence[str] | None = None
) -> Splits:
    """Read, deduplicate, split and encode the rows of a source; see `DataSource.read`."""
    return config.read(reader, label_order)


def _wrong(path: Path, wanted: str) -> tuple[str, str]:
    """Why a path is not of the wanted kind, empty if it is; and a hint at other sources that can read it."""
    if path.is_dir() and wanted != "FILE":
        return "", ""
    if wanted == "DIR":
        return ("is not a directory" if path.exists() else what_is_there(path)), ""
    return what_is_there(path), _sources_of_directory(path) if path.is_dir() else ""


def _sources_of_directory(path: Path) -> str:
    """Hint at data sources that read a directory; only the likely one if its files show which."""
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return f", or read it with data.source=datasets data.name={path}"
    return (
        "; directories are read by data.source=images (one folder per class), datasets (save_to_disk) "
        "and corpus"
    )
