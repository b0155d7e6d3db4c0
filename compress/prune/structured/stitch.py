"""Scored candidates of all sites; a full-size model with one candidate per site; and the final cut."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.model.observe.capture import placed_batches
from compress.model.observe.gram import Gram
from compress.model.observe.relay import Relay
from compress.prune.importance.fisher import fisher_information, rearrange
from compress.prune.importance.ranking import normalised
from compress.prune.importance.sensitivity import felt_inputs, token_weights
from compress.prune.importance.taylor import taylor_importance
from compress.prune.structured.candidates import Candidate, put_, ranked_candidates
from compress.prune.structured.mask_tuning import fold_gates_, tune_masks
from compress.prune.structured.obs import least_squares, remove_one_by_one
from compress.stage import Context

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site

__all__ = ["Question", "Stitched", "unit_norms"]

_ROWS = 8  # rows of a calibration batch: what autograd stores for it stays below the model's own size


@dataclass(frozen=True)
class Question:
    """Input of the scoring: the model, its sites, the rows and the importance method.

    Attributes:
        method: the importance: obs, fisher, taylor or magnitude.
        dense: the model whose outputs should be preserved.
        levels: numbers of units to score, for each site.
        calibration: rows used for scoring.
        search: rows on which choices are compared.
        folder: temporary storage for what doesn't fit in memory; must exist while the result is used.
    """

    method: str
    model: nn.Module
    dense: nn.Module
    sites: Sequence[Site]
    levels: Sequence[Sequence[int]]
    calibration: Split
    search: Split
    context: Context
    folder: Path


@dataclass
class Stitched:
    """A full-size model whose sites compute what their candidates would.

    Attributes:
        candidates: of each site, by decreasing width.
        answers: the dense model's logits on the search rows.
    """

    asked: Question
    candidates: list[list[Candidate]]
    answers: Tensor
    weights: list[list[Tensor]]
    fisher: list[Tensor]
    dressed: nn.Module | None
    wearing: list[int]

    @classmethod
    def judge(cls, asked: Question) -> Stitched:
        """Make the candidates of every site with one importance method."""
        from compress.model.forward import predict_logits

        weights: list[list[Tensor]] = []
        fisher: list[Tensor] = []
        task, device = asked.context.task, asked.context.device
        if asked.method == "obs":
            candidates, weights = _obs(asked)
        elif asked.method == "fisher":
            fisher = fisher_information(asked.model, asked.sites, asked.calibration, task, device=device)
            candidates = [
                ranked_candidates(matrix.diagonal() / len(asked.calibration), counts)
                for matrix, counts in zip(fisher, asked.levels, strict=True)
            ]
        else:
            candidates = _scored(asked)
        answers = predict_logits(asked.dense, asked.search, task, device=device)  # [u, c]
        return cls(asked, candidates, answers, weights, fisher, None, [0] * len(asked.sites))

    def loss(self, choice: Sequence[int]) -> float:
        """Divergence of the stitched model's outputs from the dense model's on the search rows."""
        from compress.model.forward import predict_logits

        asked = self.asked
        if self.dressed is None:
            self.dressed = copy.deepcopy(asked.model)
        for index, (site, options, at) in enumerate(zip(asked.sites, self.candidates, choice, strict=True)):
            if self.wearing[index] != at:
                put_(self.dressed, site, options[at], *_consumer(asked.model, site))
                self.wearing[index] = at
        answers = predict_logits(self.dressed, asked.search, asked.context.task, device=asked.context.device)
        return float(asked.context.task.divergence(answers, self.answers, 1.0))

    def cut(self, chosen: Sequence[Candidate]) -> nn.Module:
        """Return a physically cut copy; kept units compensate for removed ones, site by site."""
        from compress.model.cutting.units import keep_units_

        asked = self.asked
        self.dressed, self.wearing = None, [0] * len(asked.sites)  # keep one copy at a time
        cut = copy.deepcopy(asked.model)
        if asked.method == "fisher":
            return self._tuned(cut, [len(each.kept) for each in chosen])
        if asked.method != "obs":
            for site, candidate in zip(asked.sites, chosen, strict=True):
                keep_units_(cut, site, candidate.kept)
            return cut
        with (
            asked.context.progress.bar("prune/structured: adjusting what is kept", len(chosen)) as bar,
            self._relay(cut) as ours,
            self._relay(asked.model) as theirs,
        ):
            for index, candidate in enumerate(chosen):
                self._refit_(cut, index, candidate, ours, theirs)
                bar.advance(1)
        return cut

    @contextmanager
    def _relay(self, model: nn.Module) -> Iterator[Relay]:
        def batches() -> Iterator[dict[str, Tensor]]:
            context = self.asked.context
            batches_of_rows = self.asked.calibration.batches(_ROWS)
            return placed_batches(model, batches_of_rows, context.task, context.device)

        with tempfile.TemporaryDirectory(dir=self.asked.folder) as folder:
            yield Relay(model, self.asked.sites, batches, Path(folder))

    def _tuned(self, cut: nn.Module, counts: Sequence[int]) -> nn.Module:
        """Kwon et al. 2022: rearrange jointly which units are kept, then rescale them."""
        import torch

        from compress.model.cutting.units import keep_units_

        kept = [
            rearrange(matrix, count) if count < len(matrix) else list(range(count))
            for matrix, count in zip(self.fisher, counts, strict=True)
        ]
        gates = [torch.zeros(len(matrix)) for matrix in self.fisher]
        for gate, units in zip(gates, kept, strict=True):
            gate[units] = 1
        asked, context = self.asked, self.asked.context
        gates = tune_masks(
            cut,
            asked.model,
            asked.sites,
            gates,
            asked.calibration,
            context.task,
            device=context.device,
            progress=context.progress,
        )
        for site, gate, units in zip(asked.sites, gates, kept, strict=True):
            fold_gates_(cut, site, gate)
            keep_units_(cut, site, units)
        return cut

    def _refit_(self, cut: nn.Module, index: int, candidate: Candidate, ours: Relay, theirs: Relay) -> None:
        """Refit the consumer: nearest to the uncut model's output, given the cut model's inputs."""
        import torch

        from compress.model.cutting.units import keep_units_, unit_features

        site = self.asked.sites[index]
        weight, bias = _consumer(self.asked.model, site)
        gram = Gram(torch.zeros(weight.shape[1] + 1, weight.shape[1] + 1))
        pairs = zip(ours.inputs_at(site), theirs.inputs_at(site), self.weights[index], strict=True)
        for mine, original, counts in pairs:
            target = original.cpu() @ weight.T
            gram.add_(mine.cpu(), target if bias is None else target + bias, counts)
        fitted, offset = least_squares(gram, candidate.kept, site.unit_size)
        consumer = cut.get_submodule(site.consumer)
        columns = unit_features(candidate.kept, site.unit_size)
        with torch.no_grad():
            consumer.weight[:, columns] = fitted  # type: ignore[operator]
            if bias is not None:
                consumer.bias.copy_(offset)  # type: ignore[operator]
        keep_units_(cut, site, candidate.kept)


def _consumer(model: nn.Module, site: Site) -> tuple[Tensor, Tensor | None]:
    from compress.model.cutting.units import float_linear

    consumer = float_linear(model, site.consumer)
    return consumer.weight.detach(), None if consumer.bias is None else consumer.bias.detach()


def _obs(asked: Question) -> tuple[list[list[Candidate]], list[list[Tensor]]]:
    """Candidates of all sites by least squares; and the weight of each token at each site, batch by batch."""
    import torch

    model, sites, calibration, context = asked.model, asked.sites, asked.calibration, asked.context
    shapes = [_consumer(model, site)[0].shape for site in sites]
    grams = [Gram(torch.zeros(size + 1, size + 1)) for _, size in shapes]
    felt = [torch.zeros(size) for size, _ in shapes]
    weights: list[list[Tensor]] = [[] for _ in sites]
    with context.progress.bar("prune/structured: calibrating", len(calibration)) as bar:
        options = {"seed": context.seed, "batch_size": _ROWS, "device": context.device}
        for each in felt_inputs(model, sites, calibration, context.task, **options):  # type: ignore[arg-type]
            for index, (inputs, squared) in enumerate(each):
                weights[index].append(token_weights(squared))
                grams[index].add_(inputs, weights=weights[index][-1])
                felt[index] += squared.sum(0)
            bar.advance(_ROWS)
    candidates: list[list[Candidate]] = []
    with context.progress.bar("prune/structured: scoring heads and neurons", len(sites)) as bar:
        for site, counts, total in zip(sites, asked.levels, felt, strict=True):
            gram, consumer = grams.pop(0), _consumer(model, site)  # each Gram matrix is freed after use
            mean = total / gram.tokens
            found = remove_one_by_one(*consumer, gram, site.unit_size, counts, output_weights=mean)
            files = [asked.folder / f"{len(candidates)}-{index}.safetensors" for index in range(len(found))]
            candidates.append([each.put_away(file) for each, file in zip(found, files, strict=True)])
            bar.advance(1)
    return candidates, weights


def _scored(asked: Question) -> list[list[Candidate]]:
    """Candidates by magnitude or Taylor; a site's scores have no scale, so each is divided by its L2 norm."""
    if asked.method == "magnitude":
        scores = [unit_norms(asked.model, site) for site in asked.sites]
    else:
        context = asked.context
        scores = taylor_importance(
            asked.model, asked.sites, asked.calibration, context.task, device=context.device
        )
    pairs = zip(scores, asked.levels, strict=True)
    return [ranked_candidates(normalised(score), counts) for score, counts in pairs]


def unit_norms(model: nn.Module, site: Site) -> Tensor:
    """Squared L2 norm of each unit's weights: rows of the producers, columns of the consumer; [u]."""
    import torch

    from compress.model.cutting.units import float_linear

    total = float_linear(model, site.consumer).weight.detach().square().sum(0)  # [u * d]
    norms = total.reshape(site.units(model), -1).sum(1)
    units = site.units(model)
    for path, parts in site.producers:
        rows = float_linear(model, path).weight.detach().square().sum(1)
        for each in torch.split(rows, [units * part for part in parts]):
            norms = norms + each.reshape(units, -1).sum(1)
    return norms
