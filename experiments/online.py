"""Data that a model makes itself while it learns: rollouts under random prompts, between training chunks.

The prompts are drawn without looking at any task: directions of the latent space, states seen so far, and random
rewards over the quantities that the preset names (a text of `embodied prompt` is one of that kind).
"""

from collections.abc import Callable, Mapping
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from embodied.data import collect, dataset, replay
from embodied.data.dataset import Dataset
from embodied.nets.encoders import project
from embodied.rewards.functions import tolerance
from embodied.rollout import Trajectory, rollout
from embodied.types import (
    Agent,
    Batch,
    Env,
    Goal,
    InputError,
    Obs,
    Params,
    Prior,
    Quantities,
    Reward,
    Source,
    Spec,
    nearest,
)
from experiments.experiment import Experiment, Online

_NEIGHBOURS = (slice(None, -1), slice(1, None))  # decisions before and after each action
_BANK = 256  # random rewards asked per refill
_ANSWERED_FROM = 5_000  # states of the ring that tell which latent a random reward asks for


@no_type_check
@struct.dataclass
class State:
    """What changes: the episodes, and the latents that the model last gave to random rewards."""

    ring: replay.Ring
    latents: Float[Array, "_BANK D"] | None


def make_source(
    experiment: Experiment,
    agent: Agent,
    spec: Spec,
    env: Env,
    stored: Dataset,
    episodes: list[Mapping[str, np.ndarray]],
) -> Source:
    """Stored data alone, or a ring that starts with it and grows by the model's own rollouts.

    Where the rollouts answer random rewards, batches bring the latents of such rewards along.

    Raises InputError for episodes of another length than the rollouts, more of them than the ring holds, or a
    quantity that the world lacks or that is no scalar.
    """
    online = experiment.online
    if not online.worlds:
        return dataset.from_dataset(stored, experiment.train.batch_size, agent.needs)
    if "pixels" in env.spec.obs:
        raise InputError(f"online: worlds must be 0 for a world that is seen in pixels, got {online.worlds}")
    _check(online, env, episodes)
    rows = online.decisions + 1
    one = jax.tree.map(lambda leaf: leaf[:rows], stored.steps)
    behave = collect.changing_latents(agent, online.latent_hold)
    asks = bool(online.quantities) and Reward in agent.prompts
    undirected, answer = _undirected(agent, online), _answers(agent, env, online)

    def init(key: jax.Array) -> State:
        ring = replay.add(replay.empty(one, online.capacity), stored.steps, rows)
        if not asks:
            return State(ring, None)
        # Directions without a meaning, until there is a model that gives them one.
        ask = lambda key: agent.prompt(agent.init(key, spec.example()).params, Prior(), key)  # noqa: E731
        return State(ring, project(jax.random.normal(key, (_BANK, *jax.eval_shape(ask, key).shape))))

    def sample(data: tuple[()], state: State, key: jax.Array) -> tuple[State, Batch]:
        key_rows, key_latents = jax.random.split(key)
        batch = replay.sample(state.ring, rows, experiment.train.batch_size, agent.needs, key_rows)
        if state.latents is not None:
            pick = jax.random.randint(key_latents, (experiment.train.batch_size,), 0, _BANK)
            batch = batch.replace(latent=state.latents[pick])
        return state, batch

    def refill(state: State, params: Params, done: int, key: jax.Array) -> State:
        key_z, key_answers, key_mix, key_reset, key_rows, key_roll = jax.random.split(key, 6)
        ring, z, latents = state.ring, undirected(params, state.ring, key_z), None
        if asks:
            latents = answer(params, ring, key_answers)
            z = _mix(z, latents, online.prompted, key_mix)
        start = env.reset(key_reset, online.worlds)
        again = round(online.restarts * online.worlds)
        index = replay.draw(ring, rows, again, key_rows) + 1
        start = env.reset_to(jnp.concatenate([ring.steps.physics[index], start.physics[again:]]))
        carry = (jax.tree.map(jnp.copy, params), z, jnp.int32(0), agent.carry(online.worlds))
        trajectory = rollout(env, behave, start, carry, online.decisions, key_roll)
        return State(replay.add(ring, collect.as_steps(trajectory, reward_of(trajectory)), rows), latents)

    def reward_of(trajectory: Trajectory) -> np.ndarray | None:
        if not experiment.task:
            return None
        before, after = ({q: leaf[:, part] for q, leaf in trajectory.quantities.items()} for part in _NEIGHBOURS)
        return np.asarray(env.tasks[experiment.task](before, trajectory.action, after))

    return Source(data=(), init=init, next=sample, refill=refill)


