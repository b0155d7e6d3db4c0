"""Pairs of runs: accuracy row by row, and differences between their recipes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from compress.measure.answers import unpack_answers
from compress.report.compare.data import PairDifference, RecipeDifference
from compress.report.plain_facts import settings_of
from compress.report.schema import RunReport
from compress.tasks import task_of_measurement

__all__ = ["pair_differences", "recipe_differences"]

_MOST_RUNS = 12  # in the pairwise table; with more it is unreadable


def pair_differences(names: Sequence[str], reports: Sequence[RunReport]) -> tuple[PairDifference, ...]:
    """Accuracy difference of each pair with the same test rows, with the paired interval.

    Empty for more than 12 runs, and for reports written before predictions were stored.
    """
    if not 2 <= len(reports) <= _MOST_RUNS:
        return ()
    found = []
    for (one, a), (other, b) in combinations(zip(names, reports, strict=True), 2):
        mine, theirs = a.measurement.answers, b.measurement.answers
        if mine is None or theirs is None or mine.labels != theirs.labels:
            continue
        if a.data.test_fingerprint != b.data.test_fingerprint:
            continue
        before, after = map(unpack_answers, (theirs.candidate, mine.candidate))
        task = task_of_measurement(a.measurement)
        difference = task.difference(before, after, mine.truth)
        found.append(PairDifference(one=one, other=other, difference=difference))
    return tuple(found)


def recipe_differences(names: Sequence[str], reports: Sequence[RunReport]) -> tuple[RecipeDifference, ...]:
    """Settings that differ between the recipes, by dotted name; empty for more than 12 runs.

    Stages are keyed by position and name, so that a stage missing from one recipe appears as its settings.
    """
    if not 2 <= len(reports) <= _MOST_RUNS:
        return ()
    flat = [_settings(report) for report in reports]
    keys = dict.fromkeys(key for each in flat for key in each)
    found = []
    for key in keys:
        values = {name: each.get(key, "–") for name, each in zip(names, flat, strict=True)}
        if len(set(values.values())) > 1:
            found.append(RecipeDifference(key=key, values=values))
    return tuple(found)


def _settings(report: RunReport) -> dict[str, str]:
    rest = {key: value for key, value in report.recipe.items() if key not in ("name", "stages")}
    settings = dict(settings_of(rest))
    settings["stages"] = ", ".join(stage.name for stage in report.stages)
    for number, stage in enumerate(report.stages, start=1):
        settings |= {f"{number}. {stage.name} {k}": v for k, v in settings_of(stage.settings)}
    return settings
