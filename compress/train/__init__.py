"""Training: the one loop that models, recovery after pruning and distillation share."""

from compress.train.fit import Fit, fit_
from compress.train.forward import LossFunction, evaluate

__all__ = ["Fit", "LossFunction", "evaluate", "fit_"]
