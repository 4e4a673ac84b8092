"""Rollouts of an agent that learns from nothing else: each used once, right after it was made, or a ring of the latest.

They are made with the agent's latest parameters, under latents of its prior. A reward is the mean over the control
steps of a decision, of which a world has `hold`.
"""

from collections.abc import Callable, Mapping
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from embodied.data import collect, dataset, replay
from embodied.data.dataset import Dataset, Steps
from embodied.evaluate import random_behaviour, rewards
from embodied.rollout import Trajectory, agent_behaviour, rollout
from embodied.types import Agent, Batch, Env, InputError, Params, Prior, Source, Spec, nearest
from experiments.experiment import Experiment
from experiments.online import State as RingState


@no_type_check
@struct.dataclass
class State:
    """The last rollout, and how the next one goes on."""

    batch: Batch  # leaves [E, T, ...]
    physics: Float[Array, "E T+1 P"]  # states that it passed through
    latent: Float[Array, "E D"]  # of each world, drawn anew for each episode
    decision: Int[Array, ""]  # of the episode, the same in all worlds


def random_actions(experiment: Experiment, env: Env) -> Dataset:
    """One episode in each world under uniformly random actions: what observations are standardised by.

    Raises InputError where no worlds are asked for.
    """
    worlds = experiment.online.worlds
    if not worlds:
        raise InputError("online.worlds: must be at least 1 for an agent that learns from rollouts of its own, got 0")
    key_reset, key_roll = jax.random.split(jax.random.key(experiment.train.seed))
    start, behave = env.reset(key_reset, worlds), random_behaviour(env.spec.action)
    carry = ((), jnp.zeros((worlds, 1)), ())
    return dataset.from_episodes(collect.episodes(rollout(env, behave, start, carry, env.spec.decisions, key_roll)))


def make_source(experiment: Experiment, agent: Agent, spec: Spec, env: Env) -> Source:
    """What the agent needs: whole rollouts, or transitions of a ring (`Needs.replay`); `refill` makes new ones.

    Raises InputError for channels that are no tasks of the world, and for sizes that do not fit each other.
    """
    assert agent.needs.channels is not None
    for name in agent.needs.channels:
        if name not in env.tasks:
            raise InputError(f"channels: world '{env.spec.name}' has no task '{name}'; {nearest(name, env.tasks)}")
    tasks = [env.tasks[name] for name in agent.needs.channels]
    return (_ring if agent.needs.replay else _whole)(experiment, agent, spec, env, tasks)


def visited(state: State) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """(observations, physics) of all states behind a decision of the last rollout, E T of them."""
    rows = lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])  # noqa: E731
    return {name: rows(leaf) for name, leaf in state.batch.next_obs.items()}, rows(state.physics[:, 1:])


def _whole(experiment: Experiment, agent: Agent, spec: Spec, env: Env, tasks: list[Any]) -> Source:
    """One batch, which `refill` replaces by a rollout [E, T].

    Episodes begin in all worlds together, each with a latent of its own, and may span several rollouts.
    """
    _check_whole(experiment, env)
    online = experiment.online
    behave, draw = agent_behaviour(agent, explore=True), _latents(agent, online.worlds)

    def init(key: jax.Array) -> State:
        rows = (online.worlds, online.decisions)
        one = spec.example(online.worlds)
        batch = jax.tree.map(lambda leaf: jnp.zeros((*rows, *leaf.shape[1:]), leaf.dtype), one)
        params = jax.eval_shape(agent.init, key, one).params
        latent = jnp.zeros(jax.eval_shape(draw, params, key).shape)
        batch = batch.replace(
            reward=jnp.zeros((*rows, len(tasks))),
            latent=jnp.zeros((*rows, *latent.shape[1:])),
            last=jnp.zeros(rows, bool),
        )
        physics = jnp.zeros((online.worlds, online.decisions + 1, env.spec.physics))
        return State(batch, physics, latent, jnp.int32(0))

    def refill(state: State, params: Params, done: int, key: jax.Array) -> State:
        key_reset, key_latent, key_roll = jax.random.split(key, 3)
        params = jax.tree.map(jnp.copy, params)  # the run that has them is donated
        if int(state.decision) == 0:
            start, latent = env.reset(key_reset, online.worlds), draw(params, key_latent)
        else:
            start, latent = env.reset_to(state.physics[:, -1]), state.latent
        carry = (params, latent, agent.carry(online.worlds))
        trajectory = rollout(env, behave, start, carry, online.decisions, key_roll)
        decision = (state.decision + online.decisions) % env.spec.decisions
        batch = _batch(trajectory, _paid(trajectory, env, tasks), latent)
        return State(batch, jnp.asarray(trajectory.physics, jnp.float32), latent, decision)

    return Source((), init, lambda data, state, key: (state, state.batch), refill)


