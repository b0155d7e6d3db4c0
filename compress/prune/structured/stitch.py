"""Candidates of all sites, judged; a whole model stitched of one candidate a site; and the final cut."""

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
    from compress.model.structure.find import Site

__all__ = ["Stitched", "unit_norms"]

_ROWS = 8  # of a batch in calibration: what autograd keeps of one stays below the model's own size


@dataclass
class Stitched:
    """A model at full size whose sites answer as their candidates would.

    Attributes:
        candidates: of each site, in order of falling width.
        folder: what would fill the memory is kept there, as long as this is used.
    """

    candidates: list[list[Candidate]]
    method: str
    model: nn.Module
    dense: nn.Module
    sites: Sequence[Site]
    calibration: Split
    search: Split
    context: Context
    folder: Path
    dressed: nn.Module | None
    answers: Tensor
    wearing: list[int]
    weights: list[list[Tensor]]
    fisher: list[Tensor]

    @classmethod
    def judge(
        cls,
        method: str,
        model: nn.Module,
        dense: nn.Module,
        sites: Sequence[Site],
        levels: Sequence[Sequence[int]],
        calibration: Split,
        search: Split,
        context: Context,
        folder: Path,
    ) -> Stitched:
        """Make the candidates of every site by one importance method."""
        from compress.model.forward import predict_logits

        weights: list[list[Tensor]] = []
        fisher: list[Tensor] = []
        if method == "obs":
            candidates, weights = _obs(model, sites, levels, calibration, context, folder)
        elif method == "fisher":
            fisher = fisher_information(model, sites, calibration, context.task, device=context.device)
            candidates = [
                ranked_candidates(matrix.diagonal() / len(calibration), counts)
                for matrix, counts in zip(fisher, levels, strict=True)
            ]
        else:
            candidates = _scored(method, model, sites, levels, calibration, context)
        answers = predict_logits(dense, search, context.task, device=context.device)  # [u, c]
        return cls(
            candidates,
            method,
            model,
            dense,
            sites,
            calibration,
            search,
            context,
            folder,
            None,
            answers,
            [0] * len(sites),
            weights,
            fisher,
        )

    def loss(self, choice: Sequence[int]) -> float:
        """Divergence of the stitched model's answers from the dense model's on the search rows."""
        from compress.model.forward import predict_logits

        if self.dressed is None:
            self.dressed = copy.deepcopy(self.model)
        for index, (site, options, at) in enumerate(zip(self.sites, self.candidates, choice, strict=True)):
            if self.wearing[index] != at:
                put_(self.dressed, site, options[at], *_consumer(self.model, site))
                self.wearing[index] = at
        answers = predict_logits(self.dressed, self.search, self.context.task, device=self.context.device)
        return float(self.context.task.divergence(answers, self.answers, 1.0))

    def cut(self, chosen: Sequence[Candidate]) -> nn.Module:
        """Cut a copy of the model for good; what stays makes up for what went, site after site."""
        from compress.model.cutting.units import keep_units_

        self.dressed, self.wearing = None, [0] * len(self.sites)  # one copy of the model at a time
        cut = copy.deepcopy(self.model)
        if self.method == "fisher":
            return self._tuned(cut, [len(each.kept) for each in chosen])
        if self.method != "obs":
            for site, candidate in zip(self.sites, chosen, strict=True):
                keep_units_(cut, site, candidate.kept)
            return cut
        with (
            self.context.progress.bar("prune/structured: refitting", len(chosen)) as bar,
            self._relay(cut) as ours,
            self._relay(self.model) as theirs,
        ):
            for index, candidate in enumerate(chosen):
                self._refit_(cut, index, candidate, ours, theirs)
                bar.advance(1)
        return cut

    @contextmanager
    def _relay(self, model: nn.Module) -> Iterator[Relay]:
        def batches() -> Iterator[dict[str, Tensor]]:
            rows, task = self.calibration, self.context.task
            return placed_batches(model, rows.batches(_ROWS), task, self.context.device)

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Relay(model, self.sites, batches, Path(folder))

    def _tuned(self, cut: nn.Module, counts: Sequence[int]) -> nn.Module:
        """Kwon et al. 2022: which units stay is rearranged together, and those that stay are rescaled."""
        import torch

        from compress.model.cutting.units import keep_units_

        kept = [
            rearrange(matrix, count) if count < len(matrix) else list(range(count))
            for matrix, count in zip(self.fisher, counts, strict=True)
        ]
        gates = [torch.zeros(len(matrix)) for matrix in self.fisher]
        for gate, units in zip(gates, kept, strict=True):
            gate[units] = 1
        gates = tune_masks(
            cut,
            self.model,
            self.sites,
            gates,
            self.calibration,
            self.context.task,
            device=self.context.device,
            progress=self.context.progress,
        )
        for site, gate, units in zip(self.sites, gates, kept, strict=True):
            fold_gates_(cut, site, gate)
            keep_units_(cut, site, units)
        return cut

    def _refit_(self, cut: nn.Module, index: int, candidate: Candidate, ours: Relay, theirs: Relay) -> None:
        """Choose the consumer anew: nearest to the uncut model's output, from what the cut model gives it."""
        import torch

        from compress.model.cutting.units import keep_units_, unit_features

        site = self.sites[index]
        weight, bias = _consumer(self.model, site)
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


def _obs(
    model: nn.Module,
    sites: Sequence[Site],
    levels: Sequence[Sequence[int]],
    calibration: Split,
    context: Context,
    folder: Path,
) -> tuple[list[list[Candidate]], list[list[Tensor]]]:
    """Candidates of all sites by least squares; how much each token counts at each site, batch by batch."""
    import torch

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
    with context.progress.bar("prune/structured: judging sites", len(sites)) as bar:
        for site, counts, total in zip(sites, levels, felt, strict=True):
            gram, consumer = grams.pop(0), _consumer(model, site)  # each is let go once it was looked at
            mean = total / gram.tokens
            found = remove_one_by_one(*consumer, gram, site.unit_size, counts, output_weights=mean)
            files = [folder / f"{len(candidates)}-{index}.safetensors" for index in range(len(found))]
            candidates.append([each.put_away(file) for each, file in zip(found, files, strict=True)])
            bar.advance(1)
    return candidates, weights


def _scored(
    method: str,
    model: nn.Module,
    sites: Sequence[Site],
    levels: Sequence[Sequence[int]],
    calibration: Split,
    context: Context,
) -> list[list[Candidate]]:
    """Candidates by magnitude or Taylor: a site's scores have no scale, so each is divided by its L2 norm."""
    if method == "magnitude":
        scores = [unit_norms(model, site) for site in sites]
    else:
        scores = taylor_importance(model, sites, calibration, context.task, device=context.device)
    return [
        ranked_candidates(normalised(score), counts) for score, counts in zip(scores, levels, strict=True)
    ]


def unit_norms(model: nn.Module, site: Site) -> Tensor:
    """Squared L2 norm of each unit's weights: rows of the producers, columns of the consumer; [u]."""
    from compress.model.cutting.units import float_linear

    total = float_linear(model, site.consumer).weight.detach().square().sum(0)  # [u * d]
    norms = total.reshape(site.units(model), -1).sum(1)
    for path, _ in site.producers:
        rows = float_linear(model, path).weight.detach().square().sum(1)
        norms = norms + rows.reshape(site.stacked, site.units(model), -1).sum((0, 2))
    return norms
