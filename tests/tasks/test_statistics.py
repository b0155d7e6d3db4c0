"""Intervals against published examples, and what they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compress.tasks.metrics.statistics import (
    _score,
    clustered_interval,
    mean_interval,
    paired_interval,
    proportion_interval,
)

Z90 = 1.6448536269514722
Z95 = 1.959963984540054


def test_proportion_interval_gives_newcombes_published_example():
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 5 (Clopper-Pearson): 81 of 263.
    assert proportion_interval(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)  # printed to 4 digits


def test_proportion_interval_has_a_width_where_all_or_none_are_right():
    # Where all are right the lower end is the share at which that has a chance of 2.5 %.
    assert proportion_interval(10, 10) == (pytest.approx(0.025**0.1, rel=1e-12), 1.0)
    assert proportion_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1, rel=1e-12))


@pytest.mark.parametrize("rows", [100, 500, 2000])
def test_proportion_interval_covers_what_it_claims_near_one(rows):
    """Summed over all outcomes, not drawn: at 0.9 to 0.999 it covers 95.57 to 99.5 %, 97.4 % on average."""
    ends = np.array([proportion_interval(correct, rows) for correct in range(rows + 1)])
    counts, logs = np.arange(rows + 1), np.log(np.arange(1, rows + 1))
    ways = np.concatenate(([0.0], np.cumsum(logs[::-1] - logs)))  # log of the binomial coefficients
    covered = []
    for share in (0.9, 0.95, 0.98, 0.99, 0.995, 0.999):
        chances = np.exp(ways + counts * math.log(share) + (rows - counts) * math.log1p(-share))
        assert chances.sum() == pytest.approx(1, rel=1e-9)
        covered.append(float(chances[(ends[:, 0] <= share) & (share <= ends[:, 1])].sum()))
    assert min(covered) >= 0.95 and max(covered) < 0.996


def test_mean_interval_is_students_t():
    # t of 4 degrees of freedom is 2.776445 at 97.5 % (any table); the normal quantile is 1.96.
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert mean_interval(values) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert mean_interval(np.ones(2)) == (1, 1)
    assert mean_interval(values[:1]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("gained", "lost", "rows", "z", "published", "printed_to"),
    [
        (9, 3, 32, Z95, (-0.027, 0.390), 5e-4),  # Tango 1998, section 6.2
        (28, 25, 618, Z90, (-0.0148, 0.0247), 5e-5),  # R, PropCIs::scoreci.mp(25, 28, 618)
        (1, 7, 21, Z95, (-0.517, -0.026), 5e-4),  # R, ratesci, table (1, 1, 7, 12)
    ],
)
def test_paired_interval_gives_published_examples(gained, lost, rows, z, published, printed_to):
    assert paired_interval(gained, lost, rows, z=z) == pytest.approx(published, abs=printed_to)


def test_paired_interval_without_a_discordant_row_is_z_squared_over_rows_plus_z_squared():
    bound = Z95**2 / (44 + Z95**2)
    # Bisection leaves some 1e-16; 1e-12 leaves room for the square roots.
    assert paired_interval(0, 0, 44) == pytest.approx((-bound, bound), rel=1e-12)


def test_paired_interval_mirrors_when_the_models_change_places():
    low, high = paired_interval(7, 2, 60)
    assert paired_interval(2, 7, 60) == pytest.approx((-high, -low), rel=1e-12)


def test_paired_interval_reaches_one_when_every_row_is_gained():
    low, high = paired_interval(5, 0, 5)
    # With q = (1 - d) / 2 the score is sqrt(n (1 - d) / (1 + d)), so d = (1 - z^2/n) / (1 + z^2/n).
    assert low == pytest.approx((1 - Z95**2 / 5) / (1 + Z95**2 / 5), rel=1e-12)
    assert high == 1.0


@pytest.mark.parametrize(("gained", "lost"), [(9, 3), (1, 0), (40, 40), (0, 12)])
def test_score_at_no_difference_is_mcnemars_statistic(gained, lost):
    expected = (gained - lost) / math.sqrt(gained + lost)
    assert _score(gained, lost, 100, 0.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(14, 4), (4, 4), (15, 4), (12, 4)])
def test_paired_interval_leaves_out_no_difference_exactly_where_mcnemar_rejects_it(gained, lost):
    low, high = paired_interval(gained, lost, 200)
    rejected = abs(gained - lost) / math.sqrt(gained + lost) > Z95
    assert (low > 0 or high < 0) == rejected


def test_paired_interval_ends_are_the_roots_of_the_score_equation():
    low, high = paired_interval(6, 11, 250)
    assert _score(6, 11, 250, low) == pytest.approx(Z95, rel=1e-9)
    assert _score(6, 11, 250, high) == pytest.approx(-Z95, rel=1e-9)


@pytest.mark.parametrize("chances", [(0.02, 0.02), (0.01, 0.04), (0.10, 0.05)])
def test_paired_interval_covers_the_truth_in_95_of_100_samples(chances):
    gain, loss = chances
    draws = np.random.default_rng(0).multinomial(200, (gain, loss, 1 - gain - loss), size=2000)
    held = 0
    cache: dict[tuple[int, int], tuple[float, float]] = {}
    for gained, lost in draws[:, :2].tolist():
        if (gained, lost) not in cache:
            cache[gained, lost] = paired_interval(gained, lost, 200)
        low, high = cache[gained, lost]
        held += low <= gain - loss <= high
    # 2,000 samples have a standard error of 0.5 points, and counts this small make true coverage uneven by
    # about 1 point (Tango 1998, table III); Wald's interval falls below 0.93 on the second of these.
    assert 0.935 <= held / 2000 <= 0.975


def test_clusters_of_one_size_are_the_mean_of_their_means():
    values, lengths = np.array([1.0, 0, 1, 1, 0, 0]), np.full(3, 2)
    assert clustered_interval(values, lengths) == mean_interval(np.array([0.5, 1.0, 0.0]))


def test_clusters_of_several_sizes_are_a_ratio_of_sums():
    # Rows of 1, 3 and 2 units with sums 1, 1 and 2: 4 of 6. Contributions: mean + (sum - mean * length) / 2.
    values, lengths = np.array([1.0, 0, 1, 0, 1, 1]), np.array([1, 3, 2])
    mean = 4 / 6
    parts = mean + (np.array([1.0, 1, 2]) - mean * lengths) / 2
    assert parts.mean() == pytest.approx(mean)
    assert clustered_interval(values, lengths) == pytest.approx(mean_interval(parts))
