"""Training settings shared by `model.train`, recovery and distillation. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TrainConfig"]


class TrainConfig(BaseModel):
    """Training with AdamW, linear warm-up, cosine decay to zero; keeps the best epoch on validation.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows per batch.
        accumulate: batches accumulated per step: equivalent, up to rounding, to a batch_size larger by this
            factor, with the memory of one batch.
        learning_rate: highest learning rate, reached after the warm-up.
        weight_decay: of AdamW.
        warmup_fraction: share of the steps over which the learning rate rises from zero.
        clip_norm: largest norm of all gradients together; larger ones are scaled down.
        ema: decay of an exponential moving average of the weights, which is validated and kept; None: off.
        patience: stop after this many epochs without a better validation metric; None: never.
        precision: auto is bf16 on a GPU or CPU with matrix units for it (tensor cores, AMX) if most weights
            are in matrices of at least 256 by 256, otherwise fp32.
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
