"""Text from untrusted files (keys, names, labels), made safe for display.

Terminals obey escape sequences, pages are reordered by Unicode's direction controls (Boucher and Anderson
2021, "Trojan Source", arXiv 2111.00169), and spreadsheets run cells that look like formulas.
"""

from __future__ import annotations

import re

__all__ = ["csv_cell", "visible"]

# C0 and C1 without tab and newline; direction marks, embeddings, overrides and isolates; line and paragraph
# separators; lone surrogates, which cannot be encoded.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def visible(text: str) -> str:
    """Escape characters that control terminals or text direction as `\\u001b`; other text is unchanged.

    Within a JSON or Python string the escape denotes the same character.
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def csv_cell(text: str) -> str:
    """Text for a CSV cell, prefixed with an apostrophe if a spreadsheet would read it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
