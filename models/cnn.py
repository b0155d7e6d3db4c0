"""A small residual network to compress, for images or image patches.

He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv 1512.03385 (basic blocks). Plain
PyTorch in a single file: copy it, change it, and load it as a whole.

Shapes: b = batch, p = image channels, h, w = image height and width, s = patches, f = values of a patch,
c = classes.

`structure()` says which filters must be cut together: those inside a block, and those of a stage, which the
skip connections add.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ResidualBlock", "ResidualNetwork", "image_classifier", "patch_classifier"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norms, and a skip connection.

    Args:
        stride: of the first convolution; with stride > 1 or a new width, the skip is a 1x1 convolution.
    """

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Conv2d | None = None
        self.shortcut_norm: nn.BatchNorm2d | None = None
        if stride != 1 or width_in != width:
            self.shortcut = nn.Conv2d(width_in, width, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, width_in, h, w] to [b, width, h / stride, w / stride]."""
        y = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        around = x
        if self.shortcut is not None and self.shortcut_norm is not None:
            around = self.shortcut_norm(self.shortcut(x))
        result: Tensor = self.activation(y + around)
        return result


class ResidualNetwork(nn.Module):
    """Stages of residual blocks; each stage after the first halves height and width.

    Args:
        channels: of the image.
        classes: number of classes.
        widths: filters of each stage.
        blocks: number in each stage.
        dropout: before the classifier.
        grid: patches per row and per column, if the input is patches.
        patch: pixels per row and per column of a patch.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: int,
        dropout: float,
        grid: int = 0,
        patch: int = 0,
    ) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.activation = nn.ReLU()
        self.blocks = nn.ModuleList()
        before = widths[0]
        for stage, width in enumerate(widths):
            for place in range(blocks):
                stride = 2 if stage > 0 and place == 0 else 1
                self.blocks.append(ResidualBlock(before, width, stride))
                before = width
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(before, classes)

    def classify(self, images: Tensor) -> Tensor:
        """Map [b, p, h, w] to logits [b, c]."""
        x = self.activation(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits

    def structure(self) -> dict[str, Any]:
        """Filters that must be cut together; see compress/model/structure/find.py for the format."""
        stages: list[dict[str, list[str]]] = []
        inner: dict[str, dict[str, list[str]]] = {}
        current = {"writers": ["stem"], "norms": ["stem_norm"], "readers": list[str]()}
        for place, block in enumerate(self.blocks):
            at = f"blocks.{place}"
            assert isinstance(block, ResidualBlock)
            current["readers"].append(f"{at}.conv1")
            if block.shortcut is not None:
                current["readers"].append(f"{at}.shortcut")
                stages.append(current)
                current = {"writers": [f"{at}.shortcut"], "norms": [f"{at}.shortcut_norm"], "readers": []}
            current["writers"].append(f"{at}.conv2")
            current["norms"].append(f"{at}.norm2")
            inner[at] = {"writers": [f"{at}.conv1"], "norms": [f"{at}.norm1"], "readers": [f"{at}.conv2"]}
        current["readers"].append("classifier")
        stages.append(current)
        return {"channels": {**{f"stage {i}": each for i, each in enumerate(stages)}, **inner}}


class ImageClassifier(ResidualNetwork):
    """Classify images."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map [b, p, h, w] to logits [b, c]."""
        return self.classify(pixel_values)


class PatchClassifier(ResidualNetwork):
    """Classify a square image given as patches (the input of `models/transformer.py`), by reassembling it."""

    def forward(self, features: Tensor) -> Tensor:
        """Map [b, s, f] to logits [b, c]; patches, and the pixels in each, are in row-major order."""
        # Skipped during export: the number of patches must stay dynamic.
        if not torch.compiler.is_exporting() and features.shape[1] != self.grid**2:
            raise ValueError(f"{features.shape[1]} patches are not an image of {self.grid} x {self.grid}")
        parts = features.reshape(-1, self.grid, self.grid, self.patch, self.patch)  # [b, y, x, v, u]
        side = self.grid * self.patch
        return self.classify(parts.transpose(2, 3).reshape(-1, 1, side, side))


def image_classifier(
    output_dim: int,
    channels: int = 3,
    widths: Sequence[int] = (32, 64, 128),
    blocks: int = 2,
    dropout: float = 0.0,
) -> ImageClassifier:
    """Build an image classifier.

    Args:
        output_dim: number of classes.
        channels: of an image: 3 for colour.
        widths: filters of each stage.
        blocks: number in each stage.
    """
    _check(output_dim=output_dim, channels=channels, blocks=blocks, widths=widths)
    return ImageClassifier(channels, output_dim, widths, blocks, dropout)


def patch_classifier(
    input_dim: int,
    output_dim: int,
    grid: int = 4,
    widths: Sequence[int] = (32, 64),
    blocks: int = 1,
    dropout: float = 0.0,
) -> PatchClassifier:
    """Build a classifier of square images given as square patches, such as the digits data.

    Args:
        input_dim: pixels of a patch: a square number.
        output_dim: number of classes.
        grid: patches per row, and per column.
        widths: filters of each stage.
        blocks: number in each stage.
    """
    _check(output_dim=output_dim, input_dim=input_dim, grid=grid, blocks=blocks, widths=widths)
    side = round(input_dim**0.5)
    if side * side != input_dim:
        raise ValueError(f"input_dim: pixels of a square patch; {input_dim} is no square number")
    return PatchClassifier(1, output_dim, widths, blocks, dropout, grid, side)


def _check(widths: Sequence[int], **sizes: int) -> None:
    wrong = [name for name, size in sizes.items() if not isinstance(size, int) or size < 1]
    if wrong:
        raise ValueError(f"{wrong[0]}: a whole number, at least 1")
    if not widths or any(not isinstance(width, int) or width < 1 for width in widths):
        raise ValueError("widths: the filters of each stage, at least one stage, each at least 1")
