"""A signal that asks a process to end interrupts it once, in peace."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from compress.system.signals import Ended, ended_as_interrupted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_and_a_second_one_does_not(number: signal.Signals) -> None:
    before, undone = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt), ended_as_interrupted() as ended:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)  # while it undoes what it did
            undone.append(True)
    assert ended.number == number and undone == [True]
    assert signal.getsignal(number) is before


def test_one_inside_of_another_leaves_the_signal_to_the_outer_one() -> None:
    with pytest.raises(Ended), ended_as_interrupted() as outer, ended_as_interrupted() as inner:
        signal.raise_signal(signal.SIGTERM)
    assert (outer.number, inner.number) == (signal.SIGTERM, 0)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with ended_as_interrupted():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_changed() -> None:
    found = []

    def look() -> None:
        with ended_as_interrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
