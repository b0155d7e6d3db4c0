"""Pictures of a cut: the widths that were kept, and what widths cost.

A hollow bar is what there was, a filled one what is left, and the number stands beside: no colour is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compress.report.render.charts import bar_row
from compress.report.render.drawing import CANDIDATE, CARD, panel, sheet, themed, to_svg
from compress.report.sections.cut import Cost, CutSite
from compress.report.sections.cut_words import kept_words, kind_words, unit_words

__all__ = ["cost_curve", "width_bars"]

_ROW = 21.0


@themed
def width_bars(sites: Sequence[CutSite]) -> Markup:
    """Units kept of those there were, a row for each sub-layer of one kind, in the order of the layers."""
    ordered = sorted(sites, key=lambda x: x.layer)
    full = max((max(x.before, x.kept) for x in ordered), default=0) or 1
    height = max(_ROW * len(ordered), 1)
    figure = sheet(400, height)
    room = max((len(_row_name(site)) for site in ordered), default=0) * 6.5 + 14
    axes = panel(figure, room, 0, 100, 0)
    for place, site in enumerate(ordered):
        y = -_ROW * (place + 0.5)
        bar_row(axes, y, "baseline", site.before / full, _row_name(site), "")
        if site.kept:
            bar_row(axes, y, "candidate", site.kept / full, "", "")
        axes.annotate(
            kept_words(site),
            (max(site.before, site.kept) / full, y),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set(xlim=(0, 1), ylim=(-height, 0))
    axes.set_axis_off()
    what = unit_words(ordered[0].kind) if ordered else "units"
    return to_svg(figure, f"{what[:1].upper()}{what[1:]} kept in each layer")


def _row_name(site: CutSite) -> str:
    """A layer's number, or the name of a group of channels, its end where it is long."""
    name = site.name if site.kind == "channels" else f"layer {site.layer}"
    return name if len(name) <= 20 else f"…{name[-19:]}"


@themed
def cost_curve(cost: Cost, most_ms: float) -> Markup:
    """Milliseconds over units, from 0.

    Args:
        most_ms: where the axis ends, so that pictures of several kinds compare.
    """
    figure = sheet(340, 180)
    axes = panel(figure, 52, 8, 12, 38)
    marker = "o" if len(cost.units) <= 20 else None
    axes.plot(cost.units, cost.ms, color=CANDIDATE, marker=marker, markersize=5, markerfacecolor=CARD)
    axes.set(xlim=(0, max(cost.units[-1], 1) * 1.04), ylim=(0, (most_ms if most_ms > 0 else 1.0) * 1.04))
    axes.set_xlabel(unit_words(cost.kind))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g} ms")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    title = f"Milliseconds of one {kind_words(cost.kind)} sub-layer over its {unit_words(cost.kind)}"
    return to_svg(figure, title)
