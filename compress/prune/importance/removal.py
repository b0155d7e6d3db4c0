"""Remove units in portions: score, remove the least important ones, score the rest again.

Scores are divided by their block's L2 norm (Michel et al. 2019, arXiv 1905.10650, sec. 4.1, after Molchanov
et al. 2017), so that blocks are comparable.
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
    """How many units to remove, and how.

    Attributes:
        remove: number of units in total.
        steps: number of portions.
        scope: as in `choose_units`.
        least: fewest units that each block keeps.
        multiple_of: round each block's kept units to the nearest multiple; ties go up.
    """

    remove: int
    steps: int
    scope: Scope
    least: int
    multiple_of: int = 1

    def rounded(self, count: int, most: int) -> int:
        """Round the `count` units that a block would keep, at most to the `most` that it has."""
        nearest = max(1, (2 * count + self.multiple_of) // (2 * self.multiple_of)) * self.multiple_of
        return min(nearest, most)


def units_to_remove(
    stage: str, unit: str, before: Sequence[int], sparsity: float, least: int, *, option: str
) -> int:
    """Number of units that a sparsity removes.

    Args:
        stage, unit: for messages, e.g. `prune/heads` and `head`.
        option: the stage's name for `least`, e.g. `min_heads`.
        before: units of each block.

    Raises:
        StageError: the number is zero, or more than can be removed.
    """
    remove = round(sum(before) * sparsity)
    room = sum(max(0, count - least) for count in before)
    if room == 0:
        raise StageError(
            f"{stage}: no {unit} can be removed: layers have at most {max(before)}, and each keeps {least} "
            f"({option})"
        )
    if remove > room:
        raise StageError(
            f"{stage}: sparsity {sparsity:g} would remove {remove} of {sum(before)} {unit}s, but {option} "
            f"{least} allows at most {room}; use a sparsity up to {room / sum(before):.2f}"
        )
    if remove == 0:
        raise StageError(
            f"{stage}: sparsity {sparsity:g} of {sum(before)} {unit}s removes none; use a higher sparsity"
        )
    return remove


def remove_in_steps(
    score: Callable[[], Sequence[Tensor]],
    keep_: Callable[[int, list[int]], None],
    before: Sequence[int],
    removal: Removal,
    on_step: Callable[[int], None] = lambda left: None,
) -> list[list[int]]:
    """Remove units in portions, scoring again after each.

    Args:
        score: returns the importance of the remaining units, one tensor [u] per block.
        keep_: keeps only these units of a block, given as indices among the remaining ones.
        before: units of each block.
        on_step: called after each portion with the total number of remaining units.

    Returns:
        The remaining units of each block, as original indices.
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
    """Indices of the `count` highest scores [u], ascending; ties go to the last, which are removed last."""
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
    """Choose the units to keep.

    Args:
        importance: one tensor [u] per block.
        remove: number of units to remove in total.
        scope: `global` removes the least important after dividing by each block's L2 norm; `layer` removes
            the same share of each block.
        least: fewest units that each block keeps.
        before: original number of units of each block; empty means the current number.

    Returns:
        Kept unit indices of each block, ascending; exactly `remove` units are missing.
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
    """Units to remove from each block so that each has lost about the same share of its original units."""
    quota = [0] * len(room)
    while sum(quota) < min(remove, sum(room)):
        # One at a time, so that blocks of equal size differ by at most one; ties go to the first.
        shares = [(was - left + gone) / was for was, left, gone in zip(before, now, quota, strict=True)]
        block = min((share, i) for i, share in enumerate(shares) if quota[i] < room[i])[1]
        quota[block] += 1
    return quota
