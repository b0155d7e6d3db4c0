"""Recurrent classifiers to compress: LSTM or GRU, over tokens or over patches.

Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Cho et al. 2014, arXiv 1406.1078 (GRU). Plain
PyTorch in a single file: copy it, change it, and load it as a whole.

Shapes: b = batch, s = sequence, f = values of a patch, n = hidden units, c = classes.

Each layer is a separate unidirectional module, so that each can have its own number of hidden units;
`structure()` says which layers read them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["RecurrentLayers", "patch_classifier", "token_classifier"]

Cell = Literal["lstm", "gru"]


class RecurrentLayers(nn.Module):
    """Recurrent layers over a sequence, and a classifier on the last layer's output at the last position.

    Args:
        size_in: values of each position.
        hidden: units of each layer.
    """

    def __init__(
        self, size_in: int, hidden: int, num_layers: int, classes: int, cell: Cell, dropout: float
    ) -> None:
        super().__init__()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        sizes = [size_in, *[hidden] * num_layers]
        self.layers = nn.ModuleList(
            kind(before, after, batch_first=True) for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)

    def classify(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map [b, s, f] and a mask [b, s] (1 = not padding) to logits [b, c]; padding must be at the end."""
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        if attention_mask is None:
            last = x[:, -1]
        else:
            place = (attention_mask.sum(dim=1) - 1).clamp(min=0)  # [b]
            last = x.gather(1, place[:, None, None].expand(-1, 1, x.shape[-1])).squeeze(1)
        logits: Tensor = self.classifier(last)
        return logits

    def structure(self) -> dict[str, Any]:
        """Hidden units and their readers; see compress/model/structure/find.py for the format."""
        paths = [*(f"layers.{place}" for place in range(len(self.layers))), "classifier"]
        pairs = zip(paths, paths[1:], strict=False)
        return {"channels": {writer: {"writers": [writer], "readers": [reader]} for writer, reader in pairs}}


class PatchClassifier(RecurrentLayers):
    """Classify image patches, or other sequences of numbers."""

    def forward(self, features: Tensor) -> Tensor:
        """Map [b, s, f] to logits [b, c]."""
        return self.classify(features)


class TokenClassifier(RecurrentLayers):
    """Classify token sequences."""

    def __init__(self, input_dim: int, size_in: int, *rest: Any) -> None:
        super().__init__(size_in, *rest)
        self.embedding = nn.Embedding(input_dim, size_in, padding_idx=0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map token ids and mask [b, s] to logits [b, c]; without a mask, id 0 is padding."""
        mask = input_ids.ne(0) if attention_mask is None else attention_mask
        return self.classify(self.embedding(input_ids), mask.to(torch.int64))

    def structure(self) -> dict[str, Any]:
        """The hidden units, the width of the embedding, and the token embedding."""
        embedded = {"embeddings": ["embedding"], "readers": ["layers.0"]}
        channels = {"embedding": embedded, **super().structure()["channels"]}
        return {"channels": channels, "token_embedding": "embedding"}


def patch_classifier(
    input_dim: int,
    output_dim: int,
    hidden: int = 128,
    num_layers: int = 1,
    cell: Cell = "lstm",
    dropout: float = 0.0,
) -> PatchClassifier:
    """Build a classifier of sequences of numbers, such as the digits data.

    Args:
        input_dim: values of each position.
        output_dim: number of classes.
        hidden: units of each layer.
        cell: lstm or gru.
    """
    _check(cell, input_dim=input_dim, output_dim=output_dim, hidden=hidden, num_layers=num_layers)
    return PatchClassifier(input_dim, hidden, num_layers, output_dim, cell, dropout)


def token_classifier(
    input_dim: int,
    output_dim: int,
    d_model: int = 128,
    hidden: int = 256,
    num_layers: int = 1,
    cell: Cell = "lstm",
    dropout: float = 0.1,
) -> TokenClassifier:
    """Build a text classifier.

    Args:
        input_dim: vocabulary size.
        output_dim: number of classes.
        d_model: width of the embedding.
        hidden: units of each layer.
        cell: lstm or gru.
    """
    sizes = {"input_dim": input_dim, "output_dim": output_dim, "d_model": d_model, "hidden": hidden}
    _check(cell, num_layers=num_layers, **sizes)
    return TokenClassifier(input_dim, d_model, hidden, num_layers, output_dim, cell, dropout)


def _check(cell: str, **sizes: int) -> None:
    wrong = [name for name, size in sizes.items() if not isinstance(size, int) or size < 1]
    if wrong:
        raise ValueError(f"{wrong[0]}: a whole number, at least 1")
    if cell not in ("lstm", "gru"):
        raise ValueError(f"cell: lstm or gru, not {cell!r}")
