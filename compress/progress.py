"""Progress of long work: bars with facts, shown by the command line; library calls are silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

__all__ = ["Bar", "LineProgress", "Progress", "Silent"]

_EVERY_S = 30.0  # between two lines of one bar
_LIVE_EVERY_S = 0.2
_LANDMARK_EVERY_S = 5.0  # same, if the second line is at the end of an epoch


class Bar(Protocol):
    """Progress of one piece of work of known length."""

    def __enter__(self) -> Self:
        """Show the bar."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        ...

    def advance(self, steps: int = 1, facts: str = "") -> None:
        """Advance by some steps; `facts` is shown after the bar until replaced.

        Args:
            steps: 0 marks the end of a phase such as an epoch, when a line is printed if no bar is drawn.
        """
        ...


class Progress(Protocol):
    """Where bars are shown."""

    def bar(self, description: str, total: int) -> Bar:
        """Start a bar of `total` steps."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...


class _SilentBar:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, steps: int = 1, facts: str = "") -> None:
        return None


class Silent:
    """Shows nothing: the default for library calls."""

    def bar(self, description: str, total: int) -> Bar:
        """Return a bar that shows nothing."""
        return _SilentBar()

    def say(self, line: str) -> None:
        """Show nothing."""


class LineProgress:
    """Progress as plain text for a log file: a line at the start of each bar, then occasional updates.

    Args:
        write: called with each line.
        now: called with a bar's state several times a second; None: lines are written occasionally.
        on_step: called at each step of a bar.
        clock: returns seconds from an arbitrary origin.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        now: Callable[[str], None] | None = None,
        on_step: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self.clock, self.on_step = write, clock, on_step
        self.is_live, self.show = now is not None, now or self.say
        self._last = ""

    def bar(self, description: str, total: int) -> _LineBar:
        """Start a bar of `total` steps."""
        self.show(description)
        return _LineBar(self, description, total)

    def say(self, line: str) -> None:
        """Write one line, unless it repeats the previous one."""
        if line != self._last:
            self._write(line)
        self._last = line


class _LineBar:
    def __init__(self, shown: LineProgress, description: str, total: int) -> None:
        self._shown, self._description, self._total = shown, description, total
        self._done, self._facts = 0, ""
        self._said = shown.clock()
        self._first: tuple[float, int] | None = None  # time and number of the first steps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, steps: int = 1, facts: str = "") -> None:
        if self._shown.on_step is not None:
            self._shown.on_step()
        now = self._shown.clock()
        self._done, self._facts = self._done + steps, facts or self._facts
        if self._first is None:
            self._first = now, self._done
        every = _LIVE_EVERY_S if self._shown.is_live else _EVERY_S if steps else _LANDMARK_EVERY_S
        if now - self._said < every:
            return
        self._said = now
        parts = [f"{self._done:,} of {self._total:,}", self._time_left(now), self._facts]
        self._shown.show(f"{self._description}: {', '.join(filter(None, parts))}")

    def _time_left(self, now: float) -> str:
        """Estimate from the speed since the first steps, which may be from an earlier run, or slow."""
        assert self._first is not None
        since, done = now - self._first[0], self._done - self._first[1]
        if done <= 0 or self._done >= self._total:
            return ""
        return f"about {_duration(since / done * (self._total - self._done))} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
