"""Image classification from folders, one sub-folder per class.

Two images are duplicates if the model sees the same pixels, whatever their files contain.
Shapes: n = images, p = channels, h = height, w = width.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from compress.data.paths import RecipePath
from compress.data.readers.image_processor import PIXELS, ImageProcessor
from compress.data.readers.reader import Modality, Reader
from compress.data.source import DataSource
from compress.data.split import Row
from compress.data.splits import Splits, assemble
from compress.data.table import Note, Table, counted, listed
from compress.errors import DataError
from compress.system.cores import available_cores

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Images", "ImagesData", "image_splits", "read_image_folders"]

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}
_IN_MEMORY_BYTES = 1 << 30  # larger arrays are kept in a temporary file
_MOST_THREADS = 8

_Pixels = Annotated[int, Field(ge=1, le=4096)]
_Channels = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value),
    Field(min_length=1, max_length=3),
]


@dataclass(frozen=True)
class Images:
    """Images of one folder.

    Attributes:
        table: labels, and the keys that identify duplicates.
        values: model inputs, [n, p, h, w].
        notes: what was converted or left out, a line each.
    """

    table: Table
    values: NDArray[np.float32]
    notes: tuple[Note, ...] = ()


class ImagesData(DataSource):
    """Image classification from folders: one sub-folder of images per class, named after it.

    A split without its own folder is drawn from train, stratified by class and seeded. Settings not given
    below come from the model's preprocessor_config.json; without that file images keep their size, mean and
    std are 0.5, and there are 3 channels.

    Attributes:
        train: the folder of training images.
        validation: that of validation images; None: drawn from train.
        test: that of test images; None: drawn from train.
        size: height and width that images are resized to, or one number for both.
        mean, std: per channel, for pixels from 0 to 1; or one number for all.
        channels: 3 for colour, 1 for grey.
    """

    modality: ClassVar[Modality] = "image"
    paths_to: ClassVar[Literal["FILE", "DIR", "FILE or DIR"]] = "DIR"

    source: Literal["images"] = "images"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    mean: _Channels | None = None
    std: _Channels | None = None
    channels: Literal[1, 3] | None = None

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """See `DataSource.read`; settings given here override the model's."""
        known = reader if isinstance(reader, ImageProcessor) else ImageProcessor()
        processor = known.changed(size=self.size, mean=self.mean, std=self.std, channels=self.channels)
        return image_splits(self, read_image_folders(self, processor), processor, label_order)


def image_splits(
    config: DataSource,
    read: Mapping[str, Images],
    processor: ImageProcessor,
    label_order: Sequence[str] | None,
) -> Splits:
    """Make splits from images that were read.

    Args:
        read: train, and validation and test if given.
    """
    tables = {part: images.table for part, images in read.items()}
    parts = config.divided(tables)
    rows: dict[str, tuple[Row, ...]] = {
        part: tuple({PIXELS: read.get(part, read["train"]).values[i]} for i in picked)
        for part, picked in parts.indices.items()
    }
    _, height, width = read["train"].values.shape[1:]
    notes = tuple(note for images in read.values() for note in images.notes)
    inputs = processor.inputs(height, width)
    return assemble(config.kind, tables, parts, rows, inputs, label_order, notes=notes, reader=processor)


def read_image_folders(config: ImagesData, processor: ImageProcessor) -> dict[str, Images]:
    """Read the folders of train, and of validation and test if given.

    All folders are listed before the first image is read.

    Raises:
        DataError: if a folder has no images or only one class, a class has no images, an image can't be read
            (its name is given), or images differ in size and no size is set.
    """
    roots = {"train": config.train, "validation": config.validation, "test": config.test}
    found = {part: _Folder.look(root, part) for part, root in roots.items() if root is not None}
    if len(found["train"].classes) < 2:
        only = found["train"].classes[0]
        raise DataError(
            f"{config.train}: has only one sub-folder with images, '{only}'; give two classes or more, one "
            "sub-folder per class"
        )
    shape: tuple[int, ...] | None = None
    read = {}
    for part, folder in found.items():
        read[part] = folder.read(processor, shape)
        shape = read[part].values.shape[1:]
    return read


