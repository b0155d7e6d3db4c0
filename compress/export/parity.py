"""Check in ONNX Runtime that the ONNX file gives the same outputs as the PyTorch model it was exported from.

On real rows, predictions, their metric and the distance of outputs relative to their spread are compared. In
an int8 model, float rounding (1e-7) occasionally rounds an integer differently in the two engines, which
moves outputs by a few percent, so the limit is wider if activations are rounded. Bit parity is tested for
each quantized op.

Rows beyond the data (`compress.export.proof`) are compared too, each alone and unpadded: behaviour at only
some lengths, or only at batch 1, may be lost in the file.

Shapes: u = judged units, c = outputs per unit, b = batch, s = sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from compress.data.past import empty_past, past_of_present
from compress.data.split import Array, Batch, Row, Split
from compress.errors import ModelError, ParityError, first_line
from compress.export.proof import all_padding, proof_rows
from compress.facts import Parity
from compress.model.evaluating import evaluating, in_float32
from compress.model.forward import logits, to_tensors
from compress.model.limits import switch_length
from compress.system.cores import quota_cores
from compress.tasks import LABELS_KEY, Task

__all__ = ["cannot_answer", "check_parity", "check_repeats", "relative_limit"]

_FLOAT_LIMIT = 1e-3
_INT8_LIMIT = 0.5
# Minimum spread as a share of the outputs' magnitude, for rows that hardly differ, or a single row.
_FLOAT_SPREAD, _INT8_SPREAD = 0.01, 0.05
_SAME = 1e-4  # maximum difference between two runs of one module, relative to the outputs
_ALONE = 16  # real rows that are also compared one at a time
_ALONE_DECODED = 2  # the same for a decoder, whose rows are always run one at a time
_PADDING_ONLY = "a row of padding only"
_ROWS_IF_ROUNDED = 3  # rows per extra length, of which the median counts: one may have rounded differently


def check_parity(
    module: nn.Module,
    path: Path,
    split: Split,
    task: Task,
    *,
    min_agreement: float,
    max_metric_difference: float,
    max_relative_error: float | None = None,
    lengths: Sequence[int] = (),
    batch_size: int = 16,
) -> Parity:
    """Run rows through the module and the file, and compare.

    The split's rows are compared in padded batches, then one at a time: some of them, a row of each of
    `lengths`, and an all-padding row. A decoder's file reads each row of the split in two halves, the second
    with its cache; a row of `lengths` is split before its last token.

    Args:
        max_relative_error: limit on the distance of outputs; None uses 0.001, or 0.5 if activations are
            rounded to 8 bits.
        lengths: lengths of extra rows, which are made from the split's values.

    Raises:
        ParityError: if the file exceeds one of the limits, or ONNX Runtime can't run it.
        ModelError: if the module's outputs are not repeatable, or it fails on a row of one of the lengths.
    """
    if max_relative_error is None:
        max_relative_error = relative_limit(module)
    limits = _Limits(min_agreement, max_metric_difference, max_relative_error)
    module = in_float32(module)
    with evaluating(module):
        pair = _Pair(module, path, task)
        check_repeats(module, next(split.batches(batch_size)), task)
        tally = _together(pair, split, task.rows_a_call(batch_size))
        result = tally.result(split, limits)
        if not tally.finite:
            raise ParityError(f"{path.name} returns infinite or undefined logits on {split.name} rows")
        if not result.holds:
            raise ParityError(_difference_words(pair, split, result))
        for words, error in _alone(pair, split, lengths, min_agreement, tally.spread):
            if not error <= max_relative_error:
                hint = _hint_on_padding(pair, split) if words == _PADDING_ONLY else ""
                raise ParityError(
                    f"{path.name} differs from the PyTorch model that it was exported from: on {words}, "
                    f"outputs differ by {error:.2g} of their spread (limit: {max_relative_error:g}){hint}"
                )
    return result


@dataclass(frozen=True)
class _Limits:
    """How far a file may differ from its module; see `Parity`."""

    min_agreement: float
    max_metric_difference: float
    max_relative_error: float


def _difference_words(pair: _Pair, split: Split, found: Parity) -> str:
    """The figures of a comparison that failed, with their limits, and a remedy if there is one."""
    hint = ""
    if _rounds_activations(pair.module):
        hint = (
            ". Its activations are rounded to 8 bits, so in a deep model float rounding alone changes near "
            "ties, in PyTorch too. If the metric is unchanged, lower export.min_agreement, raise "
            "export.max_relative_error, or use activations: float"
        )
    return (
        f"{pair.path.name} differs from the PyTorch model that it was exported from: on {found.rows} "
        f"{split.name} rows, predictions agree on {found.agreement:.1%} (limit: "
        f"export.min_agreement={found.min_agreement:g}), {pair.task.words.metric} differs by "
        f"{found.metric_difference:+.4f} (limit: "
        f"export.max_metric_difference={found.max_metric_difference:g}), and outputs differ by "
        f"{found.relative_error or 0.0:.2g} of their spread (limit: "
        f"export.max_relative_error={found.max_relative_error:g}){hint}"
    )


def relative_limit(module: nn.Module) -> float:
    """Default limit on the distance of a file's outputs, as a share of their spread."""
    return _INT8_LIMIT if _rounds_activations(module) else _FLOAT_LIMIT


