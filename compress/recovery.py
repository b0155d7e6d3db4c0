"""Recovery: training after pruning or quantization, with the model before it as teacher.

A cut or quantized model has the same layers and width as the original, so hidden states are compared token by
token and layer by layer without projections (ZipLM, arXiv 2302.04089, sec. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from compress.losses.config import ContrastiveTerm, HiddenTerm, LayerMap, LogitsTerm, LossConfig, Term
from compress.losses.needs import check_losses
from compress.stage import Context, Stage, StageResult
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RecoveryConfig", "check_recovery", "recover_"]


class RecoveryConfig(TrainConfig):
    """Recovery training settings; the weights combine its losses.

    Attributes:
        labels: weight of the task loss.
        logits: weight of the teacher's outputs (KL at `temperature`; squared distance of numbers).
        hidden: weight of the teacher's hidden states (relative squared distance per token).
        similarity: weight of how alike the texts of a batch are, as to the teacher (embedding).
        contrastive: weight of texts that belong together against the others of a batch (embedding of pairs,
            or of queries and documents).
        temperature: softens the outputs of teacher and student.
    """

    learning_rate: float = Field(default=8e-5, gt=0, le=1)
    labels: float = Field(default=0.3, ge=0)
    logits: float = Field(default=1.0, ge=0)
    hidden: float = Field(default=1.0, ge=0)
    similarity: float = Field(default=0.0, ge=0)
    contrastive: ContrastiveTerm = ContrastiveTerm(weight=0)
    temperature: float = Field(default=2.0, gt=0)

    @model_serializer(mode="wrap")
    def _without_newer_keys(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes that were stored before these keys existed must stay equal to what they load as.
        found: dict[str, Any] = plain(self)
        unused = {"similarity": not self.similarity, "contrastive": not self.contrastive.weight}
        return {name: value for name, value in found.items() if not unused.get(name, False)}

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        self.losses(has_layers=True)
        return self

    def losses(self, *, has_layers: bool, layers: LayerMap = "uniform") -> LossConfig:
        """The same losses as a general LossConfig.

        Args:
            has_layers: whether the layers of the model are known; if not, hidden states are not compared.
            layers: the teacher layers to compare with.
        """
        hidden = HiddenTerm(weight=self.hidden, layers=layers) if has_layers else None
        answers = LogitsTerm(weight=self.logits, temperature=self.temperature)
        return LossConfig(
            labels=Term(weight=self.labels),
            logits=answers,
            similarity=Term(weight=self.similarity) if self.similarity else None,
            contrastive=self.contrastive if self.contrastive.weight else None,
            hidden=hidden,
        )


def check_recovery(stage: Stage, context: Context) -> None:
    """Check that the task and the rows have what a stage's recovery training compares, if it has one.

    Raises:
        StageError: they do not.
    """
    for name, value in stage:
        if isinstance(value, RecoveryConfig):
            losses = value.losses(has_layers=True)
            check_losses(f"{stage.name}: {name}", losses, context.task, context.train)


def recover_(
    made: StageResult,
    before: nn.Module,
    config: RecoveryConfig,
    context: Context,
    what: str,
    layers: Sequence[int] | None = None,
) -> None:
    """Train a cut or quantized model in place, from labels and from the recipe's original model.

    Args:
        made: the model; the training is recorded here.
        before: the model before the stage; the teacher if the context has none.
        layers: for each remaining layer, the layer of `before` whose states it learns; None: evenly spaced.
    """
    from compress.model.cutting.depth import layer_count

    teacher = context.teacher if context.teacher is not None else before
    has_layers = all(_has_layers(each) for each in (made.model, teacher))
    same_depth = has_layers and layers is not None and layer_count(teacher) == layer_count(before)
    losses = config.losses(has_layers=has_layers, layers=tuple(layers or ()) if same_depth else "uniform")
    check_losses(what, losses, context.task, context.train)
    made.learn_(context, [teacher], losses, config, what)


def _has_layers(model: nn.Module) -> bool:
    from compress.model.structure.find import UnknownStructureError, structure_of

    try:
        return structure_of(model).layers is not None
    except UnknownStructureError:
        return False
