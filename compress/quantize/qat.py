"""Quantization-aware training: weights learn with their integers in place.

In every step the model answers with the layers that are exported, made anew from the weights as they are;
gradients go straight through the rounding (`compress.quantize.trainable`). Steps and zero points stay those
that the stage chose, so training begins with exactly the model that the stage would leave without it.
Learning from the float model rather than from labels alone: LLM-QAT (Liu et al. 2023, arXiv 2305.17888).
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
    """How to train a quantized model; what is learnt from as in recovery.

    Attributes:
        precision: fp32 unless asked for: products of integers are exact, and bf16 between them is not what is
            exported.
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
    """Put a trained copy in the place of a quantized model, in eval mode, if validation got better.

    Args:
        twins: its layers of integers, each with the trainable one that takes its place.
        before: the float model; teaches where the context has no teacher.

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
        "kept": "the trained integers" if better else "the first integers: training won nothing",
    }
