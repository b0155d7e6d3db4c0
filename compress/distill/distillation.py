"""Base of all distillation stages: create a student and train it on teachers and labels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.losses import LossConfig
from compress.losses.needs import check_losses
from compress.stage import Context, Stage, StageResult
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split

__all__ = ["Distillation"]


class Distillation(Stage):
    """Train a student on a teacher's outputs and states; the teacher is the recipe's initial model.

    Attributes:
        train: training settings.
    """

    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "distill"

    train: TrainConfig = TrainConfig()

    @abstractmethod
    def student_of(self, model: nn.Module, context: Context | None) -> tuple[nn.Module, dict[str, Any]]:
        """Return the untrained student and facts about it; without a context, no model may be run."""

    @abstractmethod
    def loss_config(self) -> LossConfig:
        """Return the losses that the student is trained with."""

    def teachers_of(self, model: nn.Module, context: Context) -> list[nn.Module]:
        """Return the teachers."""
        return [context.teacher if context.teacher is not None else model]

    def rows_of(self, context: Context) -> tuple[Split, dict[str, Any]]:
        """Return the training rows, and facts about them."""
        return context.train, {}

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Build the student."""
        return self.student_of(model, None)[0]

    def check(self, model: nn.Module, context: Context) -> None:
        """Check that the modules that the losses compare exist."""
        from compress.losses.attention import check_plain
        from compress.losses.plan import attention_sites, comparisons
        from compress.model.forward import to_tensors

        check_losses(f"{self.name}: losses", self.loss_config(), context.task, context.train)
        teacher = context.teacher if context.teacher is not None else model
        student = self.rehearse(model)
        comparisons(self.loss_config(), student, teacher)
        row = to_tensors(next(context.validation.batches(1)), context.task.input_names)
        for each in (teacher, student):
            check_plain(each, attention_sites(self.loss_config(), each), row)

    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return the trained student."""
        student, facts = self.student_of(model, context)
        teachers = self.teachers_of(model, context)
        rows, about_rows = self.rows_of(context)
        sizes = [sum(p.numel() for p in each.parameters()) for each in (teachers[0], student)]
        counts = {"parameters_teacher": sizes[0], "parameters_student": sizes[1]}
        made = StageResult(student, {**facts, **about_rows, **counts})
        if sizes[1] > sizes[0]:
            context.progress.say(
                f"{self.name}: the student has {sizes[1]:,} parameters, more than its teacher's {sizes[0]:,}"
            )
        made.learn_(replace(context, train=rows), teachers, self.loss_config(), self.train, self.name)
        student.eval()
        return made