def random_rewards(
    quantities: Quantities, names: tuple[str, ...], count: int, generator: np.random.Generator
) -> np.ndarray:
    """`count` rewards [count, N] of N states, each a product of two pieces (one where only one quantity is named).

    A piece is the text `tolerance(name, x, x, width)`: a quantity drawn from `names`, x uniform in its observed
    range (without the outermost thousandth), the width a quarter of that range.
    """
    ranges = {name: np.quantile(np.asarray(quantities[name]), [0.001, 0.999]) for name in names}
    rewards = []
    for _ in range(count):
        reward = 1.0
        for name in generator.choice(names, min(2, len(names)), replace=False):
            low, high = ranges[name]
            target = generator.uniform(low, high)
            width = max((high - low) / 4, 1e-6)
            reward = reward * tolerance(np.asarray(quantities[name]), target, target, width)
        rewards.append(reward)
    return np.asarray(rewards, np.float32)


def _check(online: Online, env: Env, episodes: list[Mapping[str, np.ndarray]]) -> None:
    lengths = {len(episode["action"]) for episode in episodes}
    if lengths != {online.decisions}:
        raise InputError(
            f"online.decisions: must equal the length of the stored episodes ({sorted(lengths)[0]}), got "
            f"{online.decisions}"
        )
    if len(episodes) > online.capacity:
        raise InputError(f"online.capacity: must hold the {len(episodes)} stored episodes, got {online.capacity}")
    scalar = [name for name, quantity in env.spec.quantities.items() if quantity.shape == ()]
    for name in online.quantities:
        if name not in scalar:
            known = nearest(name, scalar)
            raise InputError(f"online.quantities: world '{env.spec.name}' has no scalar quantity '{name}'; {known}")


def _undirected(agent: Agent, online: Online) -> Callable[[Params, replay.Ring, jax.Array], jax.Array]:
    """(params, ring, key) -> [E, S, D]: half drawn from the prior, half goals from the ring."""
    rows = online.decisions + 1
    count = -(-online.decisions // online.latent_hold)
    total = online.worlds * count

    @jax.jit
    def draw(params: Params, ring: replay.Ring, key: jax.Array) -> jax.Array:
        key_rows, key_prior, key_mask = jax.random.split(key, 3)
        z = jax.vmap(lambda key: agent.prompt(params, Prior(), key))(jax.random.split(key_prior, total))
        if Goal in agent.prompts:
            index = replay.draw(ring, rows, total, key_rows) + 1
            goals = {name: leaf[index] for name, leaf in ring.steps.obs.items()}
            of_goal = jax.vmap(lambda obs: agent.prompt(params, Goal(obs), key_rows))(goals)
            z = jnp.where(jax.random.bernoulli(key_mask, 0.5, (total, 1)), of_goal, z)
        return z.reshape(online.worlds, count, z.shape[-1])

    return draw


def _answers(agent: Agent, env: Env, online: Online) -> Callable[[Params, replay.Ring, jax.Array], jax.Array]:
    """(params, ring, key) -> [_BANK, D]: what the model answers to random rewards on states of the ring."""

    @jax.jit
    def answer(params: Params, obs: Obs, rewards: jax.Array, key: jax.Array) -> jax.Array:
        return jax.vmap(lambda reward: agent.prompt(params, Reward(obs, reward), key))(rewards)

    def draw(params: Params, ring: replay.Ring, key: jax.Array) -> jax.Array:
        key_rows, key_rewards, key_prompt = jax.random.split(key, 3)
        index = replay.draw(ring, online.decisions + 1, _ANSWERED_FROM, key_rows) + 1
        _, quantities = env.observe(ring.steps.physics[index])
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key_rewards)))
        rewards = random_rewards(quantities, online.quantities, _BANK, generator)
        return answer(params, {name: leaf[index] for name, leaf in ring.steps.obs.items()}, rewards, key_prompt)

    return draw


@jax.jit
def _mix(z: jax.Array, latents: jax.Array, share: Any, key: jax.Array) -> jax.Array:
    """`z` [E, S, D] with each latent replaced, with probability `share`, by one of `latents` [N, D]."""
    key_mask, key_pick = jax.random.split(key)
    mask = jax.random.bernoulli(key_mask, share, (*z.shape[:2], 1))
    return jnp.where(mask, latents[jax.random.randint(key_pick, z.shape[:2], 0, len(latents))], z)
