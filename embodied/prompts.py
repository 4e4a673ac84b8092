"""From prompts to latents: the closed-form solves that agents share.

`Reward` prompts carry their inference variant, because the best one differs between dense and sparse rewards and
costs nothing to change: "plain" is the agent's own estimator, "ridge" is regularised least squares, "softmax" weights
rows by exp(temperature * u) and asks for u, the reward moved and scaled to [0, 1] over the rows, so that neither its
scale nor its zero matters (for sparse rewards).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from embodied.nets.encoders import project
from embodied.ranges import check_choice, check_ranges
from embodied.types import Reward

VARIANTS = ("plain", "ridge", "softmax")
# Of a reward's size. What rounding leaves of a constant is no wish; projected, it would become a full-length one.
ROUNDING = 1e-6
RANGES = {"[0, inf)": ("ridge",), "(0, inf)": ("temperature",)}


def check_solver(owner: str, prompt: Any) -> None:
    """Nothing; raises InputError where the inference, ridge or temperature of a prompt or request does not exist."""
    check_choice(owner, "inference", prompt.inference, VARIANTS)
    check_ranges(owner, prompt, RANGES)


def least_squares(
    features: Float[Array, "N D"], reward: Float[Array, " N"], weight: Float[Array, " N"], ridge: float
) -> Float[Array, " D"]:
    """argmin_w sum_i weight_i (reward_i - features_i . w)^2 + ridge tr(C)/D |w|^2, with C the weighted covariance."""
    weighted = features * weight[:, None]
    covariance = jnp.matmul(weighted.T, features, precision="highest")
    scale = ridge * jnp.trace(covariance) / covariance.shape[0]
    target = jnp.matmul(weighted.T, reward, precision="highest")
    return jnp.linalg.solve(covariance + scale * jnp.eye(covariance.shape[0]), target)


def correlate(
    features: Float[Array, "N D"], reward: Float[Array, " N"], weight: Float[Array, " N"]
) -> Float[Array, " D"]:
    """sum_i weight_i reward_i features_i."""
    return jnp.matmul((weight * reward), features, precision="highest")


def unit_range(reward: Float[Array, " N"]) -> Float[Array, " N"]:
    """(reward - min) / (max - min), so that softmax knows neither its scale nor its zero; zeros for a constant."""
    low, high = reward.min(), reward.max()
    wish = high - low > ROUNDING * jnp.abs(reward).max()
    return jnp.where(wish, (reward - low) / jnp.where(wish, high - low, 1.0), 0.0)


def softmax_weight(reward: Float[Array, " N"], temperature: float) -> Float[Array, " N"]:
    """softmax_i(temperature * reward_i); sums to one."""
    return jax.nn.softmax(temperature * reward)


def effective_samples(weight: Float[Array, " N"]) -> Float[Array, ""]:
    """1 / sum_i p_i^2 for normalised weights p: how many rows the estimate really rests on."""
    p = weight / weight.sum()
    return 1.0 / jnp.square(p).sum()


def reward_weights(features: Float[Array, "N D"], reward: Float[Array, " N"]) -> Float[Array, " D"]:
    """w with features . w ~= reward: successor features times w predict the discounted return itself, in its units."""
    return least_squares(features, reward, jnp.full(reward.shape, 1.0 / reward.shape[0]), 1e-6)


def infer_by_regression(features: Float[Array, "N D"], prompt: Reward) -> Float[Array, " D"]:
    """The latent of a reward for successor-feature agents: least squares of the reward on features of s'.

    A reward that is nowhere positive (a cost until done) counts from its least value, as the +1 of OGBench's rewards
    does: the least-squares fit of a negative constant asks to avoid everything.
    """
    uniform = jnp.full(prompt.reward.shape, 1.0 / prompt.reward.shape[0])
    above = jnp.where(prompt.reward.max() <= 0, prompt.reward - prompt.reward.min(), prompt.reward)
    match prompt.inference:
        case "softmax":
            reward = unit_range(prompt.reward)
            target = correlate(features, reward, softmax_weight(reward, prompt.temperature))
            solution = jnp.linalg.solve(_regularised_covariance(features, prompt.ridge), target)
        case "ridge":
            solution = least_squares(features, above, uniform, prompt.ridge)
        case _:
            solution = least_squares(features, above, uniform, 1e-6)
    return project(solution)


def infer_by_correlation(features: Float[Array, "N D"], prompt: Reward) -> Float[Array, " D"]:
    """The latent of a reward for forward-backward agents: E[r B(s')], with r centred so that a constant is no wish."""
    uniform = jnp.full(prompt.reward.shape, 1.0 / prompt.reward.shape[0])
    match prompt.inference:
        case "softmax":
            reward = unit_range(prompt.reward)
            solution = correlate(features, reward, softmax_weight(reward, prompt.temperature))
        case "ridge":
            solution = least_squares(features, prompt.reward, uniform, prompt.ridge)
        case _:
            centred = prompt.reward - prompt.reward.mean()
            wish = jnp.abs(centred).max() > ROUNDING * jnp.abs(prompt.reward).max()
            solution = correlate(features, jnp.where(wish, centred, 0.0), uniform)
    return project(solution)


def goal_by_covariance(
    feature: Float[Array, " D"], covariance: Float[Array, "D D"], ridge: float = 1e-6
) -> Float[Array, " D"]:
    """proj((C + ridge I)^-1 psi(g)): the least-squares latent of "be at g" when only C is known."""
    return project(jnp.linalg.solve(covariance + ridge * jnp.eye(covariance.shape[0]), feature))


def _regularised_covariance(features: Float[Array, "N D"], ridge: float) -> Float[Array, "D D"]:
    covariance = jnp.matmul(features.T, features, precision="highest") / features.shape[0]
    return covariance + ridge * jnp.trace(covariance) / covariance.shape[0] * jnp.eye(covariance.shape[0])


def window_mean(features: Float[Array, "T D"], length: int) -> Float[Array, "T D"]:
    """Mean of features over the next `length` steps (t+1 .. t+length), truncated at the end of the clip."""
    steps = features.shape[0]
    index = jnp.minimum(jnp.arange(steps)[:, None] + 1 + jnp.arange(length)[None], steps)
    padded = jnp.concatenate([features, jnp.zeros_like(features[:1])])
    inside = (index < steps)[..., None]
    total = jnp.where(inside, padded[index], 0.0).sum(1)
    # The last step has nothing ahead of it and keeps its own features.
    return jnp.where(inside.any(1), total / jnp.maximum(inside.sum(1), 1), features)
