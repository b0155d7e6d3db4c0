"""nn.Module to ONNX: export, lowering, parity, bundle."""

from compress.export.blocks import Block, extract_blocks
from compress.export.bundle import (
    HUB_FILES,
    MANIFEST_VERSION,
    ONNX_PATH,
    new_directory,
    seal_,
    sha256_of,
    write_bundle_,
    write_manifest_,
)
from compress.export.onnx_file import DEFAULT_OPSET, export_onnx
from compress.export.parity import ParityResult, check_parity

__all__ = [
    "Block",
    "DEFAULT_OPSET",
    "HUB_FILES",
    "MANIFEST_VERSION",
    "ONNX_PATH",
    "ParityResult",
    "check_parity",
    "export_onnx",
    "extract_blocks",
    "new_directory",
    "seal_",
    "sha256_of",
    "write_bundle_",
    "write_manifest_",
]
