"""Shorten the vectors of a sentence embedder by one linear layer after pooling, before normalization.

`pca` keeps the inner products of vectors, and so their cosines, best: with rows of X the unit vectors of
calibration texts and V the first right singular vectors of X, X V V^T is the best approximation of rank k
(Eckart and Young 1936, Psychometrika 1(3)), and (X V)(X V)^T that of the matrix of all inner products. The
vectors are therefore not centred: without their mean, which texts share, other pairs would have the highest
cosine (Su et al. 2021, arXiv 2103.15316, centre and whiten on purpose, which changes the ranking), and on
vectors before normalization a constant shift would not be the same shift of each unit vector.
`first` keeps the first numbers, which is what a model trained for it is made for (Kusupati et al. 2022,
"Matryoshka Representation Learning", arXiv 2205.13147).
Shapes: n = texts, e = size of a vector, k = dimensions kept.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from compress.errors import StageError
from compress.prune.stage import PruneStage
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.files.embedder import Embedder
    from compress.tasks import Task
    from compress.tasks.spec import Truth

__all__ = ["DimensionPruning", "principal_directions"]

_LEAST_COMPARED = 16  # dimensions for which the quality is reported: keep, and halves of the size above this


def principal_directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Directions of vectors [n, e] about zero, strongest first: [e, e], and their shares of the squares.

    Each row's largest number is positive, so that the same texts give the same signs.
    """
    import torch

    wide = vectors.double()
    values, columns = torch.linalg.eigh(wide.T @ wide)
    rows = columns.flip(1).T  # [e, e]
    largest = rows.gather(1, rows.abs().max(1, keepdim=True).indices)
    shares = values.flip(0).clamp(min=0)
    return rows * largest.sign(), shares / shares.sum().clamp(min=1e-300)


class DimensionPruning(PruneStage):
    """Shorten the vectors of a sentence embedder; they are normalized again if the model does that.

    A Dense layer at the end that has no activation takes the cut in; otherwise one is added.

    Attributes:
        keep: numbers that a vector keeps.
        method: pca turns vectors so that the cosines of training texts change least, then cuts. first keeps
            the first numbers, for a Matryoshka model whose short vectors are in use already. auto is the one
            with the better metric on validation rows; if equal, first.
        calibration_rows: training texts for pca, at least as many as a vector has numbers.
    """

    name: ClassVar[str] = "prune/dimensions"
    summary: ClassVar[str] = (
        "shorten the vectors of an embedder (Matryoshka or PCA): a smaller index, faster search"
    )

    keep: int = Field(ge=1)
    method: Literal["auto", "first", "pca"] = "auto"
    calibration_rows: int = Field(default=4096, ge=1)

    def check(self, model: nn.Module, context: Context) -> None:
        """Check that there are enough texts for pca."""
        self._task_fits(context)
        size = _size(_embedder(model))
        texts = min(self.calibration_rows, len(context.train))
        if self.method != "first" and texts < size:
            raise StageError(
                f"{self.name}: {texts} training texts are too few for the directions of {size} dimensions; "
                f"give at least {size} (calibration_rows, and rows of train), or method: first"
            )

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that vectors are longer, and keep their first numbers."""
        import torch

        from compress.model.files.definition import turn_

        shape = _embedder(copy.deepcopy(model))
        turn_(shape, torch.eye(self._kept_of(shape), _size(shape)))
        return shape

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with shorter vectors.

        Raises:
            StageError: the model is no embedder or its vectors are not longer, or there are too few texts.
        """
        import torch

        from compress.model.files.definition import turn_
        from compress.model.forward import predict_logits

        self.check(model, context)
        made = _embedder(copy.deepcopy(model)).eval()
        kept, size, task = self._kept_of(made), _size(made), context.task
        made.to(context.device)
        validation = predict_logits(made, context.validation, task, device=context.device)
        bases = {"first": torch.eye(size, dtype=torch.double)}
        facts: dict[str, Any] = {"dimensions_before": size, "dimensions_kept": kept}
        if self.method != "first":
            texts = context.train.take(self.calibration_rows, seed=context.seed)
            vectors = predict_logits(made, texts, task, device=context.device)
            bases["pca"], shares = principal_directions(_unit(vectors) if made.normalize else vectors)
            facts |= {"calibration_rows": len(texts), "squares_kept": round(float(shares[:kept].sum()), 4)}
        table = _compared(bases, validation, kept, context)
        at = table[_row(kept)]
        chosen = max(bases, key=lambda name: at[name]) if self.method == "auto" else self.method
        turn_(made.to("cpu"), bases[chosen][:kept].float())
        metric = task.words.metric.replace(" ", "_")
        facts |= {"method": chosen, f"{metric}_by_dimensions_on_validation": table}
        return StageResult(made.eval(), facts)

    def _task_fits(self, context: Context) -> None:
        if context.task.answer_kind != "vectors":
            raise StageError(
                f"{self.name}: shortens vectors of texts, and this is a {context.task.words.model}; omit it"
            )

    def _kept_of(self, model: Embedder) -> int:
        size = _size(model)
        if self.keep >= size:
            raise StageError(
                f"{self.name}: keep: {self.keep} of {size} dimensions removes none; allowed: 1 to {size - 1}"
            )
        return self.keep


def _compared(
    bases: dict[str, Tensor], vectors: Tensor, kept: int, context: Context
) -> dict[str, dict[str, float]]:
    """The task's metric on validation rows by dimensions and method; [n, e] are the uncut vectors."""
    task, size = context.task, vectors.shape[1]
    full = task.named(vectors).numpy()
    truth = _truth(task, full, context.validation.truth(task))
    counts, halved = {kept, size}, size // 2
    while halved >= _LEAST_COMPARED:
        counts.add(halved)
        halved //= 2
    turned = {name: vectors.double() @ basis.T for name, basis in bases.items()}
    return {
        _row(count): {
            name: round(task.value(each[:, :count].float().numpy(), truth), 4)
            for name, each in turned.items()
        }
        for count in sorted(counts)
    }


def _row(count: int) -> str:
    return f"{count} dimensions"


def _truth(task: Task, full: np.ndarray[Any, Any], truth: Truth) -> Truth:
    """The truth of validation rows; these vectors themselves, where it is unknown (outside a recipe)."""
    unknown = task.labels_from_model and bool(np.isnan(truth.labels).any())
    return replace(truth, labels=full) if unknown else truth


def _unit(vectors: Tensor) -> Tensor:
    from torch.nn import functional as F

    return F.normalize(vectors.double(), dim=-1)


def _embedder(model: nn.Module) -> Embedder:
    from compress.model.files.embedder import Embedder

    if not isinstance(model, Embedder):
        raise StageError(
            "prune/dimensions: the model is no sentence embedder that modelpress loaded; give a "
            "sentence-transformers directory, or an encoder with model.pooling"
        )
    return model


def _size(model: Embedder) -> int:
    return int(model.described("")["dimensions"])
