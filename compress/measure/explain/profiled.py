"""Explain an ONNX file: profile it, beside another if there is one, and say where its time goes and why."""

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

__all__ = ["explain_batch", "explain_file"]

_ONNX_IN_BUNDLE = Path("onnx") / "model.onnx"
_USUAL_SEQUENCE = 128
_LOG_SEVERITY_FATAL = 4
_MADE_UP = "made up: ids from the first 100, masks of ones, other numbers normal"


def explain_batch(
    candidate: Path,
    baseline: Path | None,
    batch: Batch,
    *,
    rows: int,
    sequence: int,
    threads: int,
    made_up: str = "",
    folder: Path | None = None,
    names: tuple[str, str] = ("candidate", "baseline"),
) -> Explanation:
    """Profile one or two ONNX files on one batch and explain the first.

    Args:
        candidate: the file that is explained.
        baseline: what it stands beside, if anything.
        batch: what each call is given; each file takes the inputs that it has.
        rows: of the batch, for the result.
        sequence: tokens a row, for the result.
        threads: within an operator.
        made_up: what the batch is, if it isn't real rows.
        folder: where temporary files are made; None: the system's place.
        names: what the files are called in the result.

    Raises:
        MeasureError: if ONNX Runtime refuses a file or the batch.
    """
    files = [candidate] if baseline is None else [candidate, baseline]
    profiles = profile_in_turns(files, batch, threads=threads, folder=folder)
    found = [describe(name, profile) for name, profile in zip(names, profiles, strict=False)]
    first, second = found[0], found[1] if len(found) > 1 else None
    first = with_integer_rate(first, second)
    cores = available_cores()
    return Explanation(
        batch=rows,
        sequence=sequence,
        threads=threads,
        cores=cores,
        made_up=made_up,
        baseline=None if second is None else with_integer_rate(second, first),
        candidate=first,
        instruction_sets=environment().instruction_sets,
        advice=advice(Figures(first, threads=threads, cores=cores)),
    )


def explain_file(
    path: Path,
    against: Path | None = None,
    *,
    batch: int = 1,
    sequence: int | None = None,
    threads: int = 1,
) -> Explanation:
    """Explain a bundle or an ONNX file, on a made-up batch.

    Args:
        path: a bundle's directory or an .onnx file.
        against: another, to stand beside it; inputs of the same name must be alike.
        batch: rows a call.
        sequence: tokens a row; None: what a bundle's report measured first, else 128, or the file's own if it
            fixes one, or a bundle's longest text if that is shorter.
        threads: within an operator.

    Raises:
        ModelError: there is no such file, it isn't ONNX, or it can't take such a batch; before work starts.
        MeasureError: if ONNX Runtime fails later.
    """
    given = [_given(each) for each in (path, against) if each is not None]
    if threads > available_cores():
        raise ModelError(f"--threads {threads}: this process may use {available_cores()} cores")
    for each in given:
        if sequence is not None and each.longest is not None and sequence > each.longest:
            raise ModelError(f"{each.shown}: takes {each.longest} tokens at most, not --sequence {sequence}")
    wanted = sequence or min(each.usual for each in given)
    values: Batch = {}
    own = wanted
    for each in given:
        made, own = made_batch(
            each.onnx, inputs_of(each.onnx), batch=batch, sequence=wanted, fixed=sequence is not None
        )
        for name, array in made.items():
            known = values.setdefault(name, array)
            if known.shape != array.shape or known.dtype != array.dtype:
                raise ModelError(
                    f"{each.shown}: input '{name}' is {array.dtype} {list(array.shape)} here and "
                    f"{known.dtype} {list(known.shape)} in {given[0].shown}, so the two can't be given the "
                    "same batch"
                )
            if array.dtype.kind == "i" and array.max(initial=0) < known.max(initial=0):
                values[name] = array  # the smaller table's ids are in both
    for each in given:
        model_files(each.onnx)  # refuses what reaches out of its folder
        _try(each, values, rows=batch, sequence=own, threads=threads)
    return explain_batch(
        given[0].onnx,
        given[1].onnx if len(given) > 1 else None,
        values,
        rows=batch,
        sequence=own,
        threads=threads,
        made_up=_MADE_UP,
        names=(given[0].shown, given[-1].shown),
    )


@dataclass(frozen=True)
class _Given:
    """A file that was asked about.

    Attributes:
        shown: as the user wrote it.
        longest: text in tokens that a bundle takes, if it says so.
        usual: the sequence that it is explained at unless asked for another.
    """

    shown: str
    onnx: Path
    longest: int | None
    usual: int


def _given(path: Path) -> _Given:
    if not path.exists():
        raise ModelError(f"{path}: there is no such file or directory")
    if path.is_file():
        return _Given(str(path), path, None, _USUAL_SEQUENCE)
    onnx = path / _ONNX_IN_BUNDLE
    if not onnx.is_file():
        raise ModelError(f"{path}: no {_ONNX_IN_BUNDLE} in it; give a bundle's directory or an .onnx file")
    longest = _at(path / "manifest.json", ("max_length",))
    measured = _at(path / "report.json", ("measurement", "latency", 0, "sequence"))
    return _Given(str(path), onnx, longest, measured or min(_USUAL_SEQUENCE, longest or _USUAL_SEQUENCE))


def _at(path: Path, keys: Sequence[str | int]) -> int | None:
    """Read a positive number in a JSON file; None if the file or the place in it is not there."""
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


def _try(given: _Given, batch: Batch, *, rows: int, sequence: int, threads: int) -> None:
    """Run the batch once, so that what a file can't take is said before it is timed."""
    import onnxruntime

    quiet = onnxruntime.RunOptions()
    quiet.log_severity_level = _LOG_SEVERITY_FATAL  # its own lines would stand before ours
    try:
        session = create_session(given.onnx, threads=threads)
        inputs = feeds(batch, session)
    except MeasureError as error:
        raise ModelError(str(error)) from error
    try:
        session.run(None, inputs, quiet)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        said = str(error).rpartition("Status Message: ")[2].strip()
        raise ModelError(
            f"{given.shown}: can't take batch {rows}, sequence {sequence}; ONNX Runtime says: {said}"
        ) from error
