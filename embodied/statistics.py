"""Honest summaries of scores: interquartile mean, bootstrap and Wilson intervals (rliable's recommendations)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A point estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: np.ndarray) -> float:
    """The mean of the middle half of the scores: values between the quartiles, fractional ends weighted."""
    ordered = np.sort(np.asarray(scores, np.float64).reshape(-1))
    count = len(ordered)
    # Score i covers [i, i + 1) of `count`; its weight is its overlap with the middle half.
    edges = np.arange(count + 1, dtype=np.float64)
    weight = np.clip(np.minimum(edges[1:], 0.75 * count) - np.maximum(edges[:-1], 0.25 * count), 0.0, None)
    return float(np.sum(ordered * weight) / np.sum(weight))


def bootstrap(scores: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """IQM of scores [seeds, episodes] with a 95 % stratified bootstrap interval.

    Seeds are drawn with replacement where there are several (they are the replicates), episodes within each.
    """
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    seeds, episodes = scores.shape
    generator = np.random.Generator(np.random.PCG64(seed))
    estimates = np.empty(resamples)
    for i in range(resamples):
        rows = generator.integers(seeds, size=seeds)
        columns = generator.integers(episodes, size=(seeds, episodes))
        estimates[i] = interquartile_mean(np.take_along_axis(scores[rows], columns, 1))
    low, high = np.quantile(estimates, [0.025, 0.975])
    return Interval(interquartile_mean(scores), float(low), float(high))


def resampled(
    measure: Callable[..., Any], groups: Sequence[np.ndarray], resamples: int = 1000, seed: int = 0
) -> Interval:
    """A measure of several groups of rows with a 95 % bootstrap interval; each group is drawn by itself."""
    generator = np.random.Generator(np.random.PCG64(seed))
    estimates = [
        measure(*(group[generator.integers(len(group), size=len(group))] for group in groups)) for _ in range(resamples)
    ]
    low, high = np.quantile(estimates, [0.025, 0.975])
    return Interval(float(measure(*groups)), float(low), float(high))


def wilson(successes: int, trials: int) -> Interval:
    """A success rate with its 95 % Wilson score interval. Wilson (1927), JASA 22."""
    z = 1.959963984540054
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials**2))
    return Interval(rate, float(max(0.0, centre - half)), float(min(1.0, centre + half)))
