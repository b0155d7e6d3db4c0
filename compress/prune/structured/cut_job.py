"""One application of `prune/structured`: each step searches, times the choice, cuts and recovers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import StageError
from compress.prune.structured.budget import Budget, budget_of, macs_of, weights_of
from compress.prune.structured.candidates import Candidate, unit_levels
from compress.prune.structured.latency_table import LatencyTable, measure_table
from compress.prune.structured.search import best_within, refine
from compress.prune.structured.stitch import Question, Stitched
from compress.recovery import recover_
from compress.stage import Context, StageResult
from compress.system.disk import scratch_directory
from compress.timing import Compared, Setting

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site, Structure
    from compress.prune.structured.settings import StructuredSettings

__all__ = ["CutJob"]

_KEPT_WITHIN = 0.02  # relative to the wanted speed-up; a choice further off is searched again
_AGREEING = 2  # timings needed before a choice is accepted
_TRIES = 5


@dataclass(frozen=True)
class _Timing:
    """One timed choice: the speed-up that the table predicts, and the measured one."""

    choice: list[int]
    expected: float
    found: Compared


@dataclass
class _Step:
    """Facts of one step, for the report."""

    target: float
    promised: dict[str, float]
    checked: Compared | None
    search: dict[str, float]
    validation_cut: float
    validation_recovered: float | None


@dataclass(frozen=True)
class _Options:
    """What one step chooses from, and what it may cost."""

    model: nn.Module
    sites: Sequence[Site]
    least: Sequence[int]
    budget: Budget
    limit: float
    stitched: Stitched

    @cached_property
    def losses(self) -> list[NDArray[Any]]:
        """Loss of each candidate alone, by site."""
        return [np.array([each.loss for each in site]) for site in self.stitched.candidates]

    @cached_property
    def costs(self) -> list[NDArray[Any]]:
        """Cost of each candidate, by site."""
        places = enumerate(zip(self.sites, self.least, self.stitched.candidates, strict=True))
        return [
            np.array([self.budget.cost(self.model, index, site, len(each.kept), few) for each in options])
            for index, (site, few, options) in places
        ]

    def picked(self, choice: Sequence[int]) -> list[Candidate]:
        """The chosen candidate of each site."""
        return [options[index] for options, index in zip(self.stitched.candidates, choice, strict=True)]

    def cost(self, choice: Sequence[int]) -> float:
        """Cost of the model with this choice."""
        chosen = sum(each[index] for each, index in zip(self.costs, choice, strict=True))
        return float(self.budget.fixed + chosen)

    def promise(self, choice: Sequence[int]) -> dict[str, float]:
        """What the budget promises of the model with this choice."""
        widths = [len(each.kept) for each in self.picked(choice)]
        return self.budget.promise(self.budget.total(self.model, self.sites, widths, self.least))

    def cut(self, choice: Sequence[int]) -> nn.Module:
        """A copy of the model with this choice, without compensation."""
        from compress.model.cutting.units import keep_units_

        cut = copy.deepcopy(self.model)
        for site, candidate in zip(self.sites, self.picked(choice), strict=True):
            keep_units_(cut, site, candidate.kept)
        return cut


class CutJob:
    """One application of the stage: state shared by its steps."""

    def __init__(
        self,
        stage: StructuredSettings,
        context: Context,
        model: nn.Module,
        dense: nn.Module,
        calibration: Split,
    ) -> None:
        from compress.model.observe.capture import calls_of
        from compress.model.structure.find import structure_of

        self.stage, self.context, self.dense = stage, context, dense
        self.calibration = calibration.by_length()  # batches of similar lengths: a pass takes half as long
        self.search_split = self.calibration.take(stage.search_rows, seed=context.seed + 1)
        first = context.task.input_names[0]
        longest = max(calibration.rows, key=lambda row: len(row[first]))
        self.calls = calls_of(model, structure_of(model).sites, longest, context.task)
        self.setting: Setting | None = None
        self.table: LatencyTable | None = None
        self.reference: float | None = None
        self.steps: list[_Step] = []

    def step_(self, made: StageResult, number: int) -> None:
        """Search once, replace the model by a cut copy, and recover it."""
        from compress.model.structure.find import structure_of

        stage, context, model = self.stage, self.context, made.model
        sites, least = stage.sites_of(model)
        budget = self._budget(model, structure_of(model), sites, least)
        units = [site.units(model) for site in sites]
        now, best = budget.total(model, sites, units, least), budget.total(model, sites, least, least)
        if number == 1:
            budget.check(now, best)
        # Equal cost ratios from step to step: the last cuts, which hurt most, are the smallest.
        limit = budget.limit * (now / budget.limit) ** (1 - 1 / (stage.steps - number + 1))
        levels = [
            unit_levels(site.kind, count, few) for site, count, few in zip(sites, units, least, strict=True)
        ]
        with scratch_directory("cut") as folder:
            asked = Question(
                stage.importance,
                model,
                self.dense,
                sites,
                levels,
                self.calibration,
                self.search_split,
                context,
                folder,
            )
            stitched = Stitched.judge(asked)
            options = _Options(model, sites, least, budget, limit, stitched)
            choice, checked, search = self._choose(options)
            made.model = stitched.cut(options.picked(choice))
        metric = self._metric(made.model)
        recovered = self._recover_(made, number)
        target = budget.promise(limit)[budget.kind]
        promised = options.promise(choice)
        self.steps.append(_Step(target, promised, checked, search, metric, recovered))

    def _budget(
        self, model: nn.Module, structure: Structure, sites: Sequence[Site], least: Sequence[int]
    ) -> Budget:
        stage, timer = self.stage, self.context.timer
        kind, value = stage.budget()
        if timer is None and (stage.is_timed or kind == "size_mb"):
            raise StageError(
                f"prune/structured: {kind} needs a timer, which only `modelpress run` provides; use macs or "
                "sparsity"
            )
        if stage.is_timed:
            assert timer is not None
            self.setting = timer.setting(stage.batch, stage.sequence, stage.threads)
            if self.table is None:  # sites only shrink from step to step, so one table serves all
                few = dict(zip([site.name for site in sites], least, strict=True))
                floors = [few.get(site.name, site.units(model)) for site in structure.sites]
                self.table = measure_table(model, structure, timer, self.setting, least=floors)
        budget = budget_of(
            kind,
            value,
            model,
            sites,
            least,
            calls=self.calls,
            reference=self.reference,
            timer=timer,
            table=self.table,
        )
        self.reference = budget.reference  # of the first step: later steps start with a cut model
        return budget

    def _choose(self, options: _Options) -> tuple[list[int], Compared | None, dict[str, float]]:
        """Search; if the cut model misses the promised speed, search again with the corrected limit."""
        stage, context, budget = self.stage, self.context, options.budget
        with context.progress.bar("prune/structured: searching widths", stage.search_steps) as bar:
            found = refine(
                options.losses,
                options.costs,
                options.limit - budget.fixed,
                options.stitched.loss,
                steps=stage.search_steps,
                seed=context.seed,
                on_step=lambda loss: bar.advance(1, f"loss {loss:.4f}"),
            )
        if found is None:
            raise StageError(f"prune/structured: no choice of widths meets {budget.kind} {budget.value:g}")
        choice = found.choice
        checked: Compared | None = None
        if stage.is_timed:
            pairs = zip(options.losses, found.coefficients, strict=True)
            choice, checked = self._check(options, [loss * factor for loss, factor in pairs], choice)
        search = {
            "evaluations": found.evaluations,
            "loss_first": found.first_loss,
            "loss_best": options.stitched.loss(choice),
        }
        return choice, checked, search

    def _check(
        self, options: _Options, losses: list[NDArray[Any]], choice: list[int]
    ) -> tuple[list[int], Compared]:
        """Time the cut model, correct the limit by the measured error, and choose again, a few times."""
        timer, point, budget = self.context.timer, self.setting, options.budget
        assert timer is not None and point is not None
        wanted = budget.reference / options.limit
        timings: list[_Timing] = []
        for _ in range(_TRIES):
            found = timer.compare(options.cut(choice), point)
            timings.append(_Timing(choice, budget.reference / options.cost(choice), found))
            miss = _table_miss(timings)
            ratio = timings[-1].expected * miss / wanted
            self.context.progress.say(
                f"prune/structured: {wanted:.2f}x wanted, {timings[-1].found.speedup:.2f}x measured at "
                f"{point}, {ratio * wanted:.2f}x pooled with earlier measurements"
            )
            if len(timings) >= _AGREEING and 1 - _KEPT_WITHIN <= ratio <= 1 + _KEPT_WITHIN:
                break
            again = best_within(losses, options.costs, options.limit * miss - budget.fixed)
            if again is None:
                break
            choice = again
        nearest = min(timings, key=lambda each: abs(math.log(each.expected * _table_miss(timings) / wanted)))
        return nearest.choice, _pooled(nearest, timings)

    def _recover_(self, made: StageResult, number: int) -> float | None:
        stage, context = self.stage, self.context
        if stage.recovery is None:
            return None
        config, what = stage.recovery, "prune/structured recovery"
        if number < stage.steps:
            config = config.model_copy(update={"epochs": stage.step_epochs})
            what += f", step {number} of {stage.steps}"
        recover_(made, self.dense, config, context, what)
        return self._metric(made.model)

    def _metric(self, model: nn.Module) -> float:
        from compress.train import evaluate

        context = self.context
        return evaluate(model, context.validation, context.task, device=context.device)["validation_metric"]

    def facts(self, before: nn.Module, after: nn.Module) -> dict[str, Any]:
        """Facts for the report."""
        stage, last = self.stage, self.steps[-1]
        sites, _ = stage.sites_of(before)
        kind, value = stage.budget()
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
            "macs": {
                "before": macs_of(before, sites, self.calls),
                "after": macs_of(after, left, self.calls),
            },
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
        if self.table is not None and self.setting is not None:
            facts["point"] = {**self.setting.model_dump(), "precision": self.table.precision}
            facts["latency_table"] = self.table.model_dump(mode="json")
        if last.checked is not None:
            facts["checked"] = vars(last.checked)
        return facts


def _table_miss(timings: Sequence[_Timing]) -> float:
    """Mean ratio of measured to predicted speed-up over all timings; similar for neighbouring choices.

    One timing on a shared machine is off by several percent, and picking the best of several would favour
    the luckiest. So the table's error is averaged over all timings, and the choice is based on that.
    """
    return math.exp(np.mean([math.log(each.found.speedup / each.expected) for each in timings]))


def _pooled(chosen: _Timing, timings: Sequence[_Timing]) -> Compared:
    """Combine all timings into one result for a choice: the speed-up, and the widest interval."""
    scales = [chosen.expected / each.expected for each in timings]
    return Compared(
        chosen.expected * _table_miss(timings),
        min(each.found.low * scale for each, scale in zip(timings, scales, strict=True)),
        max(each.found.high * scale for each, scale in zip(timings, scales, strict=True)),
        sum(each.found.rounds for each in timings),
        disturbed_rounds=sum(each.found.disturbed_rounds for each in timings),
    )
