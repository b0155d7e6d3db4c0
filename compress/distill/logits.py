"""Logits distillation: a smaller student learns from the teacher's softened answers and from the labels.

Hinton et al. 2015, arXiv 1503.02531: loss = (1 - w) T^2 KL(teacher_T || student_T) + w * cross-entropy, with
the softmax of each taken at temperature T.
Shapes: n = training rows, b = batch, c = classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compress.errors import ModelError, StageError
from compress.stage import Context, Stage
from compress.task import LABELS_KEY, ROW_INDEX_KEY
from compress.train import soft_loss
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LogitsDistillation", "layer_map"]


_NOT_IN_A_STUDENT = ("prune/embeddings", "prune/vocabulary", "prune/width")


def layer_map(
    teacher_layers: int, student_layers: int, keep: Literal["spaced", "first", "last"]
) -> list[int]:
    """Say which teacher layer each student layer begins as.

    `spaced` keeps the last and spreads the others evenly: of 6 for 3, layers 1, 3 and 5 (counted from 0).
    """
    if student_layers > teacher_layers:
        raise ValueError(
            f"a student of {student_layers} layers is deeper than its teacher of {teacher_layers}"
        )
    if keep == "first":
        return list(range(student_layers))
    if keep == "last":
        return list(range(teacher_layers - student_layers, teacher_layers))
    return [round((index + 1) * teacher_layers / student_layers) - 1 for index in range(student_layers)]


class LogitsDistillation(Stage):
    """Train a student, built as the model was but with other arguments, on the teacher's logits.

    Attributes:
        student: arguments that differ from the model's own: the builder's (num_layers, nhead, d_model...) or
            those of the Hugging Face configuration (num_hidden_layers, intermediate_size...).
        init: begin with the model's weights where shapes allow, or at random.
        keep_layers: which of the model's layers the student's begin as.
        temperature: softens both answers.
        hard_weight: weight of the labels' cross-entropy; the rest is the teacher's.
        train: the training.
    """

    name: ClassVar[str] = "distill/logits"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "distill"
    summary: ClassVar[str] = (
        "train a smaller student on the teacher's logits and the labels (Hinton et al. 2015)"
    )

    student: dict[str, Any] = Field(min_length=1)
    init: Literal["teacher", "random"] = "teacher"
    keep_layers: Literal["spaced", "first", "last"] = "spaced"
    temperature: float = Field(default=2.0, gt=0, le=100)
    hard_weight: float = Field(default=0.5, ge=0, le=1)
    train: TrainConfig = TrainConfig()

    def objection(self, before: Sequence[Stage]) -> str | None:
        """Also refuse to come after what a student, built by the definition, would not have."""
        for stage in before:
            if stage.name in _NOT_IN_A_STUDENT:
                return (
                    f"a student is built as the model was, with all that {stage.name} has taken away; put "
                    f"{stage.name} after {self.name}"
                )
        return super().objection(before)

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Build the student, and see that the model's layers can be mapped to its."""
        student = self._build(model, seed=0)
        if self.init == "teacher":
            self._initialise_(student, model)
        return student

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the trained student; the teacher is the recipe's first model, or else `model`."""
        import torch

        from compress.model.calls import predict_logits

        student = self._build(model, seed=context.seed)
        if self.init == "teacher":
            context.facts["tensors_from_teacher"] = self._initialise_(student, model)
        teacher = context.teacher if context.teacher is not None else model
        # The teacher's answers don't change between epochs: asked for once, in evaluation mode.
        answers = predict_logits(
            teacher.to(context.device), context.train, context.task, device=context.device
        )
        teacher.to("cpu")
        answers = answers.to(context.device)  # [n, c]

        def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
            soft = soft_loss(logits, answers[batch[ROW_INDEX_KEY]], self.temperature)
            hard = context.task.loss(logits, batch[LABELS_KEY])
            return (1 - self.hard_weight) * soft + self.hard_weight * hard

        context.fit_(student, self.train, "distill/logits", loss=loss)
        agreement = (answers.argmax(-1).cpu() == torch.from_numpy(context.train.labels)).float().mean()
        context.facts["teacher_accuracy_on_train"] = round(float(agreement), 4)
        context.facts["parameters_before"] = sum(p.numel() for p in model.parameters())
        context.facts["parameters_after"] = sum(p.numel() for p in student.parameters())
        return student.eval()

    def _build(self, model: nn.Module, *, seed: int) -> nn.Module:
        from compress.model.definition import definition_of

        definition = definition_of(model)
        if definition is None:
            raise StageError(
                "distill/logits: a student is built as the model was, but modelpress did not build this one; "
                "load it by a model file and builder"
            )
        try:
            return definition.changed(self.student).build(seed=seed)
        except ModelError as error:
            raise StageError(f"distill/logits: student: {error}") from error

    def _initialise_(self, student: nn.Module, model: nn.Module) -> str:
        """Copy every tensor whose name (layers mapped) and shape the two share; return "copied of all"."""
        from compress.model.structure import structure_of

        try:
            layers = structure_of(model).layers
            if layers is None:
                raise ModelError(f"{type(model).__name__}.structure() does not say where its layers are")
            counts = [len(list(m.get_submodule(layers).children())) for m in (model, student)]
            chosen = layer_map(counts[0], counts[1], self.keep_layers)
        except (ModelError, ValueError) as error:
            raise StageError(f"distill/logits: init teacher: {error}; or use init: random") from error
        pattern = re.compile(rf"^{re.escape(layers)}\.(\d+)\.")
        source, target = model.state_dict(), student.state_dict()
        copied = 0
        for name, tensor in target.items():
            origin = pattern.sub(lambda found: f"{layers}.{chosen[int(found.group(1))]}.", name)
            if origin in source and source[origin].shape == tensor.shape:
                tensor.copy_(source[origin])
                copied += 1
        return f"{copied} of {len(target)}"