def _rounds_activations(module: nn.Module) -> bool:
    return any(getattr(each, "int8_activations", False) for each in module.modules())


@dataclass
class _Tally:
    """Statistics collected while batches are compared.

    Attributes:
        least: minimum spread, as a share of the magnitude of the module's outputs.
    """

    task: Task
    least: float
    found: list[Array] = field(default_factory=list)  # predictions of the file, [u] per batch
    expected: list[Array] = field(default_factory=list)  # predictions of the module
    largest: float = 0.0
    finite: bool = True
    errors: list[Array] = field(default_factory=list)  # [n] per batch
    first: Array | None = None  # [c], subtracted before squares are summed
    sums: Array | float = 0.0  # [c], float64
    squares: Array | float = 0.0
    size: float = 0.0

    def add(self, found: Array, expected: Array) -> None:
        """Add the logits [u, c] of both."""
        if not len(expected):  # no unit of these rows is judged
            return
        self.found.append(self.task.named(found))
        self.expected.append(self.task.named(expected))
        self.finite &= bool(np.isfinite(found).all())
        self.largest = max(self.largest, float(np.abs(found - expected).max()))
        self.errors.append(np.sqrt(np.square(found - expected).mean(-1, dtype=np.float64)))
        self.first = expected[0] if self.first is None else self.first
        moved = expected - self.first
        self.sums = self.sums + moved.sum(0, dtype=np.float64)
        self.squares = self.squares + np.square(moved).sum(0, dtype=np.float64)
        self.size += float(np.square(expected).mean(-1, dtype=np.float64).sum())

    @property
    def count(self) -> int:
        """Number of units u."""
        return sum(map(len, self.errors))

    @property
    def spread(self) -> float:
        """Standard deviation of the module's outputs between rows, RMS over classes; never 0."""
        variance = self.squares / self.count - np.square(self.sums / self.count)
        size = (self.size / self.count) ** 0.5
        return float(max(np.mean(variance).clip(0) ** 0.5, self.least * size, np.finfo(np.float32).tiny))

    def result(self, split: Split, limits: _Limits) -> Parity:
        """Results on the rows of a split, with the limits."""
        found, expected = np.concatenate(self.found), np.concatenate(self.expected)
        truth = split.truth(self.task)
        return Parity(
            rows=len(split),
            agreement=self.task.agreement(found, expected, truth),
            # Not `Task.change`, which compares two models where nobody knows the labels: rounding alone flips
            # near neighbours, and only one way counts there. Agreement and errors judge such rows.
            metric_difference=self.task.value(found, truth) - self.task.value(expected, truth),
            max_abs_error=self.largest,
            relative_error=_all_but(np.concatenate(self.errors), limits.min_agreement) / self.spread,
            **asdict(limits),
        )


