"""Measures of progress: values by hand, scipy's where it has them, and what must not matter."""

import math

import numpy as np
import pytest
from scipy import stats

from embodied import progress, statistics

DRAW = np.random.default_rng(0)


def test_progress_within_an_episode_is_the_share_of_the_way_to_its_end():
    way = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    np.testing.assert_allclose(progress.same_episode(way), [0, 1 - math.sqrt(20) / 5, 1, 1])
    np.testing.assert_array_equal(progress.same_episode(np.ones((3, 2))), [1, 1, 1])


def test_progress_across_episodes_is_towards_others_and_not_towards_its_own_end():
    away = np.array([[1.0], [2.0], [4.0]])
    others = np.array([[0.0]])
    np.testing.assert_allclose(progress.cross_episode(away, others, 1.0), [0.75, 0.5, 0])
    assert progress.increasing(progress.same_episode(away)) == 1
    assert progress.increasing(progress.cross_episode(away, others, 1.0)) == 0


def test_distance_to_successes_lies_between_the_nearest_and_their_mean():
    here, successes = np.array([[0.0]]), np.array([[1.0], [3.0]])
    np.testing.assert_allclose(progress.distances(here, successes, 1e-3), [1 + 1e-3 * math.log(2)])
    np.testing.assert_allclose(progress.distances(here, successes, 1e6), [2], atol=1e-5)
    np.testing.assert_allclose(progress.distances(here, successes, 1.0), [-math.log((math.exp(-1) + math.exp(-3)) / 2)])
    far = progress.distances(np.array([[1e6]]), successes, 1.0)
    np.testing.assert_allclose(far, [1e6 - 3 + math.log(2) - math.log(1 + math.exp(-2))])  # nothing overflows


def test_order_of_successes_does_not_matter_and_turning_all_vectors_changes_nothing():
    vectors, successes = DRAW.normal(size=(5, 3)), DRAW.normal(size=(7, 3))
    turn = np.linalg.qr(DRAW.normal(size=(3, 3)))[0]
    plain = progress.distances(vectors, successes, 0.5)
    np.testing.assert_allclose(progress.distances(vectors, successes[::-1], 0.5), plain)
    np.testing.assert_allclose(progress.distances(vectors @ turn, successes @ turn, 0.5), plain)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties):
    for _ in range(20):
        x, y = DRAW.normal(size=(2, 12))
        x, y = (np.round(x), np.round(y)) if ties else (x, y)
        assert progress.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_rank_correlation_of_any_rising_curve_is_one_and_of_a_constant_nothing():
    time = np.arange(5.0)
    assert progress.spearman(np.exp(time), time) == pytest.approx(1)
    assert progress.spearman(-time, time) == pytest.approx(-1)
    assert progress.spearman(np.ones(5), time) == 0


def test_share_of_rising_steps_counts_neither_standing_nor_falling_ones():
    assert progress.increasing(np.array([0.0, 0.5, 0.5, 0.4, 1.0])) == 0.5


def test_area_under_the_curve_is_that_of_mann_and_whitney():
    assert progress.auroc(np.array([3.0, 1.0]), np.array([0.0, 1.0, 2.0])) == pytest.approx(4.5 / 6)
    for _ in range(10):
        x, y = np.round(DRAW.normal(size=9), 1), np.round(DRAW.normal(size=6), 1)
        assert progress.auroc(x, y) == pytest.approx(stats.mannwhitneyu(x, y).statistic / 54)
    assert progress.auroc(x, x) == 0.5


def test_mean_discrepancy_by_hand():
    x, y = np.array([[0.0]]), np.array([[2.0]])  # the spread of both is 2
    assert progress.discrepancy(x, y) == pytest.approx(math.sqrt(2 - 2 * math.exp(-0.5)))
    assert progress.discrepancy(x, x) == 0
    near, far = DRAW.normal(size=(30, 2)), DRAW.normal(size=(30, 2)) + 3
    assert progress.discrepancy(near, far) > 5 * progress.discrepancy(near[:15], near[15:]) / 2


def test_standardised_difference_by_hand():
    x, y = np.array([0.0, 2.0]), np.array([5.0, 7.0])  # both have the variance 2
    assert progress.standardised_difference(x, y) == pytest.approx(5 / math.sqrt(2))
    assert progress.standardised_difference(np.ones(2), np.ones(3)) == 0


def test_interval_of_a_measure_of_two_groups_holds_it_and_shrinks_with_their_size():
    few = statistics.resampled(progress.auroc, [DRAW.normal(size=10) + 1, DRAW.normal(size=10)])
    many = statistics.resampled(progress.auroc, [DRAW.normal(size=200) + 1, DRAW.normal(size=200)])
    for one in (few, many):
        assert one.low < one.value < one.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert statistics.resampled(np.mean, [np.full(5, 2.0)]) == (2, 2, 2)
