"""Where rows come from: the `data:` part of a recipe.

No torch here: a bad recipe is refused before it is imported.

A path in a recipe is relative to the recipe's file; one given on the command line, to the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from compress.errors import did_you_mean
from compress.tasks.registry import default_task, tasks_of_rows
from compress.tasks.spec import RowKind, TaskName

__all__ = [
    "ArraysData",
    "CommandLineText",
    "CorpusData",
    "DataConfig",
    "DataSource",
    "DatasetsData",
    "DigitImagesData",
    "DigitsData",
    "FileData",
    "ImagesData",
    "PathOrName",
    "RecipePath",
    "StdlibData",
]


class CommandLineText(str):
    """A value typed on the command line: a path in it is relative to the working directory."""


def _resolved(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    base = (info.context or {}).get("base")
    root = Path.cwd() if base is None or isinstance(value, CommandLineText) else Path(base)
    # normpath, not resolve: a path through a link is shown and kept as it was written.
    return Path(os.path.normpath(root / Path(value).expanduser()))


def _resolved_if_there(value: Any, info: ValidationInfo) -> Any:
    path = _resolved(value, info)
    return str(path) if isinstance(path, Path) and path.exists() else value


RecipePath = Annotated[Path, BeforeValidator(_resolved)]
"""A path; relative to the recipe's file."""

PathOrName = Annotated[str, BeforeValidator(_resolved_if_there)]
"""A directory that exists, or else a name on the Hugging Face Hub."""


_Pixels = Annotated[int, Field(ge=1, le=4096)]
_Channels = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value),
    Field(min_length=1, max_length=3),
]


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: ClassVar[RowKind] = "labelled"

    task: TaskName = Field(default="", validate_default=True)
    """What is learnt from the rows; where nothing is said, the first task of this kind of rows."""
    seed: int = 0
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    train_limit: int | None = Field(default=None, ge=2)

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        allowed = tasks_of_rows(cls.rows)
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


class DigitsData(_Source):
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, as 16 patches of 2x2; nothing is downloaded."""

    source: Literal["digits"] = "digits"


class DigitImagesData(_Source):
    """The same digits as pictures in grey, `pixel_values` [1, 8, 8], for a vision Transformer or a CNN."""

    source: Literal["digit-images"] = "digit-images"


class ImagesData(_Source):
    """Image classification from folders: one sub-folder a class, of its name, with pictures in it.

    A split without a folder of its own is drawn from train, stratified by class and seeded. What is not given
    below is as the model's preprocessor_config.json says; without that file pictures stay as large as they
    are, mean and std are 0.5, and there are 3 channels.

    Attributes:
        size: height and width that pictures are resized to, or one number for both.
        mean, std: of each channel, of pixels from 0 to 1; or one number for all.
        channels: 3 in colour, 1 in grey.
    """

    source: Literal["images"] = "images"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    mean: _Channels | None = None
    std: _Channels | None = None
    channels: Literal[1, 3] | None = None


class ArraysData(_Source):
    """Arrays of the user's own, from .npz files (numpy.savez): the model's inputs by name, and "labels".

    What an input is like is read off train, as `compress.from_arrays` does. Labels are class indices or
    names. A split without a file of its own is drawn from train, stratified by label and seeded.
    """

    source: Literal["arrays"] = "arrays"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None


class FileData(_Source):
    """Text classification from CSV, TSV, JSONL or Parquet files (by their ending; .gz as well, but Parquet).

    A split without a file of its own is drawn from train, stratified by label and seeded. `unlabelled` is a
    file of further texts without labels: one of these, or a .txt with a text a line.
    """

    source: Literal["file"] = "file"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    unlabelled: RecipePath | None = None
    text: str = "text"
    label: str = "label"
    max_length: int = Field(default=128, ge=2)


class DatasetsData(_Source):
    """Text classification from a Hugging Face `datasets` directory (save_to_disk) or hub name.

    A split whose name is none is drawn from train, stratified by label and seeded. `unlabelled` names a
    split of further texts, whose labels are not read.
    """

    source: Literal["datasets"] = "datasets"
    name: PathOrName
    config: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = None
    unlabelled: str | None = None
    text: str = "text"
    label: str = "label"
    max_length: int = Field(default=128, ge=2)


class _Stream(_Source):
    """Text for a language model: documents, one after the other, cut into rows of `max_length` tokens.

    Attributes:
        max_length: tokens a row; each position's label is the token that follows it.
        validation_limit, test_limit: rows that are kept to measure on, drawn by the seed.
        end_token: what ends a document, and what the model then ends its answers with; none: as the
            tokenizer's files say; false: nothing does.
    """

    rows: ClassVar[RowKind] = "stream"

    end_token: str | Literal[False] | None = None

    max_length: int = Field(default=256, ge=2)
    validation_limit: int = Field(default=128, ge=2)
    test_limit: int = Field(default=256, ge=2)


class CorpusData(_Stream):
    """Language modelling on the user's text: a file, a folder of files, or a `datasets` directory.

    A .txt file, or any file of a folder that `files` matches, is one document; in CSV, JSONL and Parquet
    files and `datasets` directories each row is one. A split that is not given is drawn from train, by whole
    documents.

    Attributes:
        files: which files of a folder are read, by their names.
        text: the column that holds the text.
    """

    source: Literal["corpus"] = "corpus"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    files: str = "*.txt"
    text: str = "text"


class StdlibData(_Stream):
    """Language modelling on the source of Python's own standard library; nothing is downloaded.

    Attributes:
        train_bytes: how much of it is trained on: whole files, drawn by the seed.
    """

    source: Literal["stdlib"] = "stdlib"
    train_bytes: int = Field(default=2_000_000, ge=10_000)


DataSource = (
    DigitsData | DigitImagesData | ImagesData | ArraysData | FileData | DatasetsData | CorpusData | StdlibData
)
DataConfig = Annotated[DataSource, Field(discriminator="source")]
