"""Breakdown of a file's multiply-adds and time by what they are spent on.

Amdahl's bound (1967): if a part with share p of a call took no time and nothing else changed, the call would
be 1 / (1 - p) times faster. It is an upper bound, because no part is free.
"""

from __future__ import annotations

from collections import defaultdict

from pydantic import BaseModel, ConfigDict

from compress.measure.explain.products import PRODUCT_ROLES, ROLES, Role
from compress.measure.explain.profile import Profile

__all__ = [
    "Explanation",
    "FileExplanation",
    "FloatProduct",
    "KindTime",
    "RoleTime",
    "describe",
    "with_integer_rate",
]

_MOST_PRODUCTS = 20
_ROUNDING = 1e-9
_PER_GIGA = 1e6  # 1 MAC/ms is 1e-6 GMAC/s


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RoleTime(_Facts):
    """The nodes of one role.

    Attributes:
        role: what the nodes do.
        nodes: number of nodes.
        ms: time per call.
        macs: multiply-adds per call.
        macs_share: share of the file's multiply-adds.
        share: share of a call's time.
        bound: how many times faster a call would be if this took no time; None if nothing else takes time.
    """

    role: Role
    nodes: int
    macs: int
    macs_share: float
    ms: float
    share: float
    bound: float | None

    @property
    def gmacs_per_s(self) -> float | None:
        """Billions of multiply-adds per second; None if either figure is zero."""
        return self.macs / self.ms / _PER_GIGA if self.macs and self.ms else None


class KindTime(_Facts):
    """All nodes of one operator kind and role; `numbers` is how many elements they output.

    Attributes:
        kind: operator.
        role: as in RoleTime.
        nodes: number of nodes.
        ms: time per call.
        share: share of a call's time.
        numbers: elements that they output per call.
    """

    kind: str
    role: Role
    nodes: int
    ms: float
    share: float
    numbers: int


class FloatProduct(_Facts):
    """A product with a float weight, which quantization could change.

    Attributes:
        name: of its node.
        kind: operator.
        macs: multiply-adds per call.
        ms: time per call.
        share: share of a call's time.
        made: whether the weight is stored as integers and dequantized in each call.
    """

    name: str
    kind: str
    macs: int
    ms: float
    share: float
    made: bool


class FileExplanation(_Facts):
    """One file on one batch. Shares are of `wall_ms`.

    Attributes:
        file: name of the file.
        nodes: number of nodes that are run.
        wall_ms: median time of an unprofiled call.
        nodes_ms: sum over nodes of their median time in a profile, less the floor.
        between_ms: rest of `wall_ms`: the runtime's own time, launching nodes; 0 if indistinguishable,
            because profiling made the nodes look longer than the call.
        floor_ms: subtracted from each node's time, for launching and profiling it.
        profiling_ms: time that profiling added to a call; not part of the other figures.
        calls: number of calls that the medians are over.
        parts: by role, in the order of `products.ROLES`; only those that occur.
        kinds: by operator kind, longest first.
        float_products: products with float weights, longest first, at most 20.
        float_product_count: how many there are.
        low_bits: weight bits of the low-bit products.
        low_bits_by_block: whether these also round activations and multiply integers, block by block.
        counts: number of QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear and Cast nodes.
        uncounted: products with unknown multiply-adds, kind -> nodes.
        if_quantized: how many times faster a call would be if the float-weight products ran at the rate of
            the integer products of this file (or of the other) and quantizing for them were free; None if no
            such rate is known.
    """

    file: str
    nodes: int
    wall_ms: float
    nodes_ms: float
    between_ms: float
    floor_ms: float
    profiling_ms: float
    calls: int
    parts: tuple[RoleTime, ...]
    kinds: tuple[KindTime, ...]
    float_products: tuple[FloatProduct, ...]
    float_product_count: int
    low_bits: tuple[int, ...]
    low_bits_by_block: bool
    counts: dict[str, int]
    uncounted: dict[str, int]
    if_quantized: float | None = None

    @property
    def macs(self) -> int:
        """All multiply-adds of a call."""
        return sum(part.macs for part in self.parts)

    def part(self, role: Role) -> RoleTime:
        """Totals of one role; zeros if it has no nodes."""
        none = RoleTime(role=role, nodes=0, macs=0, macs_share=0.0, ms=0.0, share=0.0, bound=1.0)
        return next((part for part in self.parts if part.role == role), none)

    @property
    def between_share(self) -> float:
        """Share of the time spent outside nodes."""
        return self.between_ms / self.wall_ms

    @property
    def uncounted_share(self) -> float:
        """Share of the time of nodes that may be products but whose multiply-adds are unknown."""
        return sum(each.share for each in self.kinds if each.role == "other" and each.kind in self.uncounted)

    @property
    def around_share(self) -> float:
        """Share of the time spent outside products: in other nodes, and between nodes."""
        return 1 - sum(self.part(role).share for role in PRODUCT_ROLES) - self.uncounted_share


