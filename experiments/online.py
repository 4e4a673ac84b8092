"""Data that a model makes itself while it learns: rollouts under random prompts, between training chunks.

The prompts are drawn without looking at any task: directions of the latent space, states seen so far, and random
rewards over the quantities that the preset names (a text of `embodied prompt` is one of that kind).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from embodied.data import collect, dataset, replay
from embodied.data.dataset import Dataset
from embodied.rewards.functions import tolerance
from embodied.rollout import Trajectory, rollout
from embodied.types import Agent, Env, Goal, InputError, Params, Prior, Quantities, Reward, Source, nearest
from experiments.presets import Experiment, Online

_NEIGHBOURS = (slice(None, -1), slice(1, None))  # decisions before and after each action
_ANSWERED_FROM = 5_000  # states of the ring that tell which latent a random reward asks for


def make_source(
    experiment: Experiment, agent: Agent, env: Env, stored: Dataset, episodes: list[Mapping[str, np.ndarray]]
) -> Source:
    """Stored data alone, or a ring that starts with it and grows by the model's own rollouts.

    Raises InputError for episodes of another length than the rollouts, or a quantity that the world lacks.
    """
    online = experiment.online
    if not online.worlds:
        return dataset.from_dataset(stored, experiment.train.batch_size)
    _check(online, env, episodes)
    rows = online.decisions + 1
    one = jax.tree.map(lambda leaf: leaf[:rows], stored.steps)
    ring = replay.add(replay.empty(one, online.capacity), stored.steps, rows)
    behave = _changing_latents(agent, online.latent_hold)
    draw_latents = _latents(agent, env, online)

    def refill(ring: replay.Ring, params: Params, done: int, key: jax.Array) -> replay.Ring:
        key_z, key_reset, key_rows, key_roll = jax.random.split(key, 4)
        z = draw_latents(params, ring, key_z)
        start = env.reset(key_reset, online.worlds)
        again = round(online.restarts * online.worlds)
        index = replay.draw(ring, rows, again, key_rows) + 1
        start = env.reset_to(jnp.concatenate([ring.steps.physics[index], start.physics[again:]]))
        carry = (jax.tree.map(jnp.copy, params), z, jnp.int32(0))
        trajectory = rollout(env, behave, start, carry, online.decisions, key_roll)
        return replay.add(ring, collect.as_steps(trajectory, reward_of(trajectory)), rows)

    def reward_of(trajectory: Trajectory) -> np.ndarray | None:
        if not experiment.task:
            return None
        before, after = ({q: leaf[:, part] for q, leaf in trajectory.quantities.items()} for part in _NEIGHBOURS)
        return np.asarray(env.tasks[experiment.task](before, trajectory.action, after))

    return replay.from_ring(ring, rows, experiment.train.batch_size, refill)


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
    for name in online.quantities:
        if name not in env.spec.quantities:
            known = nearest(name, env.spec.quantities)
            raise InputError(f"online.quantities: world '{env.spec.name}' has no quantity '{name}'; {known}")


def _latents(agent: Agent, env: Env, online: Online) -> Any:
    """(params, ring, key) -> [E, S, D]: a share of random rewards, and of the rest half prior and half goals."""
    rows = online.decisions + 1
    count = -(-online.decisions // online.latent_hold)
    total = online.worlds * count
    answered = round(online.prompted * total) if online.quantities and Reward in agent.prompts else 0

    @jax.jit
    def undirected(params: Params, ring: replay.Ring, key: jax.Array) -> jax.Array:
        key_rows, key_prior, key_mask = jax.random.split(key, 3)
        z = jax.vmap(lambda key: agent.prompt(params, Prior(), key))(jax.random.split(key_prior, total))
        if Goal in agent.prompts:
            index = replay.draw(ring, rows, total, key_rows) + 1
            goals = {name: leaf[index] for name, leaf in ring.steps.obs.items()}
            of_goal = jax.vmap(lambda obs: agent.prompt(params, Goal(obs), key_rows))(goals)
            z = jnp.where(jax.random.bernoulli(key_mask, 0.5, (total, 1)), of_goal, z)
        return z

    @jax.jit
    def answer(params: Params, obs: dict, rewards: jax.Array, key: jax.Array) -> jax.Array:
        return jax.vmap(lambda reward: agent.prompt(params, Reward(obs, reward), key))(rewards)

    def draw(params: Params, ring: replay.Ring, key: jax.Array) -> jax.Array:
        key_rest, key_rows, key_rewards, key_order = jax.random.split(key, 4)
        z = undirected(params, ring, key_rest)
        if answered:
            index = replay.draw(ring, rows, _ANSWERED_FROM, key_rows) + 1
            obs = {name: leaf[index] for name, leaf in ring.steps.obs.items()}
            _, quantities = env.observe(ring.steps.physics[index])
            generator = np.random.default_rng(np.asarray(jax.random.key_data(key_rewards)))
            rewards = random_rewards(quantities, online.quantities, answered, generator)
            # Shuffled, because the worlds that go on from stored states come first.
            z = jnp.concatenate([answer(params, obs, rewards, key_rewards), z[answered:]])
            z = jax.random.permutation(key_order, z)
        return z.reshape(online.worlds, count, z.shape[-1])

    return draw


def _changing_latents(agent: Agent, hold: int) -> Any:
    """Exploring behaviour with carry (params, z [E, S, D], decision): latent S = decision // hold."""

    def behave(obs: Any, carry: tuple, key: jax.Array) -> tuple[jax.Array, tuple]:
        params, z, decision = carry
        action, _ = agent.act(params, obs, z[:, decision // hold], (), key)
        return action, (params, z, decision + 1)

    return behave
