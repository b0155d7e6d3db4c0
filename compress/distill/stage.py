"""Distillation of any student, with any losses, on any rows: `distill/student`.

With little or no real text, rows can be synthetic, labelled by the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from compress.distill.distillation import Distillation
from compress.distill.student import StudentConfig, build_student, load_student
from compress.errors import StageError
from compress.layer_choice import best_layers
from compress.losses import LossConfig
from compress.losses.config import HiddenTerm, LogitsTerm, Term
from compress.model.files.config import ModelConfig
from compress.stage import Context, Stage
from compress.system.disk import scratch_directory

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split
    from compress.model.files.load import LoadedModel

__all__ = ["RowsConfig", "StudentDistillation"]


class RowsConfig(BaseModel):
    """The rows that a student is trained on; only the training rows have labels.

    Attributes:
        train: the training rows.
        unlabelled: the recipe's `data.unlabelled`, if it has any.
        augment: number of modified copies of each of these rows (text only), labelled by the teacher.
        synthetic: number of rows of random tokens (text only), labelled by the teacher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: bool = True
    unlabelled: bool = True
    augment: int = Field(default=0, ge=0, le=100)
    synthetic: int = Field(default=0, ge=0, le=10_000_000)


class StudentDistillation(Distillation):
    """Train a student on its teachers' outputs and states.

    Attributes:
        student: how the student is built; by default the model as the previous stages left it.
        losses: what it is trained on.
        teachers: teacher models; empty uses the recipe's initial model. Outputs of several are averaged, and
            the states of the first are used.
        rows: what rows it is trained on.
    """

    name: ClassVar[str] = "distill/student"
    summary: ClassVar[str] = (
        "train any student on a teacher's outputs, hidden states, attention or relations; needs few rows, "
        "or none"
    )

    student: StudentConfig = StudentConfig()
    losses: LossConfig = LossConfig(
        labels=Term(weight=0.3), logits=LogitsTerm(weight=1.0), hidden=HiddenTerm(weight=1.0)
    )
    teachers: tuple[ModelConfig, ...] = ()
    rows: RowsConfig = RowsConfig()

    def objection(self, before: Sequence[Stage]) -> str | None:
        """Also refuse models with their own vocabulary after the vocabulary was pruned."""
        if self.student.model is not None or self.teachers:
            for stage in before:
                if stage.name == "prune/vocabulary":
                    return f"another model needs the whole vocabulary; put {stage.name} after {self.name}"
        return super().objection(before)

    def loss_config(self) -> LossConfig:
        """Return the losses of the recipe."""
        return self.losses

    def check(self, model: nn.Module, context: Context) -> None:
        """Check that rows can be made, and that all models share the tokens and the labels."""
        rows = self.rows
        if (rows.augment or rows.synthetic) and context.encoder is None:
            raise StageError(
                f"{self.name}: rows.augment and rows.synthetic are for texts only, and this model does not "
                "read text; omit them"
            )
        if not context.task.takes_made_up_rows and (rows.augment or rows.synthetic):
            raise StageError(
                f"{self.name}: rows.augment and rows.synthetic are not useful for a "
                f"{context.task.words.model}; omit them"
            )
        if not (rows.train or rows.synthetic or (rows.unlabelled and context.unlabelled is not None)):
            raise StageError(
                f"{self.name}: rows: there are no rows to train on; give data.unlabelled or rows.synthetic"
            )
        if not rows.train and not self.losses.needs_teacher:
            raise StageError(
                f"{self.name}: losses: labels is the only loss, but without rows.train no row has labels; "
                "add another loss or set rows.train: true"
            )
        if not rows.train and self.losses.least is not None:
            raise StageError(
                f"{self.name}: losses.contrastive joins training rows; set rows.train: true or omit it"
            )
        classes = context.task.classes
        students = [] if self.student.model is None else [self.student.model]
        others = [(each, False) for each in students] + [(each, True) for each in self.teachers]
        for config, teaches in others:
            with scratch_directory("student") as folder:
                loaded = load_student(config, model, classes, 0, context.task.name, folder)
                if teaches and not loaded.has_trained_head:
                    raise StageError(
                        f"{self.name}: teachers: {loaded.source} has no trained classification head; give a "
                        "trained classifier"
                    )
                name = f"{self.name}: {loaded.source}"
                _check_labels(name, loaded, context)
                # A model file of the recipe's own has the recipe's tokenizer.
                _check_tokens(name, loaded, context, has_own_tokenizer=config.file is None)
                _check_outputs(name, loaded, context, teaches=teaches)
        super().check(model, context)

    def student_of(self, model: nn.Module, context: Context | None) -> tuple[nn.Module, dict[str, Any]]:
        """Build the student of the recipe; the best layers are chosen on validation rows."""
        if context is None:
            return build_student(self.student, model, seed=0)
        classes = context.task.classes
        return build_student(
            self.student,
            model,
            seed=context.seed,
            classes=classes,
            task=context.task.name,
            best=lambda count: best_layers(model, count, context, self.name),
        )

    def teachers_of(self, model: nn.Module, context: Context) -> list[nn.Module]:
        """The recipe's initial model, or the given teachers."""
        if not self.teachers:
            return super().teachers_of(model, context)
        task = context.task
        loaded = [load_student(config, model, task.classes, 0, task.name) for config in self.teachers]
        for each in loaded:
            if (
                task.labels and each.label_order is not None and each.label_order != task.labels
            ):  # placeholders only
                context.progress.say(
                    f"{self.name}: {each.source} and the data name their labels differently; they are "
                    f"matched by index: {', '.join(task.labels)}"
                )
        return [each.module for each in loaded]

    def rows_of(self, context: Context) -> tuple[Split, dict[str, Any]]:
        """Training and unlabelled rows, modified copies of both, and synthetic rows; and their counts."""
        from compress.data.readers.augment import augmented

        given, counts = self.rows, {}
        parts: list[Split] = [context.train] if given.train else []
        if given.unlabelled and context.unlabelled is not None:
            parts.append(context.unlabelled)
            counts["unlabelled"] = len(context.unlabelled)
        if given.augment and parts:
            assert context.encoder is not None
            made = [
                augmented(part, context.encoder, seed=context.seed * 1_000 + copy_)
                for copy_ in range(given.augment)
                for part in list(parts)
            ]
            parts += made
            counts["augmented"] = sum(map(len, made))
        if given.synthetic:
            assert context.encoder is not None
            longest = max(len(row["input_ids"]) for row in context.validation.rows)
            parts.append(context.encoder.synthetic(given.synthetic, longest, seed=context.seed))
            counts["synthetic"] = given.synthetic
        rows = parts[0]
        for part in parts[1:]:
            rows = rows.joined(part)
        facts = {"rows": {"train": len(context.train) if given.train else 0, **counts}}
        return replace(rows, name="train"), facts


