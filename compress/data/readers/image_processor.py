"""Image preprocessing as described by a `preprocessor_config.json`.

The same arithmetic as the Pillow-backed image processors of transformers, without needing them.
Shapes: p = channels, h = height, w = width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.data.readers.reader import Modality, Reader
from compress.data.split import Split
from compress.errors import DataError, ModelError
from compress.system.files import read_json
from compress.tasks import InputSpec

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageProcessor", "PIXELS", "PREPROCESSOR_FILE"]

PIXELS = "pixel_values"
PREPROCESSOR_FILE = "preprocessor_config.json"

_BILINEAR = 2  # Pillow's number
_RESAMPLES = range(6)
_HALF = 0.5
# Defaults of the library that wrote the file, for missing keys; all other kinds use ViT's.
_DEIT: dict[str, Any] = {"size": 256, "crop_size": 224, "do_center_crop": True, "resample": 3}
_SQUEEZED = 384  # from this size on, ConvNeXt's and ResNet's ignore an image's proportions
# Below this size, the shorter side becomes 1 / crop_pct of it, then a crop follows.
_CONVNEXT: dict[str, Any] = {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256}
_CHANGES_COLOURS = ("do_flip_channel_order", "rescale_offset")
_CHANGES_SIZE = ("do_pad", "do_thumbnail", "do_align_long_axis")


@dataclass(frozen=True)
class ImageProcessor(Reader):
    """Image preprocessing of a model.

    Attributes:
        size: height and width to resize to; a single number is the shorter side, keeping proportions; None
            does not resize.
        crop: height and width of the center crop that follows.
        channels: 3 for colour, 1 for grey.
        mean, std: per channel, applied after `factor`; None does not normalize.
        factor: multiplier of the 0 to 255 pixel values.
        resample: Pillow's number of the resizing filter.
        source: other settings of the model's own file, preserved when it is written again.
    """

    modality: ClassVar[Modality] = "image"
    made_up: ClassVar[str] = "random pixels"

    size: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = (_HALF, _HALF, _HALF)
    std: tuple[float, ...] | None = (_HALF, _HALF, _HALF)
    factor: float = 1 / 255
    resample: int = _BILINEAR
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_file(cls, path: Path, *, channels: int = 3) -> ImageProcessor:
        """Read a preprocessor_config.json.

        Raises:
            ModelError: if it can't be read, or uses unsupported options.
        """
        try:
            config = read_json(path)
            if not isinstance(config, dict):
                raise TypeError(f"must be a JSON object, not {type(config).__name__}")
            return cls._from_config(config, channels)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"cannot use {path}: {error}") from error

    @classmethod
    def _from_config(cls, config: Mapping[str, Any], channels: int) -> ImageProcessor:
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        known = {**(_DEIT if kind.startswith("DeiT") else {}), **config}
        for name in _CHANGES_SIZE:
            if known.get(name):
                raise ValueError(f"{name} is not supported; set data.size, data.mean and data.std")
        for name in _CHANGES_COLOURS:
            if known.get(name):
                raise ValueError(f"{name} is not supported: pixels would be read otherwise than in training")
        if kind.startswith("ConvNe"):
            known = _as_crop({**_CONVNEXT, **config})
        elif kind.startswith("EfficientNet") and known.get("include_top", True):
            known = _divided_once(config)
        normalized = known.get("do_normalize", True)
        return cls(
            size=_resized_to(known.get("size", 224)) if known.get("do_resize", True) else None,
            crop=_sides(known.get("crop_size", 224), "crop_size") if known.get("do_center_crop") else None,
            channels=channels,
            mean=_each_channel(known.get("image_mean", _HALF), channels, "image_mean")
            if normalized
            else None,
            std=_each_channel(known.get("image_std", _HALF), channels, "image_std") if normalized else None,
            factor=float(known.get("rescale_factor", 1 / 255)) if known.get("do_rescale", True) else 1.0,
            resample=_filter(known.get("resample", _BILINEAR)),
            source={key: known[key] for key in ("image_processor_type", *config) if key in known},
        )

    def changed(
        self,
        *,
        size: tuple[int, int] | int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels: int | None = None,
    ) -> ImageProcessor:
        """Return a copy with some settings changed; a new size removes the crop.

        Raises:
            DataError: if the number of values differs from the number of channels.
        """
        count = channels or self.channels
        made = replace(self, channels=count)
        if size is not None:
            made = replace(made, size=(size, size) if isinstance(size, int) else size, crop=None)
        try:
            wanted_mean = made.mean if mean is None else tuple(mean)
            wanted_std = made.std if std is None else tuple(std)
            return replace(
                made,
                mean=None if wanted_mean is None else _each_channel(wanted_mean, count, "mean"),
                std=None if wanted_std is None else _each_channel(wanted_std, count, "std"),
            )
        except (ValueError, TypeError) as error:
            raise DataError(f"data: {error}") from error

    @property
    def result(self) -> tuple[int, int] | None:
        """Output height and width; None if they depend on the image."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)

    @property
    def mode(self) -> str:
        """Pillow's name of the colour mode that images are converted to."""
        return "L" if self.channels == 1 else "RGB"

    def inputs(self, height: int, width: int) -> tuple[InputSpec, ...]:
        """Specification of the model's inputs."""
        return (InputSpec(PIXELS, "float32", (self.channels, height, width)),)

    def pixels(self, image: Image) -> NDArray[np.uint8]:
        """Convert, resize and crop an image: [h, w, p].

        Raises:
            DataError: if it is smaller than the crop.
        """
        image = image if image.mode == self.mode else image.convert(self.mode)
        if self.size is not None:
            height, width = self._resized(image.height, image.width)
            if (image.height, image.width) != (height, width):
                image = image.resize((width, height), self.resample)
        if self.crop is not None:
            height, width = self.crop
            top, left = (image.height - height) // 2, (image.width - width) // 2
            if top < 0 or left < 0:
                raise DataError(f"is {image.width}x{image.height}, smaller than the crop of {width}x{height}")
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, self.channels)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        assert self.size is not None
        if isinstance(self.size, tuple):
            return self.size
        short = min(height, width)
        return (
            self.size if height == short else int(self.size * height / short),
            self.size if width == short else int(self.size * width / short),
        )

    def values(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Rescale and normalize: [h, w, p] -> [p, h, w]."""
        values = pixels.astype(np.float32) * np.float32(self.factor)
        if self.mean is not None and self.std is not None:
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)  # [p, h, w]

    def to_config(self) -> dict[str, Any]:
        """Contents of preprocessor_config.json, for transformers and transformers.js."""
        config: dict[str, Any] = {
            **{"image_processor_type": "ViTImageProcessor", **self.source},
            "do_resize": self.size is not None,
            "do_center_crop": self.crop is not None,
            "do_rescale": self.factor != 1.0,
            "do_normalize": self.mean is not None,
            "resample": self.resample,
            "rescale_factor": self.factor,
        }
        if self.channels == 1:  # transformers.js converts to RGB by default
            config |= {"do_convert_rgb": False, "do_convert_grayscale": True}
        optional: dict[str, Any] = {
            "size": _sides_written(self.size),
            "crop_size": _sides_written(self.crop),
            "image_mean": None if self.mean is None else list(self.mean),
            "image_std": None if self.std is None else list(self.std),
        }
        for name, value in optional.items():
            config.pop(name, None)
            if value is not None:
                config[name] = value
        return config

    def settings(self) -> str:
        """All settings as JSON; see `Reader.settings`."""
        return json.dumps(self.to_config(), default=str)

    def synthetic(self, count: int, longest: int, *, seed: int) -> Split:
        """Make rows of random pixels; see `Reader.synthetic`."""
        del longest
        if self.result is None:
            raise DataError("the model's files don't give an image size; use a recipe with data")
        shape = (*self.result, self.channels)
        draw = np.random.default_rng(seed)
        images = (draw.integers(0, 256, shape).astype(np.uint8) for _ in range(count))
        rows = tuple({PIXELS: self.values(image)} for image in images)
        return Split.without_labels("synthetic", rows, self.inputs(*self.result))

    def longest_words(self, inputs: Sequence[InputSpec], length: int) -> str:
        """Size of all images; see `Reader.longest_words`."""
        del length
        channels, height, width = inputs[0].shape
        return f"images of {width}x{height} with {channels} channels (set by data.size and data.channels)"

    def write_(self, directory: Path, longest: int | None, *, generates: bool = False) -> None:
        """Write preprocessor_config.json; see `Reader.write_`."""
        del longest, generates
        text = json.dumps(self.to_config(), indent=2, ensure_ascii=False) + "\n"
        (directory / PREPROCESSOR_FILE).write_text(text, encoding="utf-8")

    def facts(self) -> dict[str, Any]:
        """Image settings for a manifest, as plain data."""
        facts = {
            "channels": self.channels,
            "colours": "RGB" if self.channels == 3 else "grey",
            "pixels_times": self.factor,
            "then_minus": None if self.mean is None else list(self.mean),
            "then_divided_by": None if self.std is None else list(self.std),
            "settings": PREPROCESSOR_FILE,
        }
        return {"image": facts}

    @property
    def how(self) -> str:
        """Refers to `preprocessor_config.json`; see `Reader.how`."""
        return f"one image at a time, preprocessed as in {PREPROCESSOR_FILE}"


def _as_crop(convnext: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ConvNeXt's processor as those of one that resizes and crops."""
    size, plain = convnext["size"], {**convnext, "image_processor_type": "BitImageProcessor"}
    side = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if not isinstance(side, int):
        raise ValueError(f"size {size} is not supported; allowed: a number, or shortest_edge (data.size)")
    if side >= _SQUEEZED:
        plain |= {"size": {"height": side, "width": side}}
    else:
        cropped = {"height": side, "width": side}
        plain |= {"size": {"shortest_edge": int(side / convnext["crop_pct"])}}
        plain |= {"do_center_crop": True, "crop_size": cropped}
    return {key: each for key, each in plain.items() if key not in ("crop_pct", "feature_extractor_type")}


def _divided_once(efficientnet: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of EfficientNet's processor, which divides by the deviation twice, as of one division."""
    std = efficientnet.get("image_std", _HALF)
    squares = [value**2 for value in std] if isinstance(std, list | tuple) else std**2
    plain = {**efficientnet, "image_std": squares, "image_processor_type": "BitImageProcessor"}
    return {key: each for key, each in plain.items() if key not in ("include_top", "feature_extractor_type")}


def _resized_to(size: Any) -> tuple[int, int] | int:
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return _side(size["shortest_edge"], "size")
    return _sides(size, "size")


def _sides(size: Any, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return _side(size, name), _side(size, name)
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return _side(size["height"], name), _side(size["width"], name)
    if isinstance(size, list | tuple) and len(size) == 2:
        return _side(size[0], name), _side(size[1], name)
    raise ValueError(f"{name} {size} is not supported; allowed: a number, or height and width (data.size)")


def _side(value: Any, name: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive whole number of pixels, not {value}")
    return value


def _sides_written(size: tuple[int, int] | int | None) -> dict[str, int] | None:
    if isinstance(size, int):
        return {"shortest_edge": size}
    return None if size is None else {"height": size[0], "width": size[1]}


def _each_channel(given: Any, channels: int, name: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in (given if isinstance(given, list | tuple) else [given]))
    if len(set(values)) == 1:  # equal values apply to any number of channels
        values = values[:1] * channels
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values; an image has {channels} channels")
    if "std" in name and min(values) <= 0:
        raise ValueError(f"{name} must be above 0, not {min(values)}")
    return values


def _filter(value: Any) -> int:
    if type(value) is not int or value not in _RESAMPLES:
        raise ValueError(f"resample {value} is not a Pillow filter; allowed: 0 to 5")
    return value
