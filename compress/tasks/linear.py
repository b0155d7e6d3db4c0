"""Linear models of sparse features, by scikit-learn: what a task is answered with without a Transformer.

Shapes: n = rows, f = features, c = numbers per answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearModel", "LogisticRegressions", "RidgeRegression"]

_NEVER = -1e9  # logit of a class without training rows


class LinearModel(Protocol):
    """A linear model of one task; `Task.linear_model` makes it."""

    @property
    def name(self) -> str:
        """Its usual name, for reports."""

    def fit(self, features: Any, labels: NDArray[Any]) -> None:
        """Fit to sparse features [n, f] and a split's labels."""

    def logits(self, features: Any) -> NDArray[np.float64]:
        """What a model of the task would return, [n, c]."""


@dataclass
class LogisticRegressions:
    """Logistic regression of each class against all others; quicker than of all at once, and as good here.

    Attributes:
        classes: c.
        strength: inverse of the regularization, C.
    """

    classes: int
    strength: float
    name: str = "logistic regression"
    _weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))  # [f, c]
    _biases: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # [c]

    def fit(self, features: Any, labels: NDArray[np.int64]) -> None:
        """See `LinearModel`; labels are classes [n], or 0 and 1 [n, c]."""
        from sklearn.linear_model import LogisticRegression

        columns = labels.T if labels.ndim > 1 else labels == np.arange(self.classes)[:, None]  # [c, n]
        self._weights = np.zeros((features.shape[1], len(columns)))
        self._biases = np.zeros(len(columns))
        for at, column in enumerate(columns):
            if column.min() == column.max():
                self._biases[at] = -_NEVER if column[0] else _NEVER
                continue
            model = LogisticRegression(C=self.strength, solver="liblinear", random_state=0)
            model.fit(features, column)
            self._weights[:, at], self._biases[at] = model.coef_[0], model.intercept_[0]

    def logits(self, features: Any) -> NDArray[np.float64]:
        """See `LinearModel`."""
        found: NDArray[np.float64] = features @ self._weights + self._biases
        return found


@dataclass
class RidgeRegression:
    """Least squares with a penalty, for one number.

    Attributes:
        strength: inverse of the penalty.
    """

    strength: float
    name: str = "ridge regression"
    _model: Any = None

    def fit(self, features: Any, labels: NDArray[np.float64]) -> None:
        """See `LinearModel`; labels [n], or [n, k] of which the first is the number."""
        from sklearn.linear_model import Ridge

        numbers = labels if labels.ndim == 1 else labels[:, 0]
        self._model = Ridge(alpha=1 / self.strength).fit(features, numbers)

    def logits(self, features: Any) -> NDArray[np.float64]:
        """See `LinearModel`."""
        found: NDArray[np.float64] = self._model.predict(features)[:, None]
        return found
