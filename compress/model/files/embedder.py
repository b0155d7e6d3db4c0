"""A sentence embedder: an encoder, pooling over tokens, dense layers and normalization in one module.

Pooling as in Reimers and Gurevych 2019, arXiv 1908.10084, sec. 3, and in the modules of sentence-transformers
that have these names.
Shapes: b = batch, s = sequence, m = hidden width, e = size of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ModelError

__all__ = ["ACTIVATIONS", "Embedded", "Embedder", "POOLINGS"]

POOLINGS = ("mean", "cls", "max", "last")
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
"""Classes of torch.nn that may follow a dense layer."""
_LEAST = -1e9  # of padding when the maximum is taken


class Embedded(NamedTuple):
    """What an embedder returns: the vectors [b, e], which come first, and the hidden states [b, s, m]."""

    sentence_embedding: Tensor
    last_hidden_state: Tensor


class Dense(nn.Module):
    """A linear layer of vectors with its activation."""

    def __init__(self, linear: nn.Linear, activation: str = "Identity") -> None:
        super().__init__()
        self.linear, self.activation = linear, getattr(nn, activation)()

    def forward(self, x: Tensor) -> Tensor:
        """Vectors [b, e] -> [b, e']."""
        found: Tensor = self.activation(self.linear(x))
        return found


class Embedder(nn.Module):
    """Vectors of texts from a Hugging Face encoder.

    It has the configuration of its encoder, and stands to it as Hugging Face's classifiers do to theirs
    (`base_model_prefix`), so its encoder is cut and quantized as any other.

    Attributes:
        encoder: returns an object with `last_hidden_state`.
        pooling: one of `POOLINGS`.
        dense: layers that the pooled vector goes through.
        normalize: whether vectors have length 1.
    """

    base_model_prefix = "encoder"

    def __init__(
        self,
        encoder: nn.Module,
        pooling: str,
        *,
        dense: Sequence[Mapping[str, Any]] = (),
        normalize: bool = True,
        **of_files: Any,
    ) -> None:
        """Build the module; its dense layers have random weights.

        Args:
            dense: in_features, out_features, bias and activation of each layer.
            of_files: settings that are only written to files (`model.files.sentence_chain`).

        Raises:
            ModelError: unknown pooling or activation.
        """
        super().__init__()
        if pooling not in POOLINGS:
            raise ModelError(f"pooling '{pooling}' is not supported; allowed: {', '.join(POOLINGS)}")
        self.encoder, self.pooling, self.normalize = encoder, pooling, normalize
        self.dense = nn.ModuleList(
            Dense(nn.Linear(each["in_features"], each["out_features"], bias=each["bias"]), each["activation"])
            for each in dense
        )

    @property
    def config(self) -> Any:
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def wrapped(self) -> nn.Module:
        """The module that says which inputs there are."""
        return self.encoder

    @property
    def hidden_readers(self) -> tuple[str, ...]:
        """Path of the layer that reads pooled hidden features; empty if they are the vector itself."""
        return ("dense.0.linear",) if len(self.dense) else ()

    def described(self, task_output: str) -> dict[str, Any]:
        """Entries of a bundle's manifest.

        Args:
            task_output: name of the vectors in the ONNX file.
        """
        width, size = self._sizes()
        states = ["batch_size", "sequence_length", width]
        return {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "dimensions": size,
            "outputs": [
                {"name": "last_hidden_state", "dtype": "float32", "shape": states},
                {"name": task_output, "dtype": "float32", "shape": ["batch_size", size]},
            ],
        }

    def add_dense_(self, weight: Tensor) -> dict[str, Any]:
        """Add a linear layer at the end, before normalization; returns it as an argument of this class.

        Args:
            weight: [e', e].
        """
        size_out, size_in = weight.shape
        linear = nn.Linear(size_in, size_out, bias=False)
        linear.weight = nn.Parameter(weight)
        self.dense.append(Dense(linear).train(self.training))
        return {"in_features": size_in, "out_features": size_out, "bias": False, "activation": "Identity"}

    def turn_(self, weight: Tensor) -> bool:
        """Multiply vectors by a weight [e', e] before normalization; returns whether a layer took it in.

        The last dense layer does if it has no activation; otherwise use `add_dense_`.
        """
        layer = self.dense[-1] if len(self.dense) else None
        if not isinstance(layer, Dense) or not isinstance(layer.activation, nn.Identity):
            return False
        last = layer.linear
        linear = nn.Linear(last.in_features, len(weight), bias=last.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(weight @ last.weight)
            if last.bias is not None:
                linear.bias.copy_(weight @ last.bias)
        layer.linear = linear.train(self.training)
        return True

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Embedded:
        """Vectors and hidden states of token ids [b, s]; 0 in the mask is padding."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        vector = self._pooled(states, attention_mask)
        for layer in self.dense:
            vector = layer(vector)
        return Embedded(F.normalize(vector, dim=-1) if self.normalize else vector, states)

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """[b, s, m] -> [b, m]."""
        if self.pooling == "cls":
            return states[:, 0]
        keep = mask[:, :, None].to(states.dtype)  # [b, s, 1]
        if self.pooling == "mean":
            return (states * keep).sum(1) / keep.sum(1).clamp(min=1e-9)
        if self.pooling == "max":
            return states.masked_fill(keep == 0, _LEAST).amax(1)
        place = (mask * torch.arange(mask.shape[1], device=mask.device)).amax(1)  # of the last token, [b]
        return states.gather(1, place[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]

    def _sizes(self) -> tuple[int, int]:
        """Width of the hidden states, and size of the vectors; also of a cut or quantized module."""
        ids = torch.ones(1, 2, dtype=torch.long)
        was = self.training
        with torch.no_grad():
            found = self.eval()(ids, torch.ones_like(ids))
        self.train(was)
        return found.last_hidden_state.shape[-1], found.sentence_embedding.shape[-1]
