"""Tasks, one file each. All other code works with the `Task` interface and never checks which task it has."""

from compress.tasks.base import Task
from compress.tasks.classification import Classification
from compress.tasks.language_modelling import LanguageModelling
from compress.tasks.multi_label import MultiLabel
from compress.tasks.registry import TASKS, task_class, task_from, task_of_measurement
from compress.tasks.scores.regression import Regression
from compress.tasks.scores.reranking import Reranking
from compress.tasks.spec import (
    LABELS_KEY,
    NO_LABEL,
    ROW_INDEX_KEY,
    Difference,
    InputSpec,
    Integers,
    Score,
    TaskName,
    Truth,
    flat_truth,
)

__all__ = [
    "Classification",
    "Difference",
    "InputSpec",
    "Integers",
    "LABELS_KEY",
    "LanguageModelling",
    "MultiLabel",
    "NO_LABEL",
    "ROW_INDEX_KEY",
    "Regression",
    "Reranking",
    "Score",
    "TASKS",
    "Task",
    "TaskName",
    "Truth",
    "flat_truth",
    "task_class",
    "task_from",
    "task_of_measurement",
]
