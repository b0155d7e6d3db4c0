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
from compress.stage import Context

if TYPE_CHECKING:
    from torch import nn

    from compress.model.layers.quantized import QuantizedModule
    from compress.quantize.trainable import TrainableEmbedding, TrainableLinear

__all__ = ["QatConfig", "learnt"]


class QatConfig(RecoveryConfig):
    """How to train a quantized model; what is learnt from as in recovery.

    Attributes:
        precision: fp32 unless asked for: products of integers are exact, and bf16 between them is not what is
            exported.
    """

    epochs: int = Field(default=2, ge=1, le=10_000)
    learning_rate: float = Field(default=2e-5, gt=0, le=1)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"


def learnt(
    quantized: nn.Module,
    twins: Sequence[tuple[QuantizedModule, TrainableLinear | TrainableEmbedding]],
    before: nn.Module,
    config: QatConfig,
    context: Context,
    what: str,
) -> nn.Module:
    """Train a quantized model, and return what it has become; as it was, where validation got no better.

    Args:
        quantized: left as it is.
        twins: its layers of integers, each with the trainable one that takes its place.
        before: the float model; learnt from where the context has no teacher.

    Returns:
        A model of the same layers, in eval mode.

    Raises:
        StageError: training diverged before an epoch could be kept.
    """
    import copy

    from compress.train import evaluate

    def score(model: nn.Module) -> tuple[float, float]:
        found = evaluate(model, context.validation, context.task, device=context.device)
        return found["validation_metric"], -found["validation_loss"]

    work = copy.deepcopy(quantized, {id(old): new for old, new in twins})
    first = score(quantized)
    recover_(work, before, config, context, what)
    last = score(work)
    better = last > first
    context.facts["validation_before_training"], context.facts["validation_after_training"] = (
        first[0],
        last[0],
    )
    context.facts["kept"] = "the trained integers" if better else "the first integers: training won nothing"
    if not better:
        return quantized
    return copy.deepcopy(work, {id(new): new.exported() for _, new in twins}).eval()
