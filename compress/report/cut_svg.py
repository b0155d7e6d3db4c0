"""Pictures of a cut: the widths that were kept, and what widths cost.

A hollow bar is what there was, a filled one what is left, and the number stands beside: no colour is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compress.report.cut import Cost, CutSite
from compress.report.cut_words import kept_words, kind_words, unit_words
from compress.report.drawing import line, moved, picture, round_ticks, text

__all__ = ["cost_curve", "width_bars"]

_BAR_START = 58  # pixels, room for "layer 47"
_WIDEST_BAR = 40.0  # percent of the picture; the rest is for the number behind the bar
_ROW = 21.0


def width_bars(sites: Sequence[CutSite]) -> Markup:
    """Units kept of those there were, a row for each sub-layer of one kind, in the order of the layers."""
    ordered = sorted(sites, key=lambda x: x.layer)
    full = max((max(x.before, x.kept) for x in ordered), default=0)
    parts: list[Markup] = []
    for place, site in enumerate(ordered):
        y = _ROW * place
        before, kept = (_WIDEST_BAR * x / full if full else 0.0 for x in (site.before, site.kept))
        bars = [_bar(y + 2, before, "baseline")]
        if site.kept:
            bars.append(_bar(y + 2, kept, "candidate"))
        words = text(f"{max(before, kept):.2f}%", y + 13.5, kept_words(site), "value", dx=7)
        parts += [text("0", y + 13.5, f"layer {site.layer}", "who"), moved(_BAR_START, [*bars, words])]
    what = unit_words(ordered[0].kind) if ordered else "units"
    return picture(f"{what[:1].upper()}{what[1:]} kept in each layer", max(_ROW * len(ordered), 1), parts)


def _bar(y: float, width: float, kind: str) -> Markup:
    return Markup('<rect x="0" y="{:.1f}" width="{:.2f}%" height="14" class="{}"/>').format(y, width, kind)


def cost_curve(cost: Cost, most_ms: float) -> Markup:
    """Milliseconds over units, from 0.

    Args:
        most_ms: where the axis ends, so that pictures of several kinds compare.
    """
    top, bottom, left, width = 10.0, 130.0, 44, 84.0
    last, most = max(cost.units[-1], 1), most_ms if most_ms > 0 else 1.0

    def at(units: int, ms: float) -> tuple[str, float]:
        return f"{1 + (width - 3) * units / last:.2f}%", bottom - (bottom - top) * max(ms, 0.0) / most

    axes = [line("0", bottom, f"{width}%", bottom, "axis"), line("0", top, "0", bottom, "axis")]
    sides = []
    for tick in round_ticks(0, most, 4):
        y = at(0, tick)[1]
        axes.append(line("0", y, f"{width}%", y, "grid"))
        sides.append(text("0", y + 4, f"{tick:g} ms", "tick", dx=left - 6, anchor="end"))
    feet = [
        text(at(round(tick), 0)[0], bottom + 16, f"{tick:,.0f}", "tick", anchor="middle")
        for tick in round_ticks(0, last, 4)
        if tick == round(tick)
    ]
    feet.append(text(f"{width / 2}%", bottom + 34, unit_words(cost.kind), "who", anchor="middle"))
    ends = [at(*pair) for pair in zip(cost.units, cost.ms, strict=True)]
    curve = [line(*a, *b, "curve cost") for a, b in zip(ends, ends[1:], strict=False)]
    marks = [
        Markup('<circle cx="{}" cy="{:.1f}" r="3" class="mark cost"/>').format(*end)
        for end in (ends if len(ends) <= 20 else [])
    ]
    title = f"Milliseconds of one {kind_words(cost.kind)} sub-layer over its {unit_words(cost.kind)}"
    return picture(title, bottom + 42, [*sides, moved(left, [*axes, *feet, *curve, *marks])])