def _check_whole(experiment: Experiment, env: Env) -> None:
    online, train = experiment.online, experiment.train
    rows = online.worlds * online.decisions
    if env.spec.decisions % online.decisions:
        raise InputError(
            f"online.decisions: must divide the {env.spec.decisions} decisions of an episode, got {online.decisions}"
        )
    if train.batch_size != rows:
        raise InputError(
            f"train.batch_size: must be worlds x decisions of a rollout, {rows}, as all of it makes an update; got "
            f"{train.batch_size}"
        )
    if online.worlds % train.devices:
        raise InputError(f"online.worlds: must be a multiple of the {train.devices} devices, got {online.worlds}")
    if train.chunk != 1:
        raise InputError(f"train.chunk: must be 1, because each update needs a new rollout, got {train.chunk}")


def _ring(experiment: Experiment, agent: Agent, spec: Spec, env: Env, tasks: list[Any]) -> Source:
    """Transitions of a ring, to which `refill` adds a rollout in each world, from the start of an episode on."""
    online, rows = experiment.online, experiment.online.decisions + 1
    if online.decisions > env.spec.decisions:
        raise InputError(
            f"online.decisions: must be at most the {env.spec.decisions} of an episode, got {online.decisions}"
        )
    behave, draw = agent_behaviour(agent, explore=True), _latents(agent, online.worlds)

    def init(key: jax.Array) -> RingState:
        params = jax.eval_shape(agent.init, key, spec.example()).params
        one = Steps(
            obs={name: jnp.zeros((rows, *shape)) for name, shape in spec.obs.items()},
            action=jnp.zeros((rows, spec.action)),
            reward=jnp.zeros((rows, len(tasks))),
            discount=jnp.zeros(rows),
            physics=jnp.zeros((rows, env.spec.physics)),
            latent=jnp.zeros((rows, *jax.eval_shape(draw, params, key).shape[1:])),
        )
        return RingState(replay.empty(one, online.capacity), None)

    def following(data: tuple[()], state: RingState, key: jax.Array) -> tuple[RingState, Batch]:
        return state, replay.sample(state.ring, rows, experiment.train.batch_size, agent.needs, key)

    def refill(state: RingState, params: Params, done: int, key: jax.Array) -> RingState:
        key_reset, key_latent, key_roll = jax.random.split(key, 3)
        params = jax.tree.map(jnp.copy, params)  # the run that has them is donated
        latent = draw(params, key_latent)
        carry = (params, latent, agent.carry(online.worlds))
        trajectory = rollout(env, behave, env.reset(key_reset, online.worlds), carry, online.decisions, key_roll)
        steps = collect.as_steps(trajectory, _paid(trajectory, env, tasks))
        steps = steps.replace(latent=np.repeat(np.asarray(latent), rows, 0))
        return RingState(replay.add(state.ring, steps, rows), None)

    return Source((), init, following, refill)


def _latents(agent: Agent, count: int) -> Callable[[Params, jax.Array], jax.Array]:
    """(params, key) -> [E, D]."""

    @jax.jit
    def draw(params: Params, key: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: agent.prompt(params, Prior(), key))(jax.random.split(key, count))

    return draw


def _paid(trajectory: Trajectory, env: Env, tasks: list[Any]) -> Float[np.ndarray, "E T C"]:
    """What each task pays for each decision."""
    worlds, decisions = trajectory.action.shape[:2]
    host = jax.device_get(trajectory)
    paid = [rewards(host, task, env.spec.hold).reshape(worlds, decisions, -1).mean(-1) for task in tasks]
    return np.stack(paid, -1) if paid else np.zeros((worlds, decisions, 0))


def _batch(trajectory: Trajectory, reward: Float[np.ndarray, "E T C"], latent: jax.Array) -> Batch:
    host = jax.device_get(trajectory)
    ended = np.asarray(host.discount) == 0
    ended[:, -1] = True
    return Batch(
        obs={name: jnp.asarray(leaf[:, :-1]) for name, leaf in host.obs.items()},
        action=jnp.asarray(host.action),
        next_obs={name: jnp.asarray(leaf[:, 1:]) for name, leaf in host.obs.items()},
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.asarray(host.discount),
        latent=jnp.repeat(latent[:, None], host.action.shape[1], 1),
        last=jnp.asarray(ended),
    )
