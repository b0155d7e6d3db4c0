"""Scores of answers that are one of several labels."""

from __future__ import annotations

import numpy as np

from compress.tasks import Classification, flat_truth


def test_accuracy_difference_counts_gained_lost_and_agreement_by_hand():
    labels = np.array([0, 0, 1, 1, 2])
    baseline = np.array([0, 1, 1, 1, 0])  # right on rows 0, 2, 3
    candidate = np.array(
        [0, 0, 1, 2, 1]
    )  # right on rows 0, 1, 2; on row 4 both are wrong, each in its own way
    found = Classification(()).difference(baseline, candidate, flat_truth(labels, None))
    assert (found.gained, found.lost, found.rows, found.value) == (1, 1, 5, 0.0)
    assert found.agreement == 2 / 5
    assert found.low < 0 < found.high
