"""Arbitrary settings and facts as text pairs and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compress.page import Table
from compress.page.format import capital, size

__all__ = ["facts_of", "plain", "settings_of"]

_LONGEST_CELL = 2_000
_MOST_ROWS_SHOWN = 16
_LONGEST_LIST_IN_A_LINE = 24  # one number per layer; longer lists become tables


def plain(value: Any) -> Any:
    """The value as after a JSON round trip: tuples become lists; keys and paths become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def settings_of(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as flat pairs with dotted names."""
    pairs: list[tuple[str, str]] = []
    for key, value in plain(settings).items():
        if isinstance(value, dict) and value:
            pairs += settings_of(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", _cell(value)))
    return pairs


def facts_of(facts: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Table]]:
    """Facts that fit on a line as pairs, the others as tables; long tables are folded."""
    pairs: list[tuple[str, str]] = []
    tables: list[Table] = []
    for key, value in plain(facts).items():
        name = key.replace("_", " ")
        table = _fact_table(name, value)
        if table is None:
            counts_bytes = "bytes" in name.split() and isinstance(value, int)
            pairs.append((name, size(value) if counts_bytes else _cell(value)))
        else:
            title = f"{capital(table.title)}: {len(table.rows)} rows"
            tables.append(replace(table, folded=title if len(table.rows) > _MOST_ROWS_SHOWN else ""))
    return pairs, tables


def _fact_table(name: str, value: Any) -> Table | None:
    if isinstance(value, dict) and value:
        items, first = list(value.items()), "layer" if all(x.isdigit() for x in value) else "name"
    elif isinstance(value, list) and any(isinstance(x, (list, dict)) for x in value):
        items, first = [(str(i), x) for i, x in enumerate(value)], "layer" if _per_layer(name) else "number"
    elif isinstance(value, list) and len(value) > _LONGEST_LIST_IN_A_LINE and _per_layer(name):
        items, first = [(str(i), x) for i, x in enumerate(value)], "layer"
    else:
        return None
    if all(isinstance(x, dict) for _, x in items):
        columns = list(dict.fromkeys(column for _, x in items for column in x))
        rows = tuple((key, *(_cell(x.get(column, "")) for column in columns)) for key, x in items)
        heads = tuple(column.replace("_", " ") for column in columns)
        return Table((first, *heads), rows, "l" + "r" * len(columns), name)
    if all(isinstance(x, list) for _, x in items):
        rows = tuple((key, str(len(x)), _cell(x)) for key, x in items)
        return Table((first, "count", name), rows, "lrl", name)
    return Table((first, name), tuple((key, _cell(x)) for key, x in items), "lr", name)


def _per_layer(name: str) -> bool:
    return any(word in name for word in ("layer", "head", "width", "neuron", "rank"))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == {}:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−") if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and not any(isinstance(x, (list, dict)) for x in value):
        text = ", ".join(_cell(x) for x in value) or "none"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + " … (the rest is in report.json)"
