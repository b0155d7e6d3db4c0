"""Progress of one process shown by another: one JSON object a line.

{"ready": true}                                          it can be suspended from now on
{"say": "..."}                                           a line that stays
{"bar": 1, "description": "...", "total": 50}            a bar begins
{"at": 1, "steps": 3, "facts": "..."}                    it goes on
{"off": 1}                                               it ends
{"end": {...}}                                           the last word: what came of the work
"""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Any, Self, TextIO

from compress.progress import Bar, Progress

__all__ = ["Receiver", "Sender"]

_SEND_EVERY_S = 0.1  # a training makes thousands of steps a second


class Sender:
    """Writes what there is to show."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._bars = file, 0

    def ready(self) -> None:
        """This process can be suspended from now on."""
        self.send({"ready": True})

    def bar(self, description: str, total: int) -> _SentBar:
        """Start a bar of `total` steps."""
        self._bars += 1
        self.send({"bar": self._bars, "description": description, "total": total})
        return _SentBar(self, self._bars)

    def say(self, line: str) -> None:
        """Show one line that stays."""
        self.send({"say": line})

    def end(self, **fields: Any) -> None:
        """Say what came of the work."""
        self.send({"end": fields})

    def send(self, said: dict[str, Any]) -> None:
        """Write one line."""
        self._file.write(json.dumps(said) + "\n")
        self._file.flush()


class _SentBar:
    def __init__(self, sender: Sender, index: int) -> None:
        self._sender, self._index = sender, index
        self._steps, self._facts, self._sent_at = 0, "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender.send({"off": self._index})

    def advance(self, steps: int = 1, facts: str = "") -> None:
        self._steps, self._facts = self._steps + steps, facts or self._facts
        if steps and time.monotonic() - self._sent_at < _SEND_EVERY_S:
            return
        if self._steps:
            self._send()
        if not steps:  # the end of an epoch, say: told as it is
            self._send()

    def _send(self) -> None:
        self._sender.send({"at": self._index, "steps": self._steps, "facts": self._facts})
        self._steps, self._sent_at = 0, time.monotonic()


class Receiver:
    """Shows what a sender wrote.

    Attributes:
        end: the last word, once it was said.
    """

    def __init__(self, progress: Progress) -> None:
        self.end: dict[str, Any] | None = None
        self._progress = progress
        self._bars: dict[int, Bar] = {}

    def hear(self, said: dict[str, Any]) -> None:
        """Show one object."""
        if "say" in said:
            self._progress.say(said["say"])
        elif "bar" in said:
            self._bars[said["bar"]] = self._progress.bar(said["description"], said["total"]).__enter__()
        elif "at" in said:
            self._bars[said["at"]].advance(said["steps"], said["facts"])
        elif "off" in said:
            self._bars.pop(said["off"]).__exit__(None, None, None)
        elif "end" in said:
            self.end = said["end"]

    def close(self) -> None:
        """Take away the bars of one that died."""
        while self._bars:
            self._bars.popitem()[1].__exit__(None, None, None)
