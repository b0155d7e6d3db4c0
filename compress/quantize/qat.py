"""Quantization-aware training: train weights with quantization in place.

In every step the forward pass uses the layers that are exported, remade from the current weights; gradients
go straight through the rounding (`compress.quantize.trainable`). Scales and zero points stay as the stage
chose them, so training starts with exactly the model that the stage would return without it. Distilling from
the float model rather than training on labels alone: LLM-QAT (Liu et al. 2023, arXiv 2305.17888).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import nn

    from compress.model.layers.quantized import QuantizedModule
    from compress.quantize.trainable import TrainableEmbedding, TrainableLinear

__all__ = ["QatConfig", "learn_twins_"]


class QatConfig(RecoveryConfig):
    """How to train a quantized model; losses as in recovery.

    Attributes:
        precision: fp32 by default: integer products are exact, and bf16 between them would differ from the
            exported model.
    """

    epochs: int = Field(default=2, ge=1, le=10_000)
    learning_rate: float = Field(default=2e-5, gt=0, le=1)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"


def learn_twins_(
    made: StageResult,
    twins: Sequence[tuple[QuantizedModule, TrainableLinear | TrainableEmbedding]],
    before: nn.Module,
    config: QatConfig,
    context: Context,
    what: str,
) -> None:
    """Train a copy of a quantized model, and keep it (in eval mode) if validation improved.

    Args:
        twins: the model's quantized layers, each with its trainable version.
        before: the float model; the teacher if the context has none.

    Raises:
        StageError: training diverged before an epoch could be kept.
    """
    import copy

    from compress.train import evaluate

    def score(model: nn.Module) -> tuple[float, float]:
        found = evaluate(model, context.validation, context.task, device=context.device)
        return found["validation_metric"], -found["validation_loss"]

    quantized, first = made.model, score(made.model)
    made.model = copy.deepcopy(quantized, {id(old): new for old, new in twins})
    recover_(made, before, config, context, what)
    last = score(made.model)
    better = last > first
    if better:
        made.model = copy.deepcopy(made.model, {id(new): new.exported() for _, new in twins}).eval()
    else:
        made.model = quantized
    made.facts |= {
        "validation_before_training": first[0],
        "validation_after_training": last[0],
        "kept": "the trained integers"
        if better
        else "the first integers, because training did not improve them",
    }
