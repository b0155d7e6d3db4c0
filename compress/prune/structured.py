"""Structured pruning to a budget: heads, neurons and whole sub-layers go where that costs least.

The pipeline of ZipLM (Kurtic et al. 2023, arXiv 2302.04089): candidates of every site at many widths, a cost
for each (a latency table measured on this machine, or counts), a search for the choice that keeps the
answers, the cut, and recovery by distilling from the dense model; in several steps, if wanted. A promised
speed-up is then measured on the cut model, and the search repeated where the table promised too much.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from compress.errors import StageError
from compress.prune.budget import Budget, BudgetKind, budget_of, macs_of, weights_of
from compress.prune.candidates import Candidate, unit_levels
from compress.prune.latency_table import LatencyTable, measure_table
from compress.prune.recovery import RecoveryConfig, recover_
from compress.prune.search import best_within, refine
from compress.prune.stitch import Stitched
from compress.stage import Context, Stage
from compress.timing import Compared, TimingPoint

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split
    from compress.model.structure import Site, Structure

__all__ = ["StructuredPruning"]

_KEPT_WITHIN = 0.02  # a promise is searched again if it is missed by more, or kept by more than twice that
_TRIES = 6
_LEAST_ROWS = 16


class StructuredPruning(Stage):
    """Cut heads, neurons and sub-layers to a budget, unevenly, where it costs the least accuracy.

    Attributes:
        speedup: so many times as fast as the recipe's uncompressed model, in ONNX Runtime on this machine.
        latency_ms: or so many ms a call.
        size_mb: or so many MB of weights, stored as the recipe's later quantize stages will store them.
        macs: or this fraction of the layers' multiply-adds left.
        sparsity: or this fraction of the layers' weights gone.
        cut: what may go.
        min_heads, min_neurons: each layer keeps at least so many; 0 lets whole sub-layers go.
        protect: blocks that stay as they are, by name or pattern, e.g. `bert.encoder.layer.0.*`.
        importance: how a unit's worth is judged. obs: least squares, what stays makes up for what goes;
            fisher: squared gradients of masks, rearranged and rescaled (Kwon et al. 2022); taylor; magnitude.
        batch, sequence, threads: where a speed-up or a latency holds; none: what the recipe measures first.
        calibration_rows: training rows that importance is judged on; obs and magnitude use no labels.
        targets: what the losses of fisher and taylor are taken from: the rows' labels, or labels drawn from
            the dense model's own answers, for rows whose labels mean nothing.
        search_rows, search_steps: rows and tries of the search over layers.
        steps: cut in so many steps to the budget, each with its own search and recovery.
        step_epochs: epochs of recovery after each step but the last.
        recovery: training after the cut; none: retraining-free.
    """

    name: ClassVar[str] = "prune/structured"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "prune"
    summary: ClassVar[str] = (
        "cut heads, neurons and sub-layers to a speed-up, latency, size or MACs (ZipLM, Kwon et al. 2022)"
    )

    speedup: float | None = Field(default=None, gt=1, le=1000)
    latency_ms: float | None = Field(default=None, gt=0)
    size_mb: float | None = Field(default=None, gt=0)
    macs: float | None = Field(default=None, gt=0, lt=1)
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    cut: Annotated[tuple[Literal["heads", "neurons"], ...], Field(min_length=1)] = ("heads", "neurons")
    min_heads: int = Field(default=0, ge=0)
    min_neurons: int = Field(default=0, ge=0)
    protect: tuple[str, ...] = ()
    importance: Literal["obs", "fisher", "taylor", "magnitude"] = "obs"
    batch: int | None = Field(default=None, ge=1, le=65_536)
    sequence: int | None = Field(default=None, ge=1, le=65_536)
    threads: int | None = Field(default=None, ge=1, le=65_536)
    calibration_rows: int = Field(default=512, ge=_LEAST_ROWS)
    targets: Literal["labels", "teacher"] = "labels"
    search_rows: int = Field(default=128, ge=_LEAST_ROWS)
    search_steps: int = Field(default=60, ge=0, le=100_000)
    steps: int = Field(default=1, ge=1, le=100)
    step_epochs: int = Field(default=1, ge=1, le=10_000)
    recovery: RecoveryConfig | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> StructuredPruning:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give one budget of {', '.join(_KINDS)}; there are {len(given)}"
                + (f": {', '.join(given)}" if given else "")
            )
        if self.steps > 1 and self.recovery is None:
            raise ValueError("steps above 1 need recovery: without training in between, one step is as good")
        return self

    @property
    def is_timed(self) -> bool:
        """Whether the budget is a time on this machine."""
        return self.speedup is not None or self.latency_ms is not None

    def budget(self) -> tuple[BudgetKind, float]:
        """The budget that was given."""
        return next((kind, getattr(self, kind)) for kind in _KINDS if getattr(self, kind) is not None)

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See that there is something to cut; how much stays is not known yet, so cut each site to half."""
        from compress.model.cut import keep_units_

        shape = copy.deepcopy(model)
        sites, least = self._sites(model)
        for site, few in zip(sites, least, strict=True):
            keep_units_(shape, site, range(max(few, 1, site.units(model) // 2)))
        return shape

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a smaller copy that meets the budget."""
        dense = context.teacher if context.teacher is not None else model
        calibration = self._calibration(context, dense)
        cut = copy.deepcopy(model).eval()
        job = _Job(self, context, dense, calibration)
        for step in range(1, self.steps + 1):
            cut = job.step(cut, step)
        context.facts.update(job.facts(model, cut))
        return cut.eval()

    def _sites(self, model: nn.Module) -> tuple[list[Site], list[int]]:
        """The sites that may be cut, and how few units each must keep."""
        from compress.model.structure import structure_of

        kinds = {"heads": "attention", "neurons": "feed_forward"}
        wanted = {kinds[name] for name in self.cut}
        structure = structure_of(model)
        sites = [site for site in structure.sites if site.kind in wanted]
        for pattern in self.protect:
            if not any(fnmatch(site.name, pattern) for site in (*structure.sites, *structure.removed)):
                names = ", ".join(site.name for site in structure.sites[:4])
                raise StageError(
                    f"prune/structured: protect: no block is '{pattern}'; there are {names}, ..."
                )
            sites = [site for site in sites if not fnmatch(site.name, pattern)]
        if not sites:
            raise StageError(f"prune/structured: the model has no {' or '.join(self.cut)} to cut")
        floors = {"attention": self.min_heads, "feed_forward": self.min_neurons}
        least = [min(site.units(model), max(floors[site.kind], 0 if site.removal else 1)) for site in sites]
        return sites, least

    def _calibration(self, context: Context, dense: nn.Module) -> Split:
        calibration = context.train.take(self.calibration_rows, seed=context.seed)
        if len(calibration) < _LEAST_ROWS:
            raise StageError(
                f"prune/structured: {len(calibration)} training rows are too few to judge importance by; "
                f"at least {_LEAST_ROWS} are needed"
            )
        if self.targets == "teacher":
            calibration = _answered(calibration, dense, context)
        if self.importance in ("fisher", "taylor") and len(set(calibration.labels.tolist())) < 2:
            raise StageError(
                f"prune/structured: all {len(calibration)} calibration rows have one label, so gradients of "
                "the loss say nothing about the others; use targets: teacher, or importance: obs, which "
                "needs no labels"
            )
        return calibration


_KINDS: tuple[BudgetKind, ...] = ("speedup", "latency_ms", "size_mb", "macs", "sparsity")


@dataclass
class _Step:
    """What one step did, for the report."""

    target: float
    promised: dict[str, float]
    checked: Compared | None
    search: dict[str, float]
    validation_cut: float
    validation_recovered: float | None


class _Job:
    """One application of the stage: what its steps share."""

    def __init__(
        self, stage: StructuredPruning, context: Context, dense: nn.Module, calibration: Split
    ) -> None:
        self.stage, self.context, self.dense, self.calibration = stage, context, dense, calibration
        self.search_split = calibration.take(stage.search_rows, seed=context.seed + 1)
        self.point: TimingPoint | None = None
        self.table: LatencyTable | None = None
        self.steps: list[_Step] = []

    def step(self, model: nn.Module, number: int) -> nn.Module:
        """Search, cut and recover once."""
        from compress.model.structure import structure_of
        from compress.train import evaluate

        stage, context = self.stage, self.context
        sites, least = stage._sites(model)
        budget = self._budget(model, structure_of(model), sites, least)
        units = [site.units(model) for site in sites]
        now, best = budget.total(model, sites, units, least), budget.total(model, sites, least, least)
        if number == 1:
            budget.check(now, best)
        # Equal ratios of cost from step to step, so that the last ones, which hurt most, are the smallest.
        limit = budget.limit * (now / budget.limit) ** (1 - 1 / (stage.steps - number + 1))
        levels = [
            unit_levels(site.kind, count, few) for site, count, few in zip(sites, units, least, strict=True)
        ]
        stitched = Stitched.judge(
            stage.importance, model, self.dense, sites, levels, self.calibration, self.search_split, context
        )
        chosen, promised, checked, search = self._choose(model, sites, least, budget, limit, stitched)
        cut = stitched.cut(chosen)
        metric = evaluate(cut, context.validation, context.task, device=context.device)["validation_metric"]
        recovered = self._recover_(cut, number)
        target = budget.promise(limit)[budget.kind]
        self.steps.append(_Step(target, promised, checked, search, metric, recovered))
        return cut

    def _budget(
        self, model: nn.Module, structure: Structure, sites: Sequence[Site], least: Sequence[int]
    ) -> Budget:
        stage, timer = self.stage, self.context.timer
        kind, value = stage.budget()
        if timer is None and (stage.is_timed or kind == "size_mb"):
            raise StageError(f"prune/structured: {kind} needs a recipe that is run: nothing here tells it")
        if stage.is_timed:
            assert timer is not None
            self.point = timer.point(stage.batch, stage.sequence, stage.threads)
            if self.table is None:  # sites only get smaller from step to step: one table serves all
                few = dict(zip([site.name for site in sites], least, strict=True))
                floors = [few.get(site.name, site.units(model)) for site in structure.sites]
                self.table = measure_table(model, structure, timer, self.point, least=floors)
        longest = max(len(row[self.context.task.input_names[0]]) for row in self.calibration.rows)
        return budget_of(kind, value, model, sites, least, sequence=longest, timer=timer, table=self.table)

    def _choose(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        least: Sequence[int],
        budget: Budget,
        limit: float,
        stitched: Stitched,
    ) -> tuple[list[Candidate], dict[str, float], Compared | None, dict[str, float]]:
        """Search; if the cut model is not as fast as promised, search again with what was learnt."""
        stage, context = self.stage, self.context
        losses = [np.array([each.loss for each in site]) for site in stitched.candidates]
        costs = [
            np.array([budget.cost(model, index, site, len(each.kept), few) for each in options])
            for index, (site, few, options) in enumerate(zip(sites, least, stitched.candidates, strict=True))
        ]
        room = limit - budget.fixed
        with context.progress.bar("prune/structured: searching widths", stage.search_steps) as bar:
            found = refine(
                losses,
                costs,
                room,
                stitched.loss,
                steps=stage.search_steps,
                seed=context.seed,
                on_step=lambda loss: bar.advance(1, f"loss {loss:.4f}"),
            )
        if found is None:
            raise StageError(f"prune/structured: no choice of widths meets {budget.kind} {budget.value:g}")
        choice, scaled = (
            found.choice,
            [loss * factor for loss, factor in zip(losses, found.coefficients, strict=True)],
        )
        checked: Compared | None = None
        if stage.is_timed:
            choice, checked = self._check(model, sites, budget, limit, scaled, costs, choice, stitched)
        chosen = [options[index] for options, index in zip(stitched.candidates, choice, strict=True)]
        widths = [len(each.kept) for each in chosen]
        promised = budget.promise(budget.total(model, sites, widths, least))
        search = {
            "evaluations": found.evaluations,
            "loss_first": found.first_loss,
            "loss_best": stitched.loss(choice),
        }
        return chosen, promised, checked, search

    def _check(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        budget: Budget,
        limit: float,
        losses: list[np.ndarray[Any, Any]],
        costs: list[np.ndarray[Any, Any]],
        choice: list[int],
        stitched: Stitched,
    ) -> tuple[list[int], Compared]:
        """Measure the cut model; move the limit by what it misses, and choose again, a few times."""
        from compress.model.cut import keep_units_

        timer, point = self.context.timer, self.point
        assert timer is not None and point is not None
        wanted = budget.reference / limit
        aimed = limit
        tried: dict[tuple[int, ...], list[Compared]] = {}
        for _ in range(_TRIES):
            key = tuple(choice)
            cut = copy.deepcopy(model)
            for site, options, index in zip(sites, stitched.candidates, choice, strict=True):
                keep_units_(cut, site, options[index].kept)
            found = tried.setdefault(key, [])
            found.append(timer.compare(cut, point))
            if _kept(found, wanted):  # once more: of several noisy tries the luckiest would be believed
                found.append(timer.compare(cut, point))
            ratio = _typical(found).speedup / wanted
            self.context.progress.say(
                f"prune/structured: {wanted:.2f}x wanted, {ratio * wanted:.2f}x measured at {point}"
            )
            if _kept(found, wanted):
                break
            aimed *= ratio  # the table's miss is about the same for choices that are near each other
            again = best_within(losses, costs, aimed - budget.fixed)
            if again is None:
                break
            choice = again
        nearest = min(tried, key=lambda key: _miss(_typical(tried[key]).speedup / wanted))
        return list(nearest), _typical(tried[nearest])

    def _recover_(self, cut: nn.Module, number: int) -> float | None:
        from compress.train import evaluate

        stage, context = self.stage, self.context
        if stage.recovery is None:
            return None
        config, what = stage.recovery, "prune/structured recovery"
        if number < stage.steps:
            config = config.model_copy(update={"epochs": stage.step_epochs})
            what += f", step {number} of {stage.steps}"
        recover_(cut, self.dense, config, context, what)
        return evaluate(cut, context.validation, context.task, device=context.device)["validation_metric"]

    def facts(self, before: nn.Module, after: nn.Module) -> dict[str, Any]:
        """What the report is told."""
        stage, last = self.stage, self.steps[-1]
        sites, _ = stage._sites(before)
        kind, value = stage.budget()
        longest = max(len(row[self.context.task.input_names[0]]) for row in self.calibration.rows)
        left = [site for site in sites if site.units(after) > 0]
        facts: dict[str, Any] = {
            "budget": {"kind": kind, "value": value},
            "importance": stage.importance,
            "promised": last.promised,
            "sites": [
                {
                    "name": site.name,
                    "kind": site.kind,
                    "layer": site.layer,
                    "before": site.units(before),
                    "kept": site.units(after),
                }
                for site in sites
            ],
            "macs": {"before": macs_of(before, sites, longest), "after": macs_of(after, left, longest)},
            "parameters": {
                "before": sum(weights_of(before, site) for site in sites),
                "after": sum(weights_of(after, site) for site in left),
            },
            "search": last.search,
            "steps": [
                {
                    "target": step.target,
                    "promised": step.promised[kind],
                    "validation_cut": step.validation_cut,
                    "validation_recovered": step.validation_recovered,
                }
                for step in self.steps
            ],
            "calibration_rows": len(self.calibration),
        }
        if self.table is not None and self.point is not None:
            facts["point"] = {**vars(self.point), "precision": self.table.precision}
            facts["latency_table"] = self.table.model_dump(mode="json")
        if last.checked is not None:
            facts["checked"] = vars(last.checked)
        return facts


def _answered(split: Split, dense: nn.Module, context: Context) -> Split:
    """Rows with labels drawn from the dense model's softmax: what the Fisher information is defined by."""
    import torch

    from compress.model.calls import predict_logits

    answers = predict_logits(dense, split, context.task, device=context.device)  # [n, c]
    draw = torch.Generator().manual_seed(context.seed)
    labels = torch.multinomial(answers.float().softmax(-1), 1, generator=draw)[:, 0]
    return replace(split, labels=labels.numpy())


def _typical(found: Sequence[Compared]) -> Compared:
    """Several measurements of one choice as one: the mean speed-up, and the widest interval."""
    return Compared(
        float(np.mean([each.speedup for each in found])),
        min(each.low for each in found),
        max(each.high for each in found),
        sum(each.rounds for each in found),
    )


def _kept(found: Sequence[Compared], wanted: float) -> bool:
    ratio = _typical(found).speedup / wanted
    return 1 - _KEPT_WITHIN <= ratio <= 1 + 2 * _KEPT_WITHIN


def _miss(ratio: float) -> float:
    """How far from the promise; a broken one is worse than any that is kept too well."""
    return 100 + 1 - ratio if ratio < 1 - _KEPT_WITHIN else abs(ratio - 1)
