"""Stage: a model and a Context go in, a StageResult comes out. A stage's fields are its keys in the recipe.

The Context has rows for training and validation, never the test rows, so that no stage can choose by them.
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
from compress.losses import LossConfig, Objective, TargetPlace
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
    """What a stage may look at; it is never written to.

    Attributes:
        teacher: the model that the recipe began with; None: the model that the stage is given.
        unlabelled: further rows without labels (theirs are `NO_LABEL`); None: not given.
        reader: how the rows were read, such as the tokenizer that they come from.
        targets: where the answers of teachers are kept; without a recipe, as long as they are needed.
        timer: times ONNX files on this machine; None without a recipe, as in a test.
        device: a torch device name.
        folder: a directory of the stage's own that outlives a kill, where trainings keep checkpoints; None:
            they keep none.
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
        """The tokenizer that the rows come from; None unless the rows are text."""
        from compress.data.readers.tokenize import TextEncoder

        return self.reader if isinstance(self.reader, TextEncoder) else None


@dataclass
class StageResult:
    """A new model, and what the stage did to make it: a stage creates one, fills it in and returns it.

    Attributes:
        facts: for the report; plain data.
        curve: training epochs, as `EpochRecord`'s fields.
        kept_tokens: of a stage that makes the vocabulary smaller the ids that it keeps, ascending; a token's
            new id is its place among them.
        trainings: names of the trainings so far, as their folders are named.
    """

    model: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    kept_tokens: tuple[int, ...] = ()
    trainings: list[str] = field(default_factory=list)

    def fit_(self, context: Context, config: TrainConfig, description: str, **options: Any) -> None:
        """Train the model in place on a context's rows, and note how it went; `options`: see `train.fit_`."""
        # By the order of trainings too: a stage may train twice under one name.
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
        taken = self.facts.get("precision", fit.precision)  # of a stage that trains several times, each once
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
        """Train the model in place, from labels and from teachers; `options` as in `fit_`."""
        with Objective(
            losses,
            self.model,
            teachers,
            context.train,
            context.task,
            context.targets,
            device=context.device,
            progress=context.progress,
            seed=context.seed,
        ) as objective:
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
        name: its name in a recipe, as the registry has it.
        kind: what it does to weights; a stage that needs float weights can't follow a quantize stage.
        summary: one line for `modelpress list`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    kind: ClassVar[Literal["prune", "distill", "quantize"]]
    summary: ClassVar[str]

    @abstractmethod
    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return a new model and what was done; `model` is left unchanged.

        Raises:
            StageError: the model has nothing that this stage can work on.
        """

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See, without work, that the stage can do this, and return a model of the shapes it would leave.

        The weights of what is returned mean nothing; `model` is left as it was.

        Raises:
            StageError, ModelError: as `apply` would.
        """
        return model

    def check(self, model: nn.Module, context: Context) -> None:
        """See, without work, that the stage fits the recipe's data and first model (the context's teacher).

        Args:
            model: of the shapes that the stage will be given; its weights mean nothing.

        Raises:
            StageError, ModelError: it doesn't.
        """
        del model, context

    @property
    def is_timed(self) -> bool:
        """Whether what the stage does depends on how fast this machine is."""
        return False

    @property
    def guess(self) -> str:
        """What of its shapes only the work can tell, and what a rehearsal has instead; empty: nothing."""
        return ""

    @property
    def sees_later(self) -> bool:
        """Whether what the stage does depends on the stages that follow it."""
        return self.is_timed

    def stand_in(self) -> Stage:
        """A stage that leaves the same shapes and kernels at the least work: all that a clock asks for."""
        return self

    def objection(self, before: Sequence[Stage]) -> str | None:
        """Say why this stage makes no sense after those before it; None: it makes sense."""
        if any(stage.kind == "quantize" for stage in before):
            if self.kind == "quantize":
                return "the weights are quantized already"
            return (
                "it changes float weights, and the stages before it have already turned them into integers; "
                "put quantize stages last"
            )
        return None

    def data_objection(self, data: DataSource) -> str | None:
        """Say what a recipe's data lacks for this stage; None: nothing."""
        return None
