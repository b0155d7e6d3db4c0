"""Objective: the weighted sum of losses that a training minimizes, from labels and from teachers.

A context manager: while open, it hooks the student and, where widths differ, adds projections to the
teacher's width (trained with it, removed at the end).
Shapes: b = batch, s = positions, m = hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from compress.losses.attention import attention_divergence
from compress.losses.config import WITHOUT_TEACHER, LossConfig
from compress.losses.contrastive import Partners, contrastive_loss
from compress.losses.embedding import cosine_distance, pooled
from compress.losses.hidden import hidden_distance
from compress.losses.plan import Comparison, comparisons
from compress.losses.relations import relation_divergence
from compress.losses.targets import Teaching, teacher_targets
from compress.losses.views import Watch
from compress.tasks import LABELS_KEY, ROW_INDEX_KEY

if TYPE_CHECKING:
    from torch import Tensor, nn


__all__ = ["Objective"]

_MASK = "attention_mask"
_PROJECTIONS = "modelpress_projections"
_PROJECTED = ("hidden", "embedding")  # compared in the teacher's width
_FITTING_ROWS = 256  # for initializing a projection
_FITTED_AT_ONCE = 32
_DAMPING = 1e-3


class Objective:
    """The loss of one training.

    Attributes:
        plan: the compared modules.
        state: state for checkpoints that changes at each step: the training's progress.
    """

    def __init__(self, config: LossConfig, student: nn.Module, teaching: Teaching) -> None:
        """Run the teachers, unless only labels are used.

        Raises:
            ModelError: as in `plan.comparisons`.
            StageError: as in `targets.teacher_targets`.
        """
        self._config, self._student, self._task = config, student, teaching.task
        self.state = {"done": 0.0}
        self.plan = comparisons(config, student, teaching.teachers[0])
        paths = [path for each in self.plan for path in each.teacher]
        self._targets = teacher_targets(teaching, paths) if config.needs_teacher else None
        least, links = config.least, teaching.rows.links
        self._partners = None if least is None or links is None else Partners(links, least)
        self._add_projections_(teaching)
        self._watch = Watch(student, [p for each in self.plan for p in each.student], only_training=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__()
        if self._targets is not None:
            self._targets.close()
        if hasattr(self._student, _PROJECTIONS):
            delattr(self._student, _PROJECTIONS)

    def after_step(self, done: int, total: int) -> None:
        """Record the training's progress; losses may be active for a part of it only."""
        self.state["done"] = done / total

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses on a batch, a scalar; logits [b, ...]."""
        terms = {
            name: term for name, term in self._config.terms().items() if term.counts_at(self.state["done"])
        }
        seen = self._watch.take()
        total = logits.sum() * 0
        if "labels" in terms:
            total = total + terms["labels"].weight * self._task.loss(logits, batch[LABELS_KEY])
        if "lists" in terms:
            total = total + terms["lists"].weight * self._task.list_loss(logits, batch[LABELS_KEY])
        if self._config.contrastive is not None and "contrastive" in terms and self._partners is not None:
            total = total + terms["contrastive"].weight * contrastive_loss(
                logits, *self._partners.at(batch[ROW_INDEX_KEY]), self._config.contrastive.temperature
            )
        if set(terms) <= WITHOUT_TEACHER:
            return total
        assert self._targets is not None
        inputs = {name: batch[name] for name in self._task.input_names}
        targets, mask = self._targets.at(inputs, batch[ROW_INDEX_KEY]), inputs.get(_MASK)
        if self._config.logits is not None and "logits" in terms:
            total = total + terms["logits"].weight * self._task.batch_divergence(
                logits, targets, batch[LABELS_KEY], mask, self._config.logits.temperature
            )
        if "margins" in terms:
            margins = self._task.margin_from_kept(logits, targets, batch[LABELS_KEY])
            total = total + terms["margins"].weight * margins
        if "similarity" in terms:
            likeness = self._task.similarity_from_kept(logits, targets)
            total = total + terms["similarity"].weight * likeness
        # No states are captured in evaluation mode, as when a step is only timed.
        for name in set(terms) & {each.term for each in self.plan} if seen else ():
            parts = [self._compare(each, seen, targets, mask) for each in self.plan if each.term == name]
            total = total + terms[name].weight * sum(parts[1:], parts[0]) / len(parts)
        return total

    def _compare(
        self, pair: Comparison, seen: dict[str, Tensor], targets: dict[str, Tensor], mask: Tensor | None
    ) -> Tensor:
        mine = [seen[path].float() for path in pair.student]
        wanted = [targets[path] for path in pair.teacher]
        if pair.term == "attention":
            return attention_divergence((mine[0], mine[1]), (wanted[0], wanted[1]), pair.heads, mask)
        if pair.term == "relations":
            return relation_divergence(mine, wanted, pair.heads[0], mask)
        projected = self._projected(pair, mine[0])
        if pair.term == "hidden":
            return hidden_distance(projected, wanted[0], mask)
        return cosine_distance(pooled(projected, mask), pooled(wanted[0], mask))

    def _projected(self, pair: Comparison, states: Tensor) -> Tensor:
        projections = getattr(self._student, _PROJECTIONS, None)
        name = _name(pair)
        if projections is None or name not in projections:
            return states
        found: Tensor = projections[name](states)
        return found

    def _add_projections_(self, teaching: Teaching) -> None:
        """Add projections where widths differ, fitted by least squares from student to teacher states."""
        import torch
        from torch import nn

        from compress.model.observe.capture import placed_batches
        from compress.model.observe.gram import Gram

        pairs = {_name(pair): pair for pair in self.plan if pair.term in _PROJECTED}
        if not pairs or self._targets is None:
            return
        grams: dict[str, Gram] = {}
        picked = teaching.rows.drawn(_FITTING_ROWS, seed=teaching.seed)
        few, device = teaching.rows.at(picked), teaching.device
        with Watch(self._student, [pair.student[0] for pair in pairs.values()]) as watch:
            batches = placed_batches(self._student, few.batches(_FITTED_AT_ONCE), self._task, device)
            for number, inputs in enumerate(batches):
                self._answer(inputs)
                start = number * _FITTED_AT_ONCE
                index = torch.from_numpy(picked[start : start + _FITTED_AT_ONCE])
                seen, targets = watch.take(), self._targets.at(inputs, index)
                for name, pair in pairs.items():
                    states = (seen[pair.student[0]].float(), targets[pair.teacher[0]])
                    mine, wanted = (_tokens(each, inputs.get(_MASK)) for each in states)
                    if mine.shape[-1] != wanted.shape[-1]:
                        size = mine.shape[-1] + 1
                        grams.setdefault(name, Gram(torch.zeros(size, size))).add_(mine, wanted)
        made = {}
        for name, gram in grams.items():
            weight, bias = gram.solve(damping=_DAMPING)
            made[name] = nn.Linear(weight.shape[1], weight.shape[0])
            made[name].load_state_dict({"weight": weight, "bias": bias})
        if made:
            self._student.add_module(_PROJECTIONS, nn.ModuleDict(made))

    def _answer(self, inputs: dict[str, Tensor]) -> None:
        import torch

        from compress.model.forward import logits

        with torch.no_grad():
            logits(self._student, inputs)


def _name(pair: Comparison) -> str:
    return f"{pair.term}-{pair.student[0]}".replace(".", "-")


def _tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """States at token positions, on the CPU: [b, s, m] -> [t, m]."""
    kept = states if mask is None else states[mask.bool()]
    return kept.flatten(0, -2).cpu()
