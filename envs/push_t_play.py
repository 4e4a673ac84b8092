"""Exploration that pushes the T: noise on a pusher that heads for one place at the block after the other.

Noise alone seldom finds the block. Here each place is drawn from a normal distribution around the block's middle, and
the way there leads through the block or around it: so it is pushed from any side, and not only off to the walls. Now
and then there is no place to go, and what is left is noise.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from embodied.data import collect
from embodied.rollout import Behaviour
from embodied.types import Obs, RandomKey
from envs.push_t import REACH

WORLD = "push_t"
SPREAD = 0.08  # m, standard deviation of a place along each axis
STRETCH = 5.0  # decisions until the next place, on average
FREE, AROUND = 0.2, 0.4  # shares of stretches without a place, and of those that lead around the block
CLEAR = 0.1  # m from the block's middle, where the way around it turns aside


def pushes(correlation: float, scale: float) -> Behaviour:
    """Actions that head for places at the block, with noise as of `coloured_noise` on them; its carry is `carry`."""
    noise = collect.coloured_noise(correlation, scale)

    def behave(obs: Obs, carry: tuple[Any, Array, Array], key: RandomKey) -> tuple[Array, Any]:
        inner, place, kind = carry
        key_noise, key_new, key_place, key_kind = jax.random.split(key, 4)
        pusher, block = obs["state"][:, :2], obs["state"][:, 2:4]
        new = jax.random.bernoulli(key_new, 1 / STRETCH, kind.shape) | jnp.isnan(kind)
        place = jnp.where(new[:, None], block + SPREAD * jax.random.normal(key_place, place.shape), place)
        kind = jnp.where(new, jax.random.uniform(key_kind, kind.shape), kind)
        way = jnp.where((kind < FREE + AROUND)[:, None], _around(place - pusher, block - pusher), place - pusher)
        wanted = jnp.where((kind < FREE)[:, None], 0.0, jnp.clip(way / REACH, -1.0, 1.0))
        shaken, inner = noise(obs, inner, key_noise)
        return jnp.clip(wanted + shaken, -1.0, 1.0), (inner, place, kind)

    return behave


def _around(way: Array, block: Array) -> Array:
    """The way [E, 2] without what of it leads towards a block [E, 2] that is near, and as long."""
    distance = jnp.linalg.norm(block, axis=1, keepdims=True)
    towards = block / jnp.maximum(distance, 1e-6)
    into = jnp.maximum((way * towards).sum(1, keepdims=True), 0.0)
    aside = way - into * towards
    length = jnp.linalg.norm(way, axis=1, keepdims=True) / jnp.maximum(
        jnp.linalg.norm(aside, axis=1, keepdims=True), 1e-6
    )
    return jnp.where(distance < CLEAR, aside * length, way)


def carry(count: int) -> tuple[Any, Array, Array]:
    """The start of `pushes` for E = count worlds: nowhere to go yet."""
    return collect.noise_carry(2, count), jnp.zeros((count, 2)), jnp.full(count, jnp.nan)
