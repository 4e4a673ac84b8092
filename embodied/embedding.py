"""Episodes as vectors: what an encoder makes of their observations, averaged over time.

    e = sum_t mask_t f(s_t) / sum_t mask_t,        of a prefix:   e_t = sum_{i <= t} mask_i f(s_i) / sum_{i <= t} mask_i

f is what an agent has learned (`Agent.features`), or a baseline that has learned nothing. Episodes that are longer or
shorter share one shape by their mask: rows where it is 0 do not count, whatever they hold. What an episode did is then
as near to what another one did as their vectors are (SRPO, arXiv 2511.15605).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from embodied.policy import Policy
from embodied.types import InputError, Obs, Spec

Encoder = Callable[[Obs], Float[Array, "T D"]]  # observations, leaves [T, ...] -> features; traceable


def learned(policy: Policy) -> Encoder:
    """The features of the policy's agent. Raises InputError where it has none."""
    features = policy.agent.features
    if features is None:
        raise InputError(f"embedding: agent '{policy.agent_name}' has no features; choose one that learns them")
    compiled = jax.jit(features)
    return lambda obs: compiled(policy.params, obs)


def states(spec: Spec) -> Encoder:
    """The state itself, each number in deviations of the data from its mean."""
    mean, std = (jnp.asarray(named["state"], jnp.float32) for named in (spec.mean, spec.std))
    return lambda obs: (jnp.asarray(obs["state"]) - mean[None]) / std[None]


def pixels(obs: Obs) -> Float[Array, "T D"]:
    """The numbers of the image in [0, 1]: an encoder that knows nothing."""
    images = jnp.asarray(obs["pixels"])
    return images.reshape(len(images), -1) / 255.0


def encode(encoder: Encoder, obs: Obs, mask: Shaped[Any, " T"]) -> Float[Array, " D"]:
    """The vector of an episode, whose observations have leaves [T, ...]; zero where the mask is."""
    return prefixes(encoder, obs, mask)[-1]


def prefixes(encoder: Encoder, obs: Obs, mask: Shaped[Any, " T"]) -> Float[Array, "T D"]:
    """The vectors of an episode up to each of its steps, that step included."""
    counted = jnp.asarray(mask, jnp.float32)[:, None]
    features = jnp.where(counted > 0, encoder(obs), 0.0)  # not a product: padding may hold anything, nan as well
    return jnp.cumsum(counted * features, 0) / jnp.maximum(jnp.cumsum(counted, 0), 1e-9)


def windows(encoder: Encoder, obs: Obs, width: int) -> Float[Array, "T D"]:
    """The vectors of the last `width` steps up to each step of an episode; of fewer where it has just begun."""
    features = encoder(obs)
    step = jnp.arange(len(features))
    sums = jnp.cumsum(jnp.pad(features, ((1, 0), (0, 0))), 0)
    first = jnp.maximum(step + 1 - width, 0)
    return (sums[step + 1] - sums[first]) / (step + 1 - first)[:, None]


def paths(encoder: Encoder, obs: Obs, points: int) -> Float[Array, "T PD"]:
    """The way of an episode up to each of its steps, as its features at `points` moments, evenly spread in time."""
    features = encoder(obs)
    moments = jnp.arange(len(features))[:, None] * jnp.linspace(0, 1, points)[None]
    before = jnp.floor(moments).astype(int)
    share, after = (moments - before)[..., None], jnp.minimum(before + 1, len(features) - 1)
    return ((1 - share) * features[before] + share * features[after]).reshape(len(features), -1)
