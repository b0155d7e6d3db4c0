"""Stage: takes a model and a Context, returns a StageResult. Its fields are its recipe keys.

The Context has training and validation rows but no test rows, so that no stage can tune on them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from compress.data.readers.reader import NumbersReader, Reader
from compress.data.source import DataSource
from compress.data.split import Split
from compress.losses import LossConfig, Objective, TargetPlace, Teaching
from compress.progress import Progress, Silent
from compress.tasks import Task
from compress.timing import Timer
from compress.train import fit_
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from compress.data.readers.tokenize import TextEncoder

__all__ = ["Context", "Stage", "StageResult"]


@dataclass(frozen=True)
class Context:
    """The read-only inputs of a stage besides the model.

    Attributes:
        teacher: the recipe's original model; None: the model passed to the stage.
        unlabelled: additional rows whose labels are `NO_LABEL`; None if not given.
        reader: reader of the rows, such as their tokenizer.
        targets: where teachers' outputs are stored; without a recipe, only as long as they are needed.
        timer: times ONNX files on this machine; None without a recipe, as in a test.
        device: torch device name.
        folder: the stage's directory for training checkpoints, which survives a kill; None: no checkpoints.
    """

    task: Task
    train: Split
    validation: Split
    unlabelled: Split | None = None
    teacher: nn.Module | None = None
    reader: Reader = field(default_factory=NumbersReader)
    targets: TargetPlace = TargetPlace()
    timer: Timer | None = None
    device: str = "cpu"
    seed: int = 0
    folder: Path | None = None
    progress: Progress = field(default_factory=Silent)

    @property
    def encoder(self) -> TextEncoder | None:
        """The tokenizer of the rows; None unless the rows are text."""
        from compress.data.readers.tokenize import TextEncoder

        return self.reader if isinstance(self.reader, TextEncoder) else None


@dataclass
class StageResult:
    """A new model and how it was made: created, filled in and returned by a stage.

    Attributes:
        facts: plain data for the report.
        curve: training epochs, as the fields of `EpochRecord`.
        kept_tokens: token ids kept by a stage that reduces the vocabulary, ascending; a token's new id is its
            index here.
        trainings: names of the trainings so far, which are also their folders' names.
    """

    model: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    kept_tokens: tuple[int, ...] = ()
    trainings: list[str] = field(default_factory=list)

    def fit_(self, context: Context, config: TrainConfig, description: str, **options: Any) -> None:
        """Train the model in place on a context's rows and record the result; `options`: see `train.fit_`."""
        # Numbered, because a stage may train twice under one name.
        self.trainings.append(f"{len(self.trainings) + 1}-{re.sub('[^a-z0-9]+', '-', description.lower())}")
        fit = fit_(
            self.model,
            context.train,
            context.validation,
            context.task,
            config,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
            description=description,
            folder=None if context.folder is None else context.folder / self.trainings[-1],
            **options,
        )
        self.curve.extend(fit.curve)
        self.facts["best_epoch"] = fit.best_epoch
        taken = self.facts.get("precision", fit.precision)  # several trainings: each precision once
        self.facts["precision"] = taken if fit.precision in taken else f"{taken}, then {fit.precision}"
        if fit.diverged is not None:
            self.facts["diverged"] = fit.diverged
        if fit.resumed_at_epoch is not None:
            self.facts["resumed_at_epoch"] = fit.resumed_at_epoch

    def learn_(
        self,
        context: Context,
        teachers: Sequence[nn.Module],
        losses: LossConfig,
        config: TrainConfig,
        description: str,
        **options: Any,
    ) -> None:
        """Train the model in place, from labels and teachers; `options` as in `fit_`."""
        teaching = Teaching(
            teachers,
            context.train,
            context.task,
            context.targets,
            context.device,
            context.progress,
            context.seed,
        )
        with Objective(losses, self.model, teaching) as objective:
            self.fit_(
                context,
                config,
                description,
                loss=objective.loss,
                after_step=objective.after_step,
                state=objective.state,
                **options,
            )


class Stage(BaseModel, ABC):
    """One step of a recipe.

    Class attributes:
        name: its name in a recipe, as in the registry.
        kind: what it does to weights; a stage that needs float weights cannot follow a quantize stage.
        summary: one line for `modelpress list`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    kind: ClassVar[Literal["prune", "distill", "quantize"]]
    summary: ClassVar[str]

    @abstractmethod
    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return a new model and the facts about it; `model` is not modified.

        Raises:
            StageError: the stage cannot be applied to this model.
        """

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check cheaply that the stage can be applied, and return a model with the resulting shapes.

        The weights of the result are meaningless; `model` is not modified.

        Raises:
            StageError, ModelError: as `apply` would.
        """
        return model

    def check(self, model: nn.Module, context: Context) -> None:
        """Check cheaply that the stage fits the recipe's data and original model (the context's teacher).

        Args:
            model: with the shapes the stage will receive; its weights are meaningless.

        Raises:
            StageError, ModelError: it does not fit.
        """
        del model, context

    def blame(self, model: nn.Module, made: StageResult, context: Context) -> dict[str, float]:
        """Parts of the layers in a loss so large that answers fell to chance, largest first; empty: unknown.

        Args:
            model: what `apply` was given, and `made` what it returned.
        """
        return {}

    @property
    def is_timed(self) -> bool:
        """Whether the result depends on the speed of this machine."""
        return False

    @property
    def guess(self) -> str:
        """Which resulting shapes are only known after `apply`, and what a rehearsal assumes; empty: none."""
        return ""

    @property
    def sees_later(self) -> bool:
        """Whether the result depends on the stages that follow."""
        return self.is_timed

    def stand_in(self) -> Stage:
        """A cheap stage with the same resulting shapes and kernels, sufficient for timing."""
        return self

    def objection(self, before: Sequence[Stage]) -> str | None:
        """Why this stage cannot follow those before it; None if it can."""
        if any(stage.kind == "quantize" for stage in before):
            if self.kind == "quantize":
                return "the weights are quantized already"
            return (
                "it changes float weights, but an earlier stage has quantized them; put quantize stages last"
            )
        return None

    def data_objection(self, data: DataSource) -> str | None:
        """What a recipe's data lacks for this stage; None if nothing."""
        return None
