"""Whether two tokenizers give texts the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PROBES", "same_ids"]

# What tokenizers differ in: case, accents, punctuation, white space, digits, scripts.
PROBES = (
    "A good film, not a bad plot: 3.5 of 10!",
    " a space before  and two between",
    "tab\tline\nand UPPER case",
    "Füße, naïve café, Привет, 你好, مرحبا, 🙂 ﬁne ½",
    "don't e-mail me_at http://x.org/?q=1 -- 1,234.56 + 789 = x^2",
)
_PROBE_WORDS = 200


def same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether the vocabularies are equal, and texts are split alike: tried on probes and words."""
    if one.get_vocab(with_added_tokens=True) != other.get_vocab(with_added_tokens=True):
        return False
    words = sorted(one.get_vocab())
    probes = [*PROBES, " ".join(words[:: max(len(words) // _PROBE_WORDS, 1)])]
    return _ids(one, probes) == _ids(other, probes)


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    return [each.ids for each in whole.encode_batch(texts, add_special_tokens=False)]
