"""Latency table: cost of each number of units of a site, measured on this machine.

The model's layers are copied into one long chain, each copy with one site cut to another width and its other
sites to the fewest units; the chain is exported once, and each layer is timed separately within that graph.
A width costs the time of its layer minus that of an empty one. The fixed part is the whole model with the
fewest units everywhere: embeddings, norms, classifier. Layers plus fixed part must add up to the whole model;
a table that doesn't is timed again, and never cached. ZipLM, arXiv 2302.04089, times blocks in the framework;
here it is the exported block, in the runtime that will serve it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from compress.errors import StageError
from compress.keys import architecture
from compress.prune.structured.candidates import unit_levels
from compress.timing import BlockTimes, Setting, Timer

if TYPE_CHECKING:
    from torch import nn

    from compress.model.structure.sites import Site, Structure

__all__ = ["LatencyTable", "UnitTimes", "measure_table"]

_TRIES = 3  # timings of a table that contradicts itself
# Of the whole model's time. A layer timed alone has its weights in the cache: CPU time deviated by 3 % (fp32,
# 128 tokens) to 23 % (int8, 16 tokens) for a model of 22 million weights; larger models may deviate more.
_AGREES_WITHIN = 0.35
_QUIET_AGREES_WITHIN = 0.7
_MANY = 17  # timed levels of a kind; costs between them are interpolated linearly


class UnitTimes(BaseModel):
    """Cost by number of units, for equal sites.

    Attributes:
        kind: attention or feed_forward.
        shape: columns of a unit and outputs of the consumer; sites of one kind and shape cost the same.
        units: ascending.
        ms: beyond the fewest units.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    shape: tuple[int, int]
    units: tuple[int, ...]
    ms: tuple[float, ...]


class LatencyTable(BaseModel):
    """A latency table and the conditions it was measured under.

    Attributes:
        precision: what the models were timed in: fp32, or the recipe's later quantize stages.
        baseline_ms: the recipe's uncompressed model.
        dense_ms: the model to be cut, after the recipe's later quantize stages.
        fixed_ms: the same model with the fewest units everywhere.
        rounds, disturbed_rounds: as in `compress.timing.BlockTimes`.
    """

    model_config = ConfigDict(frozen=True)

    point: Setting
    precision: str
    machine: dict[str, str]
    baseline_ms: float
    dense_ms: float
    fixed_ms: float
    kinds: tuple[UnitTimes, ...]
    rounds: int = 1
    disturbed_rounds: int = 0

    def ms(self, model: nn.Module, site: Site, units: int) -> float:
        """Cost of a number of units of a site beyond the fewest, interpolated linearly between measured ones.

        Raises:
            StageError: the table has no such site.
        """
        import numpy as np

        shape = _shape(model, site)
        for times in self.kinds:
            if (times.kind, times.shape) == (site.kind, shape):
                return float(np.interp(units, times.units, times.ms))
        raise StageError(f"{site.name}: the latency table has no {site.kind} of this shape")


def measure_table(
    model: nn.Module, structure: Structure, timer: Timer, setting: Setting, *, least: Sequence[int]
) -> LatencyTable:
    """Measure a model's table, or load it from the cache.

    Args:
        least: fewest units of each site; 0 if it may be removed entirely.

    Raises:
        StageError: the model doesn't say where its layers are.
    """
    from compress.model.structure.find import lacking

    if structure.layers is None:
        raise StageError(
            f"{lacking(model, 'layers', 'layers')}, so they can't be timed; use a budget of macs, size_mb or "
            "sparsity",
            see="how-to/own-modules",
        )
    sites = [
        [site.name, site.kind, site.unit_size, few] for site, few in zip(structure.sites, least, strict=True)
    ]
    about = [architecture(model), structure.layers, sites, setting.model_dump()]

    def make() -> dict[str, Any]:
        return _measure(model, structure, timer, setting, least).model_dump(mode="json")

    return LatencyTable.model_validate(timer.remembered(about, make))


def _shape(model: nn.Module, site: Site) -> tuple[int, int]:
    from compress.model.cutting.units import float_linear

    return site.unit_size, float_linear(model, site.consumer).out_features


def _measure(
    model: nn.Module, structure: Structure, timer: Timer, setting: Setting, least: Sequence[int]
) -> LatencyTable:
    from torch import nn

    from compress.model.cutting.units import keep_units_

    assert structure.layers is not None
    largest = _largest(model, structure.sites)
    few = dict(zip(structure.sites, least, strict=True))
    plan = [
        (key, site, units)
        for key, site in largest.items()
        for units in _timed_levels(site.kind, site.units(model), few[site])
    ]
    some = next(iter(largest.values()))
    layers = [
        _variant(model, structure, some, None, few),  # not timed; computes what all layers share (the mask)
        _variant(model, structure, some, few[some], few),  # the fewest units at every site
        *(_variant(model, structure, site, units, few) for _, site, units in plan),
    ]
    chain = copy.deepcopy(model)
    chain.set_submodule(structure.layers, nn.ModuleList(layers))
    paths = [f"{structure.layers}.{index}" for index in range(1, len(layers))]
    smallest = copy.deepcopy(model)
    for site in structure.sites:
        keep_units_(smallest, site, range(few[site]))
    for _ in range(_TRIES):
        times = timer.blocks(chain, paths, model, smallest, setting)
        table = LatencyTable(
            point=setting,
            precision=timer.precision,
            machine=timer.machine,
            baseline_ms=times.baseline_ms,
            dense_ms=times.model_ms,
            fixed_ms=0.0,
            kinds=_kinds(largest, few, plan, times.blocks_ms),
            rounds=times.rounds,
            disturbed_rounds=times.disturbed_rounds,
        )
        layers_ms = sum(table.ms(model, site, site.units(model)) for site in structure.sites)
        empty_ms = times.blocks_ms[0] * len({site.layer for site in structure.sites})
        if _agrees(layers_ms, times, empty_ms):
            return _anchored(table, layers_ms, times, empty_ms)
    raise StageError(_contradiction(layers_ms, times))


