"""A module whose weights are computed from others, in each way that torch has; loaded as a user's file is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).t()


def _masked(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_structured(layer, "weight", 0.2, dim=0)  # a second mask in the same hook
    return layer


def _hooked(make: Callable[..., Any]) -> Callable[[nn.Module], nn.Module]:
    def made(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would have us use the newer ones
            return make(layer)  # type: ignore[no-any-return]

    return made


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda layer: layer,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
    "two": lambda layer: parametrizations.spectral_norm(parametrizations.weight_norm(layer)),
    "old weight_norm": _hooked(weight_norm),
    "old spectral_norm": _hooked(spectral_norm),
    "masks": _masked,
}


class Model(nn.Module):
    def __init__(self, way: str, width: int, classes: int) -> None:
        super().__init__()
        self.embed, self.classifier = nn.Linear(4, width), nn.Linear(width, classes)
        self.mixed = WAYS[way](nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.relu(self.mixed(self.embed(features))).mean(1))
        return logits


def build(way: str = "weight_norm", width: int = 8, classes: int = 10) -> Model:
    return Model(way, width, classes)


def lazy(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.LazyLinear(3))
