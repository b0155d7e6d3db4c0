"""What a reader must know before trusting or shipping a result: a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from compress.measure import Measurement
from compress.stage import Stage

__all__ = ["warnings_of"]


def warnings_of(stages: Sequence[Stage], measurement: Measurement) -> tuple[str, ...]:
    """Say what falls short, what holds only here, and what is doubtful."""
    found = list(measurement.noise)
    slower = [point for point in measurement.latency if point.speedup_high < 1]
    if slower:
        worst = min(slower, key=lambda point: point.speedup)
        found.append(
            f"slower than the baseline at {len(slower)} of {len(measurement.latency)} settings "
            f"(down to {worst.speedup:.2f}x at batch {worst.batch}, {worst.threads} threads)"
        )
    names = [stage.name for stage in stages]
    if "prune/magnitude" in names:
        found.append("prune/magnitude leaves zeros in dense tensors: ONNX Runtime gains no speed from them")
    candidate = measurement.candidate.accuracy
    if candidate.batched_disagreements:
        found.append(
            f"{candidate.batched_disagreements} of {candidate.rows} answers change when rows are answered in "
            f"padded batches of {candidate.batched_size} (accuracy {candidate.batched_value:.4f} then)"
        )
    sets = set(measurement.environment.instruction_sets)
    if "quantize/int8_dynamic" in names and not sets & {
        "avx512_vnni",
        "avx_vnni",
        "amx_int8",
        "asimd",
        "i8mm",
    }:
        found.append(
            "this machine has no VNNI: int8 products can saturate on AVX2, and the accuracy holds for it "
            "alone"
        )
    elif "quantize/int8_dynamic" in names and sets & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        found.append(
            "int8 speed and accuracy were measured with VNNI; on x86 machines without it (AVX2 only) "
            "products of large weights can saturate: measure there before shipping"
        )
    if measurement.difference.high < 0:
        found.append(
            f"accuracy is measurably lower than the baseline's: {measurement.difference.value * 100:+.1f} "
            f"points (95 % interval {measurement.difference.low * 100:+.1f} to "
            f"{measurement.difference.high * 100:+.1f})"
        )
    return tuple(found)
