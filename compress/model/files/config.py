"""The `model:` section of a recipe: which model it works on. Must not import torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from compress.data.config import PathOrName, RecipePath
from compress.train_config import TrainConfig

__all__ = ["ModelConfig"]

_NOT_EVERYWHERE = ("pooling", "normalize", "timm", "weights")


class ModelConfig(BaseModel):
    """One of: a Python file with a builder, a Hugging Face directory or name, a timm name, or a bundle.

    Attributes:
        file: a Python file; it is executed, so use only files that you trust.
        builder: the function or class in that file that returns an nn.Module.
        args: keyword arguments of the builder, or of timm's create_model.
        tokenizer: for a `file` model that reads text: a directory with tokenizer.json, or `bytes` for one
            token per byte.
        hf: a Hugging Face directory or Hub name with a model for the data's task, or the .gguf file of a
            language model.
        pooling: how an `hf` encoder without modules.json becomes a sentence embedder: by the mean of its
            tokens, the first one (cls), the maximum, or the last one.
        normalize: whether the vectors of such an embedder have length 1; None: they have.
        timm: name of an image classifier of the timm library (the timm extra); it gets as many classes as
            the data has. Nothing is downloaded, unless `args` has `pretrained: true`.
        weights: for `timm`: a file with its weights (.safetensors, or a .pth of tensors); None: random ones,
            to be trained.
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
    timm: str | None = None
    weights: RecipePath | None = None
    bundle: RecipePath | None = None
    train: TrainConfig | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        return {key: value for key, value in found.items() if value is not None or key not in _NOT_EVERYWHERE}

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ("file", "hf", "timm", "bundle") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of file, hf, timm and bundle (given: {', '.join(given) or 'none'})"
            )
        if self.file is not None and self.builder is None:
            raise ValueError("file needs builder: the name of the function in it that returns the model")
        if self.file is None and (self.builder is not None or self.tokenizer is not None):
            raise ValueError("builder and tokenizer are only allowed with file")
        if self.args and self.file is None and self.timm is None:
            raise ValueError("args are only allowed with file and timm")
        if self.weights is not None and (self.timm is None or self.args.get("pretrained")):
            raise ValueError("weights are only allowed with timm, without pretrained in its args")
        if self.pooling is not None and self.hf is None:
            raise ValueError("pooling is only allowed with hf: an encoder that becomes a sentence embedder")
        if self.normalize is not None and self.pooling is None:
            raise ValueError("normalize is only allowed with pooling")
        return self
