"""Caveats to know before trusting or shipping a result, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compress.data import Split, Splits
from compress.data.table import listed
from compress.measure import Measurement
from compress.model import predict_logits
from compress.page.format import counted, percent
from compress.recipe import Recipe
from compress.report import StageRecord, commonest_words
from compress.tasks import Task, task_of_measurement

__all__ = ["doubt_of_model", "doubts_of_data", "lines_before_work", "warnings_of"]

_SHOWN_LABELS = 20
_SHOWN_LAYERS = 3
_MOST_ROWS = 2000


def doubts_of_data(recipe: Recipe, splits: Splits) -> tuple[str, ...]:
    """Caveats known before any work that could make every score wrong.

    These are: guessed label order, test rows used in training, classes without rows to measure on, truncated
    texts, and dropped rows.
    """
    found = []
    labels, metric = splits.task.labels, splits.task.words.metric
    guessed = any(note.kind == "guessed-labels" for note in splits.notes)
    if guessed and not all(label.isdigit() for label in labels):
        found.append(
            f"the model's labels have no names, so this order of the data's labels was assumed: "
            f"{', '.join(labels)}. If the model was trained with another order, all figures and the bundle's "
            "labels are wrong: write id2label into the model's config.json"
        )
    trained_before = recipe.model.hf is not None and recipe.model.train is None
    judged_by_itself = splits.task.labels_from_model
    if trained_before and not judged_by_itself and getattr(recipe.data, "test", "") is None:
        found.append(
            f"the test rows were drawn from the training data: if the model was fine-tuned on these rows, "
            f"every {metric} in this report is too high; give rows that it has not seen as data.test"
        )
    found += filter(None, (_unmeasured(each, splits.task) for each in (splits.test, splits.validation)))
    return (*found, *(note for note in splits.notes if note.kind in ("cut", "dropped")))


def lines_before_work(recipe: Recipe, splits: Splits) -> tuple[str, ...]:
    """Everything known about the data before any work: all caveats, then how it was read."""
    doubts = doubts_of_data(recipe, splits)
    said = {"cut", "dropped", "guessed-labels"}
    return (*doubts, *(note for note in splits.notes if note.kind not in said))


def doubt_of_model(module: nn.Module, splits: Splits) -> str | None:
    """A sentence if the uncompressed model is at chance level on validation rows, before it is compressed."""
    task, rows = splits.task, splits.validation.take(_MOST_ROWS, seed=0)
    if task.labels_from_model or task.names_tokens:
        return None
    answers, truth = task.named(predict_logits(module, rows, task)).numpy(), rows.truth(task)
    constant, gain = task.above_constant(answers, truth)
    if gain.low > 0:
        return None
    words, value = task.words, task.value(answers, truth)
    found, chance = (words.scale.text(each) for each in (value, constant))
    said = words.not_above_constant("uncompressed", found, chance, "validation")
    order = ", the order of its labels" if task.labels else ""
    return f"{said}. Check that it was trained{order} and the columns that it reads"


def _unmeasured(split: Split, task: Task) -> str | None:
    """A sentence naming the classes that have no row in a split; None if there are none."""
    present = task.occurring(split.labels)
    absent = [repr(label) for index, label in enumerate(task.labels) if index not in present]
    if not absent or not len(split):
        return None
    labels = "these labels" if len(absent) > 1 else "this label"
    return (
        f"the {split.name} split has no row of {labels}: {listed(absent, _SHOWN_LABELS)}; none of the "
        f"figures from its {len(split):,} rows covers {'them' if len(absent) > 1 else 'it'}"
    )


def _chance_level(measurement: Measurement) -> list[str]:
    task = task_of_measurement(measurement)
    order = "" if task.names_tokens else ", with the labels in this order"
    found = []
    baseline, candidate = (commonest_words(measurement, who) for who in ("baseline", "candidate"))
    if baseline is not None:
        found.append(f"{baseline}. Check that it was trained{order}; until then no comparison means anything")
    if candidate is not None:
        found.append(f"{candidate}. A small loss of {task.words.score} means nothing for such a model")
    return found


def _lost_classes(measurement: Measurement) -> list[str]:
    """A sentence on the classes that the baseline finds and the candidate doesn't; none if there are none."""
    kept, task = measurement.answers, task_of_measurement(measurement)
    found = None if kept is None else task.by_class(kept.truth, kept.of("baseline"), kept.of("candidate"))
    if found is None or not (lost := found.lost()):
        return []
    each = [
        f"{one.name!r} (recall {percent(one.before)} to {percent(one.after)} of {one.units:,} test "
        f"{found.words.units})"
        for one in sorted(lost, key=lambda one: one.after - one.before)
    ]
    classes = counted(len(lost), found.words.noun)
    return [f"the candidate loses {classes} that the baseline finds: {listed(each, _SHOWN_LABELS)}"]


def _fallen(stages: Sequence[StageRecord], task: Task) -> list[str]:
    """A sentence on each quantize stage after which answers are near chance: the layers that did it."""
    found = []
    for stage in stages:
        shares: dict[str, float] | None = stage.facts.get("fell_to_chance")
        if shares is None:
            continue
        named = [f"{name} ({percent(share)})" for name, share in list(shares.items())[:_SHOWN_LAYERS]]
        where = f"; most of it comes from {listed(named, _SHOWN_LAYERS)}" if named else ""
        found.append(
            f"{stage.name} brought the answers near chance (validation {task.words.metric} "
            f"{task.words.scale.text(stage.validation_metric)}){where}. {_remedy(stage)}"
        )
    return found


def _remedy(stage: StageRecord) -> str:
    if "guard" in stage.settings:
        return (
            "Give it guard: {max_drop: 0.01}, which keeps such layers at more bits, or name them under skip"
        )
    return "Name layers that lose much under skip, or use another scheme"


def warnings_of(
    recipe: Recipe, splits: Splits, measurement: Measurement, stages: Sequence[StageRecord] = ()
) -> tuple[str, ...]:
    """Caveats that a report's sections do not derive from its figures: the data and chance level."""
    found = [
        *doubts_of_data(recipe, splits),
        *_fallen(stages, splits.task),
        *_chance_level(measurement),
        *_lost_classes(measurement),
    ]
    difference = measurement.difference
    if difference.high < 0:
        scale = splits.task.words.scale
        value, interval = scale.change(difference.value, difference.low, difference.high)
        found.append(
            f"{difference.metric} is measurably lower than the baseline's: {value}{scale.change_unit} "
            f"(95 % interval {interval})"
        )
    return tuple(found)
