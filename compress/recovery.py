"""Recovery: training after a loss of weights or digits that learns from the model as it was before.

A cut or quantized model has the layers and the width that the first one has, so its hidden states compare
token by token, layer by layer, and no map between layers is needed (ZipLM, arXiv 2302.04089, sec. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from compress.losses.config import HiddenTerm, LayerMap, LogitsTerm, LossConfig, Term
from compress.stage import Context, StageResult
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RecoveryConfig", "recover_"]


class RecoveryConfig(TrainConfig):
    """How to win accuracy back. The three weights say what is learnt from.

    Attributes:
        labels: weight of the task's own loss.
        logits: weight of the first model's answers (KL at `temperature`).
        hidden: weight of the first model's hidden states (relative squared distance, token by token).
    """

    learning_rate: float = Field(default=8e-5, gt=0, le=1)
    labels: float = Field(default=0.3, ge=0)
    logits: float = Field(default=1.0, ge=0)
    hidden: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        self.losses(has_layers=True)
        return self

    def losses(self, *, has_layers: bool, layers: LayerMap = "uniform") -> LossConfig:
        """The same in the words of all trainings.

        Args:
            has_layers: whether the model says where its layers are; if not, its states are not compared.
            layers: with which of the first model's layers they are.
        """
        hidden = HiddenTerm(weight=self.hidden, layers=layers) if has_layers else None
        answers = LogitsTerm(weight=self.logits, temperature=self.temperature)
        return LossConfig(labels=Term(weight=self.labels), logits=answers, hidden=hidden)


def recover_(
    made: StageResult,
    before: nn.Module,
    config: RecoveryConfig,
    context: Context,
    what: str,
    layers: Sequence[int] | None = None,
) -> None:
    """Train a cut or quantized model in place, from labels and from the model that the recipe began with.

    Args:
        made: the model, and where the training is noted.
        before: the model before the stage; teaches where the context has no teacher.
        layers: for each layer that is left one of `before`, whose states it learns; None: spread evenly.
    """
    from compress.model.cutting.depth import layer_count

    teacher = context.teacher if context.teacher is not None else before
    has_layers = all(_has_layers(each) for each in (made.model, teacher))
    same_depth = has_layers and layers is not None and layer_count(teacher) == layer_count(before)
    losses = config.losses(has_layers=has_layers, layers=tuple(layers or ()) if same_depth else "uniform")
    made.learn_(context, [teacher], losses, config, what)


def _has_layers(model: nn.Module) -> bool:
    from compress.model.structure.find import UnknownStructureError, structure_of

    try:
        return structure_of(model).layers is not None
    except UnknownStructureError:
        return False
