"""From prompts to latents: the closed-form solves that agents share.

`Reward` prompts carry their inference variant, because the best one differs between dense and sparse rewards and
costs nothing to change: "plain" is the agent's own estimator, "ridge" is regularised least squares, "softmax" weights
rows by exp(temperature * u) and asks for u, the reward moved and scaled to [0, 1] over the rows, so that neither its
scale nor its zero matters (for sparse rewards). "auto" is whichever of `AUTO` predicts the rewards of held-out rows
best.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from embodied.nets.encoders import project
from embodied.ranges import check_choice, check_ranges
from embodied.types import Goal, InputError, Motion, Obs, Prior, Prompt, RandomKey, Reward

VARIANTS = ("plain", "ridge", "softmax", "auto")
# What "auto" chooses among: fields of a Reward prompt.
AUTO: tuple[dict[str, Any], ...] = (
    {"inference": "plain"},
    *({"inference": "ridge", "ridge": ridge} for ridge in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    *({"inference": "softmax", "temperature": temperature} for temperature in (1.0, 3.0, 10.0, 30.0, 100.0)),
)
FOLDS = 5  # of the rows, each held out once
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

    A reward that is nowhere positive (a cost until done) counts from its least value: the least-squares fit of a
    negative constant asks to avoid everything. Where one goal is met or not this is the +1 that TD-JEPA's protocol
    gives to OGBench's rewards; where there are several, +1 leaves most of the cost below zero, and all of it where the
    sampled states never meet all goals.
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
        case "auto":
            return _best_of_auto(features, prompt, infer_by_regression)
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
        case "auto":
            return _best_of_auto(features, prompt, infer_by_correlation)
        case _:
            centred = prompt.reward - prompt.reward.mean()
            wish = jnp.abs(centred).max() > ROUNDING * jnp.abs(prompt.reward).max()
            solution = correlate(features, jnp.where(wish, centred, 0.0), uniform)
    return project(solution)


Infer = Callable[[Float[Array, "N D"], Reward], Float[Array, " D"]]


def held_out_errors(
    features: Float[Array, "N D"], prompt: Reward, infer: Infer, options: tuple[dict[str, Any], ...] = AUTO
) -> Float[Array, " C"]:
    """The share of the reward's variance on held-out rows that each option leaves unexplained; inf where not finite.

    A latent says a direction alone, so its prediction is an affine function of features . z, fitted on the rows that z
    was inferred from. Each of `FOLDS` interleaved folds is held out once. Raises InputError for fewer than two rows in
    each.
    """
    rows = len(prompt.reward)
    if rows < 2 * FOLDS:
        raise InputError(f"Reward prompt: inference 'auto' holds rows out and needs at least {2 * FOLDS}, got {rows}")
    errors = []
    for option in options:
        squares = jnp.float32(0.0)
        for fold in range(FOLDS):
            held = np.arange(rows) % FOLDS == fold
            z = infer(features[~held], dataclasses.replace(prompt, reward=prompt.reward[~held], **option))
            predicted, reward = features[~held] @ z, prompt.reward[~held]
            centred = predicted - predicted.mean()
            variance = jnp.square(centred).mean()
            slope = jnp.where(variance > 0, (centred * reward).mean() / jnp.where(variance > 0, variance, 1.0), 0.0)
            guess = reward.mean() + slope * (features[held] @ z - predicted.mean())
            squares = squares + jnp.square(prompt.reward[held] - guess).sum()
        errors.append(squares / rows)
    spread = jnp.square(prompt.reward - prompt.reward.mean()).mean()
    share = jnp.stack(errors) / jnp.where(spread > 0, spread, 1.0)
    return jnp.where(jnp.isfinite(share), share, jnp.inf)


def _best_of_auto(features: Float[Array, "N D"], prompt: Reward, infer: Infer) -> Float[Array, " D"]:
    latents = jnp.stack([infer(features, dataclasses.replace(prompt, **option)) for option in AUTO])
    return latents[jnp.argmin(held_out_errors(features, prompt, infer))]


def settle(prompt: Reward, latent: Callable[[Reward], Any]) -> Reward:
    """The prompt with what "auto" chose in its place; other prompts as they are. `latent` infers, for example
    `lambda prompt: policy.prompt(prompt).z`: features belong to agents, so the choice shows in the latent alone."""
    if prompt.inference != "auto":
        return prompt
    z = np.asarray(latent(prompt))
    options = [dataclasses.replace(prompt, **option) for option in AUTO]
    return min(options, key=lambda option: float(np.abs(np.asarray(latent(option)) - z).max()))


def resampled(prompt: Reward, count: int, seed: int) -> list[Reward]:
    """`count` bootstrap prompts: as many rows as the prompt has, drawn with replacement."""
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = generator.integers(len(prompt.reward), size=(count, len(prompt.reward)))
    return [jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], prompt) for chosen in rows]


def agreement(latents: Float[Any, "K D"]) -> float:
    """Mean cosine of latents to their mean, at most 1: how far the choice of rows leaves a latent alone.

    A latent that is zero or not finite (its rows asked for nothing) counts as 0.
    """
    latents = np.asarray(latents, np.float64)
    latents = np.where(np.isfinite(latents).all(1, keepdims=True), latents, 0.0)
    mean = latents.mean(0)
    lengths = np.linalg.norm(latents, axis=1) * np.linalg.norm(mean)
    return float(np.mean(latents @ mean / np.maximum(lengths, 1e-12)))


def goal_by_covariance(
    feature: Float[Array, " D"], covariance: Float[Array, "D D"], ridge: float = 1e-6
) -> Float[Array, " D"]:
    """proj((C + ridge I)^-1 psi(g)): the least-squares latent of "be at g" when only C is known."""
    return project(jnp.linalg.solve(covariance + ridge * jnp.eye(covariance.shape[0]), feature))


def answer_by_regression(
    owner: str, features: Callable[[Obs], Array], covariance: Float[Array, "D D"], prompt: Prompt, key: RandomKey
) -> Float[Array, "... D"]:
    """The latent of a prompt for agents whose values are successor features times z; `owner` names one in errors."""
    match prompt:
        case Reward():
            return infer_by_regression(features(prompt.obs), prompt)
        case Goal():
            return goal_by_covariance(features(_alone(prompt.obs))[0], covariance)
        case Motion():
            return jax.vmap(goal_by_covariance, (0, None))(window_mean(features(prompt.obs), 8), covariance)
        case Prior():
            return project(jax.random.normal(key, (covariance.shape[0],)))
    raise _refusal(owner, prompt)


def answer_by_correlation(
    owner: str, features: Callable[[Obs], Array], width: int, prompt: Prompt, key: RandomKey
) -> Float[Array, "... D"]:
    """The latent of a prompt for agents with a backward map, of that width; `owner` names one in errors."""
    match prompt:
        case Reward():
            return infer_by_correlation(features(prompt.obs), prompt)
        case Goal():
            return project(features(_alone(prompt.obs))[0])
        case Motion():
            return project(window_mean(features(prompt.obs), 8))
        case Prior():
            return project(jax.random.normal(key, (width,)))
    raise _refusal(owner, prompt)


def _alone(obs: Obs) -> Obs:
    return jax.tree.map(lambda leaf: leaf[None], obs)


def _refusal(owner: str, prompt: Prompt) -> TypeError:
    return TypeError(f"{owner} takes Reward, Goal, Motion or Prior prompts, got {type(prompt).__name__}")


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
