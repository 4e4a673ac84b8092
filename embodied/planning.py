"""Sampling-based planning: the best sequence of actions by a score, refined from a few rounds of samples.

With S sequences a of H actions from N(mean, std^2), clipped to [-1, 1], and their scores J, each round sets

    w    = 1 / E for the E sequences of the highest score, else 0     (cem, the cross-entropy method)
    w    = softmax(J / (temperature * std of J)) over those E         (mppi, model-predictive path integral)
    mean = sum w a,    std = max(sqrt(sum w (a - mean)^2), floor)

Sequences that tie with the last of the E count as well. A score may come from a learned model, in which case the whole
planner is one compiled program (`plan`), or from copies of a simulator on the host (`plan_on_host`). Williams et al.,
arXiv 1509.01149 (MPPI); Rubinstein 1999 (CEM); the mixture of both, elites weighed by a softmax, is that of TD-MPC
(Hansen et al., arXiv 2203.04955).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from embodied.ranges import check_choice, check_ranges
from embodied.types import InputError, RandomKey

METHODS = ("cem", "mppi")
RANGES = {
    "[1, inf)": ("horizon", "iterations", "elites"),
    "[2, inf)": ("samples",),
    "(0, inf)": ("spread", "floor", "temperature"),
}


@dataclasses.dataclass(frozen=True)
class Planning:
    """How a sequence of actions is searched for."""

    method: str = "cem"  # or "mppi"
    horizon: int = 5  # actions in a sequence
    samples: int = 256  # sequences per round
    iterations: int = 4  # rounds
    elites: int = 26  # sequences that the next round is made of
    spread: float = 1.0  # standard deviation of the first round
    floor: float = 0.05  # least standard deviation
    temperature: float = 0.5  # of the softmax, in standard deviations of the elites' scores (mppi)

    def __post_init__(self) -> None:
        check_choice("planning", "method", self.method, METHODS)
        check_ranges("planning", self, RANGES)
        if self.elites > self.samples:
            raise InputError(f"planning: elites must be at most samples, {self.samples}, got {self.elites}")


class Plan(NamedTuple):
    """What a search returns."""

    actions: Float[Any, "H A"]  # the best sequence that was scored
    score: Float[Any, ""]  # its score
    mean: Float[Any, "H A"]  # of the last round; what the next search, one decision later, may start from


def plan(
    config: Planning,
    score: Callable[[Float[Array, "S H A"]], Float[Array, " S"]],
    mean: Float[Array, "H A"],
    key: RandomKey,
) -> Plan:
    """The best of all sequences that were scored, from rounds that begin around `mean`; traceable where `score` is.

    The mean of each round is one of the sequences of the next, so the plan is never worse than the mean it began with.
    """

    def step(now: tuple[Any, ...], key: RandomKey) -> tuple[Any, None]:
        mean, std, best, highest = now
        candidates = sampled(config, mean, std, jax.random.normal(key, (config.samples, *mean.shape)))
        scores = score(candidates)
        top = scores.max()
        first = jax.nn.one_hot(jnp.argmax(scores), config.samples)
        chosen = jnp.einsum("s,sha->ha", first, candidates, precision="highest")
        best, highest = jnp.where(top > highest, chosen, best), jnp.maximum(top, highest)
        return (*refined(config, candidates, scores), best, highest), None

    start = (mean, jnp.full(mean.shape, config.spread), mean, jnp.float32(-jnp.inf))
    (mean, _, best, highest), _ = jax.lax.scan(step, start, jax.random.split(key, config.iterations))
    return Plan(best, highest, mean)


def plan_on_host(
    config: Planning,
    score: Callable[[Float[np.ndarray, "S H A"]], Float[np.ndarray, " S"]],
    mean: Float[np.ndarray, "H A"],
    seed: int,
) -> Plan:
    """The same with a score that is no JAX function, such as one that steps simulators."""
    generator = np.random.default_rng(seed)
    mean = np.asarray(mean, np.float32)
    std, best, highest = np.full(mean.shape, config.spread, np.float32), mean, -np.inf
    for _ in range(config.iterations):
        noise = generator.normal(size=(config.samples, *mean.shape)).astype(np.float32)
        candidates = np.asarray(sampled(config, mean, std, noise))
        scores = np.asarray(score(candidates), np.float32)
        if scores.max() > highest:
            best, highest = candidates[scores.argmax()], scores.max()
        mean, std = (np.asarray(leaf) for leaf in refined(config, candidates, scores))
    return Plan(best, np.float32(highest), mean)


def sampled(
    config: Planning, mean: Float[Any, "H A"], std: Float[Any, "H A"], noise: Float[Any, "S H A"]
) -> Float[Array, "S H A"]:
    """Sequences of one round within [-1, 1], of which the first is the mean."""
    others = jnp.clip(mean[None] + std[None] * noise[1:], -1.0, 1.0)
    return jnp.concatenate([jnp.clip(mean, -1.0, 1.0)[None], others])


def refined(
    config: Planning, candidates: Float[Any, "S H A"], scores: Float[Any, " S"]
) -> tuple[Float[Array, "H A"], Float[Array, "H A"]]:
    """(mean, std) of the next round."""
    high, _ = jax.lax.top_k(scores, config.elites)
    elite = scores >= high[-1]
    weight = elite / elite.sum()
    if config.method == "mppi":
        weight = jax.nn.softmax(scores / (config.temperature * jnp.maximum(high.std(), 1e-6)), where=elite)
    mean = jnp.einsum("s,sha->ha", weight, candidates)
    variance = jnp.einsum("s,sha->ha", weight, jnp.square(candidates - mean[None]))
    return mean, jnp.maximum(jnp.sqrt(variance), config.floor)
