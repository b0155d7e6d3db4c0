"""Text from other people's files (keys, names, labels), made safe for where it is shown.

A terminal obeys escape sequences, a page is turned around by Unicode's direction controls (Boucher and
Anderson 2021, "Trojan Source", arXiv 2111.00169), and a spreadsheet runs cells that begin as formulas do.
"""

from __future__ import annotations

import re

__all__ = ["csv_cell", "visible"]

# C0 and C1 without tab and newline; direction marks, embeddings, overrides and isolates; line and paragraph
# separators; halves of surrogate pairs, which no encoding can write.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def visible(text: str) -> str:
    """Write what would command a terminal or turn a line around as `\\u001b`; all else stays.

    Within a string of JSON or Python that is the same character.
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def csv_cell(text: str) -> str:
    """A cell of text, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
