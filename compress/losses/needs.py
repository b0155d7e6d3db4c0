"""What losses need of the task and of the rows to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import StageError
from compress.losses.config import LossConfig

if TYPE_CHECKING:
    from compress.data.split import Split
    from compress.tasks import Task

__all__ = ["check_losses"]


def check_losses(where: str, losses: LossConfig, task: Task, train: Split) -> None:
    """Check that a training's task and rows have what its losses compare.

    Args:
        where: the setting before the name of a loss: `distill/student: losses`.

    Raises:
        StageError: they do not.
    """
    for name in losses.of_groups if not task.has_groups() else ():
        raise StageError(
            f"{where}.{name} compares candidates of a query, and this is a {task.words.model}; omit it"
        )
    for name in losses.of_vectors if task.answer_kind != "vectors" else ():
        raise StageError(
            f"{where}.{name} compares vectors of texts, and this is a {task.words.model}; omit it"
        )
    if losses.least is None or losses.contrastive is None:
        return
    links = train.links
    joined = 0 if links is None else int((links.places[1] >= losses.least).sum())
    if links is not None and not links.is_search and losses.contrastive.least is None:
        raise StageError(
            f"{where}.contrastive: the pairs have scores; set least, the lowest score of texts that belong "
            "together"
        )
    if not joined:
        raise StageError(
            f"{where}.contrastive needs texts that belong together in train, which has none here; name two "
            "text columns, or give queries and relevant documents",
            see="how-to/embeddings",
        )
