"""What a model learns from another: losses between what two models answer and hold, and their weights.

config: the recipe's keys. hidden, attention, relations, embedding: a loss each, as pure functions; those of
answers are the task's.
views: what is looked at inside a model. targets: what teachers answer and hold, computed once. objective: all
of it as the loss of one training.
"""

from __future__ import annotations

from compress.losses.config import LossConfig
from compress.losses.objective import Objective
from compress.losses.targets import TargetPlace, Targets, teacher_targets

__all__ = ["LossConfig", "Objective", "TargetPlace", "Targets", "teacher_targets"]
