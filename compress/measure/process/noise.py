"""Warnings about unreliable measurements, with what to do about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from compress.measure.results import LatencyComparison

__all__ = ["busy_note", "disturbed_notes", "spread_notes", "usable_threads"]

_BUSY = 0.2
_WIDE = 0.2
_FEW_ROUNDS = 5
_NAMED = 2  # settings in the first clause of a note


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
    timed = tuple(comparisons)
    for this in timed:
        by_others = _by_others(this)
        if by_others > 0:
            share = f"{this.used_by_others or 0:.0%} of the cores"
            others.append(f"{share}, in {by_others} of {this.rounds} rounds at {this.setting}")
        if this.throttled_rounds:
            throttled.append(f"{this.throttled_rounds} of {this.rounds} rounds at {this.setting}")
    notes = []
    if others:
        notes.append(
            f"other processes disturbed the timings at {_places(timed, _by_others)}, and their repetitions: "
            f"they used {'; '.join(dict.fromkeys(others))}. Times are different on a quiet machine: stop "
            "other processes and measure again"
        )
    if throttled:
        notes.append(
            "the CPU quota of this container paused the process while it was timed, in "
            f"{'; '.join(dict.fromkeys(throttled))}: give the container a whole core per thread, or measure "
            "fewer threads"
        )
    return tuple(notes)


def _by_others(this: LatencyComparison) -> int:
    """Rounds that other processes disturbed."""
    return (this.disturbed_rounds or 0) - this.throttled_rounds


def _places(timed: Sequence[LatencyComparison], chosen: Callable[[LatencyComparison], object]) -> str:
    """The settings of the chosen timings: by name, or from three on by number."""
    found = list(dict.fromkeys(str(this.setting) for this in timed if chosen(this)))
    if len(found) <= _NAMED:
        return " and at ".join(found)
    return f"{len(found)} of {len({this.setting for this in timed})} settings"


def spread_notes(comparisons: Iterable[LatencyComparison]) -> tuple[str, ...]:
    """Warn about settings whose speedup interval is wide, or has too few rounds to be trusted."""
    timed = tuple(comparisons)
    few = any(this.rounds < _FEW_ROUNDS for this in timed)
    loose = [
        f"{this.speedup_low:.2f}x to {this.speedup_high:.2f}x at {this.setting}"
        for this in timed
        if _is_wide(this)
    ]
    notes = []
    if loose:
        notes.append(
            f"timings were noisy at {_places(timed, _is_wide)}, so the speed-up is imprecise: "
            f"{'; '.join(loose)}. Stop other processes, or raise measure.rounds or measure.seconds"
        )
    if few:
        notes.append(
            f"with fewer than {_FEW_ROUNDS} rounds, the intervals of the speed-ups are too narrow; raise "
            f"measure.rounds to {_FEW_ROUNDS} or more"
        )
    return tuple(notes)


def _is_wide(this: LatencyComparison) -> bool:
    """Whether the interval of the speed-up is wide."""
    return (this.speedup_high - this.speedup_low) / this.speedup > _WIDE


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
