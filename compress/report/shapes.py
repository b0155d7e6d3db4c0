"""Table of model shapes after each stage of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.page import Table
from compress.page.format import size

__all__ = ["Shape", "shapes_note", "shapes_table"]


@dataclass(frozen=True)
class Shape:
    """The shape of a model; None or empty where it is unknown.

    Attributes:
        after: `model`, or the stage that produces it.
        guess: what is only known once the stage runs, and what is shown instead; empty: nothing.
        heads: per layer.
        neurons: feed-forward neurons per layer.
        macs: multiply-adds of matrix products for one row.
        weight_bytes: all weights and buffers, as they would be stored.
        tokens: positions of the row for which MACs are counted, if the layers see one number of them.
    """

    after: str
    guess: str
    layers: int | None
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    hidden_width: int | None
    vocabulary: int | None
    parameters: int
    macs: int
    weight_bytes: int
    tokens: int | None


def shapes_table(shapes: Sequence[Shape]) -> Table:
    """One row for the model and for each stage; * marks values that depend on a guessed width."""
    columns = ("after", "layers", "heads", "neurons", "width", "tokens", "weights", "MACs", "MB")
    rows = []
    for at, x in enumerate(shapes):
        star = "*" if any(each.guess for each in shapes[: at + 1]) else ""
        rows.append(
            (
                f"{x.after.rpartition('/')[2]}{star}",
                _count(x.layers),
                _counts(x.heads),
                _counts(x.neurons),
                _count(x.hidden_width),
                _count(x.vocabulary),
                _millions(x.parameters, 1),
                _millions(x.macs, 0),
                size(x.weight_bytes, unit=False),
            )
        )
    return Table(columns, tuple(rows), "lrrrrrrrr")


def shapes_note(shapes: Sequence[Shape]) -> str:
    """Meaning of the columns, and of the stars if there are any."""
    tokens = shapes[0].tokens
    row = "one row" if tokens is None else f"a row of {tokens} positions"
    words = (
        f"Heads and neurons: per layer. MACs: multiply-adds of matrix products for {row}. "
        "MB: all weights, as stored."
    )
    guesses = dict.fromkeys(f"{x.after}: {x.guess}" for x in shapes if x.guess)
    if guesses:
        words += f" * Not known before the run: {'; '.join(guesses)}."
    return words


def _millions(value: float, digits: int) -> str:
    """Millions; two significant digits for small models."""
    millions = value / 1e6
    return f"{millions:,.{digits}f} M" if millions >= 10**-digits * 10 else f"{millions:.2g} M"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _counts(values: Sequence[int]) -> str:
    """Equal counts once: `6 x 12`; others as a list."""
    if not values:
        return "–"
    if len(set(values)) == 1:
        return f"{len(values)} x {values[0]}"
    return " ".join(f"{value}" for value in values)
