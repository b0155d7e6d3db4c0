"""The same two ONNX files in other runtimes: agreement of their predictions, and relative speed.

OpenVINO is run directly, and as a provider of ONNX Runtime if the installed onnxruntime has it. All runtimes
and both files are timed in turns, so that drifting machine speed does not bias their ratios. A file that a
runtime refuses is not an error: the result records it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress.data.split import Array, Batch, Split
from compress.errors import MeasureError, RecipeError
from compress.measure.accuracy import predict
from compress.measure.latency import Rounds, rounds_in_turns
from compress.measure.runtimes.openvino_session import (
    INSTALL,
    create_openvino_session,
    is_installed,
    openvino_version,
)
from compress.measure.runtimes.results import RuntimeFile, Runtimes, RuntimeTiming
from compress.measure.runtimes.session import Session, answer, create_session, feeds
from compress.tasks import Task
from compress.timing import Setting

__all__ = [
    "Answered",
    "ONNXRUNTIME",
    "OPENVINO",
    "OpenRuntime",
    "check_runtimes",
    "installed_runtimes",
    "measure_runtimes",
    "openvino_ways",
]

ONNXRUNTIME = "onnxruntime"
OPENVINO = "openvino"
_PROVIDER = "OpenVINOExecutionProvider"
_THROUGH_ONNXRUNTIME = "onnxruntime-openvino"

Side = Literal["baseline", "candidate"]


@dataclass(frozen=True)
class Answered:
    """A file, its rows and task, and ONNX Runtime's predictions for each of their units."""

    file: Side
    path: Path
    rows: Split
    task: Task
    named: Array


@dataclass(frozen=True)
class OpenRuntime:
    """A way to run an ONNX file other than ONNX Runtime's own CPU kernels."""

    name: str
    version: str
    open: Callable[[Path, int], Session]
    """Called with the file and the number of threads."""


def installed_runtimes() -> tuple[str, ...]:
    """Names, as used in recipes, of the runtimes that can be measured here."""
    return (ONNXRUNTIME, OPENVINO) if is_installed() else (ONNXRUNTIME,)


def check_runtimes(names: Sequence[str] | None) -> None:
    """Check that the runtimes of a recipe are installed.

    Raises:
        RecipeError: if one isn't; the message says how to install it.
    """
    if names is not None and OPENVINO in names and not is_installed():
        raise RecipeError(
            f"measure.runtimes: openvino is not installed; install it with `{INSTALL}` (or the extra "
            "modelpress[openvino]), or remove it from the list"
        )


def openvino_ways() -> tuple[OpenRuntime, ...]:
    """OpenVINO itself, and through ONNX Runtime if the installed version supports it."""
    import onnxruntime

    direct = OpenRuntime(
        OPENVINO, openvino_version(), lambda path, threads: create_openvino_session(path, threads=threads)
    )
    if _PROVIDER not in onnxruntime.get_available_providers():
        return (direct,)
    provider = OpenRuntime(
        _THROUGH_ONNXRUNTIME,
        onnxruntime.__version__,
        lambda path, threads: create_session(
            path,
            threads=threads,
            provider=(_PROVIDER, {"device_type": "CPU", "num_of_threads": str(threads)}),
        ),
    )
    return direct, provider


def measure_runtimes(
    ways: Sequence[OpenRuntime],
    files: Sequence[Answered],
    settings: Sequence[tuple[Setting, Batch]],
    rounds: Rounds,
    *,
    on_step: Callable[[str], None] = lambda facts: None,
) -> Runtimes:
    """Predict all test rows of two files in other runtimes, and time them together with ONNX Runtime.

    Args:
        ways: the other runtimes.
        files: baseline and candidate.
        settings: each with a batch of its size.
        on_step: called after each file and each setting.

    Raises:
        MeasureError: if ONNX Runtime fails; refusals of other runtimes are in the result.
    """
    threads = max(setting.threads for setting, _ in settings)
    found: list[RuntimeFile] = []
    for each in files:
        found += [_agreement(way, each, threads) for way in ways]
        on_step(f"other runtimes: predictions of the {each.file}")
    runs = {(each.runtime, each.file) for each in found if not each.refused}
    own = OpenRuntime(ONNXRUNTIME, "", lambda path, count: create_session(path, threads=count))
    arms = [
        (way, each) for way in (own, *ways) for each in files if way is own or (way.name, each.file) in runs
    ]
    timings: list[RuntimeTiming] = []
    for setting, batch in settings:
        timings += _timings(arms, setting, batch, rounds)
        on_step(f"other runtimes: {setting}")
    return Runtimes(files=tuple(found), timings=tuple(timings))


def _timings(
    arms: Sequence[tuple[OpenRuntime, Answered]], setting: Setting, batch: Batch, rounds: Rounds
) -> list[RuntimeTiming]:
    """Time files in runtimes, in turns at one setting."""
    calls = [_call(way.open(each.path, setting.threads), batch) for way, each in arms]
    turns = rounds_in_turns(calls, rounds)
    return [
        RuntimeTiming(
            runtime=way.name,
            file=each.file,
            **setting.model_dump(),
            rounds_ms=ms,
            disturbed_rounds=turns.disturbance.rounds,
        )
        for (way, each), ms in zip(arms, turns.rounds_ms, strict=True)
    ]


def _agreement(way: OpenRuntime, given: Answered, threads: int) -> RuntimeFile:
    task = given.task
    try:
        session = way.open(given.path, threads)
        named = predict(session, given.rows, 1, task)
    except MeasureError as error:
        return RuntimeFile(
            runtime=way.name,
            version=way.version,
            file=given.file,
            refused=str(error).removeprefix(f"{given.path}: "),
        )
    truth = given.rows.truth(task)
    return RuntimeFile(
        runtime=way.name,
        version=way.version,
        file=given.file,
        precision=getattr(session, "precision", ""),
        products=getattr(session, "products", {}),
        agreement=task.agreement(named, given.named, truth),
        accuracy=task.value(named, truth),
    )


def _call(session: Session, batch: Batch) -> Callable[[], Any]:
    given = feeds(batch, session)
    answer(session, batch)  # reports a refused batch with a clear message before timing starts
    return lambda: session.run(None, given)
