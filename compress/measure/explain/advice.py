"""The single most useful change: an ordered table of rules; the first match wins.

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
    stage = "use quantize/int8_dynamic, which writes MatMulInteger"
    if any(each.made and each.kind in _CONVOLUTIONS for each in figures.file.float_products):
        stage = "use quantize/int8_static, which also does this for convolutions"
    return (
        f"{_percent(share)} of the time is spent in {nodes} that convert the same stored integers to float "
        f"in every call. Multiply the integers directly instead: {stage}."
    )


def _float_weights(figures: Figures) -> str | None:
    file, part = figures.file, figures.file.part("float_weight")
    if part.share < _FLOAT_WEIGHTS:
        return None
    names = ", ".join(each.name for each in file.float_products[:_NAMED])
    more = file.float_product_count - min(_NAMED, len(file.float_products))
    named = names + (f" and {more} more" if more else "")
    count = _count(file.float_product_count, "matrix product")
    begin = f"{_percent(part.share)} of the time is spent in {count} with float weights ({named})"
    if {each.kind for each in file.float_products} <= _ALWAYS_FLOAT:
        return (
            f"{begin}. ONNX Runtime has no integer GRU or RNN: use fewer hidden units (prune/channels, "
            "distill/student), or an LSTM, which has an integer kernel."
        )
    transposed, convolutions = figures.float_share(_TRANSPOSED), figures.float_share(_CONVOLUTIONS)
    if transposed > part.share / 2:
        return (
            f"{begin}, mostly in transposed convolutions, which no stage quantizes: use fewer or narrower "
            "layers (distill/student)."
        )
    if convolutions > part.share / 2:
        return (
            f"{begin}, mostly in convolutions: use quantize/int8_static to make them integer products "
            "(quantize/int8_dynamic leaves them float), or prune/channels to make them narrower."
        )
    gain = ""
    if file.if_quantized is not None:
        gain = (
            f" A call would be {file.if_quantized:.1f}x faster if they ran at the rate of the integer "
            "products measured here and rounding the activations cost nothing."
        )
    if figures.quantized:
        return f"{begin}: quantize them too instead of skipping them.{gain}"
    return f"{begin}: use quantize/int8_dynamic to make them integer products.{gain}"


def _low_bit(figures: Figures) -> str | None:
    file, part = figures.file, figures.file.part("low_bit")
    if part.share < _LOW_BIT:
        return None
    bits = " and ".join(map(str, file.low_bits)) or "few"
    how = (
        "multiplies with activations that are rounded block by block"
        if file.low_bits_by_block
        else "converts to float first"
    )
    return (
        f"{_percent(part.share)} of the time is spent in {_count(part.nodes, 'matrix product')} with "
        f"{bits}-bit weights, which ONNX Runtime {how}. With more than a few tokens per call this saves "
        "size, not time: for speed use quantize/int8_dynamic, whose products are of integers."
    )


def _fused_norm(figures: Figures) -> str | None:
    fused, alone = figures.kind("SkipLayerNormalization"), figures.kind("LayerNormalization")
    if fused is None or alone is None or not (fused.numbers and alone.numbers and alone.ms):
        return None
    times = (fused.ms / fused.numbers) / (alone.ms / alone.numbers)
    if fused.share < _FUSED_NORM or times < _SLOW_NORM:
        return None
    return (
        f"{_percent(fused.share)} of the time is spent in "
        f"{_count(fused.nodes, 'SkipLayerNormalization node')}, {times:.1f} times as long per element as in "
        "LayerNormalization in this file. ONNX Runtime fuses Add and LayerNormalization into it when it "
        "loads the file; it does not fuse a Sum of two inputs, which gives the same result. modelpress run "
        "and modelpress export write Sum."
    )


def _between(figures: Figures) -> str | None:
    share, each_ms = figures.file.between_share, figures.file.wall_ms / max(figures.file.nodes, 1)
    if share < _BETWEEN and each_ms < _LAUNCH_MS:
        return (
            f"A call takes {1e3 * figures.file.wall_ms:.0f} µs for {figures.file.nodes:,} nodes, or "
            f"{1e3 * each_ms:.1f} µs per node, about the time to launch one: send more rows per call, or "
            "remove layers; smaller weights won't help."
        )
    if share < _BETWEEN:
        return None
    return (
        f"{_percent(share)} of the time is overhead of the runtime, which launches {figures.file.nodes:,} "
        "nodes: send more rows per call, or remove layers; smaller weights won't help."
    )


def _attention(figures: Figures) -> str | None:
    part = figures.file.part("activations")
    if part.share < _ATTENTION:
        return None
    return (
        f"{_percent(part.share)} of the time is spent in products of two activations (attention scores and "
        "context), which weight quantization does not change and which grow with the square of the length: "
        "remove heads (prune/heads, prune/structured) or send shorter texts."
    )


def _quantizing(figures: Figures) -> str | None:
    part, integer = figures.file.part("quantizing"), figures.file.part("integer")
    if part.share < _QUANTIZING:
        return None
    return (
        f"{_percent(part.share)} of the time is spent rounding activations and rescaling products, and "
        f"{_percent(integer.share)} in the integer products themselves, so fewer bits won't help: use "
        "narrower or fewer layers (prune/structured, prune/width, distill/logits)."
    )


def _around(figures: Figures) -> str | None:
    share = figures.file.around_share
    if share < _AROUND:
        return None
    threads = "more threads, " if figures.threads < figures.cores else ""
    longest = next((each for each in figures.file.kinds if each.role in ("other", "quantizing")), None)
    most = "" if longest is None else f" (mostly {longest.kind}, {_percent(longest.share)})"
    return (
        f"{_percent(share)} of the time is spent outside matrix products{most}, where more quantization "
        f"won't help: use {threads}fewer or narrower layers (distill/logits, prune/structured, prune/width)."
    )


def _no_dominant_part(figures: Figures) -> str:
    file = figures.file
    largest = max(file.parts, key=lambda part: part.share, default=None)
    if largest is not None and largest.role == "integer":
        return (
            f"{_percent(largest.share)} of the time is spent in integer products: only fewer multiply-adds "
            "(prune/structured, prune/width, distill/logits) or a processor with wider integer units are "
            "faster."
        )
    return (
        "No single part dominates: use fewer or narrower layers (prune/structured, prune/width, "
        "distill/logits), which shrink all parts."
    )


RULES: dict[str, Callable[[Figures], str | None]] = {
    "unpacking": _unpacking,
    "float_weights": _float_weights,
    "low_bit": _low_bit,
    "fused_norm": _fused_norm,
    "between": _between,
    "attention": _attention,
    "quantizing": _quantizing,
    "around": _around,
    "no_dominant_part": _no_dominant_part,
}


def advice(figures: Figures) -> tuple[str, str]:
    """Return the name and the sentence of the first rule that matches."""
    said = ((name, rule(figures)) for name, rule in RULES.items())
    return next((name, sentence) for name, sentence in said if sentence is not None)


def instruction_words(instruction_sets: Sequence[str]) -> str:
    """Describe what this processor's instruction sets mean for integer products, as a phrase after "has"."""
    have = set(instruction_sets)
    if "amx_int8" in have:
        return "AMX (amx_int8), which computes integer products in tiles, far faster than float products."
    if have & {"avx512_vnni", "avx_vnni"}:
        name = "avx512_vnni" if "avx512_vnni" in have else "avx_vnni"
        return (
            f"VNNI ({name}) but no integer AMX: at best four integer multiply-adds in the time of one float "
            "multiply-add."
        )
    if have & {"i8mm", "asimddp"}:
        name = "i8mm" if "i8mm" in have else "asimddp"
        return (
            f"Arm's integer dot products ({name}): four or more integer multiply-adds in the time of one "
            "float multiply-add."
        )
    if have & {"avx2", "avx512f"}:
        return (
            "neither VNNI nor AMX: integer products take three instructions where newer processors take one, "
            "so int8 gains less here, and sums of large weights can saturate (reduce_range: true prevents "
            "that)."
        )
    return "unknown instruction sets."
