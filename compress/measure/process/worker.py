"""The measuring process: runs without torch or the calling run, so that its memory and threads are its own.

    python -m compress.measure.process.worker REQUEST.json [--end-with-parent]

It prints one JSON object per line: {"done": 3, "total": 50, "facts": "..."} after each step, or {"error":
"..."} as the last line. It exits with 0 once the result is at the path given in the request.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from compress.data.split import Array, Split
from compress.errors import CompressError, MeasureError
from compress.measure.accuracy import accuracy, batched_size, predict
from compress.measure.answers import pack_answers
from compress.measure.decoding import cache_bytes_per_token, compare_decoding
from compress.measure.environment import environment
from compress.measure.explain.explanation import Explanation
from compress.measure.explain.operators import operators_of
from compress.measure.explain.profiled import explain_batch
from compress.measure.latency import Round, Rounds, compare_latency
from compress.measure.process.loading import Probe, measure_load
from compress.measure.process.noise import busy_note, disturbed_notes, spread_notes
from compress.measure.process.request import BATCHED_STEPS, EXPLAIN_STEPS, SINGLE_STEPS, Request
from compress.measure.process.spawn import END_WITH_PARENT, end_with_parent
from compress.measure.results import (
    Answers,
    Chance,
    Language,
    LatencyComparison,
    Measurement,
    ModelMeasurement,
)
from compress.measure.rows import steady_batch
from compress.measure.runtimes.others import OPENVINO, Answered, measure_runtimes, openvino_ways
from compress.measure.runtimes.results import Runtimes
from compress.measure.runtimes.session import create_session
from compress.measure.size import model_size
from compress.system.exclusive import alone, make_way, work
from compress.tasks import Task, task_from
from compress.tasks.spec import Tally
from compress.timing import Setting

__all__ = ["main", "measure"]

OnStep = Callable[[int, str], None]
"""Called with the number of steps done since the last call, and their result in words."""

_PROBE_ROWS = 32
_LOOK_SECONDS = 0.5


def measure(request: Request, step: OnStep) -> Measurement:
    """Measure both files of a request in this process (load time and memory in separate processes)."""
    begin = time.perf_counter()
    with alone():
        busy = busy_note(psutil.cpu_percent(interval=_LOOK_SECONDS) / 100)
    task = task_from(request.task)
    own_task = task_from(request.candidate_task or request.task)
    test = Split.load(request.rows, request.split, task.inputs)
    candidate_test = test
    if request.candidate_rows is not None:
        candidate_test = Split.load(request.candidate_rows, request.split, own_task.inputs)
    before, after = task.tally(), task.tally()
    baseline, base_named = _measure_model(request, "baseline", request.baseline, test, task, before, step)
    candidate, named = _measure_model(
        request, "candidate", request.candidate, candidate_test, own_task, after, step
    )
    # Both are timed on the candidate's rows, whose ids are also valid in the baseline's larger vocabulary.
    latency = tuple(_time(request, setting, candidate_test, step) for setting in request.settings)
    explanation, doubts = _explain(request, candidate_test, step)
    language = _language(request, task, (before, after), candidate_test, step) if task.keeps_past else None
    disturbed = disturbed_notes([*latency, *(language.decode if language is not None else ())])
    spread = () if request.baseline == request.candidate else spread_notes(latency)
    files = (
        Answered("baseline", request.baseline, test, task, base_named),
        Answered("candidate", request.candidate, candidate_test, own_task, named),
    )
    return Measurement(
        task=task.name,
        labels=task.labels,
        baseline=baseline,
        candidate=candidate,
        difference=task.difference(base_named, named, test.truth(task)),
        latency=latency,
        environment=environment(request.threads),
        noise=(*request.notes, *(disturbed or busy), *spread, *doubts),
        seconds=time.perf_counter() - begin,
        explanation=explanation,
        runtimes=_others(request, files, candidate_test, step),
        answers=_packed(task, test, base_named, named),
        **_of_unkept(task, test, (baseline, candidate), base_named, named),
        language=language,
    )


def _measure_model(
    request: Request, role: str, path: Path, test: Split, task: Task, tally: Tally | None, step: OnStep
) -> tuple[ModelMeasurement, Array]:
    threads = max(request.threads)
    session = create_session(path, threads=threads)
    one_by_one = _Tenths(f"{role}: {task.words.metric}", len(test), SINGLE_STEPS, step)
    single = predict(session, test, 1, task, on_rows=one_by_one.at, tally=tally)
    in_batches = _Tenths(f"{role}: {task.words.metric} in batches", len(test), BATCHED_STEPS, step)
    at_once = batched_size(test, task)
    batched = predict(session, test, at_once, task, on_rows=in_batches.at)
    found = accuracy(single, batched, test, task, batched_size=at_once)
    del session

    operators = operators_of(
        path, next(test.take(1, seed=0).batches(1)), threads=threads, folder=request.folder
    )
    step(1, f"{role}: {sum(operators.values())} operators")
    size = model_size(path)
    step(1, f"{role}: {size.file_bytes / 1e6:.1f} MB")

    rows = request.folder / "probe_rows.npz"
    test.take(_PROBE_ROWS, seed=request.seed).save(rows)
    load_ms, peak_bytes = measure_load(
        Probe(model=path, rows=rows, inputs=test.inputs, threads=threads),
        folder=request.folder,
        on_process=lambda: step(1, f"{role}: loading time and memory"),
    )
    measured = ModelMeasurement(
        size=size,
        accuracy=found,
        load_ms=load_ms,
        peak_memory_bytes=peak_bytes,
        operators=operators,
        decision=task.decision(),
    )
    return measured, single


def _time(request: Request, setting: Setting, test: Split, step: OnStep) -> LatencyComparison:
    def on_round(this: Round) -> None:
        step(1, f"{setting}: {this.ratio:.2f}x")

    return compare_latency(
        create_session(request.baseline, threads=setting.threads),
        create_session(request.candidate, threads=setting.threads),
        steady_batch(test, setting.batch, setting.sequence),
        setting,
        _rounds(request),
        on_round=on_round,
    )


def _rounds(request: Request) -> Rounds:
    return Rounds(request.rounds, request.seconds, request.seed)


def _of_unkept(
    task: Task,
    test: Split,
    models: tuple[ModelMeasurement, ModelMeasurement],
    baseline: Array,
    candidate: Array,
) -> dict[str, Any]:
    """What a report takes from answers, where these are too large to be kept."""
    if task.answer_kind != "vectors":
        return {}
    truth = test.truth(task)
    decisions = (models[0].decision, models[1].decision)
    value, before = task.above_constant(baseline, truth)
    return {
        "breakdown": task.breakdown(baseline, candidate, truth, decisions),
        "chance": Chance(value=value, baseline=before, candidate=task.above_constant(candidate, truth)[1]),
    }


def _packed(task: Task, test: Split, baseline: Array, candidate: Array) -> Answers | None:
    if task.answer_kind == "vectors":
        return None
    truth = test.truth(task)
    lengths = truth.lengths
    alike = len(set(lengths.tolist())) == 1
    return Answers(
        labels=pack_answers(truth.labels),
        baseline=pack_answers(baseline),
        candidate=pack_answers(candidate),
        positions=int(lengths[0]) if alike else 1,
        lengths="" if alike else pack_answers(lengths),
    )


def _language(
    request: Request, task: Task, tallies: tuple[Tally | None, Tally | None], test: Split, step: OnStep
) -> Language:
    """Summarize the losses, and time one more token at each setting."""
    decode, cache_bytes = [], (0, 0)
    for setting in request.settings:
        baseline = create_session(request.baseline, threads=setting.threads)
        candidate = create_session(request.candidate, threads=setting.threads)
        cache_bytes = (cache_bytes_per_token(baseline), cache_bytes_per_token(candidate))

        def on_round(this: Round, setting: Setting = setting) -> None:
            step(1, f"one more token, {setting}: {this.ratio:.2f}x")

        decode.append(
            compare_decoding(
                baseline,
                candidate,
                steady_batch(test, setting.batch, setting.sequence),
                setting,
                _rounds(request),
                on_round=on_round,
            )
        )
    found = task.compare_tallies(*tallies, len(test.truth(task).labels), test.label_bytes)
    for who, size in zip(("baseline", "candidate"), cache_bytes, strict=True):
        found[who]["cache_bytes_per_token"] = size
    return Language.model_validate({**found, "decode": decode})


def _explain(request: Request, test: Split, step: OnStep) -> tuple[Explanation | None, tuple[str, ...]]:
    """Explain both files at the first setting; on failure return None and a note, keeping other results."""
    setting = request.settings[0]
    try:
        explanation = explain_batch(
            request.candidate,
            request.baseline,
            steady_batch(test, setting.batch, setting.sequence),
            setting,
            folder=request.folder,
        )
    except (MeasureError, OSError) as error:  # the optimized graph may not fit on the disk
        step(EXPLAIN_STEPS, "where the time goes: unknown")
        return None, (f"where the time goes could not be measured: {error}",)
    step(EXPLAIN_STEPS, "where the time goes")
    return explanation, ()


def _others(request: Request, files: tuple[Answered, ...], test: Split, step: OnStep) -> Runtimes | None:
    """Measure the other runtimes, if requested."""
    if OPENVINO not in request.runtimes:
        return None
    return measure_runtimes(
        openvino_ways(),
        files,
        [(each, steady_batch(test, each.batch, each.sequence)) for each in request.settings],
        _rounds(request),
        on_step=lambda facts: step(1, facts),
    )


@dataclass
class _Tenths:
    """Maps processed rows to a fixed number of progress steps."""

    facts: str
    rows: int
    steps: int
    step: OnStep
    done: int = 0

    def at(self, rows: int) -> None:
        reached = rows * self.steps // self.rows
        if reached > self.done:
            self.step(reached - self.done, f"{self.facts}, row {rows} of {self.rows}")
            self.done = reached


def main(arguments: list[str]) -> int:
    """Read the request, measure, write the result; return the exit code."""
    done = 0

    def step(steps: int, facts: str) -> None:
        nonlocal done
        done += steps
        _say({"done": done, "total": request.steps, "facts": facts})
        make_way()

    if END_WITH_PARENT in arguments:
        end_with_parent()
    work()
    try:
        request = Request.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
        _write(request.result, measure(request, step).model_dump_json())
    except CompressError as error:
        _say({"error": str(error)})
        return 1
    except Exception as error:
        traceback.print_exc()
        _say({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _say(fields: dict[str, object]) -> None:
    # If the parent is gone, this raises a broken-pipe error and ends the process, as intended.
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _write(path: Path, text: str) -> None:
    """Write to a temporary file, then rename it, so that a partial result is never visible."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
