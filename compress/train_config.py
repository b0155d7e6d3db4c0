"""How to train: the part of a recipe that `model.train`, recovery and distillation share. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TrainConfig"]


class TrainConfig(BaseModel):
    """How to train: AdamW, linear warm-up, cosine decay to zero, the best epoch on validation is kept.

    Attributes:
        accumulate: batches whose gradients make one step: the rows, and the result up to rounding, of a
            batch_size so many times as large, in the memory of one batch.
        ema: decay of an exponential moving average of the weights, which is then what is validated and kept;
            none: the weights themselves.
        patience: stop after this many epochs without a better validation metric; none: never.
        precision: auto is bf16 on a GPU or CPU with matrix units for it (tensor cores, AMX) where most
            weights are in matrices of at least 256 by 256, else fp32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=3, ge=1, le=10_000)
    batch_size: int = Field(default=32, ge=1, le=65_536)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
