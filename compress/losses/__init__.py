"""Distillation losses: differences between the outputs and hidden states of two models, and their weights.

config: the recipe's keys. hidden, attention, relations, embedding, contrastive: one loss each, as pure
functions; losses on outputs belong to the task.
views: captures values inside a model. targets: teachers' outputs and states, computed once. objective:
combines all of it into the loss of one training.
"""

from __future__ import annotations

from compress.losses.config import LossConfig
from compress.losses.contrastive import linked_loss
from compress.losses.objective import Objective
from compress.losses.targets import TargetPlace, Targets, Teaching, teacher_targets

__all__ = ["LossConfig", "Objective", "TargetPlace", "Targets", "Teaching", "linked_loss", "teacher_targets"]
