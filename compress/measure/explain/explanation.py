"""Why a file is as fast as it is: its multiply-adds and its time, by what they are spent on.

Amdahl's bound (1967): if a part that takes the share p of a call took no time, and nothing else changed, the
call would be 1 / (1 - p) times faster. It is a bound, because a part never takes no time.
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
    "Part",
    "describe",
    "with_integer_rate",
]

_MOST_PRODUCTS = 20
_ROUNDING = 1e-9
_PER_GIGA = 1e6  # a MAC in a millisecond is 1e-6 of a GMAC in a second


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Part):
    """What the nodes of one role do.

    Attributes:
        macs: multiply-adds a call.
        macs_share: of all in the file.
        share: of the time of a call.
        bound: how many times faster a call would be if this took no time; None if nothing would be left.
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
        """Billions of multiply-adds a second, where both are there to divide."""
        return self.macs / self.ms / _PER_GIGA if self.macs and self.ms else None


class KindTime(_Part):
    """All nodes of one operator kind that serve the same end; `numbers` is how many numbers they give out."""

    kind: str
    role: Role
    nodes: int
    ms: float
    share: float
    numbers: int


class FloatProduct(_Part):
    """A product of a float weight, which quantization could change.

    Attributes:
        made: the weight is stored as integers and made float again in each call.
    """

    name: str
    kind: str
    macs: int
    ms: float
    share: float
    made: bool


class FileExplanation(_Part):
    """One file on one batch. Shares are of `wall_ms`.

    Attributes:
        wall_ms: median time of a call, not profiled.
        nodes_ms: sum over nodes of each one's median time in a profile, less the floor.
        between_ms: what is left of `wall_ms`: the runtime itself, launching nodes; 0 if it can't be told from
            what the nodes take, because the profile made them look longer than the call.
        floor_ms: what was taken off each node's time, for launching it and for profiling.
        profiling_ms: what profiling added to a call; no part of the other figures.
        calls: how many the medians are over.
        parts: by what the nodes are for, in the order of `products.ROLES`; those that are there.
        kinds: by operator kind, the longest first.
        float_products: products of float weights, the longest first, 20 at most.
        float_product_count: how many there are.
        low_bits: bits of the weights of products with few.
        low_bits_by_block: whether these round activations too and are made in integers, block by block.
        counts: nodes of QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear and Cast.
        uncounted: products whose multiply-adds are not known, kind -> nodes.
        if_quantized: how many times faster a call would be if the products of float weights ran at the rate
            of the integer ones of this file (or of the other), and quantizing for them were free; None where
            no such rate is known.
    """

    file: str
    nodes: int
    wall_ms: float
    nodes_ms: float
    between_ms: float
    floor_ms: float
    profiling_ms: float
    calls: int
    parts: tuple[Part, ...]
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

    def part(self, role: Role) -> Part:
        """What the nodes of a role do; zeros if there are none."""
        none = Part(role=role, nodes=0, macs=0, macs_share=0.0, ms=0.0, share=0.0, bound=1.0)
        return next((part for part in self.parts if part.role == role), none)

    @property
    def between_share(self) -> float:
        """Share of the time that no node takes."""
        return self.between_ms / self.wall_ms

    @property
    def uncounted_share(self) -> float:
        """Share of the time of nodes that may be products, of which that could not be worked out."""
        return sum(each.share for each in self.kinds if each.role == "other" and each.kind in self.uncounted)

    @property
    def around_share(self) -> float:
        """Share of the time that no product takes: other nodes, and the runtime between nodes."""
        return 1 - sum(self.part(role).share for role in PRODUCT_ROLES) - self.uncounted_share


class Explanation(_Part):
    """Why the candidate is as fast as it is, beside a baseline if there is one.

    Attributes:
        made_up: what the batch is, if it isn't real rows.
        advice: the one change that would help the candidate most, chosen by rule.
    """

    batch: int
    sequence: int
    threads: int
    cores: int
    made_up: str
    baseline: FileExplanation | None
    candidate: FileExplanation
    instruction_sets: tuple[str, ...]
    advice: str


def describe(file: str, profile: Profile) -> FileExplanation:
    """Sum up one file's profile."""
    graph = profile.graph
    total = profile.wall_ms
    kinds: dict[tuple[str, Role], list[float]] = defaultdict(lambda: [0, 0.0, 0])
    for key, node in profile.nodes.items():
        sums = kinds[node.kind, graph.roles.get(key, "other")]
        for place, value in enumerate((1, node.ms, node.numbers)):
            sums[place] += value
    floats = [
        FloatProduct(
            name=product.name,
            kind=product.kind,
            macs=product.macs,
            ms=profile.nodes[product.key].ms,
            share=profile.nodes[product.key].ms / total,
            made=product.made,
        )
        for product in graph.products
        if product.role == "float_weight"
    ]
    low = [product for product in graph.products if product.role == "low_bit"]
    parts = [_part(profile, role, total) for role in ROLES]
    return FileExplanation(
        file=file,
        nodes=graph.nodes,
        wall_ms=profile.wall_ms,
        nodes_ms=profile.nodes_ms,
        between_ms=_left(total, profile.nodes_ms),
        floor_ms=profile.floor_ms,
        profiling_ms=max(profile.profiled_ms - profile.wall_ms, 0.0),
        calls=profile.calls,
        parts=tuple(part for part in parts if part.nodes or part.macs),
        kinds=tuple(
            KindTime(kind=kind, role=role, nodes=int(n), ms=ms, share=ms / total, numbers=int(numbers))
            for (kind, role), (n, ms, numbers) in sorted(kinds.items(), key=lambda each: -each[1][1])
        ),
        float_products=tuple(sorted(floats, key=lambda each: -each.ms)[:_MOST_PRODUCTS]),
        float_product_count=len(floats),
        low_bits=tuple(sorted({product.bits for product in low if product.bits is not None})),
        low_bits_by_block=bool(low) and all(product.by_block for product in low),
        counts=graph.counts,
        uncounted=graph.uncounted,
    )


def _left(total: float, nodes: float) -> float:
    return total - nodes if nodes < total * (1 - _ROUNDING) else 0.0


def _part(profile: Profile, role: Role, total: float) -> Part:
    times = [node.ms for key, node in profile.nodes.items() if profile.graph.roles.get(key, "other") == role]
    ms = sum(times)
    return Part(
        role=role,
        nodes=len(times),
        macs=profile.graph.macs(role),
        macs_share=profile.graph.share(role),
        ms=ms,
        share=ms / total,
        bound=total / (total - ms) if ms < total else None,
    )


def with_integer_rate(found: FileExplanation, other: FileExplanation | None = None) -> FileExplanation:
    """Work out `if_quantized` at the rate of a file's own integer products, or else of another's."""
    rates = [each.part("integer").gmacs_per_s for each in (found, other) if each is not None]
    rate = next((rate for rate in rates if rate), None)
    part = found.part("float_weight")
    if rate is None or not part.macs:
        return found
    quantized_ms = min(part.macs / rate / _PER_GIGA, part.ms)
    return found.model_copy(update={"if_quantized": found.wall_ms / (found.wall_ms - part.ms + quantized_ms)})
