"""Features of texts without a Transformer, by scikit-learn.

TF-IDF of words and of pairs of neighbouring words (Salton and Buckley 1988). Two texts of a row are counted
as one; how alike they are is two features more: the cosine of their TF-IDF, and BM25 of the second for the
first (Robertson and Zaragoza 2009, The Probabilistic Relevance Framework, equation 3.15).
Shapes: n = rows, w = words, f = features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.table import Text

__all__ = ["CountedWords", "bm25", "plain_texts"]

_WORD = r"(?u)\b\w+\b"
_MOST_OF_A_TEXT = 10_000  # characters
_RARE_FROM = 1_000  # rows from which words of a single row are left out
_SATURATION, _BY_LENGTH = 1.2, 0.75  # k1 and b, as usual

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CountedWords:
    """Makes features of texts like those that it was fitted on.

    Attributes:
        vectorizer: TF-IDF of whole rows.
        pairs: how alike the two texts of a row are; None: rows have one.
    """

    vectorizer: Any
    pairs: _Likeness | None

    @classmethod
    def of(cls, texts: Sequence[Text], most: int) -> CountedWords:
        """Fitted to rows, with at most so many words: the most frequent ones.

        Raises:
            ValueError: no row has a word.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        rare = 2 if len(texts) >= _RARE_FROM else 1
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD, min_df=rare, max_features=most
        ).fit(plain_texts(texts))
        return cls(vectorizer, _Likeness.of(vectorizer, texts) if isinstance(texts[0], tuple) else None)

    @property
    def count(self) -> int:
        """Words, and pairs of neighbouring words."""
        return len(self.vectorizer.vocabulary_)

    def features(self, texts: Sequence[Text]) -> Any:
        """Sparse, [n, f]."""
        from scipy.sparse import hstack

        found = self.vectorizer.transform(plain_texts(texts))
        return found if self.pairs is None else hstack((found, self.pairs.features(texts)), format="csr")


@dataclass(frozen=True)
class _Likeness:
    """How alike two texts are.

    Attributes:
        vectorizer: TF-IDF.
        counts: counts the words of second texts.
        weights: of these words, [w].
        usual: mean length of second texts.
        mean, spread: of both features, [2].
    """

    vectorizer: Any
    counts: Any
    weights: Floats
    usual: float
    mean: Floats
    spread: Floats

    @classmethod
    def of(cls, vectorizer: Any, texts: Sequence[Text]) -> _Likeness:
        from sklearn.feature_extraction.text import CountVectorizer

        counts = CountVectorizer(token_pattern=_WORD)
        found = counts.fit_transform(_side(texts, 1))
        rows = np.asarray((found > 0).sum(axis=0), dtype=np.float64).reshape(-1)
        weights = np.log(1 + (len(texts) - rows + 0.5) / (rows + 0.5))
        plain = cls(vectorizer, counts, weights, found.sum() / len(texts), np.zeros(2), np.ones(2))
        values = plain.features(texts)
        spread = values.std(axis=0)
        return cls(vectorizer, counts, weights, plain.usual, values.mean(axis=0), np.where(spread, spread, 1))

    def features(self, texts: Sequence[Text]) -> Floats:
        """Both features in spreads from their means, [n, 2]."""
        one, other = _side(texts, 0), _side(texts, 1)
        alike = self.vectorizer.transform(one).multiply(self.vectorizer.transform(other)).sum(axis=1)
        asked, said = self.counts.transform(one), self.counts.transform(other)
        values = np.column_stack((np.asarray(alike).reshape(-1), bm25(asked, said, self.weights, self.usual)))
        return (values - self.mean) / self.spread


def bm25(queries: Any, documents: Any, weights: Floats, usual: float) -> Floats:
    """BM25 of each document for the query of its row, [n].

    Args:
        queries, documents: sparse counts of words, [n, w].
        weights: of words, [w].
        usual: mean length of documents.
    """
    said = documents.tocsr().astype(np.float64)
    lengths = np.asarray(said.sum(axis=1)).reshape(-1)  # [n]
    shares = _SATURATION * (1 - _BY_LENGTH + _BY_LENGTH * lengths / usual)  # [n]
    said.data *= (_SATURATION + 1) / (said.data + np.repeat(shares, np.diff(said.indptr)))
    return np.asarray((queries > 0).multiply(said) @ weights)


def plain_texts(texts: Sequence[Text]) -> list[str]:
    """Each row as one text, of which a very long one is cut."""
    joined = (each if isinstance(each, str) else "\n".join(each) for each in texts)
    return [each[:_MOST_OF_A_TEXT] for each in joined]


def _side(texts: Sequence[Text], at: int) -> list[str]:
    return [each[at][:_MOST_OF_A_TEXT] for each in texts]
