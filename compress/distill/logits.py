"""Logits distillation: train a smaller student on the teacher's softened outputs and on the labels.

Hinton et al. 2015, arXiv 1503.02531: loss = (1 - w) T^2 KL(teacher_T || student_T) + w * cross-entropy, with
both softmaxes taken at temperature T. `distill/student` is the general case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.distill.distillation import Distillation
from compress.distill.student import initialise_, rebuilt
from compress.errors import StageError
from compress.losses.config import LogitsTerm, LossConfig, Term
from compress.stage import Context, Stage

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LogitsDistillation"]


_NOT_IN_A_STUDENT = ("prune/embeddings", "prune/vocabulary", "prune/width")


class LogitsDistillation(Distillation):
    """Train a student, built like the model but with other arguments, on the teacher's logits.

    Attributes:
        student: arguments that differ from the model's: the builder's (num_layers, nhead, d_model...) or
            those of the Hugging Face configuration (num_hidden_layers, intermediate_size...).
        init: initialize with the model's weights where shapes match, or randomly.
        keep_layers: which of the model's layers initialize the student's.
        temperature: softens both distributions.
        hard_weight: weight of the cross-entropy with labels; the rest is the teacher's.
    """

    name: ClassVar[str] = "distill/logits"
    summary: ClassVar[str] = (
        "train a smaller student on the teacher's logits and the labels (Hinton et al. 2015)"
    )

    student: dict[str, Any] = Field(min_length=1)
    init: Literal["teacher", "random"] = "teacher"
    keep_layers: Literal["spaced", "first", "last"] = "spaced"
    temperature: float = Field(default=2.0, gt=0, le=100)
    hard_weight: float = Field(default=0.5, ge=0, le=1)

    def objection(self, before: Sequence[Stage]) -> str | None:
        """Also refuse to follow stages whose changes a newly built student would not have."""
        for stage in before:
            if stage.name in _NOT_IN_A_STUDENT:
                return (
                    f"the student would be built with everything that {stage.name} removed; put "
                    f"{stage.name} after {self.name}"
                )
        return super().objection(before)

    def loss_config(self) -> LossConfig:
        """Losses on labels and on softened outputs."""
        answers = LogitsTerm(weight=1 - self.hard_weight, temperature=self.temperature)
        return LossConfig(labels=Term(weight=self.hard_weight), logits=answers)

    def student_of(self, model: nn.Module, context: Context | None) -> tuple[nn.Module, dict[str, Any]]:
        """Build the student, and copy the model's weights where shapes match."""
        try:
            student = rebuilt(model, self.student, 0 if context is None else context.seed)
        except StageError as error:
            raise StageError(f"{self.name}: {error}") from error
        if self.init == "random":
            return student, {}
        try:
            return student, {"tensors_from_teacher": initialise_(student, model, self.keep_layers)}
        except StageError as error:
            raise StageError(f"{self.name}: {error}; or use init: random") from error
