"""SIGTERM and SIGHUP end the program like Ctrl-C: by an exception, so that clean-up code runs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Ended", "ended_as_interrupted", "exit_code"]

_IN_PEACE_S = 10.0
_NAMES = ("SIGTERM", "SIGHUP")  # the first is sent by containers and CI, the second by a closed terminal


class Ended(KeyboardInterrupt):
    """Raised when a signal ends this process; `number` is the signal's."""

    number = 0


def exit_code(number: int) -> int:
    """Exit code of a program ended by a signal, as in shells."""
    return 128 + number


@contextmanager
def ended_as_interrupted() -> Iterator[Ended]:
    """Raise `Ended`, a KeyboardInterrupt, in the main thread when a signal asks this process to end.

    A second signal within some seconds is ignored, so that clean-up can finish. A signal that is already
    ignored, as under nohup, stays ignored.

    Yields:
        The exception that will be raised; its `number` is 0 until then.
    """
    ended, until = Ended(), 0.0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal until
        del frame
        if time.monotonic() >= until:
            ended.number, until = number, time.monotonic() + _IN_PEACE_S
            raise ended

    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    before = {}
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, interrupt)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
