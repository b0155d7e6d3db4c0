"""The only way to open an ONNX file here, so that all measurements use the same settings.

Idle threads do not spin: two sessions with spinning threads slow each other several times over when timed in
turns on few cores. onnxruntime is imported when the first session is created.
Shapes: b = batch, s = sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from compress.data.past import empty_past, is_past
from compress.data.split import Array, Batch
from compress.errors import MeasureError
from compress.measure.process.probe import CONFIG, INTER_OP_THREADS, OPTIMIZATION, PROVIDER, new_options

__all__ = ["Session", "answer", "create_session", "feeds", "session_options"]


class _Value(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[Any]: ...


class Session(Protocol):
    """The part of onnxruntime.InferenceSession used for measuring."""

    def get_inputs(self) -> Sequence[_Value]:
        """Describe the inputs."""
        ...

    def get_outputs(self) -> Sequence[_Value]:
        """Describe the outputs."""
        ...

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Array]) -> Sequence[Any]:
        """Run one batch."""
        ...


def session_options(threads: Sequence[int]) -> dict[str, str]:
    """Describe the options that `create_session` sets; `threads` are the measured thread counts."""
    return {
        "providers": PROVIDER,
        "intra_op_num_threads": ", ".join(str(count) for count in threads),
        "inter_op_num_threads": str(INTER_OP_THREADS),
        "graph_optimization_level": OPTIMIZATION,
        **CONFIG,
    }


def create_session(
    path: Path,
    *,
    threads: int,
    profile_prefix: Path | None = None,
    optimized: Path | None = None,
    provider: str | tuple[str, dict[str, str]] = PROVIDER,
) -> Any:
    """Open an ONNX file on the CPU.

    Args:
        path: the .onnx file, with its external data next to it.
        threads: intra-op threads.
        profile_prefix: path prefix for a profile of every executed node, if wanted; the caller ends
            profiling.
        optimized: path for the graph after all fusions, if wanted; its weights go into a separate file next
            to it, so that the graph can be read without them.
        provider: execution provider and its options; nodes it can't run fall back to the CPU's own kernels.

    Returns:
        An onnxruntime.InferenceSession.

    Raises:
        MeasureError: if ONNX Runtime refuses the file.
    """
    import onnxruntime

    options = new_options(threads)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        for key, value in (("file_name", f"{optimized.name}.data"), ("min_size_in_bytes", "1024")):
            options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=[provider] if provider == PROVIDER else [provider, PROVIDER]
        )
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise MeasureError(f"{path}: ONNX Runtime cannot load this file: {error}") from error


def feeds(batch: Batch, session: Session) -> Batch:
    """Select the inputs of the session from a batch; inputs that the export dropped as unused are left out.

    Decoder files get an empty past if the batch has none.

    Raises:
        MeasureError: if the session needs an input that the batch does not have.
    """
    open_past = [value for value in session.get_inputs() if value.name not in batch]
    given = {**empty_past(open_past, len(next(iter(batch.values())))), **batch}
    wanted = [value.name for value in session.get_inputs()]
    missing = [name for name in wanted if name not in given]
    if missing:
        raise MeasureError(
            f"the ONNX file needs input {', '.join(map(repr, missing))}, but the data has only "
            f"{', '.join(sorted(batch))}"
        )
    return {name: given[name] for name in wanted}


def answer(session: Session, batch: Batch, output: str = "logits") -> Array:
    """Run one batch and return the logits [b, ...]: the output of this name, or else the first output.

    Raises:
        MeasureError: if ONNX Runtime fails on this batch, or the output does not have one entry per row.
    """
    names = [value.name for value in session.get_outputs()]
    name = output if output in names else names[0]
    inputs = feeds(batch, session)
    shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in inputs.items() if not is_past(key))
    try:
        logits: Array = session.run([name], inputs)[0]
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise MeasureError(f"ONNX Runtime fails on {shapes}: {error}") from error
    rows = next(iter(inputs.values())).shape[0]
    if logits.ndim < 2 or logits.shape[0] != rows:
        raise MeasureError(
            f"output '{name}' has shape {list(logits.shape)} for {shapes}; expected [{rows}, ...]"
        )
    return logits
