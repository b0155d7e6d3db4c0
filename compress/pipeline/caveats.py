"""Caveats to know before trusting or shipping a result, one sentence each."""

from __future__ import annotations

from compress.data import Split, Splits
from compress.data.table import listed
from compress.measure import Measurement
from compress.recipe import Recipe
from compress.report import Saturation, commonest_words, saturation_sentence
from compress.tasks import Task, task_of_measurement

__all__ = ["doubts_of_data", "lines_before_work", "warnings_of"]

_SHOWN_LABELS = 20


def doubts_of_data(recipe: Recipe, splits: Splits) -> tuple[str, ...]:
    """Caveats known before any work that could make every accuracy wrong.

    These are: guessed label order, test rows used in training, classes without rows to measure on, truncated
    texts, and dropped rows.
    """
    found = []
    labels = splits.task.labels
    guessed = any(note.kind == "guessed-labels" for note in splits.notes)
    if guessed and not all(label.isdigit() for label in labels):
        found.append(
            f"the model's labels have no names, so the data's were taken in this order: {', '.join(labels)}. "
            "If the model was trained with another, all figures and the bundle's labels are wrong: write "
            "id2label into the model's config.json"
        )
    trained_before = recipe.model.hf is not None and recipe.model.train is None
    if trained_before and getattr(recipe.data, "test", "") is None:
        found.append(
            "the test rows were drawn from the training data: if the model was fine-tuned on these rows "
            "before, every accuracy here is too high; give rows that it has not seen as data.test"
        )
    found += filter(None, (_unmeasured(each, splits.task) for each in (splits.test, splits.validation)))
    return (*found, *(note for note in splits.notes if note.kind in ("cut", "dropped")))


def lines_before_work(recipe: Recipe, splits: Splits) -> tuple[str, ...]:
    """Everything known about the data before any work: all caveats, then how it was read."""
    doubts = doubts_of_data(recipe, splits)
    said = {"cut", "dropped", "guessed-labels"}
    return (*doubts, *(note for note in splits.notes if note.kind not in said))


def _unmeasured(split: Split, task: Task) -> str | None:
    """A sentence naming the classes that have no row in a split; None if there are none."""
    present = task.occurring(split.labels)
    absent = [repr(label) for index, label in enumerate(task.labels) if index not in present]
    if not absent or not len(split):
        return None
    many = "s" if len(absent) > 1 else ""
    return (
        f"{split.name} has no row of the label{many} {listed(absent, _SHOWN_LABELS)}: no figure from its "
        f"{len(split):,} rows says anything about {'them' if many else 'it'}"
    )


def _chance_level(measurement: Measurement) -> list[str]:
    task = task_of_measurement(measurement)
    order = "" if task.names_tokens else ", and are the labels in its order"
    found = []
    baseline, candidate = (commonest_words(measurement, who) for who in ("baseline", "candidate"))
    if baseline is not None:
        found.append(f"{baseline}. Was it trained{order}? No comparison means anything until that is fixed")
    if candidate is not None:
        found.append(f"{candidate}. A small loss of {task.words.score} says nothing about it")
    return found


def warnings_of(
    recipe: Recipe, splits: Splits, measurement: Measurement, saturation: Saturation | None = None
) -> tuple[str, ...]:
    """All caveats: shortfalls, figures that hold only here, and doubts."""
    stages = recipe.stages
    found = [*doubts_of_data(recipe, splits), *_chance_level(measurement)]
    slower = [point for point in measurement.latency if point.speedup_high < 1]
    if slower:
        worst = min(slower, key=lambda point: point.speedup)
        found.append(
            f"slower than the baseline at {len(slower)} of {len(measurement.latency)} settings "
            f"(down to {worst.speedup:.2f}x at batch {worst.batch}, {worst.threads} threads)"
        )
    names = [stage.name for stage in stages]
    if "prune/magnitude" in names:
        found.append("prune/magnitude leaves zeros in dense tensors: ONNX Runtime gains no speed from them")
    candidate, task = measurement.candidate.accuracy, task_of_measurement(measurement)
    metric = task.words.metric
    if candidate.batched_disagreements:
        found.append(
            f"{candidate.batched_disagreements} of {candidate.units} answers change when rows are answered "
            f"in {task.words.batches} of {candidate.batched_size} ({metric} is then "
            f"{candidate.batched_value:.4f})"
        )
    if saturation is not None and saturation.is_possible:
        found.append(saturation_sentence(saturation, measurement.environment.instruction_sets))
    if measurement.difference.high < 0:
        found.append(
            f"{metric} is measurably lower than the baseline's: {measurement.difference.value * 100:+.1f} "
            f"points (95 % interval {measurement.difference.low * 100:+.1f} to "
            f"{measurement.difference.high * 100:+.1f})"
        )
    return tuple(found)
