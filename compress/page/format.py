"""Formatting of numbers, the same on every page.

A difference whose 95 % interval contains 0, or a ratio whose interval contains 1, is never called a gain or a
loss. Sizes are in MB of 1,000,000 bytes; accuracy differences in percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log10

__all__ = [
    "MB_NOTE",
    "NUMBER",
    "PERCENT",
    "RUN_NOISE",
    "SCALES",
    "Scale",
    "amount",
    "capital",
    "counted",
    "duration",
    "interval_text",
    "is_smaller",
    "milliseconds",
    "percent",
    "place",
    "plural",
    "points",
    "ratio_of",
    "ratio_text",
    "size",
    "size_words",
    "whole_percent",
]

MB_NOTE = "1\u00a0MB is 1,000,000 bytes."
# Memory and load time have no interval; they vary by a few percent between runs.
RUN_NOISE = 0.05


def capital(text: str) -> str:
    """The text with its first letter capitalized, except of nDCG@10 and of names: train.csv."""
    first = text.partition(" ")[0].rstrip(".:,")
    return text if text[1:2].isupper() or "." in first or "_" in first else text[:1].upper() + text[1:]


def counted(number: int, noun: str) -> str:
    """A count and its noun: `1 thread`, `1,200 rows`."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """`rows`, `queries`, `classes`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def place(batch: int, sequence: int | None, threads: int, of: str = "sequence") -> str:
    """The setting of a latency: `batch 1, sequence 128, 1 thread`, without the sequence if there is none."""
    length = "" if sequence is None else f"{of} {sequence}, "
    return f"batch {batch}, {length}{counted(threads, 'thread')}"


def _significant(value: float, unit: str) -> str:
    """Three significant digits, never in scientific notation; whole numbers from 100 on."""
    if not isfinite(value):
        return "not known"
    decimals = 3 if value == 0 else 2 - int(log10(abs(value)) // 1)
    return f"{value:,.{min(max(decimals, 0), 3)}f}".replace("-", "−") + unit


def size(size_bytes: float, unit: bool = True) -> str:
    """Megabytes of 1,000,000 bytes: `12.3 MB`."""
    return _significant(size_bytes / 1e6, " MB" if unit else "")


def milliseconds(value_ms: float, unit: bool = True) -> str:
    """Three significant digits: `12.3 ms`."""
    return _significant(value_ms, " ms" if unit else "")


def percent(share: float) -> str:
    """A share in [0, 1] as percent: `91.2 %`."""
    return f"{share * 100:.1f} %"


def whole_percent(share: float) -> str:
    """A share in [0, 1] as percent without decimals: `91 %`."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Seconds as `3.2 s`, `4 min 12 s` or `1 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _apart(low: float, high: float, border: float, decimals: int) -> int:
    """Number of decimals at which an interval that excludes `border` does not appear to touch it."""
    if low <= border <= high:
        return decimals
    return next((d for d in range(decimals, 5) if border not in (round(low, d), round(high, d))), 5)


def _signed(value: float, decimals: int) -> str:
    shown = f"{value:+.{decimals}f}".replace("-", "−")
    return shown[1:] if round(value, decimals) == 0 else shown


@dataclass(frozen=True)
class Scale:
    """How a metric is written: a share in percent, or a plain number.

    Attributes:
        name: its key in `SCALES`.
        factor: of written values.
        decimals: of written values.
        unit: after a value, with its space.
        change_unit: after a difference of values, with its space.
    """

    name: str
    factor: float
    decimals: int
    unit: str
    change_unit: str

    def text(self, value: float) -> str:
        """A value: `91.2 %`, `0.912`."""
        return f"{self.number(value)}{self.unit}"

    def number(self, value: float, more: int = 0) -> str:
        """A value without its unit, with some more decimals."""
        decimals = self.decimals + more
        return f"{round(self.factor * value, decimals) + 0.0:.{decimals}f}".replace("-", "−")  # 0, not −0

    def change(self, value: float, low: float, high: float) -> tuple[str, str]:
        """A difference without its unit, and its interval: `−0.2`, `−1.1 to +0.7`."""
        value, low, high = (self.factor * each for each in (value, low, high))
        decimals = _apart(low, high, 0.0, self.decimals)
        return _signed(value, decimals), f"{_signed(low, decimals)} to {_signed(high, decimals)}"

    def signed(self, value: float, more: int = 0) -> str:
        """A difference without its unit: `−0.2`, `+0.0`."""
        shown = self.number(value, more)
        return shown if shown.startswith("−") else f"+{shown}"

    def of_change(self, before: str = " in") -> str:
        """The unit of a difference, after a word: ` in points`; empty for plain numbers."""
        return f"{before}{self.change_unit}" if self.change_unit else ""


PERCENT = Scale("percent", 100, 1, " %", " points")
NUMBER = Scale("number", 1, 3, "", "")
SCALES: Mapping[str, Scale] = {scale.name: scale for scale in (PERCENT, NUMBER)}


def points(value: float, low: float, high: float) -> tuple[str, str]:
    """A difference of shares in percentage points, and its interval: `−0.2`, `−1.1 to +0.7`."""
    return PERCENT.change(value, low, high)


def _ratio_decimals(value: float) -> int:
    return 2 if value < 1.995 else 1 if value < 100 else 0


def ratio_text(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio: `2.1x`; if an interval is given, with the decimals that the interval needs."""
    decimals = _ratio_decimals(value)
    if low is not None and high is not None:
        decimals = _apart(low, high, 1.0, decimals)
    return f"{value:.{decimals}f}x" if isfinite(value) else "not known"


def interval_text(value: float, low: float, high: float) -> str:
    """The interval of a ratio, with as many decimals as the ratio itself: `2.0 to 2.2`."""
    decimals = _apart(low, high, 1.0, _ratio_decimals(value))
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def ratio_of(baseline: float, candidate: float) -> float | None:
    """Baseline / candidate, or None if either is not positive."""
    return baseline / candidate if baseline > 0 and candidate > 0 else None


def is_smaller(baseline: float, candidate: float, noise: float = 0.005) -> bool:
    """Whether a figure shrank by more than `noise`, a relative change."""
    ratio = ratio_of(baseline, candidate)
    return ratio is not None and ratio > 1 + noise


def size_words(
    baseline: float, candidate: float, less: str = "smaller", more: str = "larger", noise: float = 0.005
) -> str:
    """Change of a lower-is-better figure in words: `3.7x smaller`, `1.20x larger` or `not smaller`.

    Args:
        baseline: the figure before.
        candidate: the figure after.
        less: word for a smaller figure.
        more: word for a larger one.
        noise: relative changes up to this are not called a change.
    """
    ratio = ratio_of(baseline, candidate)
    if ratio is None:
        return "not known"
    if max(ratio, 1 / ratio) <= 1 + noise:
        return f"not {less}"
    return f"{ratio_text(ratio)} {less}" if ratio > 1 else f"{ratio_text(1 / ratio)} {more}"


def amount(kind: str, value: float) -> str:
    """A figure in a budget's unit: `3.0x`, `2.97x`, `8.10 ms`, `20.0 MB` or `33.0 %`."""
    if kind == "speedup":
        text = f"{value:.2f}"
        return f"{text[:-1] if text.endswith('0') else text}x"
    if kind == "latency_ms":
        return milliseconds(value)
    return size(value * 1e6) if kind == "size_mb" else percent(value)
