"""The validation metric over silenced units, for all layers together and each alone, and the set to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data import Split
from compress.model import Site, Structure
from compress.pipeline.prepare import Run
from compress.progress import Bar, Progress
from compress.prune.importance.ranking import weakest_first
from compress.prune.importance.silencing import (
    Batches,
    SilencedPoint,
    answers_of,
    curve_levels,
    furthest_within,
    resumed_at_layer,
    silencing_curve,
)
from compress.report.inspection.data import Point
from compress.tasks import Task

__all__ = ["Bench", "Curves", "bench_of", "curves_of", "scores_of_kind"]

_JOINT_POINTS = 24
_NEURON_POINTS = 10


@dataclass(frozen=True)
class Bench:
    """The model with its validation rows.

    Attributes:
        full: the full model's answers to the rows, in the order of `batches`, [a, ...].
    """

    model: nn.Module
    structure: Structure
    task: Task
    rows: Split
    batches: Batches
    full: NDArray[Any]


@dataclass(frozen=True)
class Curves:
    """Curves measured on the validation rows.

    Attributes:
        need: the chosen point of `joint`.
        joint: heads of all layers together.
        layers: each layer's heads alone; empty if skipped.
        neurons: feed-forward neurons of all layers together.
        passes: passes over the rows, including that of the full model.
    """

    need: Point
    joint: tuple[Point, ...]
    layers: tuple[tuple[Point, ...], ...]
    neurons: tuple[Point, ...]
    passes: int


def bench_of(run: Run, module: nn.Module, structure: Structure, validation_rows: int) -> Bench:
    """Sample the validation rows and evaluate the full model on them."""
    recipe, splits = run.recipe, run.splits
    rows = splits.validation.take(validation_rows, seed=recipe.seed)
    module.to(recipe.device)
    batches = Batches.of(rows, splits.task, device=recipe.device)
    return Bench(module, structure, splits.task, rows, batches, answers_of(module, batches))


def curves_of(
    bench: Bench, scores: Sequence[Tensor], max_drop: float, quick: bool, progress: Progress
) -> Curves:
    """Silence increasing numbers of heads, jointly and per layer, and of neurons; choose the set to keep.

    Args:
        scores: importance of the units of each site of the structure, [u] each.
        max_drop: how much of the metric may be lost.
        quick: skip the curves of single layers.
    """
    structure = bench.structure
    bench.model.to(next(iter(bench.batches.inputs[0].values())).device)  # scoring leaves it on the CPU
    heads = scores_of_kind(structure, scores, "attention")
    neurons = scores_of_kind(structure, scores, "feed_forward")
    count = sum(map(len, heads))
    levels = curve_levels(count, min(_JOINT_POINTS, count))
    wide_levels = curve_levels(sum(map(len, neurons)), _NEURON_POINTS) if neurons else []
    steps = len(levels) + len(wide_levels) + (0 if quick else count)
    with progress.bar("inspect: silencing", steps) as bar:
        run = _Curve(bench, bar)
        joint = _joint(run, heads, levels, max_drop)
        wide = run.over(structure.feed_forward, neurons, wide_levels)
        layers = []
        for site, each in zip(structure.attention, heads, strict=True):
            if quick:
                break
            with _from_layer(bench, site.layer):
                layers.append(run.over([site], [each], range(len(each) + 1)))
    made = [*joint, *wide, *(point for points in layers for point in points)]
    return Curves(
        need=_point(furthest_within(joint, max_drop)),
        joint=tuple(map(_point, joint)),
        layers=tuple(tuple(map(_point, points)) for points in layers),
        neurons=tuple(map(_point, wide)),
        passes=1 + sum(point.silenced > 0 for point in made),
    )


def _point(each: SilencedPoint) -> Point:
    return Point(
        silenced=each.silenced,
        accuracy=each.value,
        difference=each.difference,
        low=each.low,
        high=each.high,
    )


def _joint(
    run: _Curve, heads: Sequence[Tensor], levels: Sequence[int], max_drop: float
) -> list[SilencedPoint]:
    """Evaluate the levels, then every number between the best level and the next."""
    sites = run.bench.structure.attention
    found = run.over(sites, heads, levels)
    best = furthest_within(found, max_drop).silenced
    after = min((level for level in levels if level > best), default=best)
    found += run.over(sites, heads, range(best + 1, after))
    return sorted(found, key=lambda point: point.silenced)


@dataclass(frozen=True)
class _Curve:
    bench: Bench
    bar: Bar

    def over(
        self, sites: Sequence[Site], scores: Sequence[Tensor], levels: Sequence[int]
    ) -> list[SilencedPoint]:
        bench = self.bench
        order = weakest_first(scores)
        return silencing_curve(
            bench.model, bench.batches, sites, order, levels, bench.full, on_pass=self._advance
        )

    def _advance(self, point: SilencedPoint) -> None:
        words = self.bench.task.words
        self.bar.advance(1, f"{point.silenced:,} silenced: {words.score} {words.scale.text(point.value)}")


@contextmanager
def _from_layer(bench: Bench, layer: int) -> Iterator[None]:
    """Start passes at a layer if that gives the same result as a full pass."""
    path = bench.structure.layers
    if path is None:
        yield
        return
    with resumed_at_layer(bench.model, path, layer, bench.batches):
        same = np.array_equal(answers_of(bench.model, bench.batches), bench.full)
        if same:
            yield
    if not same:
        yield


def scores_of_kind(structure: Structure, scores: Sequence[Tensor], kind: str) -> list[Tensor]:
    """The scores of the sites of one kind, in order."""
    return [each for site, each in zip(structure.sites, scores, strict=True) if site.kind == kind]
