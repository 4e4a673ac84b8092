"""Making data: coloured noise, latents that change on the way, and episodes from trajectories."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from embodied.data.dataset import Steps
from embodied.rollout import Behaviour, Trajectory
from embodied.types import Agent, Carry, Obs, Params, RandomKey


def coloured_noise(correlation: float, scale: float = 1.0) -> Behaviour:
    """Actions of a stationary Ornstein-Uhlenbeck process, clipped to [-1, 1]; its carry is `noise_carry`.

    `correlation` is the time constant in decisions; `scale` the standard deviation. The first action is drawn from
    the stationary distribution.
    """
    keep = float(np.exp(-1.0 / correlation))
    fresh = float(np.sqrt(1.0 - keep**2)) * scale

    def behave(obs: Obs, carry: tuple[Array, Array], key: RandomKey) -> tuple[Array, tuple[Array, Array]]:
        noise, started = carry
        draw = jax.random.normal(key, noise.shape)
        noise = jnp.where(started[:, None], keep * noise + fresh * draw, scale * draw)
        return jnp.clip(noise, -1.0, 1.0), (noise, jnp.ones_like(started))

    return behave


def noise_carry(action: int, count: int) -> tuple[Array, Array]:
    """The start of `coloured_noise` for E = count worlds."""
    return jnp.zeros((count, action)), jnp.zeros(count, bool)


def changing_latents(agent: Agent, hold: int) -> Behaviour:
    """The agent exploring along tracks of latents, with carry (params, z [E, S, D], decision, inner).

    The latent of a decision is number S = decision // hold.
    """

    def behave(obs: Obs, carry: tuple[Params, Array, Array, Carry], key: RandomKey) -> tuple[Any, Any]:
        params, z, decision, inner = carry
        action, inner = agent.act(params, obs, z[:, decision // hold], inner, key)
        return action, (params, z, decision + 1, inner)

    return behave


def episodes(trajectory: Trajectory) -> list[dict[str, np.ndarray]]:
    """One mapping per world: state [T+1, O], action [T, A], physics [T+1, P], discount [T]."""
    host = jax.device_get(trajectory)
    return [
        {
            "state": np.asarray(host.obs["state"][e], np.float32),
            "action": np.asarray(host.action[e], np.float32),
            "physics": np.asarray(host.physics[e], np.float64),
            "discount": np.asarray(host.discount[e], np.float32),
        }
        for e in range(host.action.shape[0])
    ]


def as_steps(trajectory: Trajectory, reward: Float[np.ndarray, "E T *C"] | None = None) -> Steps:
    """The trajectory as ring rows: leaves [E * (T + 1), ...], float32 physics, zero rewards unless given."""
    reward = np.zeros(trajectory.action.shape[:2]) if reward is None else reward
    host = jax.device_get(trajectory)
    pad = lambda x: np.concatenate([x, x[:, -1:]], 1)  # noqa: E731

    def flat(x: Any) -> Any:
        return np.asarray(x, np.float32).reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    return Steps(
        obs={name: flat(leaf) for name, leaf in host.obs.items()},
        action=flat(pad(host.action)),
        reward=flat(pad(reward)),
        discount=flat(pad(host.discount)),
        physics=flat(host.physics),
    )
