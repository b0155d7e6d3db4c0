"""Recipe: the stages to apply to a model and how to measure it, as frozen data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, SerializeAsAny

from compress.data.config import DataConfig
from compress.errors import Problem
from compress.model.files.config import ModelConfig
from compress.recipe.gates import GatesConfig
from compress.recipe.yaml_source import dump_yaml
from compress.stage import Stage

__all__ = ["ExportConfig", "MeasureConfig", "Recipe"]

RuntimeName = Literal["onnxruntime", "openvino"]
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _distinct(sizes: tuple[int, ...]) -> tuple[int, ...]:
    twice = next((size for size in sizes if sizes.count(size) > 1), None)
    if twice is not None:
        raise ValueError(f"it must not repeat a value, and {twice} is repeated")
    return sizes


def _directory_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]{0,99}", name) or name.endswith("."):
        raise ValueError(
            "it must be a directory name of at most 100 letters, digits, '_', '-' and '.', which begins with "
            "a letter, digit or '_' and does not end with '.'"
        )
    return name


def _device_name(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ValueError("it must be cpu, cuda, or one GPU as in cuda:0")
    return name


def _runtimes(names: tuple[RuntimeName, ...]) -> tuple[RuntimeName, ...]:
    if "onnxruntime" not in names:
        raise ValueError("it must include onnxruntime, which measures accuracy, size and memory")
    if len(set(names)) < len(names):
        raise ValueError("it must not repeat a runtime")
    return names


_Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65_536)], ...], Field(min_length=1), AfterValidator(_distinct)
]


class ExportConfig(BaseModel):
    """ONNX export settings, and how close its outputs must stay to those of the PyTorch model.

    Attributes:
        opset: ONNX operator set. From 23 on, attention is a single, faster operator, and the quantization
            operators need an ONNX Runtime newer than 1.23.
        parity_rows: number of validation rows to compare.
        min_agreement: fraction of those rows with the same predicted class.
        max_metric_difference: largest allowed difference of the metric on those rows.
        max_relative_error: largest difference of the outputs on that fraction of rows, over their standard
            deviation across rows; None: 0.001, or 0.5 if activations are rounded to 8 bits.
    """

    model_config = _STRICT

    opset: int = Field(default=21, ge=18, le=23)
    parity_rows: int = Field(default=256, ge=1)
    min_agreement: float = Field(default=0.98, ge=0, le=1)
    max_metric_difference: float = Field(default=0.02, ge=0, le=1)
    max_relative_error: float | None = Field(default=None, gt=0, le=10)


class MeasureConfig(BaseModel):
    """What is timed.

    Attributes:
        batch: rows per batch.
        sequence: lengths; None: the data's fixed length, or the median length of its test rows.
        threads: ONNX Runtime threads.
        rounds: how often baseline and candidate alternate.
        seconds: minimum duration of one side of a round.
        runtimes: runtimes to time the files in; must include onnxruntime, which provides all other figures.
            None: onnxruntime, and openvino if it is installed.
        ladder: also export and measure the model after every stage, on validation rows, if there are at least
            two stages.
        floor: also fit a linear model of counted words on the training texts, and of how alike both texts of
            a row are, which says what is reached without a Transformer. It costs seconds, and is only for
            tasks with such a model.
    """

    model_config = _STRICT

    batch: _Sizes = (1, 8)
    sequence: _Sizes | None = None
    threads: _Sizes = (1, 2)
    rounds: int = Field(default=9, ge=3, le=1000)
    seconds: float = Field(default=0.25, gt=0, le=60)
    runtimes: Annotated[tuple[RuntimeName, ...], AfterValidator(_runtimes)] | None = None
    ladder: bool = True
    floor: bool = True


class Recipe(BaseModel):
    """What to do to a model. Recipes with the same content are equal, wherever they were read from.

    Attributes:
        name: the run's name; None: derived from the path of the recipe file.
        model: the model to compress; the baseline of the report.
        data: the rows to train, calibrate and measure on.
        stages: what to do to the model, in this order.
        export: how the result is exported, and how close it must stay to the PyTorch model.
        measure: what is timed.
        gates: what a run must reach; a run that misses them is still completed and kept.
        seed: of training, sampling and initialization.
        device: cpu, cuda or cuda:N, for training and calibration; measurements run on the CPU.
    """

    model_config = _STRICT

    name: Annotated[str, AfterValidator(_directory_name)] | None = None
    model: ModelConfig
    data: DataConfig
    stages: tuple[SerializeAsAny[Stage], ...]
    export: ExportConfig = ExportConfig()
    measure: MeasureConfig = MeasureConfig()
    gates: GatesConfig = GatesConfig()
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Annotated[str, AfterValidator(_device_name)] = "cpu"

    _path: Path | None = PrivateAttr(default=None)
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    def model_post_init(self, context: Any, /) -> None:
        """Store where the recipe came from; these are not recipe keys."""
        if context:
            self._path, self._overrides = context.get("path"), context.get("overrides", ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.resolved() == other.resolved()

    @property
    def path(self) -> Path | None:
        """Absolute path of the file it was read from."""
        return self._path

    @property
    def overrides(self) -> tuple[str, ...]:
        """Command-line overrides, as typed."""
        return self._overrides

    def problem(self, key: str, text: str) -> Problem:
        """A problem with the value of a key, located at the override that sets it, otherwise at the file."""
        setters = (given for given in self._overrides if _sets(given.partition("=")[0].strip(), key))
        override = next(reversed([*setters]), None)
        if override is not None:
            return Problem(text, overrides=(override,), key=key)
        return Problem(text, file=str(self._path or self.run_name), key=key)

    @property
    def run_name(self) -> str:
        """Name of the run: `name`, or folder and file: digits-prune-heads for digits/prune-heads.yaml."""
        if self.name is not None:
            return self.name
        if self._path is None:
            return "recipe"
        parts = (
            re.sub(r"[^\w.-]+", "-", part).strip(".-") for part in (self._path.parent.name, self._path.stem)
        )
        return "-".join(filter(None, parts))[:100].strip(".-") or "recipe"

    def resolved(self, relative_to: Path | None = None) -> dict[str, Any]:
        """The full recipe with defaults, as plain data.

        Args:
            relative_to: paths below this directory are given relative to it; all others are absolute.
        """
        data = self.model_dump(mode="json", exclude={"stages"})
        stages = [{stage.name: stage.model_dump(mode="json")} for stage in self.stages]
        order = {name: stages if name == "stages" else data[name] for name in type(self).model_fields}
        whole = {**order, "name": self.run_name}
        return whole if relative_to is None else _relative(whole, os.path.abspath(relative_to))

    def to_yaml(self) -> str:
        """The full recipe with defaults and absolute paths, as YAML that loads as an equal recipe."""
        return dump_yaml(self.resolved())


def _sets(given: str, key: str) -> bool:
    """Whether an override of the key `given` sets a value: its own, or the mapping around it."""
    return key == given or key.startswith(f"{given}.")


def _relative(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _relative(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [_relative(inner, root) for inner in value]
    if isinstance(value, str) and os.path.isabs(value):
        path = Path(os.path.normpath(value))
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else value
    return value
