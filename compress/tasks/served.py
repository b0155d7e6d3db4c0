"""The part of the task interface that bundles need: config.json, manifest, and programs that run a file."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from compress.tasks.spec import HubHead, Modality

__all__ = ["Served"]


class Served(ABC):
    """What bundles say of a task; the attributes are those of `Task`."""

    heads: ClassVar[tuple[HubHead, ...]] = ()
    result: ClassVar[str] = "logits = session.run(None, feed)[0]  # [rows, labels]"

    labels: tuple[str, ...]

    def decision(self) -> dict[str, float]:
        """Settings of `named`, by name: part of a bundle's manifest and config.json, and of a measurement."""
        return {}

    def hub_entries(self) -> dict[str, Any]:
        """Entries for config.json."""
        return {
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
            **self.decision(),
        }

    @classmethod
    def head_for(cls, modality: Modality) -> HubHead | None:
        """The head for a modality; None if there is none."""
        return next((head for head in cls.heads if head.modality == modality), None)

    @classmethod
    def manifest_score(cls, measurement: Any, how: str, length: int) -> dict[str, Any]:
        """The candidate's score for a bundle's manifest; it names its metric, if that is no accuracy.

        Args:
            measurement: a `measure.results.Measurement`.
            how: how rows were batched.
            length: maximum row length.
        """
        accuracy = measurement.candidate.accuracy
        return {**_metric(measurement), "value": accuracy.value, "rows": accuracy.rows, "how": how}

    @classmethod
    def variant_facts(cls, measurement: Any, is_baseline: bool) -> dict[str, Any]:
        """Further figures of one variant for the manifest, besides the main score."""
        return _metric(measurement)

    @classmethod
    def program(cls, file: str, set_threads: str) -> str | None:
        """A complete program that runs a bundle's file; None if `snippet` is sufficient.

        Args:
            file: name of the file in the bundle.
            set_threads: a line that sets the threads of `options`, or empty.
        """
        return None

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """Lines of a program that print the answer given by `logits` [rows, ...] for one row.

        Args:
            most: labels that are listed in the program.
            decision: as returned by `decision`.
        """
        raise NotImplementedError


def _metric(measurement: Any) -> dict[str, str]:
    """The name of the metric; empty if it is accuracy, the default of whoever reads it."""
    name = measurement.candidate.accuracy.metric
    return {} if name == "accuracy" else {"metric": name}
