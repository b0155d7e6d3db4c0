"""A user's module whose query heads share heads of keys and values; loaded as a user's file is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.size, self.queries = width // heads, heads // groups
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = nn.Linear(width, groups * self.size), nn.Linear(width, groups * self.size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each.unflatten(-1, (-1, self.size)).transpose(1, 2) for each in (self.q(x), self.k(x), self.v(x))
        )
        k, v = (each.repeat_interleave(self.queries, 1) for each in (k, v))
        mixed: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + mixed


class Model(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, classes: int) -> None:
        super().__init__()
        self.embed, self.classifier = nn.Linear(4, width), nn.Linear(width, classes)
        self.layers = nn.ModuleList([Attention(width, heads, groups) for _ in range(2)])
        self.says: dict[str, Any] = {"queries_per_group": heads // groups}

    def forward(self, features: Tensor) -> Tensor:
        x = self.embed(features)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.classifier(torch.relu(x).mean(1))
        return logits

    def structure(self) -> dict[str, Any]:
        sites = [
            {**{part: f"layers.{i}.{part}" for part in ("q", "k", "v", "out")}, "head_size": 4, **self.says}
            for i in range(2)
        ]
        return {"attention": sites, "layers": "layers"}


def build(width: int = 32, heads: int = 8, groups: int = 4, classes: int = 10) -> Model:
    return Model(width, heads, groups, classes)
