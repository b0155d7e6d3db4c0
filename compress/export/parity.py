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
from torch import nn

from compress.data.split import Split
from compress.errors import ParityError
from compress.model.calls import predict_logits
from compress.task import Task

__all__ = ["ParityResult", "check_parity"]


@dataclass(frozen=True)
class ParityResult:
    """Answers of the ONNX file against those of the module.

    Attributes:
        rows: rows compared.
        agreement: share of rows with the same predicted class.
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
    """Answer the rows with both and compare.

    Raises:
        ParityError: agreement or metric are beyond the limits.
    """
    expected = predict_logits(module, split, task, batch_size=batch_size).numpy()
    session = ort.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    parts = [
        session.run([task.output], {name: batch[name] for name in task.input_names})[0]
        for batch in split.batches(batch_size)
    ]
    found = np.concatenate(parts)
    answers, truth = found.argmax(-1), expected.argmax(-1)
    result = ParityResult(
        rows=len(split),
        agreement=float((answers == truth).mean()),
        metric_difference=float((answers == split.labels).mean() - (truth == split.labels).mean()),
        max_abs_error=float(np.abs(found - expected).max()),
    )
    if not np.isfinite(found).all():
        raise ParityError(f"{path.name} answers with infinite or undefined logits on {split.name} rows")
    if result.agreement < min_agreement or abs(result.metric_difference) > max_metric_difference:
        raise ParityError(
            f"{path.name} does not answer as the PyTorch model it came from: on {result.rows} {split.name} "
            f"rows they agree on {result.agreement:.1%} (at least {min_agreement:.1%} wanted), {task.metric} "
            f"differs by {result.metric_difference:+.4f} (at most {max_metric_difference:g}); nothing was "
            "published"
        )
    return result


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
