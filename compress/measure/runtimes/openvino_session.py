"""An ONNX file in OpenVINO behind the interface of an ONNX Runtime session; imports OpenVINO on first use.

OpenVINO's defaults are kept, as users have them: on machines with bfloat16 (AVX512-BF16, AMX) it computes
float operators in bfloat16, which the session reports. Its outputs are not bit-exact with ONNX Runtime's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.split import Array
from compress.errors import MeasureError

__all__ = ["INSTALL", "OpenvinoSession", "create_openvino_session", "is_installed", "openvino_version"]

INSTALL = "pip install openvino"
_PRODUCTS = {"FullyConnected", "MatMul", "Convolution"}
_SHORT_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True)
class _Named:
    name: str
    shape: tuple[int | str, ...]


def _named(port: Any) -> _Named:
    dimensions = port.get_partial_shape()
    return _Named(
        port.get_any_name(),
        tuple(each.get_length() if each.is_static else str(each) for each in dimensions),
    )


class OpenvinoSession:
    """One compiled file.

    Attributes:
        precision: type of float operators: f32, bf16 or f16.
        products: number of matrix products by type, e.g. {"i8": 36, "bf16": 14}.
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        said = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision: str = _SHORT_TYPES.get(said, said)
        self.products = _products(compiled)

    def get_inputs(self) -> Sequence[_Named]:
        """Describe the inputs."""
        return [_named(port) for port in self._compiled.inputs]

    def get_outputs(self) -> Sequence[_Named]:
        """Describe the outputs."""
        return [_named(port) for port in self._compiled.outputs]

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Array]) -> Sequence[Array]:
        """Run one batch."""
        found = self._request.infer(input_feed)
        names = output_names or [port.name for port in self.get_outputs()]
        return [found[name] for name in names]


def is_installed() -> bool:
    """Whether OpenVINO can be imported; does not import it."""
    return importlib.util.find_spec("openvino") is not None


def openvino_version() -> str:
    """Return the installed version."""
    return importlib.metadata.version("openvino")


def create_openvino_session(path: Path, *, threads: int) -> OpenvinoSession:
    """Compile an ONNX file for the CPU, optimized for the latency of a single call.

    Args:
        path: the .onnx file, with its external data next to it.
        threads: inference threads.

    Raises:
        MeasureError: if OpenVINO refuses the file, with its reason.
    """
    import openvino

    try:
        compiled = openvino.Core().compile_model(
            str(path), "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        )
        return OpenvinoSession(compiled)
    except RuntimeError as error:
        raise MeasureError(f"{path}: OpenVINO cannot load this file: {_reason(str(error))}") from error


def _products(compiled: Any) -> dict[str, int]:
    """Count the matrix products of the compiled graph by the type that each is computed in."""
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].value in _PRODUCTS:
            counts[facts["runtimePrecision"].value.lower()] += 1
    return dict(counts.most_common())


def _reason(text: str) -> str:
    """Last informative lines of OpenVINO's message: what it could not convert, and why."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -:")]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '", "Summary"))]
    return "; ".join((told or lines)[-2:])
