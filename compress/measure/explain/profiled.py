"""Explain an ONNX file: profile it, optionally with a second one, and report where its time goes and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.split import Batch
from compress.errors import MeasureError, ModelError
from compress.measure.environment import environment
from compress.measure.explain.advice import Figures, advice
from compress.measure.explain.explanation import Explanation, describe, with_integer_rate
from compress.measure.explain.profile import profile_in_turns
from compress.measure.made_inputs import inputs_of, made_batch
from compress.measure.runtimes.session import create_session, feeds
from compress.measure.size import model_files
from compress.system.cores import available_cores
from compress.system.files import read_json
from compress.timing import Setting

__all__ = ["explain_batch", "explain_file"]

_ONNX_IN_BUNDLE = Path("onnx") / "model.onnx"
_USUAL_SEQUENCE = 128
_LOG_SEVERITY_FATAL = 4
_MADE_UP = "synthetic: ids from the first 100, masks of ones, other numbers normally distributed"


def explain_batch(
    candidate: Path,
    baseline: Path | None,
    batch: Batch,
    setting: Setting,
    *,
    made_up: str = "",
    folder: Path | None = None,
    names: tuple[str, str] = ("candidate", "baseline"),
) -> Explanation:
    """Profile one or two ONNX files on one batch and explain the first.

    Args:
        candidate: the file to explain.
        baseline: the file to compare it with, if any.
        batch: input of every call; each file takes the inputs that it needs.
        setting: of the batch, and the threads to open the files with.
        made_up: describes the batch if it isn't real rows.
        folder: parent of temporary files; None uses the system's.
        names: names of the files in the result.

    Raises:
        MeasureError: if ONNX Runtime refuses a file or the batch.
    """
    files = [candidate] if baseline is None else [candidate, baseline]
    profiles = profile_in_turns(files, batch, threads=setting.threads, folder=folder)
    found = [describe(name, profile) for name, profile in zip(names, profiles, strict=False)]
    first, second = found[0], found[1] if len(found) > 1 else None
    first = with_integer_rate(first, second)
    cores = available_cores()
    return Explanation(
        **setting.model_dump(),
        cores=cores,
        made_up=made_up,
        baseline=None if second is None else with_integer_rate(second, first),
        candidate=first,
        instruction_sets=environment().instruction_sets,
        advice=advice(Figures(first, threads=setting.threads, cores=cores))[1],
    )


def explain_file(
    path: Path,
    against: Path | None = None,
    *,
    batch: int = 1,
    sequence: int | None = None,
    threads: int = 1,
) -> Explanation:
    """Explain a bundle or an ONNX file on a synthetic batch.

    Args:
        path: a bundle's directory or an .onnx file.
        against: another one to compare with; inputs of the same name must match.
        batch: rows per call.
        sequence: tokens per row; None uses what the bundle's report measured first, else 128, or the file's
            own if fixed, or the bundle's maximum length if shorter.
        threads: intra-op threads.

    Raises:
        ModelError: before work starts, if the file is missing, isn't ONNX, or can't take such a batch.
        MeasureError: if ONNX Runtime fails later.
    """
    given = [_given(each) for each in (path, against) if each is not None]
    if threads > available_cores():
        raise ModelError(f"--threads {threads}: this process may use {available_cores()} cores at most")
    for each in given:
        if sequence is not None and each.longest is not None and sequence > each.longest:
            raise ModelError(f"--sequence {sequence}: {each.shown} takes {each.longest} tokens at most")
    values, own = _common_batch(given, batch, sequence)
    setting = Setting(batch=batch, sequence=own, threads=threads)
    for each in given:
        model_files(each.onnx)  # refuses external data outside the file's folder
        _try(each, values, setting)
    return explain_batch(
        given[0].onnx,
        given[1].onnx if len(given) > 1 else None,
        values,
        setting,
        made_up=_MADE_UP,
        names=(given[0].shown, given[-1].shown),
    )


def _common_batch(given: Sequence[_Given], batch: int, sequence: int | None) -> tuple[Batch, int | None]:
    """A batch that all files accept, and its sequence if it has one.

    Raises:
        ModelError: the files' inputs differ, or one cannot take such a batch.
    """
    wanted = sequence or min(each.usual for each in given)
    values: Batch = {}
    own: int | None = wanted
    for each in given:
        made, own = made_batch(
            each.onnx, inputs_of(each.onnx), batch=batch, sequence=wanted, fixed=sequence is not None
        )
        for name, array in made.items():
            known = values.setdefault(name, array)
            if known.shape != array.shape or known.dtype != array.dtype:
                raise ModelError(
                    f"input '{name}' is {array.dtype} {list(array.shape)} in {each.shown} and "
                    f"{known.dtype} {list(known.shape)} in {given[0].shown}; both files must take the same "
                    "batch"
                )
            if array.dtype.kind == "i" and array.max(initial=0) < known.max(initial=0):
                values[name] = array  # ids below the smaller table's size are valid in both
    return values, own


@dataclass(frozen=True)
class _Given:
    """A file to explain.

    Attributes:
        shown: the path as the user wrote it.
        longest: maximum length in tokens, if the bundle states one.
        usual: default sequence.
    """

    shown: str
    onnx: Path
    longest: int | None
    usual: int


def _given(path: Path) -> _Given:
    if not path.exists():
        raise ModelError(f"{path}: no such file or directory")
    if path.is_file():
        return _Given(str(path), path, None, _USUAL_SEQUENCE)
    onnx = path / _ONNX_IN_BUNDLE
    if not onnx.is_file():
        raise ModelError(f"{path} contains no {_ONNX_IN_BUNDLE}; give a bundle's directory or an .onnx file")
    longest = _at(path / "manifest.json", ("max_length",))
    measured = _at(path / "report.json", ("measurement", "latency", 0, "sequence"))
    return _Given(str(path), onnx, longest, measured or min(_USUAL_SEQUENCE, longest or _USUAL_SEQUENCE))


def _at(path: Path, keys: Sequence[str | int]) -> int | None:
    """Read a positive number from a JSON file; None if the file or the keys are missing."""
    try:
        found: Any = read_json(path)
        for key in keys:
            found = found[key]
    except FileNotFoundError:
        return None
    except (KeyError, IndexError, TypeError):
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    return found if isinstance(found, int) and found > 0 else None


def _try(given: _Given, batch: Batch, setting: Setting) -> None:
    """Run the batch once, so that a file that can't take it is refused before timing."""
    import onnxruntime

    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = _LOG_SEVERITY_FATAL  # onnxruntime would print its own message before ours
    try:
        session = create_session(given.onnx, threads=setting.threads)
        inputs = feeds(batch, session)
    except MeasureError as error:
        raise ModelError(str(error)) from error
    try:
        session.run(None, inputs, quiet)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        said = str(error).rpartition("Status Message: ")[2].strip()
        raise ModelError(f"{given.shown}: ONNX Runtime fails at {setting}: {said}") from error
