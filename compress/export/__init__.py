"""nn.Module to ONNX: export, lowering, parity, bundle."""

from compress.export.bundle import (
    HUB_FILES,
    MANIFEST_VERSION,
    ONNX_PATH,
    broken_seals,
    described,
    read_manifest,
    seal_,
    sha256_of,
    write_bundle_,
    write_manifest_,
)
from compress.export.lowering.blocks import Block, extract_blocks
from compress.export.lowering.branches import check_branches
from compress.export.onnx_file import DEFAULT_OPSET, check_answers, export_onnx
from compress.export.parity import check_parity, relative_limit
from compress.export.proof import longest_row, proof_lengths, proof_rows

__all__ = [
    "Block",
    "DEFAULT_OPSET",
    "HUB_FILES",
    "MANIFEST_VERSION",
    "ONNX_PATH",
    "broken_seals",
    "check_answers",
    "check_branches",
    "check_parity",
    "described",
    "export_onnx",
    "extract_blocks",
    "longest_row",
    "proof_lengths",
    "proof_rows",
    "read_manifest",
    "relative_limit",
    "seal_",
    "sha256_of",
    "write_bundle_",
    "write_manifest_",
]
