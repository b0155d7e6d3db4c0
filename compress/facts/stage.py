"""The facts of a stage, parsed once: typed if a section or chart shows them, otherwise plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from compress.facts.cut import Cut, CutSite, cut_of

__all__ = ["Kept", "Sensitivity", "StageFacts", "read_facts"]

_DIVERGENCE = "divergence_"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Kept:
    """Units of one kind that a stage kept in each layer or group."""

    what: str
    sites: tuple[CutSite, ...]


@dataclass(frozen=True)
class Sensitivity:
    """Cost of each scheme in each group of layers when only that group is quantized.

    Attributes:
        groups: KL of each scheme in nats, by group name.
        chosen: chosen scheme by group name; one that is not in `schemes` stays float.
        rows: validation rows over which the KL is averaged.
        estimated: by the group's part in the divergence of the whole model, not with it alone quantized.
    """

    schemes: tuple[str, ...]
    groups: dict[str, tuple[float, ...]]
    chosen: dict[str, str]
    rows: int
    estimated: bool = False


@dataclass(frozen=True)
class StageFacts:
    """Results of a stage.

    Attributes:
        cut: set for a stage that cuts to a budget.
        plain: facts that are not shown in a section of their own.
    """

    cut: Cut | None
    kept: tuple[Kept, ...]
    sensitivity: Sensitivity | None
    plain: dict[str, Any]


def read_facts(facts: Mapping[str, Any]) -> StageFacts:
    """Parse the facts that a stage wrote."""
    cut = cut_of(facts)
    shown = frozenset() if cut is None else cut.read
    plain = {name: value for name, value in facts.items() if name not in shown}
    kept = (_typed(_heads, facts), _typed(_channels, facts))
    return StageFacts(cut, tuple(x for x in kept if x is not None), _typed(_sensitivity, facts), plain)


def _typed(read: Callable[[Mapping[str, Any]], _T | None], facts: Mapping[str, Any]) -> _T | None:
    """The parsed facts; None if they are malformed, in which case they are shown as plain facts."""
    try:
        return read(facts)
    except (TypeError, ValueError):
        return None


def _heads(facts: Mapping[str, Any]) -> Kept | None:
    before, kept = facts.get("heads_before"), facts.get("heads_kept")
    if not (isinstance(before, list | tuple) and isinstance(kept, list | tuple) and len(before) == len(kept)):
        return None
    pairs = enumerate(zip(before, kept, strict=True))
    sites = (CutSite(kind="attention", layer=layer, before=was, kept=now) for layer, (was, now) in pairs)
    return Kept("Heads kept in each layer", tuple(sites))


def _channels(facts: Mapping[str, Any]) -> Kept | None:
    channels = facts.get("channels")
    if not isinstance(channels, Mapping) or not all(isinstance(x, Mapping) for x in channels.values()):
        return None
    sites = (
        CutSite(name=name, kind="channels", layer=at, before=x.get("before", 0), kept=x.get("kept", 0))
        for at, (name, x) in enumerate(channels.items())
    )
    return Kept("Channels kept in each group", tuple(sites))


def _sensitivity(facts: Mapping[str, Any]) -> Sensitivity | None:
    groups = facts.get("map")
    if not isinstance(groups, Mapping) or not all(isinstance(x, Mapping) for x in groups.values()):
        return None
    keys = tuple(dict.fromkeys(key for x in groups.values() for key in x if key.startswith(_DIVERGENCE)))
    if not keys:
        return None
    return Sensitivity(
        schemes=tuple(key.removeprefix(_DIVERGENCE) for key in keys),
        groups={name: tuple(float(x.get(key) or 0) for key in keys) for name, x in groups.items()},
        chosen={name: str(x.get("scheme")) for name, x in groups.items()},
        rows=int(facts.get("sensitivity_rows") or 0),
        estimated=facts.get("sensitivity") == "first_order",
    )