class _Pair:
    """A module and its file, run on the same inputs."""

    def __init__(self, module: nn.Module, path: Path, task: Task) -> None:
        self.module, self.path, self.task = module, path, task
        self._switch = switch_length(module) or 0
        try:
            self.session = ort.InferenceSession(
                str(path), _options(module), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ParityError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from error

    def expected(self, batch: Batch) -> Array:
        """The module's logits, [u, c]."""
        with torch.no_grad():
            answer: Array = logits(self.module, to_tensors(batch, self.task.input_names)).float().numpy()
        return self.task.judged(answer, batch[LABELS_KEY])

    def found(self, batch: Batch, *, cut: int | None = None) -> Array:
        """The file's logits, [u, c]; a decoder first reads the tokens up to `cut` (None: the first half)."""
        try:
            if self.task.keeps_past:
                length = batch["input_ids"].shape[1]
                middle = length // 2 if cut is None else cut
                if middle <= self._switch < length:
                    middle = 0  # keys of a shorter text don't fit: the row is read as a whole
                answer = _answers_in_two(self.session, batch, self.task.output, middle)
            else:
                feed = {name: batch[name] for name in self.task.input_names}
                answer = self.session.run([self.task.output], feed)[0]
            return self.task.judged(answer, batch[LABELS_KEY])
        except Exception as error:
            length = next(iter(batch.values())).shape[:2]
            raise ParityError(
                f"ONNX Runtime cannot run {self.path.name} on rows of shape {list(length)}: "
                f"{first_line(error)}"
            ) from error

    def distance(self, batch: Batch, expected: Array) -> float:
        """RMS difference of one row's outputs; 0 if the module's own are not finite.

        For a decoder, the larger of two: over all tokens but the last, and over the last.
        """
        if not np.isfinite(expected).all():
            return 0.0
        cut = len(expected) - 1 if self.task.keeps_past else None
        difference = self.found(batch, cut=cut) - expected
        return max(_rms(part) for part in (difference[:cut], difference[cut:]) if len(part))


def check_repeats(module: nn.Module, batch: Batch, task: Task) -> None:
    """Check that a module's outputs are the same in two runs.

    Raises:
        ModelError: if they differ.
    """
    inputs = to_tensors(batch, task.input_names)
    with torch.no_grad():
        first, second = logits(module, inputs), logits(module, inputs)
    if (first - second).abs().max() > _SAME * first.abs().max():
        raise ModelError(
            f"{type(module).__name__} returns different outputs for the same rows each time, so no ONNX file "
            "can match it: it uses random numbers in evaluation mode, as F.dropout does without "
            "training=self.training"
        )


def _together(pair: _Pair, split: Split, batch_size: int) -> _Tally:
    tally = _Tally(pair.task, _INT8_SPREAD if _rounds_activations(pair.module) else _FLOAT_SPREAD)
    for batch in split.batches(batch_size):
        tally.add(pair.found(batch), pair.expected(batch))
    return tally


def _alone(
    pair: _Pair, split: Split, lengths: Sequence[int], min_agreement: float, spread: float
) -> Iterator[tuple[str, float]]:
    """Compare rows one at a time: real ones of all lengths, synthetic ones, and an all-padding row.

    Skips rows for which the module's own output is not finite, and all-padding rows or rows shorter than the
    data on which the module fails.

    Returns:
        What was compared, and the distance of the outputs, as in `Parity.relative_error`.

    Raises:
        ModelError: if the module fails on a row that may occur.
    """
    task, module, by_length = pair.task, pair.module, split.by_length()
    count = min(_ALONE_DECODED if task.keeps_past else _ALONE, len(split))
    real = by_length.at(np.linspace(0, len(split) - 1, count).astype(np.int64))
    errors = [pair.distance(batch, pair.expected(batch)) for batch in real.batches(1)]
    yield f"single {split.name} rows", _all_but(errors, min_agreement) / spread
    shortest = real.rows[0][task.inputs[0].name].shape[0]
    each = _ROWS_IF_ROUNDED if _rounds_activations(module) else 1
    made_up = [(length, proof_rows(split, task, [length] * each)) for length in lengths]
    for length, rows in [*made_up, (0, all_padding(split, task, each))]:
        batches = list(rows.batches(1))
        try:
            expected = [pair.expected(batch) for batch in batches]
        except Exception as error:  # the user's module may raise anything
            if length < shortest:
                continue
            raise ModelError(cannot_answer(module, length, error)) from error
        errors = [pair.distance(*both) for both in zip(batches, expected, strict=True)]
        if errors:
            words = f"a row of {length:,} positions" if length else _PADDING_ONLY
            yield words, float(np.median(errors)) / spread


def _hint_on_padding(pair: _Pair, split: Split) -> str:
    """What to mend in a module in which a row of padding becomes NaN, as in a mean over no tokens."""
    found: list[str] = []

    def look(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            if any(isinstance(each, torch.Tensor) and bool(each.isnan().any()) for each in given):
                found.append(path)

        return hook

    handles = [each.register_forward_pre_hook(look(path)) for path, each in pair.module.named_modules()]
    try:
        for batch in all_padding(split, pair.task, 1).batches(1):
            pair.expected(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return ""
    return (
        f". There {found[0] or 'the model'} gets NaN, as from a mean over no tokens: divide by the number of "
        "tokens or 1, such as attention_mask.sum(1, keepdim=True).clamp(min=1)"
    )


def _all_but(errors: Sequence[float] | Array, share: float) -> float:
    """Largest error, ignoring the share of rows that need not agree."""
    return float(np.quantile(errors, share, method="higher"))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _length(row: Row, task: Task) -> int:
    return int(row[task.inputs[0].name].shape[0])


def cannot_answer(module: nn.Module, length: int, error: Exception) -> str:
    """Message that a module fails on a row of a length that may occur."""
    return (
        f"{type(module).__name__} fails on a row of {length:,} positions, which may occur "
        f"({first_line(error)}); set data.max_length to the longest row that it accepts"
    )


def _answers_in_two(session: ort.InferenceSession, batch: Batch, output: str, middle: int) -> Array:
    """Logits [b, s, v] of a decoder that reads the tokens up to `middle`, then the rest with its cache."""
    ids, mask = batch["input_ids"], np.ones_like(batch["input_ids"])
    names = [value.name for value in session.get_outputs()]
    past = empty_past(session.get_inputs(), len(ids))
    parts = []
    for start, stop in ((0, middle), (middle, ids.shape[1])):
        if start == stop:
            continue  # one part is the whole row
        feed = {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop], **past}
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        parts.append(outputs[output])
        past = past_of_present(outputs)
    answer: Array = np.concatenate(parts, axis=1)
    return answer


def _options(module: nn.Module) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = quota_cores() or 0  # 0: ONNX Runtime's default
    if any(getattr(each, "of_one_thread", False) for each in module.modules()):
        options.intra_op_num_threads = 1
    options.log_severity_level = 4  # its errors are also raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
