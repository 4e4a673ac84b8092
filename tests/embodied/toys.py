"""Parts small enough to check by hand: an agent of two numbers, a data set, and a world that adds its actions."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from agents import fb
from embodied.data import dataset
from embodied.policy import Buffer, Policy, Prompted
from embodied.types import TRANSITIONS, Agent, Batch, Env, EnvSpec, Needs, Prior, Quantity, Source, Spec, Timestep

SPEC = Spec(obs={"state": (2,)}, action=1)


@no_type_check
@struct.dataclass
class State:
    """Two weights and the number of updates."""

    params: Any
    count: Any


def agent(*, fails_at: int = -1) -> Agent:
    """An agent whose weights follow batch and key; metric "toy/poison" is NaN in update `fails_at`, from 0."""

    def init(key: jax.Array, batch: Batch) -> State:
        return State({"weight": jax.random.normal(key, (2,))}, jnp.int32(0))

    def update(state: State, batch: Batch, key: jax.Array) -> tuple[State, dict]:
        noise = jax.random.normal(key, (2,))
        weight = 0.9 * state.params["weight"] + batch.next_obs["state"].mean(0) + 0.1 * noise
        metrics = {"toy/weight": weight.sum(), "toy/poison": jnp.where(state.count == fails_at, jnp.nan, 0.0)}
        return State({"weight": weight}, state.count + 1), metrics

    def act(params: Any, obs: Any, z: Any, carry: Any, key: jax.Array | None) -> tuple[jax.Array, Any]:
        return jnp.tanh(obs["state"] @ params["weight"])[:, None], carry

    return Agent(init, update, lambda *_: jnp.zeros(0), lambda count: (), act, (Prior,))


def episodes(lengths: tuple[int, ...], seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Episodes whose state is (episode, time), so that every row tells where it comes from."""
    rng = np.random.default_rng(seed)
    return [
        {
            "state": np.stack([np.full(length + 1, i), np.arange(length + 1)], 1).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, 1)).astype(np.float32),
            "physics": np.arange(length + 1)[:, None] + 1000.0 * i,
            "reward": np.arange(length) + 100.0 * i,
            "discount": (np.arange(length) < length - 1).astype(np.float32),
        }
        for i, length in enumerate(lengths)
    ]


def source(batch_size: int = 4, needs: Needs = TRANSITIONS) -> Source:
    """Transitions of three short episodes, with what an agent needs besides."""
    return dataset.from_dataset(dataset.from_episodes(episodes((5, 3, 4))), batch_size, needs)


def policy() -> Policy:
    """A forward-backward policy of the adder before its first update."""
    spec = Spec(obs={"state": (2,)}, action=1, mean={"state": (0.5, 1.0)}, std={"state": (2.0, 1.0)})
    config = dataclasses.replace(fb.Config().tiny(), inputs="standardized")
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    init = jax.jit(fb.make(config, spec).init, compiler_options=options)
    state = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    buffer = Buffer({"state": state}, state[:, :1])
    return Policy("fb", config, spec, "adder", {"hold": 2}, init(jax.random.key(0), spec.example()).params, buffer)


def actions(prompted: Prompted, count: int = 4) -> np.ndarray:
    """What a prompted policy does on its way past `count` observations."""
    carry, found = prompted.carry(), []
    for i in range(count):
        action, carry = prompted.act({"state": np.array([0.1 * i, -0.2])}, carry)
        found.append(action)
    return np.stack(found)


class Adder(Env):
    """Worlds with one number x that grows by the action at each of two control steps per decision.

    A world that passes `limit` terminates and goes on from x = 0.
    """

    def __init__(self, jittable: bool, limit: float = np.inf) -> None:
        self.limit = limit
        self.spec = EnvSpec(
            name="adder",
            obs={"state": (2,)},
            action=1,
            control_dt=0.1,
            hold=2,
            episode_length=8,
            quantities={"x": Quantity((), "m", "position"), "pair": Quantity((2,), "m", "position twice")},
            physics=1,
            jittable=jittable,
        )
        self.tasks: dict[str, Any] = {}
        self.numpy = jnp if jittable else np

    def reset(self, key: Any, count: int) -> Timestep:
        """Worlds at x = 0, 1, 2, ..."""
        return self.reset_to(self.numpy.arange(count, dtype=np.float32)[:, None])

    def reset_to(self, physics: Any) -> Timestep:
        """Worlds at the given x."""
        return self._timestep(physics, self.numpy.stack([physics[:, 0]] * 2, 1))

    def step(self, ts: Timestep, action: Any) -> Timestep:
        """x + action, then x + 2 action."""
        path = ts.physics + self.numpy.asarray(action) * self.numpy.asarray([[1.0, 2.0]], np.float32)
        ended = path[:, 1] > self.limit
        after = self._timestep(self.numpy.where(ended[:, None], 0.0, path[:, 1:]), path)
        return after.replace(discount=1.0 - ended, last=ended)

    def observe(self, physics: Any) -> tuple[dict, dict]:
        """Observations (x, 1) and quantities."""
        x = self.numpy.asarray(physics)[..., 0]
        obs = {"state": self.numpy.stack([x, self.numpy.ones_like(x)], -1).astype(np.float32)}
        return obs, {"x": x, "pair": self.numpy.stack([x, x], -1)}

    def _timestep(self, physics: Any, path: Any) -> Timestep:
        obs, quantities = self.observe(physics)
        ends = self.numpy.zeros(physics.shape[0], bool)
        return Timestep(physics, obs, quantities, self.observe(path[..., None])[1], 1.0 - 1.0 * ends, ends)
