"""What single stages found, as pictures: heads and channels kept, and what quantizing layers costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.render.heat import Cell, heat_row
from compress.report.sections.cut import CutSite
from compress.report.sections.cut_charts import width_bars

__all__ = ["SensitivityMap", "kept_pictures", "sensitivity_map"]

_MAP, _DIVERGENCE = "map", "divergence_"
_NOTE = (
    "Each group of layers quantized alone, all others float: KL from the float model's answers in "
    "thousandths of a nat, mean over {rows:,} validation rows; stronger costs more. Outlined: the scheme "
    "that was chosen; a group without one stays float."
)


@dataclass(frozen=True)
class SensitivityMap:
    """Rows of a heat map by their names, its columns, and what it shows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str


def kept_pictures(facts: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Bars of what was kept in each layer or group, with words; empty for stages that removed nothing."""
    found = []
    before, kept = facts.get("heads_before"), facts.get("heads_kept")
    if isinstance(before, list | tuple) and isinstance(kept, list | tuple) and len(before) == len(kept):
        pairs = enumerate(zip(before, kept, strict=True))
        heads = [CutSite(kind="attention", layer=layer, before=was, kept=now) for layer, (was, now) in pairs]
        found.append(("Heads kept in each layer.", width_bars(heads)))
    channels = facts.get("channels")
    if isinstance(channels, Mapping) and all(isinstance(x, Mapping) for x in channels.values()):
        groups = [
            CutSite(name=name, kind="channels", layer=place, before=x.get("before", 0), kept=x.get("kept", 0))
            for place, (name, x) in enumerate(channels.items())
        ]
        found.append(("Channels kept in each group.", width_bars(groups)))
    return found


def sensitivity_map(facts: Mapping[str, Any]) -> SensitivityMap | None:
    """What each scheme costs in each group of layers; None for stages that did not ask."""
    groups = facts.get(_MAP)
    if not isinstance(groups, Mapping) or not all(isinstance(x, Mapping) for x in groups.values()):
        return None
    schemes = tuple(dict.fromkeys(key for x in groups.values() for key in x if key.startswith(_DIVERGENCE)))
    if not schemes:
        return None
    values = {name: [1000 * float(x.get(key) or 0) for key in schemes] for name, x in groups.items()}
    largest = max((value for row in values.values() for value in row), default=0.0)
    columns = tuple(key.removeprefix(_DIVERGENCE) for key in schemes)
    rows = []
    for name, row in values.items():
        chosen = groups[name].get("scheme")
        marked = [columns.index(chosen)] if chosen in columns else []
        rows.append((name, heat_row(row, largest, marked)))
    return SensitivityMap(columns, tuple(rows), _NOTE.format(rows=int(facts.get("sensitivity_rows") or 0)))
