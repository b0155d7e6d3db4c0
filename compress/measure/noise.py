"""Words about what makes figures doubtful, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compress.measure.job import Setting
from compress.measure.results import LatencyComparison

__all__ = ["busy_note", "spread_notes", "usable_threads"]

_WIDE = 0.2
_FEW_ROUNDS = 5


def busy_note(load_average: float, cores: int) -> tuple[str, ...]:
    """Say if the machine had more work than cores in the minute before the start."""
    if load_average <= cores:
        return ()
    return (
        f"the machine was busy before measuring began: load average {load_average:.1f} on {cores} cores; "
        f"close other work and measure again",
    )


def spread_notes(comparisons: Iterable[LatencyComparison]) -> tuple[str, ...]:
    """Say at which settings the speedup is loose, or has too few rounds for its interval to be trusted."""
    notes = []
    few = False
    for this in comparisons:
        few = few or this.rounds < _FEW_ROUNDS
        width = (this.speedup_high - this.speedup_low) / this.speedup
        if width > _WIDE:
            setting = Setting(batch=this.batch, sequence=this.sequence, threads=this.threads)
            notes.append(
                f"{setting}: the speedup is only known to lie between {this.speedup_low:.2f}x and "
                f"{this.speedup_high:.2f}x; close other work, or raise measure.rounds or measure.seconds"
            )
    if few:
        notes.append(
            f"fewer than {_FEW_ROUNDS} rounds: the intervals of the speedups are narrower than they "
            f"should be; raise measure.rounds to {_FEW_ROUNDS} or more"
        )
    return tuple(notes)


def usable_threads(threads: Sequence[int], cores: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Drop numbers of threads above the cores (all of them: take the cores); return the rest, and notes."""
    kept = tuple(dict.fromkeys(count for count in threads if count <= cores)) or (cores,)
    dropped = sorted({count for count in threads if count > cores})
    if not dropped:
        return kept, ()
    listed = ", ".join(map(str, dropped))
    return kept, (
        f"threads {listed} not measured: this process may use {cores} core{'' if cores == 1 else 's'}; "
        f"measured with {', '.join(map(str, kept))}",
    )
