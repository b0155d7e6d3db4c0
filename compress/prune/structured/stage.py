"""Structured pruning to a budget: remove heads, neurons and whole sub-layers where that costs least.

The pipeline of ZipLM (Kurtic et al. 2023, arXiv 2302.04089): candidates of every site at many widths, a cost
for each (a latency table measured on this machine, or counts), a search for the choice that best preserves
the outputs, the cut, and recovery by distilling from the dense model; optionally in several steps. A promised
speed-up is then measured on the cut model, and the search is repeated if the table was too optimistic.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from compress.errors import StageError
from compress.prune.structured.cut_job import CutJob
from compress.prune.structured.settings import LEAST_ROWS, StructuredSettings
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split

__all__ = ["StructuredPruning"]


class StructuredPruning(StructuredSettings):
    """Cut heads, neurons and sub-layers to a budget, unevenly, where it costs the least accuracy.

    Attributes:
        speedup: budget (give one): over the recipe's uncompressed model, in ONNX Runtime on this machine.
        latency_ms: budget: ms per call.
        size_mb: budget: MB of weights, stored as the recipe's later quantize stages will store them.
        macs: budget: fraction of the layers' multiply-adds to keep, counted in a forward pass of a row.
        sparsity: budget: fraction of the layers' weights to remove.
        cut: what may be removed.
        min_heads, min_neurons: fewest units that each layer keeps; 0 allows removing whole sub-layers.
        protect: blocks to leave unchanged, by name or pattern, e.g. `bert.encoder.layer.0.*`.
        importance: how units are scored. obs: least squares, the kept units compensate for the removed ones;
            fisher: squared gradients of masks, rearranged and rescaled (Kwon et al. 2022); taylor; magnitude.
        batch, sequence, threads: setting of a speed-up or latency; None: the first that the recipe measures.
        calibration_rows: training rows used for scoring; obs and magnitude use no labels.
        targets: labels for the losses of fisher and taylor: the rows' own, or drawn from the dense model's
            predictions, for rows whose labels mean nothing.
        search_rows, search_steps: rows and tries of the search over layers.
        steps: number of steps to the budget, each with its own search and recovery.
        step_epochs: epochs of recovery after each step but the last.
        recovery: training after the cut; None: no retraining.
    """

    name: ClassVar[str] = "prune/structured"
    summary: ClassVar[str] = (
        "cut heads, neurons and sub-layers to a speed-up, latency, size or MACs (ZipLM, Kwon et al. 2022)"
    )

    @property
    def guess(self) -> str:
        """How narrow the layers get; see `Stage.guess`."""
        return "heads and neurons of each layer (shown: half of them, for any budget)"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that there is something to cut; the final widths are unknown, so halve each site."""
        from compress.model.cutting.units import keep_units_

        shape = copy.deepcopy(model)
        sites, least = self.sites_of(model)
        for site, few in zip(sites, least, strict=True):
            keep_units_(shape, site, range(max(few, 1, site.units(model) // 2)))
        return shape

    def check(self, model: nn.Module, context: Context) -> None:
        """Check that each layer is called once, if the importance method uses layer inputs."""
        from compress.model.evaluating import evaluating
        from compress.model.forward import to_tensors
        from compress.model.observe.capture import called_again

        if self.importance in ("taylor", "magnitude"):
            return
        batch = next(context.train.batches(2))
        sites, _ = self.sites_of(model)
        with evaluating(model):
            again = called_again(model, sites, to_tensors(batch, context.task.input_names))
        if again:
            raise StageError(
                f"prune/structured: importance: {self.importance} needs each layer to be called once per "
                f"forward pass, but {again[0]} is called several times; use importance: taylor or magnitude"
            )

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a smaller copy that meets the budget."""
        from compress.model.evaluating import evaluating

        dense = context.teacher if context.teacher is not None else model
        calibration = self._calibration(context, dense)
        with evaluating(model):
            made = StageResult(model)
            job = CutJob(self, context, model, dense, calibration)
            for step in range(1, self.steps + 1):
                job.step_(made, step)  # the step's input model is left unchanged
        made.facts |= job.facts(model, made.model)
        made.model.eval()
        return made

    def _calibration(self, context: Context, dense: nn.Module) -> Split:
        calibration = context.train.take(self.calibration_rows, seed=context.seed)
        if len(calibration) < LEAST_ROWS:
            raise StageError(
                f"prune/structured: {len(calibration)} training rows are too few to estimate importance; "
                f"give at least {LEAST_ROWS}"
            )
        if self.targets == "teacher" or context.task.labels_from_model:
            calibration = _answered(calibration, dense, context)
        labels = calibration.truth(context.task).labels
        if self.importance in ("fisher", "taylor") and len(np.unique(labels, axis=0)) < 2:
            raise StageError(
                f"prune/structured: all {len(calibration)} calibration rows have the same label, so "
                "gradients of the loss carry no information about the others; use targets: teacher, or "
                "importance: obs, which needs no labels"
            )
        return calibration


def _answered(split: Split, dense: nn.Module, context: Context) -> Split:
    """Rows with labels drawn from the dense model's predictions, as the Fisher information is defined."""
    import torch

    from compress.model.forward import predict_logits

    answers = predict_logits(dense, split, context.task, device=context.device)  # [u, c]
    draw = torch.Generator().manual_seed(context.seed)
    labels = context.task.draw(answers, draw)
    return split.relabelled(labels.numpy())
