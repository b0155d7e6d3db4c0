"""Validity of int8 figures on other processors: possible saturation on x86 without VNNI."""

from __future__ import annotations

from collections.abc import Sequence

from compress.facts import Saturation
from compress.measure.environment import sums_are_exact
from compress.page.format import counted

__all__ = ["saturation_sentence"]

_OTHERS = "x86 processors without VNNI (AVX2 only, or early AVX512)"


def saturation_sentence(found: Saturation, instruction_sets: Sequence[str]) -> str:
    """The processors on which the figures hold, and what is at risk on others.

    Args:
        found: counts for this model.
        instruction_sets: of the processor used for the measurement.
    """
    if not found.is_possible:
        counts = (
            (found.layers, "int8 layer"),
            (found.convolutions, "int8 convolution"),
            (found.lstms, "int8 LSTM"),
        )
        layers = " and ".join(counted(count, what) for count, what in counts if count)
        return (
            f"The answers hold on {_OTHERS} too: there pairs of int8 products are added in 16 bits, and no "
            f"pair of weights in the {layers} of this model is large enough to overflow them."
        )
    exact = sums_are_exact(instruction_sets)
    if exact is None:
        where = f"It is not known whether this processor has VNNI; on {_OTHERS}"
    elif exact:
        where = f"Accuracy was measured where sums of int8 products are exact, as here; on {_OTHERS}"
    else:
        where = "This processor has no VNNI, so accuracy here holds for such processors alone: on them"
    return (
        f"{where} pairs of products are added in 16 bits, which large weights overflow: "
        f"{'; '.join([*_of_layers(found), *_of_others(found)])}. "
        "reduce_range: true in the quantize stage makes it impossible; so does, by ONNX Runtime's "
        "documentation and more slowly, its session option session.x64quantprecision=1."
    )


def _of_layers(found: Saturation) -> list[str]:
    if not found.pairs_at_risk:
        return []
    pairs, outputs = _share(found.pairs_at_risk, found.pairs), _share(found.outputs_at_risk, found.outputs)
    changed = counted(found.answers_changed, "answer")
    layers, rows = counted(found.layers, "int8 layer"), counted(found.rows, "validation row")
    return [
        f"{pairs} of the pairs of weights, in {outputs} of the outputs of {layers}, can; computed so on "
        f"{rows}, {_share(found.sums_cut, found.sums)} of the sums were cut off and {changed} changed"
    ]


def _of_others(found: Saturation) -> list[str]:
    kinds = (
        (found.convolutions_at_risk, found.convolutions, "int8 convolution"),
        (found.lstms_at_risk, found.lstms, "int8 LSTM"),
    )
    return [
        f"{at_risk:,} of {counted(count, what)} may, which was not computed"
        for at_risk, count, what in kinds
        if at_risk
    ]


def _share(part: int, whole: int) -> str:
    """A share as percent with two significant digits; a nonzero share is never shown as 0."""
    value = 100 * part / whole if whole else 0.0
    if value == 0 or value >= 10:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"
