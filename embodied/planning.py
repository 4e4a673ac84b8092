"""Sampling-based planning: the best sequence of actions by a score, refined from a few rounds of samples.

With S sequences a of H actions from N(mean, std^2), clipped to [-1, 1], and their scores J, each round sets

    w    = 1 / E for the E sequences of the highest score, else 0     (cem, the cross-entropy method)
    w    ~ exp( max(J - J_E, 0) / (temperature * size) ) - 1 + LEAST   (mppi, model-predictive path integral)
    mean = sum w a,    std = max(sqrt(sum w (a - mean)^2), floor)

where J_E is the last of the E, and size the deviation of their scores, but at least `resolution`. In cem sequences that
tie with J_E count as well. In mppi those below weigh next to nothing, and no more do those that are hardly better, so
that a plan is a continuous function of the scores: where rounding alone tells them apart, as it does otherwise on
another processor, the plan changes by little.

A score may come from a learned model, in which case the whole planner is one compiled program (`plan`), or from copies
of a simulator on the host (`plan_on_host`). Sequences that somebody else proposes, such as a policy, compete in every
round; the next search may begin where the last one ended (`shifted`); and who shall find out more does what is drawn
from the last round instead of the best (`drawn`).

Williams et al., arXiv 1509.01149 (MPPI); Rubinstein 1999 (CEM); the mixture of both, elites weighed by a softmax, the
proposals and the draw are those of TD-MPC (Hansen et al., arXiv 2203.04955).
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
LEAST = 0.05  # what a sequence weighs that is no better than the last elite; one better by 2 temperature size: 6.4
RANGES = {
    "[0, inf)": ("horizon",),
    "[1, inf)": ("iterations", "elites"),
    "[2, inf)": ("samples",),
    "(0, inf)": ("spread", "floor", "temperature", "resolution"),
}


@dataclasses.dataclass(frozen=True)
class Planning:
    """How a sequence of actions is searched for."""

    method: str = "cem"  # or "mppi"
    horizon: int = 5  # actions in a sequence; 0 = what does without a plan, of agents that have a policy besides
    samples: int = 256  # sequences per round, proposals among them
    iterations: int = 4  # rounds
    elites: int = 26  # sequences that the next round is made of
    spread: float = 1.0  # standard deviation of the first round; that of actions in [-1, 1] is at most 1 later on
    floor: float = 0.05  # least standard deviation
    temperature: float = 0.5  # of the softmax, in standard deviations of the elites' scores (mppi)
    resolution: float = 1e-6  # differences of scores that hardly count, the least such deviation (mppi)

    def __post_init__(self) -> None:
        check_choice("planning", "method", self.method, METHODS)
        check_ranges("planning", self, RANGES)
        if self.method == "mppi" and self.elites < 2:
            raise InputError("planning: elites must be at least 2 with mppi, whose last one weighs nothing, got 1")
        if self.elites > self.samples:
            raise InputError(f"planning: elites must be at most samples, {self.samples}, got {self.elites}")


class Plan(NamedTuple):
    """What a search returns; of the last round, what it ended with and what that was made of."""

    actions: Float[Any, "H A"]  # the best sequence that was scored
    score: Float[Any, ""]  # its score
    mean: Float[Any, "H A"]
    std: Float[Any, "H A"]
    candidates: Float[Any, "S H A"]
    weight: Float[Any, " S"]  # of each of them


def plan(
    config: Planning,
    score: Callable[[Float[Array, "S H A"]], Float[Array, " S"]],
    mean: Float[Array, "H A"],
    key: RandomKey,
    proposals: Float[Array, "Q H A"] | None = None,
) -> Plan:
    """The best of all sequences that were scored, from rounds that begin around `mean`; traceable where `score` is.

    The mean of each round is one of the sequences of the next, and so are the proposals, Q of at most S - 2: the plan
    is never worse than the mean it began with, nor than any of them.
    """
    count = config.samples - (0 if proposals is None else len(proposals))

    def step(now: tuple[Any, ...], key: RandomKey) -> tuple[Any, None]:
        mean, std, best, highest, _, _ = now
        candidates = sampled(config, mean, std, jax.random.normal(key, (count, *mean.shape)))
        if proposals is not None:
            candidates = jnp.concatenate([candidates, proposals])
        scores = score(candidates)
        top = scores.max()
        first = jax.nn.one_hot(jnp.argmax(scores), config.samples)
        chosen = jnp.einsum("s,sha->ha", first, candidates, precision="highest")
        best, highest = jnp.where(top > highest, chosen, best), jnp.maximum(top, highest)
        mean, std, weight = refined(config, candidates, scores)
        return (mean, std, best, highest, candidates, weight), None

    nothing = (jnp.zeros((config.samples, *mean.shape)), jnp.zeros(config.samples))
    start = (mean, jnp.full(mean.shape, config.spread), mean, jnp.float32(-jnp.inf), *nothing)
    end, _ = jax.lax.scan(step, start, jax.random.split(key, config.iterations))
    mean, std, best, highest, candidates, weight = end
    return Plan(best, highest, mean, std, candidates, weight)


def shifted(mean: Float[Array, "H A"]) -> Float[Array, "H A"]:
    """The mean of a plan one decision later: its first action is done, its last one is open, 0."""
    return jnp.concatenate([mean[1:], jnp.zeros_like(mean[:1])])


def drawn(found: Plan, key: RandomKey) -> Float[Array, "H A"]:
    """A sequence of the last round, each as likely as its weight."""
    return found.candidates[jax.random.categorical(key, jnp.log(found.weight))]


def imagined_return(
    step: Callable[[Any, Float[Array, "S A"]], tuple[Any, Float[Array, " S"], Float[Array, " S"]]],
    value: Callable[[Any], Float[Array, " S"]],
    discount: float,
    state: Any,
    actions: Float[Array, "S H A"],
) -> Float[Array, " S"]:
    """sum_h discount^h g_h r_h + discount^H g_H value(s_H): the score of sequences from states with leaves [S, ...].

    `step(state, action)` is a model: (state behind it, reward r, probability that the world goes on); g_h is the
    product of the probabilities before.
    """

    def one(now: tuple[Any, Array, Array], action: Array) -> tuple[Any, None]:
        state, going, total = now
        state, reward, goes_on = step(state, action)
        return (state, discount * going * goes_on, total + going * reward), None

    count = len(actions)
    (state, going, total), _ = jax.lax.scan(
        one, (state, jnp.ones(count), jnp.zeros(count)), jnp.swapaxes(actions, 0, 1)
    )
    return total + going * value(state)


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
        mean, std, weight = (np.asarray(leaf) for leaf in refined(config, candidates, scores))
    return Plan(best, np.float32(highest), mean, std, candidates, weight)


def sampled(
    config: Planning, mean: Float[Any, "H A"], std: Float[Any, "H A"], noise: Float[Any, "S H A"]
) -> Float[Array, "S H A"]:
    """Sequences of one round within [-1, 1], of which the first is the mean."""
    others = jnp.clip(mean[None] + std[None] * noise[1:], -1.0, 1.0)
    return jnp.concatenate([jnp.clip(mean, -1.0, 1.0)[None], others])


def refined(
    config: Planning, candidates: Float[Any, "S H A"], scores: Float[Any, " S"]
) -> tuple[Float[Array, "H A"], Float[Array, "H A"], Float[Array, " S"]]:
    """(mean, std) of the next round, and the weights that they come from."""
    high, _ = jax.lax.top_k(scores, config.elites)
    if config.method == "cem":
        elite = scores >= high[-1]
        weight = elite / elite.sum()
    else:
        better = jnp.maximum(scores - high[-1], 0.0) / (config.temperature * jnp.maximum(high.std(), config.resolution))
        most = better.max()  # of the exponent, which may be large
        weight = jnp.exp(better - most) - (1.0 - LEAST) * jnp.exp(-most)
        weight = weight / weight.sum()
    mean = jnp.einsum("s,sha->ha", weight, candidates)
    variance = jnp.einsum("s,sha->ha", weight, jnp.square(candidates - mean[None]))
    return mean, jnp.maximum(jnp.sqrt(variance), config.floor), weight
