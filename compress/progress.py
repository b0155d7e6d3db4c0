"""How long work tells where it is: a bar with facts, shown by the command line; a library call is silent."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

__all__ = ["Bar", "Progress", "Silent"]


class Bar(Protocol):
    """One piece of work whose length is known."""

    def __enter__(self) -> Self:
        """Show the bar."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        ...

    def advance(self, steps: int = 1, facts: str = "") -> None:
        """Go on by some steps; `facts` stands behind the bar until the next one replaces it."""
        ...


class Progress(Protocol):
    """Where bars are shown."""

    def bar(self, description: str, total: int) -> Bar:
        """Start a bar of `total` steps."""
        ...

    def say(self, line: str) -> None:
        """Show one line that stays."""
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
    """Shows nothing: what a library call gets unless it asks for more."""

    def bar(self, description: str, total: int) -> Bar:
        """Return a bar that shows nothing."""
        return _SilentBar()

    def say(self, line: str) -> None:
        """Show nothing."""
