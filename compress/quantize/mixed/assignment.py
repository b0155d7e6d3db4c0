"""Assign a scheme to each group of layers: ordered moves, tried on validation rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split
    from compress.quantize.mixed.sensitivity import Damage, Parts
    from compress.stage import Context
    from compress.timing import Setting

__all__ = ["Candidate", "Goal", "Search", "cheapest_first", "where_to_try"]

_TIE = 1e-3  # of the float model's time, for all its bytes: at equal times, prefer smaller weights
_ROUNDING = 1e-9
_TRIES_BEYOND = 1


@dataclass(frozen=True)
class Candidate:
    """A scheme for each group, and its cost and accuracy.

    Attributes:
        cost: bytes of weights, or time as a multiple of the baseline's.
        metric: change of the validation metric.
        disagreement: share of validation answers that differ from the float model's.
        measured: whether cost was measured on this model, not estimated from the uniform ones.
    """

    name: str
    schemes: tuple[str, ...]
    cost: float
    divergence: float
    metric: float
    disagreement: float
    measured: bool = True


def cheapest_first(
    costs: Sequence[Mapping[str, float]], divergences: Sequence[Mapping[str, float]], start: str
) -> list[tuple[int, str]]:
    """Moves of groups to cheaper schemes, ordered by loss per saved cost.

    A group moves along the lower convex hull of (cost, divergence), so its moves come in order.

    Args:
        costs: of each group, by scheme.
        divergences: of each group, by scheme; 0 for `start`.
        start: the scheme that all groups start with.

    Returns:
        (group, scheme) pairs; after the last one every group has its cheapest scheme.
    """
    moves: list[tuple[float, int, int, str]] = []
    for index, (cost, loss) in enumerate(zip(costs, divergences, strict=True)):
        at, order = start, 0
        while True:
            cheaper = [name for name in cost if cost[name] < cost[at]]
            if not cheaper:
                break

            def slope(name: str, at: str = at, cost: Mapping[str, float] = cost, loss: Any = loss) -> float:
                return float((loss[name] - loss[at]) / (cost[at] - cost[name]))

            to = min(cheaper, key=lambda name: (slope(name), cost[name]))
            moves.append((slope(to), index, order, to))
            at, order = to, order + 1
    return [(index, name) for _, index, _, name in sorted(moves)]


def where_to_try(
    limit: float, good: tuple[int, float], bad: tuple[int, float], reached: Sequence[float]
) -> int:
    """The number of moves between two tries at which a drop that grows with divergence reaches the limit.

    Args:
        good, bad: moves and drop of a try within the limit, and of one beyond it with more moves.
        reached: estimated divergence after each number of moves.
    """
    (first, low), (last, high) = good, bad
    share = (limit - low) / (high - low)
    wanted = reached[first] + share * (reached[last] - reached[first])
    within = (at for at in range(first + 1, last) if reached[at] <= wanted)
    return max(within, default=first + 1)


@dataclass(frozen=True)
class Goal:
    """What a scheme for each group must achieve.

    Attributes:
        stage: name of the stage, for messages.
        key: its setting of the largest drop, for messages.
        max_drop: largest allowed drop on validation rows, as a fraction.
        timed: setting in which time is minimized; None minimizes bytes.
        of: what may drop: the metric, or the share of answers that are the float model's.
    """

    stage: str
    key: str
    max_drop: float
    timed: Setting | None = None
    of: Literal["metric", "agreement"] = "metric"

    def drop(self, candidate: Candidate) -> float:
        """What a candidate loses."""
        return candidate.disagreement if self.of == "agreement" else -candidate.metric

    def allows(self, drop: float) -> bool:
        """Whether a drop is within the limit."""
        return drop <= self.max_drop + _ROUNDING


class Search:
    """Candidates of one model, and the best of them.

    Attributes:
        tried: in order.
        found: damage of each group alone, by scheme; set by `best`.
        disturbed_rounds: timing rounds that were disturbed by other work.
    """

    def __init__(self, goal: Goal, parts: Parts, context: Context) -> None:
        """Evaluate the float model on the validation rows; for latency, time the model in each scheme."""
        from compress.quantize.mixed.sensitivity import FLOAT, answers

        self.goal, self.parts, self.context = goal, parts, context
        self.found: Sequence[Mapping[str, Damage]] = ()
        self.disturbed_rounds = 0
        self.float, self.count = FLOAT, len(parts.groups)
        self.rows: Split = context.validation.by_length()
        self.truth = answers(parts.together([FLOAT] * self.count), self.rows, context)
        self.bytes = [
            {name: float(parts.stored_bytes(group, name)) for name in parts.whole} for group in parts.groups
        ]
        self.costs = self.bytes if goal.timed is None else self._times()
        self.tried: list[Candidate] = []

    def best(self, found: Sequence[Mapping[str, Damage]]) -> Candidate:
        """The cheapest candidate within the limit.

        Args:
            found: damage of each group alone, by scheme.

        Raises:
            StageError: there is none, or it is no cheaper than the float model.
        """
        self.found = found
        for name in self.parts.whole:
            if name != self.float:
                self._try(name, [name] * self.count)
        mixed = self._furthest()
        good = [each for each in self.tried if self.keeps(each)]
        if not good:
            nearest = min(self.tried, key=self.goal.drop)
            raise StageError(
                f"{self.goal.stage}: nothing can be quantized within {self.goal.key} "
                f"{self.goal.max_drop:g}; the closest is {nearest.name}, which loses "
                f"{self.goal.drop(nearest):.4f} on {len(self.rows)} validation rows",
                see="how-to/quantize",
            )
        best = self._cheapest(good, mixed)
        if best.cost >= sum(costs[self.float] for costs in self.costs):
            raise StageError(
                f"{self.goal.stage}: no scheme makes the model "
                f"{'smaller' if self.goal.timed is None else 'faster here'} within {self.goal.key} "
                f"{self.goal.max_drop:g}; allow a larger drop, or omit the stage",
                see="how-to/quantize",
            )
        return best

    def _cheapest(self, good: list[Candidate], mixed: Candidate | None) -> Candidate:
        if self.goal.timed is not None and mixed is not None:
            cost = self._time(self.parts.together(mixed.schemes))
            timed = replace(mixed, cost=cost, measured=True)
            self.tried[self.tried.index(mixed)] = timed
            # Estimates are excluded: only a measured time can win.
            good = [each for each in good if len(set(each.schemes)) == 1] + [timed]
        return min(good, key=lambda each: (each.cost, -each.metric))

    def facts(self, best: Candidate, sensitivity_rows: int) -> dict[str, Any]:
        """Facts for the report."""
        from compress.quantize.replace import facts_of_change

        timed = self.goal.timed is not None
        mixed = self.parts.together(best.schemes)
        return {
            "chosen": best.name,
            "schemes": dict(Counter(best.schemes)),
            **({"disturbed_rounds": self.disturbed_rounds} if timed else {}),
            "validation_change": best.metric,
            "validation_rows": len(self.rows),
            "sensitivity_rows": sensitivity_rows,
            **facts_of_change(self.parts.whole[self.float], mixed, self.parts.left_float),
            "candidates": {
                each.name: {
                    "times_as_fast" if timed else "weights_mb": 1 / each.cost if timed else each.cost / 1e6,
                    **({"timed": each.measured} if timed else {}),
                    "divergence": each.divergence,
                    "validation_change": each.metric,
                    "within_the_drop": self.keeps(each),
                }
                for each in self.tried
            },
            "map": {
                group.name: {
                    "scheme": scheme,
                    **{f"divergence_{name}": each.divergence for name, each in damage.items()},
                }
                for group, scheme, damage in zip(self.parts.groups, best.schemes, self.found, strict=True)
            },
        }

    def _furthest(self) -> Candidate | None:
        """Search for the most moves that stay within the accuracy limit; None if not even one does.

        Each try is where the drop would reach the limit if it grew with the estimated divergence between the
        nearest tries on both sides, as in regula falsi; every third is half-way. The drop is no monotonic
        function of the moves, a few rows decide: so some tries follow beyond the first that failed.
        """
        losses = [
            {self.float: 0.0, **{name: each.divergence for name, each in group.items()}}
            for group in self.found
        ]
        moves = cheapest_first(self._with_ties(), losses, self.float)
        states = [[self.float] * self.count]
        for index, name in moves:
            states.append([*states[-1]])
            states[-1][index] = name
        reached = [sum(loss[name] for loss, name in zip(losses, state, strict=True)) for state in states]
        drops: dict[int, float] = {0: 0.0}
        kept: dict[int, Candidate] = {}

        def keeps(at: int) -> bool:
            found = self._try(f"mixed, {at} of {len(moves)} moves", states[at])
            drops[at] = self.goal.drop(found)
            if self.keeps(found):
                kept[at] = found
            return at in kept

        good, bad = 0, len(moves)
        if not moves or keeps(bad):
            return kept.get(bad)
        while bad - good > 1:
            half = len(drops) % 3 == 0
            ends = (good, drops[good]), (bad, drops[bad])
            at = (good + bad) // 2 if half else where_to_try(self.goal.max_drop, *ends, reached)
            good, bad = (at, bad) if keeps(at) else (good, at)
        for _ in range(_TRIES_BEYOND):
            later = [at for at in drops if at > bad]
            if not later or min(later) - bad < 2:
                break
            at = (bad + min(later)) // 2
            bad = bad if not keeps(at) else at
        return kept.get(max(kept, default=0))

    def _try(self, name: str, schemes: Sequence[str]) -> Candidate:
        from compress.quantize.mixed.sensitivity import answers, damage_of, disagreement_of

        same = next((each for each in self.tried if each.schemes == tuple(schemes)), None)
        if same is not None:
            return same
        found = answers(self.parts.together(schemes), self.rows, self.context)
        damage = damage_of(found, self.truth, self.rows, self.context.task)
        differing = disagreement_of(found, self.truth, self.rows, self.context.task)
        cost = sum(costs[scheme] for costs, scheme in zip(self.costs, schemes, strict=True))
        measured = self.goal.timed is None or len(set(schemes)) == 1
        tried = Candidate(name, tuple(schemes), cost, damage.divergence, damage.metric, differing, measured)
        self.tried.append(tried)
        self.context.progress.say(
            f"{self.goal.stage}: {name}: {-self.goal.drop(tried):+.4f} on {len(self.rows)} validation rows"
        )
        return tried

    def keeps(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the limit."""
        return self.goal.allows(self.goal.drop(candidate))

    def _times(self) -> list[dict[str, float]]:
        """Time of the whole model in each scheme, split by multiply-adds; fixed costs cancel out."""
        whole = {name: self._time(self.parts.together([name] * self.count)) for name in self.parts.whole}
        total = max(1, sum(group.products for group in self.parts.groups))
        return [
            {name: time * group.products / total for name, time in whole.items()}
            for group in self.parts.groups
        ]

    def _time(self, model: nn.Module) -> float:
        """Time of a call, as a multiple of the baseline's."""
        timer, setting = self.context.timer, self.goal.timed
        assert timer is not None and setting is not None
        found = timer.compare(model, setting)
        self.disturbed_rounds += found.disturbed_rounds
        return 1 / found.speedup

    def _with_ties(self) -> list[dict[str, float]]:
        """Costs plus a small term for size if timed: quantizing a table saves no time, only bytes."""
        if self.goal.timed is None:
            return self.costs
        time, total = (sum(each[self.float] for each in part) for part in (self.costs, self.bytes))
        return [
            {name: cost[name] + _TIE * time * stored[name] / total for name in cost}
            for cost, stored in zip(self.costs, self.bytes, strict=True)
        ]
