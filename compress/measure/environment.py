"""The machine and package versions that measurements apply to."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.measure.machine import Environment
from compress.measure.runtimes.session import session_options
from compress.system.cores import available_cores

__all__ = ["environment", "sums_are_exact"]

# Flags by which ONNX Runtime selects kernels; others do not affect measurements.
_INSTRUCTION_SETS = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "fphp", "asimdhp", "bf16", "i8mm", "sve", "sve2",
    "sme",
)  # fmt: skip
# NumPy's names for the same flags, for systems without /proc/cpuinfo.
_OF_NUMPY = {
    "AVX2": "avx2", "FMA3": "fma", "F16C": "f16c", "AVX512F": "avx512f", "AVX512BW": "avx512bw",
    "AVX512VNNI": "avx512_vnni", "AVX512BF16": "avx512_bf16", "AVX512FP16": "avx512_fp16", "ASIMD": "asimd",
    "ASIMDDP": "asimddp", "FPHP": "fphp", "ASIMDHP": "asimdhp", "SVE": "sve",
}  # fmt: skip
_PACKAGES = (
    "modelpress", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "openvino", "pydantic",
    "safetensors", "scikit-learn", "tokenizers", "torch", "torchao", "transformers",
)  # fmt: skip
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_ARM = {"asimd", "asimddp", "i8mm"}
_FINGERPRINT_CHARS = 12


def sums_are_exact(instruction_sets: Sequence[str]) -> bool | None:
    """Whether int8 products are accumulated in 32 bits here; x86 without VNNI adds pairs in 16 bits.

    Returns:
        None if this processor's instruction sets are unknown.
    """
    have = set(instruction_sets)
    if have & (_VNNI | _ARM):
        return True
    return False if "avx2" in have else None


def environment(threads: Sequence[int] = ()) -> Environment:
    """Describe this machine; reads package versions without importing the packages.

    Args:
        threads: thread counts of the sessions, for the session options.
    """
    cpuinfo = _cpuinfo()
    cpu = cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or platform.machine()
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()) or _sets_of_numpy()
    instruction_sets = tuple(name for name in _INSTRUCTION_SETS if name in flags)
    import psutil

    cores = available_cores()
    packages = _versions()
    return Environment(
        cpu=cpu,
        cores=cores,
        instruction_sets=instruction_sets,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=packages,
        session_options=session_options(threads),
        fingerprint=_fingerprint(cpu, cores, instruction_sets, packages.get("onnxruntime", "")),
    )


def _fingerprint(cpu: str, cores: int, instruction_sets: tuple[str, ...], onnxruntime: str) -> str:
    """Hash of what latency depends on; excludes memory, Python and the training libraries."""
    text = "\n".join((cpu, str(cores), " ".join(instruction_sets), onnxruntime))
    return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_CHARS]


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """First value of each key in /proc/cpuinfo; empty on systems without it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _sets_of_numpy() -> set[str]:
    """Instruction sets that NumPy detected at import; empty if none of the relevant ones are known.

    NumPy does not detect AVX-VNNI, so an x86 without AVX-512 VNNI may still have exact int8 sums.
    """
    features = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    found: dict[str, bool] = getattr(features, "__cpu_features__", {})
    sets = {ours for name, ours in _OF_NUMPY.items() if found.get(name)}
    return sets if sets & (_VNNI | _ARM) else set()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed
    return found