def _agrees(layers_ms: float, times: BlockTimes, empty_ms: float) -> bool:
    """Whether layers timed separately and whole models agree: layers + remainder = whole.

    Short calls fit between two time slices of other work and long ones don't, so on a busy machine the whole
    takes several times as long as its parts.

    Args:
        layers_ms: all layers, beyond empty ones.
        empty_ms: the empty layers, a lower bound of the remainder.
    """
    within = _AGREES_WITHIN if times.disturbed_rounds else _QUIET_AGREES_WITHIN
    if times.least_ms is None:
        return layers_ms + empty_ms <= (1 + within) * times.model_ms
    return abs(times.model_ms - times.least_ms - layers_ms) <= within * times.model_ms


def _anchored(table: LatencyTable, layers_ms: float, times: BlockTimes, empty_ms: float) -> LatencyTable:
    """Scale the table so that both ends are whole models: uncut, and with the fewest units.

    A layer timed separately finds its weights in the cache, which it may not in the whole model.
    """
    if times.least_ms is None:
        return table.model_copy(update={"fixed_ms": max(times.model_ms - layers_ms, empty_ms)})
    scale = max(times.model_ms - times.least_ms, 0.0) / layers_ms if layers_ms > 0 else 1.0
    kinds = tuple(kind.model_copy(update={"ms": tuple(ms * scale for ms in kind.ms)}) for kind in table.kinds)
    return table.model_copy(update={"fixed_ms": times.least_ms, "kinds": kinds})


def _contradiction(layers_ms: float, times: BlockTimes) -> str:
    """Error message for a table that contradicts itself, with advice."""
    left = "" if times.least_ms is None else f" and the model without them {times.least_ms:.2f} ms"
    words = (
        f"prune/structured: the latency table was inconsistent {_TRIES} times: the whole model takes "
        f"{times.model_ms:.2f} ms, its layers alone {layers_ms:.2f} ms{left}; "
    )
    if times.disturbed_rounds:
        return (
            f"{words}other work used {times.used_by_others:.0%} of this machine's cores at the same "
            "time. Stop it and run again, or use a budget of macs, size_mb or sparsity, which is not timed"
        )
    return f"{words}no other work was seen. Use a budget of macs, size_mb or sparsity, which is not timed"


def _kinds(
    largest: dict[tuple[str, tuple[int, int]], Site],
    few: dict[Site, int],
    plan: Sequence[tuple[tuple[str, tuple[int, int]], Site, int]],
    blocks_ms: Sequence[float],
) -> tuple[UnitTimes, ...]:
    """Cost of each number of units beyond the fewest; the first block is the empty one."""
    empty, measured = blocks_ms[0], blocks_ms[1:]
    kinds = []
    for (kind, shape), site in largest.items():
        pairs = {few[site]: 0.0}
        for (key, _, units), ms in zip(plan, measured, strict=True):
            if key == (kind, shape) and units > few[site]:
                pairs[units] = max(0.0, ms - empty)
        units_, ms_ = zip(*sorted(pairs.items()), strict=True)
        kinds.append(UnitTimes(kind=kind, shape=shape, units=units_, ms=_rising(ms_)))
    return tuple(kinds)


def _largest(model: nn.Module, sites: Sequence[Site]) -> dict[tuple[str, tuple[int, int]], Site]:
    """The site with most units of each kind and shape: the others are smaller versions of it."""
    found: dict[tuple[str, tuple[int, int]], Site] = {}
    for site in sites:
        key = (site.kind, _shape(model, site))
        if key not in found or site.units(model) > found[key].units(model):
            found[key] = site
    return found


def _timed_levels(kind: str, units: int, least: int) -> list[int]:
    levels = [level for level in unit_levels(kind, units, least) if level > least]
    if len(levels) <= _MANY:
        return levels
    picked = {round(index * (len(levels) - 1) / (_MANY - 1)) for index in range(_MANY)}
    return [levels[index] for index in sorted(picked)]


def _variant(
    model: nn.Module, structure: Structure, site: Site, units: int | None, least: dict[Site, int]
) -> nn.Module:
    """Copy a site's layer with the given number of units (None: all) and the fewest in its other sites."""
    from compress.model.cutting.units import keep_units_

    prefix = f"{structure.layers}.{site.layer}"
    layer = copy.deepcopy(model.get_submodule(prefix))
    for other in structure.sites:
        if other.layer == site.layer:
            kept = units if other == site else least[other]
            inside = other.inside(prefix)
            if kept is not None:
                keep_units_(layer, inside, range(kept))
    return layer


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    """The nearest non-decreasing sequence: apart from noise, more units never cost less."""
    from sklearn.isotonic import isotonic_regression

    return tuple(float(value) for value in isotonic_regression(list(values)))