class Explanation(_Facts):
    """Where the candidate's time goes, compared with a baseline if there is one.

    Attributes:
        batch: rows per call.
        sequence: tokens per row; None for rows without a sequence.
        threads: ONNX Runtime threads.
        cores: cores that the process may use.
        baseline: the file compared with; None if there is none.
        candidate: the file.
        instruction_sets: those of the processor that matter for integer products.
        made_up: describes the batch if it isn't real rows.
        advice: the one change that would help the candidate most, chosen by rule.
    """

    batch: int
    sequence: int | None
    threads: int
    cores: int
    made_up: str
    baseline: FileExplanation | None
    candidate: FileExplanation
    instruction_sets: tuple[str, ...]
    advice: str


def describe(file: str, profile: Profile) -> FileExplanation:
    """Summarize one file's profile."""
    graph, total = profile.graph, profile.wall_ms
    floats = _float_products(profile)
    low = [product for product in graph.products if product.role == "low_bit"]
    parts = [_part(profile, role, total) for role in ROLES]
    return FileExplanation(
        file=file,
        nodes=graph.nodes,
        wall_ms=total,
        nodes_ms=profile.nodes_ms,
        between_ms=_left(total, profile.nodes_ms),
        floor_ms=profile.floor_ms,
        profiling_ms=max(profile.profiled_ms - total, 0.0),
        calls=profile.calls,
        parts=tuple(part for part in parts if part.nodes or part.macs),
        kinds=_kinds(profile),
        float_products=tuple(floats[:_MOST_PRODUCTS]),
        float_product_count=len(floats),
        low_bits=tuple(sorted({product.bits for product in low if product.bits is not None})),
        low_bits_by_block=bool(low) and all(product.by_block for product in low),
        counts=graph.counts,
        uncounted=graph.uncounted,
    )


def _float_products(profile: Profile) -> list[FloatProduct]:
    """Products with float weights, longest first."""
    found = [
        FloatProduct(
            name=product.name,
            kind=product.kind,
            macs=product.macs,
            ms=profile.nodes[product.key].ms,
            share=profile.nodes[product.key].ms / profile.wall_ms,
            made=product.made,
        )
        for product in profile.graph.products
        if product.role == "float_weight"
    ]
    return sorted(found, key=lambda each: -each.ms)


def _kinds(profile: Profile) -> tuple[KindTime, ...]:
    """Sums of each operator kind and role, longest first."""
    kinds: dict[tuple[str, Role], list[float]] = defaultdict(lambda: [0, 0.0, 0])
    for key, node in profile.nodes.items():
        sums = kinds[node.kind, profile.graph.roles.get(key, "other")]
        for place, value in enumerate((1, node.ms, node.numbers)):
            sums[place] += value
    return tuple(
        KindTime(kind=kind, role=role, nodes=int(n), ms=ms, share=ms / profile.wall_ms, numbers=int(numbers))
        for (kind, role), (n, ms, numbers) in sorted(kinds.items(), key=lambda each: -each[1][1])
    )


def _left(total: float, nodes: float) -> float:
    return total - nodes if nodes < total * (1 - _ROUNDING) else 0.0


def _part(profile: Profile, role: Role, total: float) -> RoleTime:
    times = [node.ms for key, node in profile.nodes.items() if profile.graph.roles.get(key, "other") == role]
    ms = sum(times)
    return RoleTime(
        role=role,
        nodes=len(times),
        macs=profile.graph.macs(role),
        macs_share=profile.graph.share(role),
        ms=ms,
        share=ms / total,
        bound=total / (total - ms) if ms < total else None,
    )


def with_integer_rate(found: FileExplanation, other: FileExplanation | None = None) -> FileExplanation:
    """Fill in `if_quantized` from the file's own integer rate, or else from the other file's."""
    rates = [each.part("integer").gmacs_per_s for each in (found, other) if each is not None]
    rate = next((rate for rate in rates if rate), None)
    part = found.part("float_weight")
    if rate is None or not part.macs:
        return found
    quantized_ms = min(part.macs / rate / _PER_GIGA, part.ms)
    return found.model_copy(update={"if_quantized": found.wall_ms / (found.wall_ms - part.ms + quantized_ms)})
