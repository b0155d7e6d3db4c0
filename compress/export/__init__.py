"""nn.Module to ONNX: export, lowering, parity, bundle."""

from compress.export.bundle import ONNX_PATH, new_directory, write_bundle_, write_manifest_
from compress.export.onnx_file import DEFAULT_OPSET, export_onnx
from compress.export.parity import ParityResult, check_parity

__all__ = [
    "DEFAULT_OPSET",
    "ONNX_PATH",
    "ParityResult",
    "check_parity",
    "export_onnx",
    "new_directory",
    "write_bundle_",
    "write_manifest_",
]
