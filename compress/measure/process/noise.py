"""Warnings about unreliable measurements, with what to do about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compress.measure.results import LatencyComparison

__all__ = ["busy_note", "disturbed_notes", "spread_notes", "usable_threads"]

_BUSY = 0.2
_WIDE = 0.2
_FEW_ROUNDS = 5


def busy_note(used_by_others: float) -> tuple[str, ...]:
    """Warn if other processes were busy when measuring began.

    Args:
        used_by_others: share of all cores, in [0, 1], that was busy while this process was idle. (The load
            average is no substitute: it includes our own training for minutes.)
    """
    if used_by_others <= _BUSY:
        return ()
    return (
        f"other processes used {used_by_others:.0%} of this machine's cores when measuring began; stop them "
        "and measure again",
    )


def disturbed_notes(comparisons: Iterable[LatencyComparison]) -> tuple[str, ...]:
    """Warn about settings with too few quiet rounds, and say what disturbed them."""
    others, throttled = [], []
    for this in comparisons:
        by_others = (this.disturbed_rounds or 0) - this.throttled_rounds
        if by_others > 0:
            share = f"{this.used_by_others or 0:.0%} of the cores"
            others.append(f"{share}, in {by_others} of {this.rounds} rounds at {this.setting}")
        if this.throttled_rounds:
            throttled.append(f"{this.throttled_rounds} of {this.rounds} rounds at {this.setting}")
    notes = []
    if others:
        notes.append(
            "other processes disturbed these timings, and their repetitions: they used "
            f"{'; '.join(dict.fromkeys(others))}. Times and speed-ups are different on a quiet machine: stop "
            "other processes and measure again"
        )
    if throttled:
        notes.append(
            "the CPU quota of this container paused the process while it was timed, in "
            f"{'; '.join(dict.fromkeys(throttled))}: give the container a whole core per thread, or measure "
            "fewer threads"
        )
    return tuple(notes)


def spread_notes(comparisons: Iterable[LatencyComparison]) -> tuple[str, ...]:
    """Warn about settings whose speedup interval is wide, or has too few rounds to be trusted."""
    loose = []
    few = False
    for this in comparisons:
        few = few or this.rounds < _FEW_ROUNDS
        width = (this.speedup_high - this.speedup_low) / this.speedup
        if width > _WIDE:
            loose.append(f"{this.speedup_low:.2f}x to {this.speedup_high:.2f}x at {this.setting}")
    notes = []
    if loose:
        notes.append(
            f"timings were noisy, so the speed-up is imprecise: {'; '.join(loose)}. Stop other processes, or "
            "raise measure.rounds or measure.seconds"
        )
    if few:
        notes.append(
            f"with fewer than {_FEW_ROUNDS} rounds, the intervals of the speed-ups are too narrow; raise "
            f"measure.rounds to {_FEW_ROUNDS} or more"
        )
    return tuple(notes)


def usable_threads(threads: Sequence[int], cores: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Drop thread counts above the number of cores (if all are, use the cores); return the rest and notes."""
    kept = tuple(dict.fromkeys(count for count in threads if count <= cores)) or (cores,)
    dropped = sorted({count for count in threads if count > cores})
    if not dropped:
        return kept, ()
    listed = ", ".join(map(str, dropped))
    return kept, (
        f"measure.threads: {listed} not measured, because this process may use {cores} "
        f"core{'' if cores == 1 else 's'}; measured with {', '.join(map(str, kept))}",
    )
