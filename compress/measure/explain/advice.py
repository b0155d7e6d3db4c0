"""The single most useful change: an ordered table of rules, of which the first match wins.

Order: problems that a setting fixes, then those whose fix costs accuracy, then those without a fix. Each rule
is a function of measured figures only; its threshold (a share of the time) is a constant below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compress.measure.explain.explanation import FileExplanation, KindTime

__all__ = ["Figures", "RULES", "advice", "instruction_words"]

_UNPACKING = 0.15
_FLOAT_WEIGHTS = 0.15
_LOW_BIT = 0.25
_FUSED_NORM = 0.08
_SLOW_NORM = 1.8  # times LayerNormalization; the Add fused into it should cost about half of that
_BETWEEN = 0.35
_LAUNCH_MS = (
    0.001  # rough cost of a node that does nothing; a call with less time per node is mostly launch overhead
)
_ATTENTION = 0.30
_QUANTIZING = 0.25
_AROUND = 0.50
_NAMED = 3
_ALWAYS_FLOAT = {"GRU", "RNN"}  # ONNX Runtime's CPU provider has no integer kernel for them
_CONVOLUTIONS = {
    "Conv",
    "FusedConv",
    "NhwcFusedConv",
}  # only quantize/int8_static makes these integer
_TRANSPOSED = {"ConvTranspose"}  # left float by every stage


@dataclass(frozen=True)
class Figures:
    """Inputs of the rules."""

    file: FileExplanation
    threads: int
    cores: int

    @property
    def quantized(self) -> bool:
        """Whether any product has quantized weights."""
        return bool(self.file.part("integer").nodes or self.file.part("low_bit").nodes)

    def kind(self, name: str) -> KindTime | None:
        """Sum the nodes of one operator kind over all roles."""
        found = [each for each in self.file.kinds if each.kind == name]
        if not found:
            return None
        sums = {key: sum(getattr(each, key) for each in found) for key in ("nodes", "ms", "share", "numbers")}
        return found[0].model_copy(update=sums)

    def float_share(self, kinds: set[str]) -> float:
        """Share of the time spent in float-weight products of these operator kinds."""
        return sum(x.share for x in self.file.kinds if x.role == "float_weight" and x.kind in kinds)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _unpacking(figures: Figures) -> str | None:
    made = [x for x in figures.file.kinds if x.role == "unpacking" and x.kind == "DequantizeLinear"]
    share = sum(each.share for each in made)
    if share < _UNPACKING:
        return None
    nodes = _count(sum(each.nodes for each in made), "DequantizeLinear node")
    stage = "quantize/int8_dynamic writes MatMulInteger"
    if any(each.made and each.kind in _CONVOLUTIONS for each in figures.file.float_products):
        stage = "quantize/int8_static does so for convolutions, too"
    return (
        f"{_percent(share)} of the time goes to {nodes}, making the same floats out of stored integers in "
        f"every call. Let the products take the integers: {stage}."
    )


def _float_weights(figures: Figures) -> str | None:
    file, part = figures.file, figures.file.part("float_weight")
    if part.share < _FLOAT_WEIGHTS:
        return None
    names = ", ".join(each.name for each in file.float_products[:_NAMED])
    more = file.float_product_count - min(_NAMED, len(file.float_products))
    named = names + (f" and {more} more" if more else "")
    count = _count(file.float_product_count, "product")
    begin = f"{_percent(part.share)} of the time is in {count} of float weights ({named})"
    if {each.kind for each in file.float_products} <= _ALWAYS_FLOAT:
        return (
            f"{begin}, and ONNX Runtime has no GRU or RNN of integers: fewer hidden units (prune/channels, "
            "distill/student), or an LSTM, which it has."
        )
    transposed, convolutions = figures.float_share(_TRANSPOSED), figures.float_share(_CONVOLUTIONS)
    if transposed > part.share / 2:
        return (
            f"{begin}, most of it in transposed convolutions, which no stage quantizes: fewer or narrower "
            "layers (distill/student) shrink them."
        )
    if convolutions > part.share / 2:
        return (
            f"{begin}, most of it in convolutions: quantize/int8_static makes them products of integers "
            "(quantize/int8_dynamic leaves them float), prune/channels makes them narrower."
        )
    gain = ""
    if file.if_quantized is not None:
        gain = (
            " At the rate of the integer products measured here, and if rounding the activations cost "
            f"nothing, a call would be {file.if_quantized:.1f}x faster."
        )
    if figures.quantized:
        return f"{begin}: quantize them too, don't skip them.{gain}"
    return f"{begin}: quantize/int8_dynamic makes them products of integers.{gain}"


def _low_bit(figures: Figures) -> str | None:
    file, part = figures.file, figures.file.part("low_bit")
    if part.share < _LOW_BIT:
        return None
    bits = " and ".join(map(str, file.low_bits)) or "few"
    how = (
        "multiplies with activations rounded block by block"
        if file.low_bits_by_block
        else "makes float first"
    )
    return (
        f"{_percent(part.share)} of the time is in {_count(part.nodes, 'product')} of {bits}-bit weights, "
        f"which ONNX Runtime {how}: with more than a few tokens a call that buys size, not speed. For speed "
        "use quantize/int8_dynamic, whose products are of integers."
    )


def _fused_norm(figures: Figures) -> str | None:
    fused, alone = figures.kind("SkipLayerNormalization"), figures.kind("LayerNormalization")
    if fused is None or alone is None or not (fused.numbers and alone.numbers and alone.ms):
        return None
    times = (fused.ms / fused.numbers) / (alone.ms / alone.numbers)
    if fused.share < _FUSED_NORM or times < _SLOW_NORM:
        return None
    return (
        f"{_percent(fused.share)} of the time is in {_count(fused.nodes, 'SkipLayerNormalization node')}: "
        f"{times:.1f} times as long for each number as LayerNormalization takes in this file. ONNX Runtime "
        "makes it of Add and LayerNormalization when it loads the file; an Add that is written as a Sum of "
        "two stays apart, which changes no answer. modelpress run and modelpress export write it so."
    )


def _between(figures: Figures) -> str | None:
    share, each_ms = figures.file.between_share, figures.file.wall_ms / max(figures.file.nodes, 1)
    if share < _BETWEEN and each_ms < _LAUNCH_MS:
        return (
            f"A call takes {1e3 * figures.file.wall_ms:.0f} µs for {figures.file.nodes:,} nodes, "
            f"{1e3 * each_ms:.1f} µs for each, about what launching one takes: send more rows in a call, or "
            "take layers away; smaller weights won't help."
        )
    if share < _BETWEEN:
        return None
    return (
        f"{_percent(share)} of the time is the runtime's own, launching {figures.file.nodes:,} nodes: "
        "send more rows in a call, or take layers away; smaller weights won't help."
    )


def _attention(figures: Figures) -> str | None:
    part = figures.file.part("activations")
    if part.share < _ATTENTION:
        return None
    return (
        f"{_percent(part.share)} of the time is in products of two activations (attention scores and "
        "context), which quantizing weights can't touch: remove heads (prune/heads, prune/structured) or "
        "send shorter texts; they grow with the square of the length."
    )


def _quantizing(figures: Figures) -> str | None:
    part, integer = figures.file.part("quantizing"), figures.file.part("integer")
    if part.share < _QUANTIZING:
        return None
    return (
        f"{_percent(part.share)} of the time is rounding activations and scaling products back, and "
        f"{_percent(integer.share)} the products of integers themselves: fewer bits won't help. Narrower or "
        "fewer layers shrink both (prune/structured, prune/width, distill/logits)."
    )


def _around(figures: Figures) -> str | None:
    share = figures.file.around_share
    if share < _AROUND:
        return None
    threads = "more threads, " if figures.threads < figures.cores else ""
    longest = next((each for each in figures.file.kinds if each.role in ("other", "quantizing")), None)
    most = "" if longest is None else f" (the largest piece: {longest.kind}, {_percent(longest.share)})"
    return (
        f"{_percent(share)} of the time is outside products{most}: {threads}fewer or narrower layers "
        "(distill/logits, prune/structured, prune/width) help, more quantization doesn't."
    )


def _nothing_stands_out(figures: Figures) -> str:
    file = figures.file
    largest = max(file.parts, key=lambda part: part.share, default=None)
    if largest is not None and largest.role == "integer":
        return (
            f"{_percent(largest.share)} of the time is in products of integers: only fewer multiply-adds are "
            "faster (prune/structured, prune/width, distill/logits), or a processor with wider integer units."
        )
    return (
        "No one part stands out: fewer or narrower layers (prune/structured, prune/width, distill/logits) "
        "shrink all of them."
    )


RULES: tuple[Callable[[Figures], str | None], ...] = (
    _unpacking,
    _float_weights,
    _low_bit,
    _fused_norm,
    _between,
    _attention,
    _quantizing,
    _around,
    _nothing_stands_out,
)


def advice(figures: Figures) -> str:
    """Return the sentence of the first rule that matches."""
    said = (rule(figures) for rule in RULES)
    return next(sentence for sentence in said if sentence is not None)


def instruction_words(instruction_sets: Sequence[str]) -> str:
    """Describe what this processor's instruction sets mean for integer products."""
    have = set(instruction_sets)
    if "amx_int8" in have:
        return (
            "AMX (amx_int8): products of integers are made in tiles, many multiply-adds in the place of one "
            "of floats."
        )
    if have & {"avx512_vnni", "avx_vnni"}:
        name = "avx512_vnni" if "avx512_vnni" in have else "avx_vnni"
        return (
            f"VNNI ({name}), no AMX for integers: four multiply-adds of integers in the place of one of "
            "floats, at best."
        )
    if have & {"i8mm", "asimddp"}:
        name = "i8mm" if "i8mm" in have else "asimddp"
        return (
            f"Arm's products of integers ({name}): four multiply-adds or more in the place of one of floats."
        )
    if have & {"avx2", "avx512f"}:
        return (
            "neither VNNI nor AMX: products of integers take three instructions where newer processors take "
            "one, so expect less of int8 here; sums of large weights can saturate (reduce_range: true avoids "
            "that)."
        )
    return "the instruction sets of this processor are not known."
