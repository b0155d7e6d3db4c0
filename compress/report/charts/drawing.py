"""Matplotlib SVG embedded in a page, with the page's colours (light and dark) and real text.

Points can have a tooltip, which screen readers read too, and a link, without scripts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from markupsafe import Markup, escape

from compress.safe_text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BASELINE",
    "CANDIDATE",
    "CARD",
    "INK",
    "LINE",
    "SOFT",
    "Spot",
    "panel",
    "sheet",
    "spot",
    "themed",
    "to_svg",
]

# Matplotlib colours, each replaced by a CSS variable of the page. They must all differ.
INK, SOFT, LINE, CARD = "#1b2330", "#5a6577", "#dde2ea", "#fefdfc"
CANDIDATE, BASELINE = "#2f6fd0", "#5a6578"
_VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    CARD: "--card",
    CANDIDATE: "--candidate",
    BASELINE: "--baseline",
}
_SETTINGS: Any = {  # Matplotlib types each of its hundreds of settings
    "svg.fonttype": "none",  # text can be searched, copied and read aloud
    "svg.hashsalt": "modelpress",  # the same report gives the same bytes
    "text.parse_math": False,  # a run may be named $x$
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.labelsize": 11.5,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "butt",
}
_P = ParamSpec("_P")
_POINTS = 72  # per inch; a point is one pixel of the SVG
_SPOT = "#spot-"


@dataclass(frozen=True)
class Spot:
    """Tooltip of a point, and its link (empty: no link)."""

    words: str
    link: str = ""


def spot(number: int) -> str:
    """Value of a mark's `url` (or an entry of its `urls`) that makes it the spot of this number."""
    return f"{_SPOT}{number}"


def themed(draw: Callable[_P, Markup]) -> Callable[_P, Markup]:
    """Decorator: draw in our style without changing Matplotlib's global settings."""

    @wraps(draw)
    def drawn(*given: _P.args, **named: _P.kwargs) -> Markup:
        from matplotlib import rc_context

        with rc_context(_SETTINGS):
            return draw(*given, **named)

    return drawn


def sheet(width: float, height: float) -> Figure:
    """An empty figure; width and height in pixels at its natural size."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _POINTS, height / _POINTS))


def panel(figure: Figure, left: float, top: float, right: float, bottom: float, **options: Any) -> Axes:
    """Axes with these margins, in pixels."""
    width, height = (float(x) * _POINTS for x in figure.get_size_inches())
    place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    return figure.add_axes(place, **options)


def to_svg(figure: Figure, title: str, spots: Sequence[Spot] = ()) -> Markup:
    """The figure as one SVG element; the title is read by screen readers.

    Args:
        spots: tooltips and links, indexed by the number given to `spot` for the mark's `url`.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    body = body[body.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r' id="[A-Za-z]+[._A-Za-z\d]*_\d+"', "", body)  # ids must be unique in a page
    body = re.sub(r'style="[^"]*"', lambda style: _themed(style[0]), body)
    body = re.sub(rf'<a xlink:href="{_SPOT}(\d+)"[^>]*>', lambda found: _opened(spots[int(found[1])]), body)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = visible(re.sub(r"\s*\n\s*", " ", body).replace("> <", "><"))
    width, height = (x * _POINTS for x in figure.get_size_inches())
    head = Markup(
        '<svg role="img" viewBox="0 0 {0:.0f} {1:.0f}" style="max-width: {2:.0f}px" aria-label="{3}">'
        "<title>{3}</title>"
    ).format(width, height, width * 1.25, visible(title))
    # Matplotlib has escaped our text, and `_opened` the rest.
    return head + Markup(body.rstrip())


def _themed(style: str) -> str:
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return re.sub(r"font-family: [^;\"]*;? ?|font: (?:(\w+) )?([\d.]+)px [^;\"]*", _font, style)


def _font(found: re.Match[str]) -> str:
    """Size and weight as drawn; the font family is the page's."""
    size = f"font-size: {found[2]}px" if found[2] else ""
    return f"{size}; font-weight: {found[1]}" if found[1] else size


def _opened(each: Spot) -> str:
    to = f' href="{escape(each.link)}"' if each.link else ""
    return f"<a{to}><title>{escape(each.words)}</title>"
