"""Does the ONNX file answer as the PyTorch model that it came from? Asked on real rows, in ONNX Runtime.

Logits are not compared with a tolerance: in an int8 model the two engines' float rounding (1e-7) now and then
sends one integer the other way, and outputs then move by percents in both. Bit parity is tested for each
quantized op; here it is the answers that must agree, and the metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from compress.cores import quota_cores
from compress.data.past import empty_past, past_of_present
from compress.data.split import Array, Batch, Split
from compress.errors import ParityError
from compress.model.calls import logits, to_tensors
from compress.task import LABELS_KEY, Task

__all__ = ["ParityResult", "check_parity"]


@dataclass(frozen=True)
class ParityResult:
    """Answers of the ONNX file against those of the module.

    Attributes:
        rows: rows compared.
        agreement: share of rows with the same predicted class; of a language model, of positions.
        metric_difference: ONNX metric minus PyTorch metric on these rows.
        max_abs_error: largest difference of a logit.
    """

    rows: int
    agreement: float
    metric_difference: float
    max_abs_error: float


def check_parity(
    module: nn.Module,
    path: Path,
    split: Split,
    task: Task,
    *,
    min_agreement: float,
    max_metric_difference: float,
    batch_size: int = 16,
) -> ParityResult:
    """Answer the rows with both and compare; a decoder's file reads each row in two, then with its cache.

    Raises:
        ParityError: agreement or metric are beyond the limits.
    """
    session = ort.InferenceSession(str(path), _options(module), providers=["CPUExecutionProvider"])
    asked = _answers_in_two if task.vocabulary else _answers
    was_training = module.training
    module.eval()
    equal = count = right = wanted = 0
    largest, finite = 0.0, True
    for batch in split.batches(batch_size if not task.vocabulary else 1):
        with torch.inference_mode():
            inputs = to_tensors(batch, task.input_names)
            expected = logits(module, inputs).float().flatten(0, -2).numpy()
        found = asked(session, batch, task)
        answers, truth, labels = found.argmax(-1), expected.argmax(-1), batch[LABELS_KEY].reshape(-1)
        equal, count = equal + int((answers == truth).sum()), count + len(labels)
        right, wanted = right + int((answers == labels).sum()), wanted + int((truth == labels).sum())
        largest = max(largest, float(np.abs(found - expected).max()))
        finite &= bool(np.isfinite(found).all())
    module.train(was_training)
    result = ParityResult(
        rows=len(split),
        agreement=equal / count,
        metric_difference=(right - wanted) / count,
        max_abs_error=largest,
    )
    if not finite:
        raise ParityError(f"{path.name} answers with infinite or undefined logits on {split.name} rows")
    if result.agreement < min_agreement or abs(result.metric_difference) > max_metric_difference:
        raise ParityError(
            f"{path.name} does not answer as the PyTorch model it came from: on {result.rows} {split.name} "
            f"rows they agree on {result.agreement:.1%} (at least {min_agreement:.1%} wanted), {task.metric} "
            f"differs by {result.metric_difference:+.4f} (at most {max_metric_difference:g}); nothing was "
            f"published{_rounding_hint(module)}"
        )
    return result


def _rounding_hint(module: nn.Module) -> str:
    """What may be the cause where activations are rounded, and what to do."""
    if not any(getattr(each, "int8_activations", False) for each in module.modules()):
        return ""
    return (
        ". Its activations are rounded to 8 bits: in a deep model the last digit of a float then turns near "
        "ties, in PyTorch as well. Where the metric is the same, lower export.min_agreement, or take "
        "activations: float"
    )


def _answers(session: ort.InferenceSession, batch: Batch, task: Task) -> Array:
    """Logits [b, c]."""
    answer: Array = session.run([task.output], {name: batch[name] for name in task.input_names})[0]
    return answer


def _answers_in_two(session: ort.InferenceSession, batch: Batch, task: Task) -> Array:
    """Logits [b s, v] of a decoder that reads the first half, and the second with what it remembers of it."""
    ids, mask = batch["input_ids"], np.ones_like(batch["input_ids"])
    middle = ids.shape[1] // 2
    names = [value.name for value in session.get_outputs()]
    past = empty_past(session.get_inputs(), len(ids))
    parts = []
    for start, stop in ((0, middle), (middle, ids.shape[1])):
        feed = {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop], **past}
        outputs = dict(zip(names, session.run(None, feed), strict=True))
        parts.append(outputs[task.output])
        past = past_of_present(outputs)
    answer: Array = np.concatenate(parts, axis=1)
    return answer.reshape(-1, answer.shape[-1])


def _options(module: nn.Module) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = quota_cores() or 0  # 0: as many as ONNX Runtime takes
    if any(getattr(each, "of_one_thread", False) for each in module.modules()):
        options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
