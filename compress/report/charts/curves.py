"""Line charts: training curves, the metric over silenced units, and cost over widths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, nan
from typing import Any, Protocol

from markupsafe import Markup

from compress.page.format import PERCENT, Scale
from compress.report.charts.drawing import BASELINE, CANDIDATE, CARD, SOFT, panel, sheet, themed, to_svg
from compress.report.schema import EpochRecord

__all__ = ["cost_curve", "loss_curve", "metric_curve", "silencing_curve"]

_MOST_MARKS = 20  # per curve; more would hide the line


class Silenced(Protocol):
    """The metric with some units silenced; low and high bound the interval of its difference."""

    @property
    def silenced(self) -> int: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def loss_curve(curve: Sequence[EpochRecord]) -> Markup:
    """Training and validation loss over epochs."""
    lines = (("train", [x.train_loss for x in curve]), ("valid", [x.validation_loss for x in curve]))
    return _curves("Training and validation loss over epochs", [x.epoch for x in curve], lines, "{:.3g}")


def metric_curve(curve: Sequence[EpochRecord], scale: Scale = PERCENT) -> Markup:
    """Validation metric over epochs."""
    lines = (("valid", [scale.factor * x.validation_metric for x in curve]),)
    unit = ", percent" if scale == PERCENT else ""
    return _curves(f"Validation metric over epochs{unit}", [x.epoch for x in curve], lines, "{:.3g}")


_CURVES: dict[str, dict[str, Any]] = {
    "train": {"color": BASELINE, "linestyle": "-", "markerfacecolor": CARD},
    "valid": {"color": CANDIDATE, "linestyle": "--", "markerfacecolor": CANDIDATE},
}


@themed
def _curves(
    title: str, epochs: Sequence[int], lines: Iterable[tuple[str, Sequence[float]]], ticks: str
) -> Markup:
    figure = sheet(300, 160)
    axes = panel(figure, 44, 8, 12, 36)
    for kind, ys in lines:
        marker = "o" if len(epochs) <= _MOST_MARKS else None
        whole = [y if isfinite(y) else nan for y in ys]
        axes.plot(epochs, whole, marker=marker, markersize=5, **_CURVES[kind])
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda y, _: ticks.format(y))
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    return to_svg(figure, title)


@themed
def silencing_curve(
    title: str,
    points: Sequence[Silenced],
    unit: str,
    chosen: int | None = None,
    *,
    scale: Scale = PERCENT,
) -> Markup:
    """The metric over silenced units with 95 % whiskers, and a dashed line at that of the full model.

    Args:
        points: at least two, sorted by `silenced`; the first is the full model.
        unit: plural name of what is silenced.
        chosen: number of silenced units to mark.
        scale: how the metric is written.
    """
    figure = sheet(340, 180)
    axes = panel(figure, 46, 8, 12, 38)
    full = points[0].accuracy
    at, ys = [x.silenced for x in points], [x.accuracy for x in points]
    ends = [(max(full + x.low, -1.0), min(full + x.high, 1.0)) for x in points]
    axes.axhline(full, color=BASELINE, linestyle=(0, (5, 4)), linewidth=1)
    axes.vlines(at, *zip(*ends, strict=True), color=SOFT, linewidth=1)
    axes.plot(at, ys, color=CANDIDATE, marker="o", markersize=5, markerfacecolor=CARD)
    for x, y in zip(at, ys, strict=True):
        if x == chosen:
            axes.axvline(x, color=BASELINE, linestyle=(0, (5, 4)), linewidth=1)
            axes.plot([x], [y], color=CANDIDATE, marker="o", markersize=9)
    axes.set_xlabel(f"{unit} silenced")
    axes.yaxis.set_major_formatter(lambda y, _: f"{scale.factor * y:g}{scale.unit}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    return to_svg(figure, title)


@themed
def cost_curve(title: str, units: Sequence[int], ms: Sequence[float], most_ms: float, unit: str) -> Markup:
    """Milliseconds over units, starting at 0.

    Args:
        most_ms: upper end of the axis, shared by charts that are compared.
        unit: plural name of the units.
    """
    figure = sheet(340, 180)
    axes = panel(figure, 52, 8, 12, 38)
    marker = "o" if len(units) <= _MOST_MARKS else None
    axes.plot(units, ms, color=CANDIDATE, marker=marker, markersize=5, markerfacecolor=CARD)
    axes.set(xlim=(0, max(units[-1], 1) * 1.04), ylim=(0, (most_ms if most_ms > 0 else 1.0) * 1.04))
    axes.set_xlabel(unit)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g} ms")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    return to_svg(figure, title)
