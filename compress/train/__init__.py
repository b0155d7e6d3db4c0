"""Training loop shared by model training, recovery after pruning, and distillation."""

from compress.train.fit import Fit, fit_
from compress.train.forward import LossFunction, evaluate

__all__ = ["Fit", "LossFunction", "evaluate", "fit_"]
