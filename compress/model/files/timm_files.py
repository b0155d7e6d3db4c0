"""Image classifiers of the timm library, by name: built, given weights, and how their images are read."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compress.data.readers.image_processor import ImageProcessor
from compress.errors import ModelError, Problem, nearest_name

__all__ = ["TimmClassifier", "TimmWeights", "check_timm", "timm_model", "timm_processor"]

_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's
_IN_A_CHECKPOINT = ("state_dict_ema", "state_dict", "model_ema", "model")


class TimmClassifier(nn.Module):
    """A timm model under the name that images have here.

    Args:
        model: made by `timm.create_model`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map images [b, p, h, w] to logits [b, c]."""
        logits: Tensor = self.model(pixel_values)
        return logits


def check_timm(name: str) -> None:
    """Refuse a name that timm doesn't have.

    Raises:
        ModelError: it doesn't, or timm is not installed.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = nearest_name(name, timm.list_models())
        hint = f"; did you mean '{near}'?" if near else "; timm.list_models() has them all"
        text = f"model.timm: timm {timm.__version__} has no model '{name}'{hint}"
        raise ModelError(Problem(text, key="model.timm", value=name))


def timm_model(name: str, args: Mapping[str, Any]) -> TimmClassifier:
    """Build a model.

    Args:
        args: of `timm.create_model`; with `pretrained: true` it downloads weights.

    Raises:
        ModelError: timm is not installed, doesn't know the name, or fails.
    """
    check_timm(name)
    try:
        return TimmClassifier(_timm().create_model(name, **args))
    except Exception as error:  # of each model's own code, or of the download
        said = " ".join(str(error).split())
        raise ModelError(
            f"timm can't make {name} with model.args {dict(args)}: {type(error).__name__}: {said}"
        ) from error


def timm_processor(model: nn.Module) -> ImageProcessor:
    """How timm reads images when it validates this model."""
    assert isinstance(model, TimmClassifier)
    from timm.data import resolve_data_config

    found = resolve_data_config({}, model=model.model)
    channels, height, width = found["input_size"]
    wanted = min(height, width) / found["crop_pct"]
    squeezed = found["crop_mode"] == "squash"
    side = (int(height / found["crop_pct"]), int(width / found["crop_pct"])) if squeezed else int(wanted)
    return ImageProcessor(
        size=side,
        crop=(height, width),
        channels=channels,
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        resample=_FILTERS.get(found["interpolation"], _FILTERS["bicubic"]),
    )


@dataclass(frozen=True)
class TimmWeights:
    """Where a model's weights come from.

    Attributes:
        args: of `timm.create_model`, with the number of classes.
        state: weights of a file; None: those that timm gives.
        has_trained_head: False: the head is new, and has as many classes as the data.
        notes: notes for the report.
        source: the file, for messages.
    """

    args: dict[str, Any]
    state: dict[str, Tensor] | None
    has_trained_head: bool
    notes: tuple[str, ...] = ()
    source: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        weights: Path | None,
        args: Mapping[str, Any],
        num_labels: int | None,
        *,
        trains: bool,
    ) -> TimmWeights:
        """Find out whether the head is trained.

        Args:
            num_labels: classes of the data; None: not known yet.
            trains: the model will be trained first, so that a new head is no fault.

        Raises:
            ModelError: the weights can't be read, or lack a head although the model isn't trained.
        """
        classes = {} if num_labels is None else {"num_classes": num_labels}
        if weights is None:
            if args.get("pretrained"):
                return cls({**args, **classes}, None, not trains)
            notes = () if trains else (f"The weights of timm {name} are random: model.weights is not given.",)
            return cls({**classes, **args}, None, "num_classes" in args, notes)
        state, heads = _read(weights), _head_names(timm_model(name, args).model)
        outputs = next((len(state[key]) for key in heads if key in state), None)
        if trains and "num_classes" not in args:
            kept = {key: each for key, each in state.items() if key not in heads or outputs == num_labels}
            return cls({**args, **classes}, kept, False, source=str(weights))
        if outputs is None:
            raise ModelError(
                f"model.weights: {weights} has no classifier for timm {name} ({', '.join(heads)}); train one "
                "on your data with model.train"
            )
        return cls({**args, "num_classes": outputs}, state, True, source=str(weights))

    def load_(self, model: nn.Module) -> None:
        """Put the weights into the model; a new head keeps its random ones.

        Raises:
            ModelError: they are of another model.
        """
        if self.state is None:
            return
        assert isinstance(model, TimmClassifier)
        own = model.model.state_dict()
        new = () if self.has_trained_head else _head_names(model.model)
        missing = [name for name in own if name not in self.state and name not in new]
        wrong = [
            name for name, each in self.state.items() if name not in own or own[name].shape != each.shape
        ]
        if missing or wrong:
            raise ModelError(
                f"{self.source} does not fit the timm model: missing {missing[:3]}, unknown or of another "
                f"shape {wrong[:3]}; give the model that it was saved from"
            )
        model.model.load_state_dict(self.state, strict=False)


def _timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise ModelError("model.timm needs the timm extra: pip install 'modelpress[timm]'")
    import timm

    return timm


def _read(path: Path) -> dict[str, Tensor]:
    """Weights of a file, which runs no code; the tensors of a training checkpoint are found in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"model.weights: cannot read {path}: {' '.join(str(error).split())}") from error
    except Exception as error:  # pickle's own class, for anything but tensors
        raise ModelError(
            f"model.weights: {path} has more than tensors, so reading it would run code; save the model's "
            "state_dict() as .safetensors"
        ) from error
    inner = next((found[key] for key in _IN_A_CHECKPOINT if isinstance(found.get(key), dict)), found)
    state = {str(key).removeprefix("module."): value for key, value in inner.items()}
    wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ModelError(f"model.weights: {path} is no state_dict(): '{wrong[0]}' is no tensor")
    return state


def _head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's tensors, the weight first."""
    given: Any = getattr(model, "pretrained_cfg", {}).get("classifier", ())
    paths = [given] if isinstance(given, str) else list(given or ())
    return tuple(f"{path}.{kind}" for path in paths for kind in ("weight", "bias"))