def _check_labels(name: str, loaded: LoadedModel, context: Context) -> None:
    """Refuse a trained model with other classes, or another order of them."""
    from compress.data.labels import are_made_up

    order, labels = loaded.label_order, context.task.labels
    if not loaded.has_trained_head or order is None or order == labels:
        return
    if not are_made_up(order) and not are_made_up(labels):
        raise StageError(f"{name} has the labels {', '.join(order)}, not {', '.join(labels)}")


def _check_tokens(name: str, loaded: LoadedModel, context: Context, *, has_own_tokenizer: bool) -> None:
    """Refuse a model with another tokenizer or other inputs, or that takes fewer tokens than texts have."""
    from compress.data.readers.same_ids import same_ids
    from compress.data.readers.tokenize import TextEncoder
    from compress.model.forward import accepted_inputs
    from compress.model.limits import token_limit

    if context.encoder is not None and has_own_tokenizer and loaded.tokenizer is not None:
        own = TextEncoder.from_directory(loaded.tokenizer, input_names=loaded.text_inputs)
        if not same_ids(own.tokenizer, context.encoder.tokenizer):
            raise StageError(
                f"{name} has another tokenizer than the recipe's model, so token ids differ; use a teacher "
                "with the same tokenizer"
            )
    names = context.task.input_names
    if set(names) - set(loaded.text_inputs or names) - set(accepted_inputs(loaded.module)):
        raise StageError(
            f"{name} reads {', '.join(loaded.text_inputs)}; the recipe's model reads {', '.join(names)}"
        )
    longest = None if context.encoder is None else context.encoder.truncated_at
    limit = token_limit(loaded.module)
    if longest is not None and limit is not None and longest > limit:
        raise StageError(
            f"{name} takes at most {limit:,} tokens including special ones, but texts have {longest:,}; set "
            f"data.max_length={limit} or less"
        )


def _check_outputs(name: str, loaded: LoadedModel, context: Context, *, teaches: bool) -> None:
    """Refuse a model that can't process the data's rows, or whose outputs are not of the task's shape."""
    import torch

    from compress.model.forward import logits, to_tensors

    task = context.task
    batch = to_tensors(next(context.train.batches(2)), task.input_names)
    try:
        with torch.no_grad():
            answers = logits(loaded.module.eval(), batch)
    except Exception as error:
        raise StageError(f"{name} can't process the data's rows: {error}") from error
    shape = list((task.of_teacher(answers) if teaches else answers).shape)
    if shape[-1] != task.classes or len(shape) != 1 + len(task.answer_shape):
        raise StageError(
            f"{name} returns {shape[1:]} numbers per row, but the data has {task.classes} {task.words.label}s"
        )
