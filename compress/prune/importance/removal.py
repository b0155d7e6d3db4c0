"""Remove units in portions: score, remove the least important ones, score what is left.

Scores are divided by their block's L2 norm (Michel et al. 2019, arXiv 1905.10650, sec. 4.1, after Molchanov
et al. 2017), so that blocks compare.
Shapes: u = units of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compress.errors import StageError
from compress.prune.importance.ranking import weakest_first

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Removal", "Scope", "choose_units", "remove_in_steps", "units_to_remove"]

Scope = Literal["global", "layer"]


@dataclass(frozen=True)
class Removal:
    """What is to be removed.

    Attributes:
        remove: units in all.
        steps: portions.
        scope: as in `choose_units`.
        least: units that each block keeps.
        multiple_of: what is left in a block is rounded to the nearest multiple, of two the larger.
    """

    remove: int
    steps: int
    scope: Scope
    least: int
    multiple_of: int = 1

    def rounded(self, count: int, most: int) -> int:
        """How many are left of a block that has `most`, and would have `count`."""
        nearest = max(1, (2 * count + self.multiple_of) // (2 * self.multiple_of)) * self.multiple_of
        return min(nearest, most)


def units_to_remove(
    stage: str, unit: str, before: Sequence[int], sparsity: float, least: int, *, option: str
) -> int:
    """How many units a share is.

    Args:
        stage, unit: for messages, as in `prune/heads` and `head`.
        option: the stage's name for `least`, as in `min_heads`.
        before: units of each block.

    Raises:
        StageError: more than can go, or none.
    """
    remove = round(sum(before) * sparsity)
    room = sum(max(0, count - least) for count in before)
    if room == 0:
        raise StageError(
            f"{stage}: no {unit} can go: layers have {max(before)} at most, and each keeps {least} ({option})"
        )
    if remove > room:
        raise StageError(
            f"{stage}: sparsity {sparsity:g} would remove {remove} of {sum(before)} {unit}s, but with "
            f"{option} {least} at most {room} can go; use a sparsity up to {room / sum(before):.2f}"
        )
    if remove == 0:
        raise StageError(f"{stage}: sparsity {sparsity:g} of {sum(before)} {unit}s removes none")
    return remove


def remove_in_steps(
    score: Callable[[], Sequence[Tensor]],
    keep_: Callable[[int, list[int]], None],
    before: Sequence[int],
    removal: Removal,
    on_step: Callable[[int], None] = lambda left: None,
) -> list[list[int]]:
    """Remove units, and score again after each portion.

    Args:
        score: importance of the units that are left, one tensor [u] a block.
        keep_: keeps only these units of a block, by their places among those that are left.
        before: units of each block.
        on_step: told after each portion how many units are left in all.

    Returns:
        The units that are left in each block, by their places before.
    """
    kept = [list(range(count)) for count in before]
    for step in range(1, removal.steps + 1):
        so_far = sum(before) - sum(map(len, kept))
        portion = round(removal.remove * step / removal.steps) - so_far
        if portion > 0:
            scores = score()
            chosen = choose_units(scores, portion, scope=removal.scope, least=removal.least, before=before)
            for block, found in enumerate(chosen):
                units = _strongest(scores[block], removal.rounded(len(found), len(kept[block])))
                if len(units) < len(kept[block]):
                    keep_(block, units)
                    kept[block] = [kept[block][unit] for unit in units]
        on_step(sum(map(len, kept)))
    return kept


def _strongest(scores: Tensor, count: int) -> list[int]:
    """Places of the `count` highest of the scores [u], ascending; of equal ones the last, as they go last."""
    order = sorted(range(len(scores)), key=lambda unit: (float(scores[unit]), unit))
    return sorted(order[len(scores) - count :])


def choose_units(
    importance: Sequence[Tensor],
    remove: int,
    *,
    scope: Scope,
    least: int,
    before: Sequence[int] = (),
) -> list[list[int]]:
    """Choose which units stay.

    Args:
        importance: one tensor [u] a block.
        remove: units to remove in all.
        scope: `global` removes the least important after each block's L2 norm is divided out; `layer` removes
            the same share of each block.
        least: each block keeps at least so many.
        before: units that each block had at first; none: as many as now.

    Returns:
        Kept unit indices of each block, ascending; exactly `remove` heads are missing.
    """
    room = [max(0, len(scores) - least) for scores in importance]
    if scope == "layer":
        at_first = before or [len(scores) for scores in importance]
        quota = _even_quota(room, [len(scores) for scores in importance], at_first, remove)
    gone: list[set[int]] = [set() for _ in importance]
    for block, unit in weakest_first(importance):
        limit = min(room[block], quota[block]) if scope == "layer" else room[block]
        if sum(map(len, gone)) < remove and len(gone[block]) < limit:
            gone[block].add(unit)
    return [
        [unit for unit in range(len(scores)) if unit not in gone[block]]
        for block, scores in enumerate(importance)
    ]


def _even_quota(room: list[int], now: list[int], before: Sequence[int], remove: int) -> list[int]:
    """How many go from each block, so that about the same share of what it had at first is gone."""
    quota = [0] * len(room)
    while sum(quota) < min(remove, sum(room)):
        # One after the other, so that blocks of one size differ by one at the most; of equals the first.
        shares = [(was - left + gone) / was for was, left, gone in zip(before, now, quota, strict=True)]
        block = min((share, i) for i, share in enumerate(shares) if quota[i] < room[i])[1]
        quota[block] += 1
    return quota
