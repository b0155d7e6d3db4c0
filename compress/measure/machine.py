"""The machine of a measurement, as part of its result; `environment` finds it out."""

from __future__ import annotations

from compress.facts import Record

__all__ = ["Environment"]


class Environment(Record):
    """Machine and versions of a measurement; measurements with equal `fingerprint` are comparable.

    Attributes:
        cpu: name of the processor.
        cores: cores that the process may use.
        instruction_sets: those that matter for speed, such as AVX512-VNNI.
        memory_bytes: memory of the machine.
        system: operating system.
        python: version of Python.
        packages: versions by package.
        session_options: options of the ONNX Runtime session.
        fingerprint: hash of processor, cores, instruction sets and version of ONNX Runtime.
    """

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    session_options: dict[str, str]
    fingerprint: str
