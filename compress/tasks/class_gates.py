"""Gates of tasks whose answers are judged by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compress.tasks.registry import task_of_measurement
from compress.tasks.spec import Gate

__all__ = ["CLASS_GATES"]


def _macro_f1(measurement: Any, at: Callable[[Any], Any]) -> tuple[float, float, None] | None:
    """The candidate's macro F1 and the lower end of its interval; None if answers were not kept."""
    kept = measurement.answers
    if kept is None:
        return None
    found = task_of_measurement(measurement).by_class(kept.truth, kept.of("candidate"))
    if found is None:
        return None
    value, low, _ = found.macro_f1()
    return value, low, None


CLASS_GATES = {
    "min_macro_f1": Gate(
        "macro F1 over the classes with test rows", "share", _macro_f1, most=1.0, compares=False
    )
}
"""For `Task.gates` of a task that has `by_class`."""
