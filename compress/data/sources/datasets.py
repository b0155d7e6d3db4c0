"""Text classification from Hugging Face `datasets`: a directory from save_to_disk, or a Hub name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from compress.data.paths import PathOrName
from compress.data.sources.label_columns import LabelColumns
from compress.data.sources.text_columns import check_columns, labelled_table, unlabelled_table
from compress.data.sources.text_rows import TextRows
from compress.data.table import Table
from compress.errors import DataError, did_you_mean

__all__ = ["DatasetsData", "read_datasets", "read_unlabelled_dataset"]

_INSTALL_HF = "pip install 'modelpress[hf]'"


class DatasetsData(TextRows):
    """Text classification from a Hugging Face `datasets` directory (save_to_disk) or Hub name.

    A split without a name is drawn from train, stratified by label and seeded.

    Attributes:
        name: the directory, or the name on the Hub.
        config: name of the dataset's configuration on the Hub.
        train: name of the split of training rows.
        validation: that of validation rows; None: drawn from train.
        test: that of test rows; None: drawn from train.
        unlabelled: name of a split of additional texts, whose labels are not read.
    """

    source: Literal["datasets"] = "datasets"
    name: PathOrName
    config: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = None
    unlabelled: str | None = None

    @property
    def where(self) -> str:
        """The directory or name."""
        return self.name

    def columns(self) -> tuple[str, ...]:
        """Columns of train."""
        dataset = _open_datasets(self)
        return tuple((dataset[self.train] if isinstance(dataset, dict) else dataset).column_names)

    def tables(self) -> dict[str, Table]:
        """Read the splits."""
        return read_datasets(self)

    def unlabelled_table(self) -> Table | None:
        """Read the split without labels."""
        return None if self.unlabelled is None else read_unlabelled_dataset(self)


def read_datasets(config: DatasetsData) -> dict[str, Table]:
    """Read the splits of a `datasets` source: train, and validation and test if given.

    Raises:
        DataError: if a directory, Hub name, split, column, text or label is missing.
    """
    wanted = {"train": config.train, "validation": config.validation, "test": config.test}
    return {
        part: _read_dataset(split, name, where, config.text_columns, config.labels)
        for part, (split, name, where) in _named_splits(config, wanted).items()
    }


def read_unlabelled_dataset(config: DatasetsData) -> Table:
    """Read the texts of the `unlabelled` split of a `datasets` source; the table has no labels.

    Raises:
        DataError: if a directory, Hub name, split, column or text is missing.
    """
    dataset, name, where = _named_splits(config, {"unlabelled": config.unlabelled})["unlabelled"]
    text = config.unlabelled_columns
    check_columns(where, dataset.column_names, text)
    values = dataset.select_columns(list(text)).with_format(None)[:]
    found = [values[each] for each in text]
    return unlabelled_table(name, where, found, text, of_words=config.labels.of_words)


def _named_splits(config: DatasetsData, wanted: Mapping[str, str | None]) -> dict[str, tuple[Any, str, str]]:
    """For each wanted split with a name: its rows, its display name, and its name for errors."""
    dataset = _open_datasets(config)
    # A lone Dataset has no split names: it is the pool from which the others are drawn.
    splits = dict(dataset) if isinstance(dataset, dict) else {config.train: dataset}
    short = Path(config.name).name if Path(config.name).is_dir() else config.name
    found = {}
    for part, name in wanted.items():
        if name is None:
            continue
        if name not in splits:
            raise DataError(f"{config.name}: no split '{name}' for {part}{did_you_mean(name, splits)}")
        found[part] = (splits[name], f"{short}[{name}]", f"{config.name}[{name}]")
    return found


def _open_datasets(config: DatasetsData) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data source 'datasets' needs the datasets library: {_INSTALL_HF}") from error
    path = Path(config.name).expanduser()
    if path.is_dir():
        try:
            return datasets.load_from_disk(str(path))
        except Exception as error:  # the library raises many kinds; each means that it is no saved data set
            raise DataError(
                f"{path}: not a directory written by datasets' save_to_disk ({error}); "
                "for CSV, JSONL or Parquet files use `source: file`"
            ) from error
    if path.exists():
        raise DataError(f"{path}: is a file; for CSV, JSONL or Parquet files use `source: file`")
    if path.is_absolute() or config.name.startswith(".") or config.name.count("/") > 1:
        raise DataError(f"{config.name}: directory does not exist")
    try:
        return datasets.load_dataset(config.name, config.config)
    except Exception as error:  # network, Hub, cache and builder errors share no base class
        raise DataError(
            f"data set '{config.name}' is not a directory and could not be loaded from the Hugging Face Hub "
            f"({type(error).__name__}: {error}); check its name and the network, or save it on another "
            "machine with save_to_disk and set data.name to that directory"
        ) from error


def _read_dataset(dataset: Any, name: str, where: str, text: tuple[str, ...], labels: LabelColumns) -> Table:
    columns = (*text, *labels.names)
    check_columns(where, dataset.column_names, columns)
    values = dataset.select_columns(list(dict.fromkeys(columns))).with_format(None)[:]
    found: list[Any] = [values[each] for each in labels.names]
    declared: tuple[str, ...] = ()
    if not labels.declared and labels.kind in ("class", "classes", "tags"):
        declared = _class_names(dataset.features[labels.names[0]])
        found = [[_named(value, declared) for value in found[0]]] if declared else found
    texts = [values[each] for each in text]
    return labelled_table(name, where, texts, found, text=text, labels=labels, declared=declared)


def _class_names(feature: Any) -> tuple[str, ...]:
    """What a column of classes, or of lists of them, names these; empty: nothing."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _named(value: Any, names: tuple[str, ...]) -> Any:
    """Names in place of indices."""
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    # -1 is how the Hub marks the labels of a test split that are kept secret.
    return None if value is None or value < 0 else names[value]
