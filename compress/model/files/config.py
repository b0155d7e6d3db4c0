"""The `model:` section of a recipe: which model it works on. Must not import torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from compress.data.config import PathOrName, RecipePath
from compress.train_config import TrainConfig

__all__ = ["ModelConfig"]

_OF_EMBEDDERS = ("pooling", "normalize")


class ModelConfig(BaseModel):
    """One of: a Python file with a builder, a Hugging Face directory or name, or a saved bundle.

    Attributes:
        file: a Python file; it is executed, so use only files that you trust.
        builder: the function or class in that file that returns an nn.Module.
        args: keyword arguments of the builder.
        tokenizer: for a `file` model that reads text: a directory with tokenizer.json, or `bytes` for one
            token per byte.
        hf: a Hugging Face directory or Hub name with a model for the data's task, or the .gguf file of a
            language model.
        pooling: how an `hf` encoder without modules.json becomes a sentence embedder: by the mean of its
            tokens, the first one (cls), the maximum, or the last one.
        normalize: whether the vectors of such an embedder have length 1; None: they have.
        bundle: a directory that modelpress wrote.
        train: train the model first, on the recipe's data; the result is cached and shared between recipes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: RecipePath | None = None
    builder: str | None = None
    args: dict[str, Any] = {}
    tokenizer: PathOrName | None = None
    hf: PathOrName | None = None
    pooling: Literal["mean", "cls", "max", "last"] | None = None
    normalize: bool | None = None
    bundle: RecipePath | None = None
    train: TrainConfig | None = None

    @model_serializer(mode="wrap")
    def _without_absent_pooling(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        return {key: value for key, value in found.items() if value is not None or key not in _OF_EMBEDDERS}

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ("file", "hf", "bundle") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of file, hf and bundle (given: {', '.join(given) or 'none'})")
        if self.file is not None and self.builder is None:
            raise ValueError("file needs builder: the name of the function in it that returns the model")
        if self.file is None and (self.builder is not None or self.args or self.tokenizer is not None):
            raise ValueError("builder, args and tokenizer are only allowed with file")
        if self.pooling is not None and self.hf is None:
            raise ValueError("pooling is only allowed with hf: an encoder that becomes a sentence embedder")
        if self.normalize is not None and self.pooling is None:
            raise ValueError("normalize is only allowed with pooling")
        return self
