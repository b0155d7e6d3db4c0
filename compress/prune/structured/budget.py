"""Budgets: limits on a model's cost, which is a fixed part plus one cost per site.

Units: ms of the latency table for speedup and latency_ms; bytes of stored weights for size_mb; multiply-adds
of the sites in a forward pass of the longest calibration row for macs; weights of the sites for sparsity.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compress.errors import StageError
from compress.prune.structured.latency_table import LatencyTable
from compress.timing import Timer

if TYPE_CHECKING:
    from torch import nn

    from compress.model.observe.capture import Call
    from compress.model.structure.sites import Site

__all__ = ["Budget", "BudgetKind", "budget_of", "macs_of", "weights_of"]

_SHRINK_TIME = ("quantize/int8_dynamic",)
_SHRINK_SIZE = ("prune/embeddings", "prune/vocabulary", "quantize/int8_dynamic")

BudgetKind = Literal["speedup", "latency_ms", "size_mb", "macs", "sparsity"]


@dataclass(frozen=True)
class Budget:
    """A limit on the cost, and how the cost is computed.

    Attributes:
        limit: for fixed part and sites together.
        fixed: cost of the model with the fewest units everywhere.
        reference: cost of the recipe's uncompressed model (for `sparsity`: of its sites).
        unit_costs: cost of one unit of each site, where cost is linear; otherwise the table gives it.
        counted: the recipe's later quantize stages, if costs are measured after them.
        stages: names of all stages in the recipe; errors don't suggest adding them.
    """

    kind: BudgetKind
    value: float
    limit: float
    fixed: float
    reference: float
    unit_costs: tuple[float, ...] = ()
    table: LatencyTable | None = None
    counted: str = ""
    stages: tuple[str, ...] = ()

    def cost(self, model: nn.Module, index: int, site: Site, units: int, least: int) -> float:
        """Cost of a number of units of a site beyond the fewest."""
        if self.table is not None:
            return self.table.ms(model, site, units)
        return self.unit_costs[index] * (units - least)

    def total(
        self, model: nn.Module, sites: Sequence[Site], units: Sequence[int], least: Sequence[int]
    ) -> float:
        """Cost of the whole model with the given number of units at each site."""
        return self.fixed + sum(
            self.cost(model, index, *each) for index, each in enumerate(zip(sites, units, least, strict=True))
        )

    def promise(self, total: float) -> dict[str, float]:
        """Convert a total cost to the budget's own quantity."""
        if self.kind in ("speedup", "latency_ms"):
            return {"speedup": self.reference / total, "latency_ms": total}
        if self.kind == "size_mb":
            return {"size_mb": total / 1e6}
        if self.kind == "macs":
            return {"macs": total / self.reference}
        return {"sparsity": 1 - total / self.reference}

    def check(self, now: float, best: float) -> None:
        """Refuse a budget that is met already or can't be met.

        Args:
            now, best: cost of the unchanged model, and with the fewest units everywhere.

        Raises:
            StageError: gives the current and the best possible value.
        """
        asked = f"prune/structured: {self.kind} {self.value:g}"
        counted = f", including {self.counted}, which follows" if self.counted else ""
        met, out_of_reach = now <= self.limit, best > self.limit
        at, at_best = _said(self.kind, self.promise(now)), _said(self.kind, self.promise(best))
        disturbed = self.table is not None and self.table.disturbed_rounds > 0
        # Other work makes a call slower, so a latency met despite it is met; a ratio can move either way.
        if disturbed and (out_of_reach or (met and self.kind == "speedup")):
            assert self.table is not None
            raise StageError(
                f"{asked}: can't tell whether this can be met, because other work disturbed "
                f"{self.table.disturbed_rounds} of the {self.table.rounds} rounds of the latency table, "
                f"which has {at} before the cut and {at_best} with the fewest units in every "
                f"layer{counted}. Stop other work and run again, or use a budget of macs, size_mb or "
                "sparsity, which is not timed",
                see="how-to/prune-to-a-latency",
            )
        if met:
            raise StageError(
                f"{asked} is already met: {at} before the cut{counted}; use a tighter budget, or omit the "
                "stage",
                see="how-to/prune-to-a-latency",
            )
        if out_of_reach:
            raise StageError(
                f"{asked} can't be met: {at_best} is the best, with the fewest units in every "
                f"layer{counted}; {self._way_out()}",
                see="how-to/prune-to-a-latency",
            )

    def _way_out(self) -> str:
        """Advice: what can't be cut, and which stages missing from the recipe would shrink it."""
        if self.kind in ("macs", "sparsity"):
            return "use a looser budget, or lower min_heads and min_neurons"
        shrink = _SHRINK_TIME if self.kind in ("speedup", "latency_ms") else _SHRINK_SIZE
        quantized = any(name.startswith("quantize/") for name in self.stages)
        more = [
            name
            for name in shrink
            if name not in self.stages and not (quantized and name.startswith("quantize/"))
        ]
        add = f", or add a stage that shrinks those: {', '.join(more)}" if more else ""
        return f"embeddings, norms and classifier are not cut. Use a looser budget{add}"


