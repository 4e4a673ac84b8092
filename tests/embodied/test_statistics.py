"""Summaries of scores against hand-computed and published values."""

import numpy as np
import pytest

from embodied.statistics import bootstrap, interquartile_mean, wilson


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0], 1.5),
        ([0.0, 1.0, 8.0], (0.25 * 0 + 1 + 0.25 * 8) / 1.5),
        ([100.0, 1.0, 2.0, 3.0], 2.5),
        ([9.0, 0.0, 5.0, 1.0, 0.0], (0.75 * 0 + 1 + 0.75 * 5) / 2.5),
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0], 2.5),
    ],
)
def test_interquartile_mean_weights_the_fractional_ends(scores, expected):
    assert interquartile_mean(np.array(scores)) == pytest.approx(expected)


def test_interquartile_mean_takes_all_scores_of_a_table_together():
    scores = np.arange(12.0).reshape(3, 4)
    assert interquartile_mean(scores) == pytest.approx(scores.reshape(-1)[3:9].mean())


@pytest.mark.parametrize("shape", [(1, 30), (8, 4)])
def test_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says(shape):
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(60):
        interval = bootstrap(rng.normal(5.0, 2.0, shape), resamples=150, seed=trial)
        assert interval.low <= interval.value <= interval.high
        covered.append(interval.low <= 5.0 <= interval.high)
    assert 0.85 <= np.mean(covered) <= 1.0
    assert interval.high - interval.low < 4.0  # an interval that covers everything says nothing


def test_bootstrap_resamples_seeds_where_episodes_agree_and_episodes_where_seeds_agree():
    between_seeds = bootstrap(np.repeat(np.arange(5.0)[:, None], 4, 1), resamples=300)
    between_episodes = bootstrap(np.repeat(np.arange(5.0)[None], 4, 0), resamples=300)
    assert between_seeds.high - between_seeds.low > between_episodes.high - between_episodes.low > 0
    constant = bootstrap(np.full((3, 4), 2.0), resamples=50)
    assert constant == (2.0, 2.0, 2.0)


def test_bootstrap_repeats_with_its_seed():
    scores = np.random.default_rng(1).normal(size=(3, 5))
    assert bootstrap(scores, 100, seed=4) == bootstrap(scores, 100, seed=4)
    assert bootstrap(scores, 100, seed=4) != bootstrap(scores, 100, seed=5)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval_has_known_values(successes, trials, low, high):
    interval = wilson(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