@dataclass(frozen=True)
class _Folder:
    """Image files in a folder, sorted by name."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def look(cls, root: Path, part: str) -> _Folder:
        if not root.is_dir():
            raise DataError(
                f"data.{part}: {root} is not a directory; it must have one sub-folder of images per class"
            )
        below = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
        files: list[Path] = []
        labels: list[str] = []
        others: list[str] = []
        for each in below:
            inside = list(_files_below(each))
            images = [file for file in inside if file.suffix.lower() in _ENDINGS]
            if not images:
                raise DataError(
                    f"{each}: this class has no image ({', '.join(_ENDINGS)}); add some or remove the folder"
                )
            others += [file.name for file in inside if file.suffix.lower() not in _ENDINGS]
            files += images
            labels += [each.name] * len(images)
        if not files:
            loose = any(file.suffix.lower() in _ENDINGS for file in root.iterdir())
            what = "has images but no sub-folder" if loose else "has no images in sub-folders"
            raise DataError(f"{root}: {what}; put the images of each class into a sub-folder named after it")
        names = [each.name for each in below]
        if len(names) > 1 and {name.casefold() for name in names} <= _SPLIT_NAMES:
            train = next((name for name in names if name.casefold().startswith("train")), names[0])
            raise DataError(
                f"{root}: its sub-folders are splits, not classes ({', '.join(names)}); give each split its "
                f"own folder, as in data.train={root / train}"
            )
        return cls(root, tuple(names), tuple(files), tuple(labels), tuple(others))

    def read(self, processor: ImageProcessor, shape: tuple[int, ...] | None) -> Images:
        """Decode all images.

        Args:
            shape: shape of the images in other folders; None uses the first image's.
        """
        first, _ = _read(self.files[0], processor)
        wanted = shape or (processor.channels, *first.shape[:2])
        values, where = _space((len(self.files), *wanted))

        def put(index: int) -> tuple[bytes, _Seen]:
            pixels, seen = _read(self.files[index], processor)
            if pixels.shape[:2] != wanted[1:]:
                raise DataError(
                    f"{self.files[index]}: is {pixels.shape[1]}x{pixels.shape[0]}, but others are "
                    f"{wanted[2]}x{wanted[1]}; set data.size to resize all"
                )
            values[index] = processor.values(pixels)
            return hashlib.sha256(pixels.tobytes()).digest(), seen

        # Pillow releases the GIL while decoding and resizing.
        with ThreadPoolExecutor(min(_MOST_THREADS, available_cores())) as pool:
            done = list(pool.map(put, range(len(self.files))))
        table = Table(
            name=self.root.name,
            where=str(self.root),
            items=tuple(digest for digest, _ in done),
            labels=self.labels,
            places=tuple(file.relative_to(self.root).as_posix() for file in self.files),
        )
        notes = _notes(table.name, [seen for _, seen in done], processor, wanted, self.others)
        return Images(table, values, notes + where)


_Seen = tuple[str, tuple[int, int]]
"""Pillow's colour mode of an image file, and its width and height."""


def _files_below(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _read(path: Path, processor: ImageProcessor) -> tuple[NDArray[np.uint8], _Seen]:
    """Decode one image, rotated according to its EXIF data; only the first frame of an animation."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            seen = _colours(file), file.size
            image = ImageOps.exif_transpose(file)
            image.load()
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError ... for broken files
        raise DataError(f"{path}: can't be read as an image ({error}); replace or remove it") from error
    if seen[0].startswith(("I", "F")):
        raise DataError(f"{path}: has more than 8 bits per channel ('{seen[0]}'); save it with 8 bits")
    try:
        return processor.pixels(image), seen
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _colours(image: Image) -> str:
    return f"{image.mode} with transparency" if "transparency" in image.info else image.mode


def _space(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], tuple[Note, ...]]:
    """Allocate an array, in memory or in a temporary file that is deleted with the process."""
    size = int(np.prod(shape)) * 4
    if size <= _IN_MEMORY_BYTES:
        return np.empty(shape, dtype=np.float32), ()
    try:
        with tempfile.TemporaryFile(prefix="modelpress-images-") as file:
            if hasattr(os, "posix_fallocate"):  # otherwise a full disk would cause a crash
                os.posix_fallocate(file.fileno(), 0, size)
            values = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{shape[0]} images take {size / 1e9:.1f} GB, and {tempfile.gettempdir()} has no room for them "
            f"({error.strerror}); set TMPDIR to another directory, or use fewer images"
        ) from error
    line = f"{counted(shape[0], 'image')} take {size / 1e9:.1f} GB, kept in a temporary file"
    return values, (Note(line),)


def _notes(
    name: str, seen: Sequence[_Seen], processor: ImageProcessor, shape: Sequence[int], others: Sequence[str]
) -> tuple[Note, ...]:
    notes: tuple[Note, ...] = ()
    colours = Counter(mode for mode, _ in seen if mode != processor.mode)
    if colours:
        kinds = ", ".join(f"{count} {mode}" for mode, count in sorted(colours.items()))
        lost = "; transparency dropped" if any("A" in mode or " " in mode for mode in colours) else ""
        line = (
            f"{name}: {colours.total()} of {counted(len(seen), 'image')} converted to {processor.mode} "
            f"({kinds}){lost}"
        )
        notes += (Note(line),)
    sizes = {size for _, size in seen}
    if sizes != {(shape[2], shape[1])}:
        small, large = (f"{w}x{h}" for w, h in (min(sizes, key=_area), max(sizes, key=_area)))
        span = small if len(sizes) == 1 else f"{len(sizes)} sizes, {small} to {large}"
        notes += (Note(f"{name}: images of {span} resized to {shape[2]}x{shape[1]}"),)
    if others:
        left_out = f"{name}: {counted(len(others), 'file')} ignored, not an image: {listed(others)}"
        notes += (Note(left_out),)
    return notes


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
