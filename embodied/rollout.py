"""Acting in worlds: E episodes side by side, as one scan for jittable worlds and as a host loop for the others."""

import functools
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PyTree

from embodied.types import Agent, Carry, Env, Obs, Params, Quantities, RandomKey, Timestep

# (obs, carry, key) -> (action, carry); the key is the step's own.
Behaviour = Callable[[Obs, Carry, RandomKey], tuple[Any, Carry]]


@no_type_check
@struct.dataclass
class Trajectory:
    """E episodes of T decisions, each held for H control steps."""

    obs: Obs  # leaves [E, T + 1, ...]
    action: Float[Array, "E T A"]
    physics: Float[Array, "E T+1 P"]
    quantities: Quantities  # leaves [E, T + 1, ...]
    path: Quantities  # leaves [E, T * H, ...]: quantities at each control step
    discount: Float[Array, "E T"]


def rollout(
    env: Env,
    behave: Behaviour,
    start: Timestep,
    carry: Carry,
    decisions: int,
    key: RandomKey,
    traced: bool = True,
) -> Trajectory:
    """The episodes that `behave` makes from `start`; host arrays for host worlds, device arrays for jittable ones.

    Compiled once for each `env`, `behave` and `decisions`: pass the same objects again, not new ones. In host worlds
    a behaviour that cannot be traced is called as it is (`traced` False).
    """
    if env.spec.jittable:
        return _compiled(env, behave, decisions)(start, carry, key)
    behave = jax.jit(behave) if traced else behave
    keys = jax.random.split(key, decisions)
    ts, steps, actions = start, [start], []
    for t in range(decisions):
        action, carry = behave(ts.obs, carry, keys[t])
        actions.append(np.asarray(action))
        ts = env.step(ts, actions[-1])
        steps.append(ts)
    stack = lambda items: jax.tree.map(lambda *leaves: np.stack(leaves, 1), *items)  # noqa: E731
    path = stack([ts.path for ts in steps[1:]])
    return Trajectory(
        obs=stack([ts.obs for ts in steps]),
        action=np.stack(actions, 1),
        physics=np.stack([ts.physics for ts in steps], 1),
        quantities=stack([ts.quantities for ts in steps]),
        path=_flatten_path(path),
        discount=np.stack([ts.discount for ts in steps[1:]], 1),
    )


@functools.lru_cache(maxsize=8)  # each entry keeps its world alive
def _compiled(env: Env, behave: Behaviour, decisions: int) -> Callable[[Timestep, Carry, RandomKey], Trajectory]:
    return jax.jit(lambda start, carry, key: _scan(env, behave, start, carry, decisions, key))


def _scan(env: Env, behave: Behaviour, start: Timestep, carry: Carry, decisions: int, key: RandomKey) -> Trajectory:
    def one(state: tuple[Timestep, Carry], key: RandomKey) -> tuple[Any, Any]:
        ts, carry = state
        action, carry = behave(ts.obs, carry, key)
        ts = env.step(ts, action)
        return (ts, carry), (ts, action)

    _, (after, action) = jax.lax.scan(one, (start, carry), jax.random.split(key, decisions))
    batch_major = lambda leaf: jnp.swapaxes(leaf, 0, 1)  # noqa: E731
    join = lambda first, rest: jnp.concatenate([first[:, None], batch_major(rest)], 1)  # noqa: E731
    return Trajectory(
        obs=jax.tree.map(join, start.obs, after.obs),
        action=batch_major(action),
        physics=join(start.physics, after.physics),
        quantities=jax.tree.map(join, start.quantities, after.quantities),
        path=_flatten_path(jax.tree.map(batch_major, after.path)),
        discount=batch_major(after.discount),
    )


def _flatten_path(path: PyTree) -> PyTree:
    """[E, T, H, ...] -> [E, T * H, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), path)


@functools.lru_cache(maxsize=8)
def agent_behaviour(agent: Agent, explore: bool) -> Behaviour:
    """The agent as a behaviour whose carry is `(params, z, inner carry)`; the same one again for the same agent."""

    def behave(obs: Obs, carry: tuple[Params, Any, Carry], key: RandomKey) -> tuple[Any, Carry]:
        params, z, inner = carry
        action, inner = agent.act(params, obs, z, inner, key if explore else None)
        return action, (params, z, inner)

    return behave


def still_behaviour(agent: Agent) -> Behaviour:
    """The agent as it is exported: one action for each observation, whatever is drawn elsewhere."""
    return agent_behaviour(agent, explore=False)


def scored_behaviour(agent: Agent) -> Behaviour:
    """The agent as it is scored: without exploration, and by draws where its policy is a distribution."""
    return agent_behaviour(agent, explore=agent.drawn)