def _said(kind: BudgetKind, promise: dict[str, float]) -> str:
    shown = {"speedup": "{:.2f}x", "latency_ms": "{:.2f} ms", "size_mb": "{:.1f} MB", "macs": "{:.3f}"}
    return f"{kind} {shown.get(kind, '{:.3f}').format(promise[kind])}"


def budget_of(
    kind: BudgetKind,
    value: float,
    model: nn.Module,
    sites: Sequence[Site],
    least: Sequence[int],
    *,
    calls: Mapping[str, Sequence[Call]],
    reference: float | None = None,
    timer: Timer | None = None,
    table: LatencyTable | None = None,
) -> Budget:
    """Convert a budget to costs.

    Args:
        calls: of each projection in a forward pass, for `macs`; see `calls_of`.
        reference: what `macs` and `sparsity` are fractions of, if the model is already cut; None: the current
            cost of the model's sites.
        timer: knows how weights are stored, for `size_mb`, and the recipe's stages.
        table: for `speedup` and `latency_ms`.
    """
    stages = () if timer is None else timer.stages
    if kind in ("speedup", "latency_ms"):
        assert table is not None
        limit = table.baseline_ms / value if kind == "speedup" else value
        return Budget(
            kind,
            value,
            limit,
            table.fixed_ms,
            table.baseline_ms,
            table=table,
            counted=_counted(table.precision),
            stages=stages,
        )
    if kind == "size_mb":
        assert timer is not None
        whole = float(timer.size_bytes(model))
        each = _bytes_per_unit(model, sites, timer, whole)
        return Budget(
            kind,
            value,
            value * 1e6,
            _fixed(whole, model, sites, each, least),
            whole,
            each,
            counted=_counted(timer.precision),
            stages=stages,
        )
    if kind == "macs":
        whole = macs_of(model, sites, calls)
        each = tuple(_macs_per_unit(model, site, calls) for site in sites)
        reference = whole if reference is None else reference
        return Budget(
            kind, value, value * reference, _fixed(whole, model, sites, each, least), reference, each
        )
    each = tuple(weights_of(model, site) / site.units(model) for site in sites)
    whole = sum(weights_of(model, site) for site in sites)
    reference = whole if reference is None else reference
    left = (1 - value) * reference
    return Budget(kind, value, left, _fixed(whole, model, sites, each, least), reference, each)


def _counted(precision: str) -> str:
    """The later quantize stages included in a cost; empty for float models."""
    return "" if precision == "fp32" else precision


def _fixed(
    whole: float, model: nn.Module, sites: Sequence[Site], each: Sequence[float], least: Sequence[int]
) -> float:
    gone = (cost * (site.units(model) - few) for site, cost, few in zip(sites, each, least, strict=True))
    return whole - sum(gone)


def weights_of(model: nn.Module, site: Site) -> int:
    """Number of weights and biases of a site's producers, and weights of its consumer."""
    producers = [model.get_submodule(each.path) for each in site.producers]
    count = sum(parameter.numel() for module in producers for parameter in module.parameters())
    weight: Any = model.get_submodule(site.consumer).weight
    return int(count + weight.numel())


def _macs_per_unit(model: nn.Module, site: Site, calls: Mapping[str, Sequence[Call]]) -> float:
    macs = 0.0
    for path in site.paths:
        weight: Any = model.get_submodule(path).weight
        macs += weight.numel() / site.units(model) * sum(math.prod(call) for call in calls[path])
    if site.kind == "attention":
        queries, keys = (calls[site.producers[at].path] for at in (0, min(1, len(site.producers) - 1)))
        # Further calls of a projection, as of relative positions, are no rows of the block.
        each = zip(queries, keys, calls[site.consumer], strict=False)
        pairs = sum(rows * s * other for (rows, s), (_, other), _ in each)
        macs += 2 * pairs * site.unit_size  # q k' and the weighted sum of v
    return macs


def macs_of(model: nn.Module, sites: Sequence[Site], calls: Mapping[str, Sequence[Call]]) -> float:
    """Multiply-adds in the sites for the given calls of their projections."""
    return sum(_macs_per_unit(model, site, calls) * site.units(model) for site in sites)


def _bytes_per_unit(model: nn.Module, sites: Sequence[Site], timer: Timer, whole: float) -> tuple[float, ...]:
    """Bytes saved per removed unit at each site, as the recipe stores it; equal sites are measured once."""
    from compress.model.cutting.units import keep_units_

    known: dict[tuple[float, ...], float] = {}
    found = []
    for site in sites:
        units = site.units(model)
        key = (site.unit_size, units, weights_of(model, site))
        if key not in known:
            half = max(1, units // 2)
            cut = copy.deepcopy(model)
            keep_units_(cut, site, range(half))
            known[key] = (whole - timer.size_bytes(cut)) / (units - half) if half < units else 0.0
        found.append(known[key])
    return tuple(found)
