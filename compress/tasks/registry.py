"""All tasks by name, imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from compress.tasks.base import Task
from compress.tasks.spec import Gate, HubHead, InputSpec, LabelKind, RowKind, TaskName

__all__ = [
    "FIRST_HEAD",
    "FURTHER",
    "TASKS",
    "all_gates",
    "all_heads",
    "class_by_metric",
    "decoder_task",
    "default_task",
    "head_of_name",
    "label_kinds",
    "marked_task",
    "task_class",
    "task_from",
    "task_of_architectures",
    "task_of_labels",
    "task_of_measurement",
    "tasks_of_rows",
]

TASKS = {
    "classification": "compress.tasks.classification:Classification",
    "multi-label": "compress.tasks.multi_label:MultiLabel",
    "token-labels": "compress.tasks.token_labels:TokenLabels",
    "regression": "compress.tasks.scores.regression:Regression",
    "reranking": "compress.tasks.scores.reranking:Reranking",
    "language-modelling": "compress.tasks.language_modelling:LanguageModelling",
    "embedding": "compress.tasks.embeddings.sentence:SentenceEmbedding",
}
"""The first task of each kind of rows is the default for such data."""

FURTHER: Mapping[TaskName, Mapping[LabelKind, str]] = {
    "embedding": {
        "scores": "compress.tasks.embeddings.scored_pairs:ScoredPairs",
        "relevances": "compress.tasks.embeddings.retrieval:Retrieval",
    },
}
"""Classes of a task for data with further kinds of labels, which have another metric under the same name."""


def task_class(name: TaskName, labels: LabelKind | None = None) -> type[Task]:
    """The class of a task.

    Args:
        labels: the kind of labels in the data; None, or one that has no class of its own: the usual.

    Raises:
        KeyError: there is no task with that name.
    """
    further = FURTHER.get(name, {})
    place = TASKS[name] if labels is None else further.get(labels, TASKS[name])
    module, _, attribute = place.partition(":")
    found: type[Task] = getattr(import_module(module), attribute)
    return found


def label_kinds(name: TaskName) -> tuple[LabelKind, ...]:
    """All kinds of labels that a task can be judged by, the usual first."""
    return (task_class(name).label_kind, *FURTHER.get(name, ()))


def task_from(facts: Mapping[str, Any]) -> Task:
    """Restore a task from its `facts`, possibly after a JSON round trip."""
    kind = task_class(facts["name"], facts.get("label_kind"))
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
    }
    fields["inputs"] = tuple(InputSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in facts["inputs"])
    del fields["name"]
    fields.pop("label_kind", None)
    return kind(**fields)


def tasks_of_rows(kind: RowKind) -> tuple[TaskName, ...]:
    """Names of the tasks that learn from this kind of rows."""
    return tuple(name for name in TASKS if task_class(name).rows == kind)


def default_task(kind: RowKind) -> TaskName:
    """The default task for this kind of rows."""
    return tasks_of_rows(kind)[0]


def task_of_labels(kind: LabelKind) -> TaskName:
    """The first task whose tables have labels of this kind."""
    return next(name for name in TASKS if task_class(name).label_kind == kind)


def all_gates() -> dict[str, Gate]:
    """Gates of all tasks, by recipe key."""
    return {key: gate for name in TASKS for key, gate in task_class(name).gates.items()}


def all_heads() -> list[tuple[TaskName, HubHead]]:
    """Heads of all tasks, each with the name of its task."""
    return [(name, head) for name in TASKS for head in task_class(name).heads]


def decoder_task() -> TaskName:
    """The first task whose models keep a past: the task of a file with a decoder's weights."""
    return next(name for name in TASKS if task_class(name).keeps_past)


FIRST_HEAD = "classification"
"""Head of bundles written before heads were stored."""


def head_of_name(name: str) -> HubHead:
    """The head named in a bundle or definition.

    Raises:
        KeyError: no task has it.
    """
    return {head.name: head for _, head in all_heads()}[name]


def task_of_architectures(
    architectures: tuple[str, ...], problem_type: object = None, outputs: int | None = None
) -> TaskName | None:
    """Task of a model from its config.json; None if no task has such a head.

    Args:
        outputs: numbers that its head returns, if config.json says so.
    """
    found = [(name, head) for name, head in all_heads() if any(map(head.fits, architectures))]
    exact = [name for name, head in found if head.problem_type and head.problem_type == problem_type]
    # A head without a problem_type is that of rerankers, whose libraries set none.
    sized = sorted(
        ((head.problem_type is not None, name) for name, head in found if head.outputs == outputs)
        if outputs
        else ()
    )
    others = [name for name, head in found if not head.outputs]
    return next(iter([*exact, *(name for _, name in sized), *others]), None)


def marked_task(has_file: Callable[[str], bool]) -> TaskName | None:
    """The task of a model by a file of its directory; None if there is none.

    Args:
        has_file: whether the directory has a file of this name.
    """
    return next((name for name in TASKS if (file := task_class(name).marker) and has_file(file)), None)


def class_by_metric(name: TaskName, metric: str) -> type[Task]:
    """The class of a task that is judged by a metric, as its words name it; else the usual one."""
    kinds = [task_class(name, labels) for labels in label_kinds(name)]
    return next((kind for kind in kinds[1:] if kind.words.metric == metric), kinds[0])


def task_of_measurement(measurement: Any) -> Task:
    """Task of a measurement, without its inputs; inferred for older reports, which do not name it.

    Args:
        measurement: a `measure.results.Measurement`.
    """
    return _kind_of(measurement)((), tuple(measurement.labels))


def _kind_of(measurement: Any) -> type[Task]:
    if measurement.task:
        several = measurement.task in FURTHER
        return class_by_metric(measurement.task, measurement.difference.metric if several else "")
    for task in map(task_class, TASKS):
        if task.record and getattr(measurement, task.record, None) is not None:
            return task
    return task_class(default_task("labelled"))
