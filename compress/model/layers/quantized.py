"""Base classes of layers whose weights are not float32.

int8 layers are in `int8`, grouped ones in `grouped`, convolutions in `convolution`, LSTMs in `recurrent`,
16-bit floats in `half`, and `kinds` lists all.

They are made from shapes alone, so a saved state_dict can be loaded into them, and have no parameters:
nothing here can be trained. There is deliberately no `weight`: code that would multiply with it must fail
instead of continuing in float.

Shapes as in `compress.model.ops.linear`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["EmbeddingModule", "LinearModule", "QuantizedModule"]


def _form(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


class QuantizedModule(nn.Module):
    """A layer whose weights are not float32.

    Class attributes:
        kind: its name in a bundle's structure.json.
        int8_activations: whether it rounds its inputs to 8 bits.
        of_one_thread: whether ONNX Runtime's rounding depends on the number of threads; the layer then
            matches one thread.
    """

    kind: ClassVar[str]
    int8_activations: bool = False
    of_one_thread: ClassVar[bool] = False
    qdata: Tensor
    scale: Tensor

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        raise NotImplementedError

    def dequantize(self) -> Tensor:
        """The float weight, in the float layer's shape."""
        raise NotImplementedError

    def example(self, draw: torch.Generator) -> Tensor:
        """A test input for a batch of 2, including hard cases."""
        raise NotImplementedError

    def alone(self, x: Tensor) -> Tensor:
        """All outputs for one input, such as `example`, as one tensor: for comparing the layer by itself."""
        y: Tensor = self(x)
        return y

    def fill_(self, values: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Self:
        """Set the quantized weights, one row per output or per row of the table.

        Args:
            values: whole numbers [o, i] or [v, d]; unsigned with zero points, otherwise signed; padded to
                whole groups in grouped layers.
            scale: float32, one per row, or one per row and group; None if the values aren't scaled.
            bias: float32 [o], if a linear layer has one.
        """
        for name, new in (("qdata", self._layout(values)), ("scale", scale), ("bias", bias)):
            empty: Tensor | None = getattr(self, name, None)
            if _form(new) != _form(empty):
                raise ValueError(f"{type(self).__name__}.{name} must be {_form(empty)}, not {_form(new)}")
            if new is not None:
                setattr(self, name, new.detach().clone())
        return self

    def _layout(self, values: Tensor) -> Tensor:
        return values

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Explain what to do when a model reads the float weight, which doesn't exist."""
        if name.startswith("weight"):  # an LSTM's have longer names
            raise AttributeError(
                f"{type(self).__name__} has no float weight, but the model reads it; keep this layer float "
                "by naming it in the stage's `skip`"
            )
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{key}={value}" for key, value in self.config().items())


class LinearModule(QuantizedModule):
    """Base of quantized linear layers."""

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def config(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
        }

    def example(self, draw: torch.Generator) -> Tensor:
        """[2, 3, i], with a row of zeros and an outlier."""
        x = torch.randn(2, 3, self.in_features, generator=draw)
        x[0, 0] = 0
        x[1, 1, 0] = 30
        return x


class EmbeddingModule(QuantizedModule):
    """Base of quantized tables."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        # Some models read it; without training the padding row is like any other.
        self.padding_idx = padding_idx

    def config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
        }

    def example(self, draw: torch.Generator) -> Tensor:
        """Ids [2, 3], including the first and the last."""
        ids = torch.randint(self.num_embeddings, (2, 3), generator=draw)
        ids[0, 0], ids[1, 2] = 0, self.num_embeddings - 1
        return ids
