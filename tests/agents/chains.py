"""Finite worlds whose answers are known: exact measures and returns, and sources that walk in them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from embodied.data import dataset
from embodied.train import make_chunk
from embodied.types import Agent, Batch, Chain, Prior, Run, Source, Spec

# Agents by name, for tests that take long: those whose state, actor and answers are another one's, in all but the loss
# of their features, are tried by `make test-slow`.
ALIKE = {"laplacian": "hilp", "icvf": "hilp", "byol": "hilp", "byol_gamma": "hilp", "rldp": "fb"}
AGENTS: list[Any] = [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in agents.AGENTS]
# Those that learn from stored transitions, and not from rollouts of their own.
OF_STORED_DATA = [
    name for name in AGENTS if name not in ("multi_critic", "multi_critic_sac", "planner", "mrq", "tdmpc2")
]

# Programs that run a few times: compiling them without optimisation takes half the time.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_state(agent: Agent, spec: Spec, seed: int = 0) -> Any:
    """A state as after `agent.init`, with NumPy's Gaussian weights: compiling orthogonal ones takes half a minute."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> jax.Array:
        name = getattr(path[-1], "key", None)
        if name == "kernel":
            return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[-2]), leaf.dtype)
        if name == "covariance":
            return jnp.eye(leaf.shape[0])
        return jnp.full(leaf.shape, 1 if name in ("scale", "variance", "error") else 0, leaf.dtype)

    shapes = jax.eval_shape(agent.init, jax.random.key(0), spec.example())
    state = jax.tree_util.tree_map_with_path(fill, shapes)
    # Adam's moments start at zero.
    blank = jax.tree.map(jnp.zeros_like, state.optimizer)
    if not hasattr(state, "target"):
        return state.replace(optimizer=blank)
    return state.replace(
        optimizer=blank, target=jax.tree.map(jnp.copy, {name: state.params[name] for name in state.target})
    )


def random_batch(spec: Spec, rows: int, seed: int = 0) -> Batch:
    """Gaussian observations and rewards, uniform actions, no terminations, with all that any agent needs besides."""
    rng = np.random.default_rng(seed)
    obs, next_obs = (
        {name: jnp.asarray(rng.normal(size=(rows, *shape)), jnp.float32) for name, shape in spec.obs.items()}
        for _ in range(2)
    )
    action = jnp.asarray(rng.uniform(-1, 1, (rows, spec.action)), jnp.float32)
    batch = Batch(obs, action, next_obs, jnp.asarray(rng.normal(size=rows), jnp.float32), jnp.ones(rows))
    return with_what_follows(batch, spec, rng)


def with_what_follows(batch: Batch, spec: Spec, rng: np.random.Generator, length: int = 5) -> Batch:
    """The batch with a Gaussian future, and chains of which every other one ends with its first transition.

    So does one whose first transition terminated.
    """
    rows = len(batch.action)
    draw = lambda *lead: {  # noqa: E731
        name: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32) for name, shape in spec.obs.items()
    }
    future, after = draw(rows), draw(rows, length)
    action = jnp.asarray(rng.uniform(-1, 1, (rows, length, spec.action)), jnp.float32).at[:, 0].set(batch.action)
    after = {name: leaf.at[:, 0].set(batch.next_obs[name]) for name, leaf in after.items()}
    reward = jnp.asarray(rng.normal(size=(rows, length)), jnp.float32).at[:, 0].set(batch.reward)
    discount = jnp.ones((rows, length)).at[:, 0].set(batch.discount)
    inside = jnp.ones((rows, length)).at[::2, 1:].set(0.0).at[:, 1:].multiply(batch.discount[:, None])
    return batch.replace(future=future, chain=Chain(action, after, reward, discount, inside))


def for_agent(batch: Batch, agent: Agent, spec: Spec) -> Batch:
    """The batch as the agent learns from it: for one that makes its data, with rewards of its channels and latents.

    For one that learns from whole rollouts, four of them are made of its rows.
    """
    channels = agent.needs.channels
    if channels is None:
        return batch
    state = jax.eval_shape(agent.init, jax.random.key(0), spec.example())
    (width,) = jax.eval_shape(agent.prompt, state.params, Prior(), jax.random.key(0)).shape
    latent = np.repeat(np.random.default_rng(8).normal(size=(4, width)), len(batch.reward) // 4, 0)
    paid = lambda reward: jnp.multiply.outer(reward, jnp.arange(1.0, len(channels) + 1))  # noqa: E731
    length = agent.needs.chain
    first = jax.tree.map(lambda leaf: leaf[:, :length], batch.chain) if length else None
    made = batch.replace(
        reward=paid(batch.reward),
        latent=jnp.asarray(latent, jnp.float32),
        future=None,
        chain=first and first.replace(reward=paid(first.reward)),
    )
    if agent.needs.replay:
        return made
    rolled = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), made)
    return rolled.replace(last=(rolled.discount == 0).at[:, -1].set(True))


class Table(NamedTuple):
    """A data set that is the whole distribution: its empirical frequencies define the world and the data."""

    state: np.ndarray  # [n]
    action: np.ndarray  # [n]
    next_state: np.ndarray  # [n]
    joint: np.ndarray  # [S, A] frequency of (s, a)
    transition: np.ndarray  # [S, A, S] frequency of s' given (s, a)
    weight: np.ndarray  # [S] frequency of s', rho


def random_table(seed: int, states: int = 4, actions: int = 2, rows: int = 24) -> Table:
    """Random transitions in which every (s, a) and every s' occurs."""
    rng = np.random.default_rng(seed)
    pair = np.concatenate([np.arange(states * actions), rng.integers(states * actions, size=rows - states * actions)])
    state, action = np.divmod(pair, actions)
    next_state = np.concatenate([np.arange(states), rng.integers(states, size=rows - states)])
    counts = np.zeros((states, actions, states))
    np.add.at(counts, (state, action, next_state), 1)
    joint = counts.sum(-1)
    return Table(state, action, next_state, joint / rows, counts / joint[..., None], counts.sum((0, 1)) / rows)


def successor_measure(transition: np.ndarray, discount: float) -> np.ndarray:
    """M [S, S] = P (I - discount P)^-1: discounted visits from the next state on."""
    return transition @ np.linalg.inv(np.eye(len(transition)) - discount * transition)


def action_measure(table: Table, policy: np.ndarray, discount: float) -> np.ndarray:
    """M [S, A, S] of taking any action first and the policy's [S] afterwards."""
    on_policy = table.transition[np.arange(len(policy)), policy]
    return table.transition + discount * table.transition @ successor_measure(on_policy, discount)


def mean_over_pairs(loss: Callable[[Any], Any], rows: int) -> Any:
    """The mean of loss([i, j]) over all pairs of rows.

    A loss over i != j is unbiased, so its mean over all batches of two independent rows is its population value.
    """
    pairs = np.stack(np.divmod(np.arange(rows * rows), rows), 1)
    return jax.vmap(loss)(jnp.asarray(pairs)).mean()


class World(NamedTuple):
    """A deterministic world: `move(state [n], action [n, A]) -> state [n]`, observed as one-hot vectors."""

    states: int
    action: int
    move: Callable[[Any, Any], Any]

    @property
    def spec(self) -> Spec:
        """What an agent must know."""
        return Spec(obs={"state": (self.states,)}, action=self.action)


def line(states: int) -> World:
    """A row of states; a positive action goes right, any other left, and the ends stop."""
    return World(states, 1, lambda state, a: jnp.clip(state + jnp.where(a[:, 0] > 0, 1, -1), 0, states - 1))


def grid(side: int) -> World:
    """A square of states; the larger action component says where to go, and the walls stop."""

    def move(state: Any, action: Any) -> Any:
        sideways = jnp.abs(action[:, 0]) > jnp.abs(action[:, 1])
        step = jnp.where(action > 0, 1, -1)
        column = jnp.clip(state % side + jnp.where(sideways, step[:, 0], 0), 0, side - 1)
        row = jnp.clip(state // side + jnp.where(sideways, 0, step[:, 1]), 0, side - 1)
        return row * side + column

    return World(side * side, 2, move)


def everywhere(world: World, batch_size: int) -> Source:
    """Transitions from uniform states under uniform actions."""

    def sample(data: tuple[()], state: tuple[()], key: jax.Array) -> tuple[tuple[()], Batch]:
        key_state, key_action = jax.random.split(key)
        here = jax.random.randint(key_state, (batch_size,), 0, world.states)
        action = jax.random.uniform(key_action, (batch_size, world.action), minval=-1.0, maxval=1.0)
        there = world.move(here, action)
        obs, next_obs = ({"state": jax.nn.one_hot(s, world.states)} for s in (here, there))
        return state, Batch(obs, action, next_obs, jnp.zeros(batch_size), jnp.ones(batch_size))

    return Source(data=(), init=lambda key: (), next=sample)


def learn(
    agent: Agent, world: World, batch_size: int, updates: int, seed: int = 0, compile: Callable[..., Any] = jax.jit
) -> Any:
    """The agent's parameters after training on data from everywhere; `compile` is `jax.jit` or `quick_jit`."""
    source = everywhere(world, batch_size)
    state = random_state(agent, world.spec, seed)
    run = Run(agent=state, source=source.init(jax.random.key(seed)), step=jnp.int32(0))
    chunk = compile(make_chunk(agent, source, updates))
    return chunk(source.data, run, jax.random.key(seed))[0].agent.params


def learn_to_stay(make: Callable[[Spec], Agent], updates: int, compile: Callable[..., Any] = quick_jit) -> None:
    """Trains on random actions of a point on a line that is paid for being near 0; asserts that it then goes there."""
    rng, stride = np.random.default_rng(0), 0.3
    action = rng.uniform(-1, 1, (80, 12, 1)).astype(np.float32)
    x = [rng.uniform(-1, 1, 80)]
    for t in range(12):
        x.append(np.clip(x[-1] + stride * action[:, t, 0], -1, 1))
    place = np.stack(x, 1)[..., None].astype(np.float32)
    stored = dataset.from_episodes(
        [
            {"state": place[i], "action": action[i], "physics": place[i], "reward": 1 - np.abs(place[i, 1:])}
            for i in range(80)
        ]
    )
    agent = make(Spec(obs={"state": (1,)}, action=1))
    source = dataset.from_dataset(stored, 64, agent.needs)
    run = Run(agent=random_state(agent, Spec({"state": (1,)}, 1)), source=(), step=jnp.int32(0))
    chunk = compile(make_chunk(agent, source, updates))
    params = chunk(source.data, run, jax.random.key(0))[0].agent.params
    act = quick_jit(lambda params, x: agent.act(params, {"state": x}, jnp.zeros(0), agent.carry(len(x)), None)[0])
    point = jnp.linspace(-0.9, 0.9, 7)[:, None]
    for _ in range(6):
        point = jnp.clip(point + stride * act(params, point), -1, 1)
    assert np.abs(point).max() < 0.12


def latent(agent: Agent, params: Any, prompt: Any) -> np.ndarray:
    """The latent of a prompt."""
    infer = quick_jit(lambda params, prompt: agent.prompt(params, prompt, jax.random.key(0)))
    return np.asarray(infer(params, prompt))


def greedy_actions(agent: Agent, world: World, params: Any, z: Any) -> np.ndarray:
    """The deterministic action [S, A] in each state."""
    eye = {"state": jnp.eye(world.states)}
    act = quick_jit(lambda params, z: agent.act(params, eye, z, agent.carry(world.states), None)[0])
    return np.asarray(act(params, z))


def returns(world: World, action: np.ndarray, reward: np.ndarray, discount: float) -> np.ndarray:
    """The discounted return [S] of following the actions [S, A] for ever; rewards [S] are paid on arrival."""
    transition = np.eye(world.states)[np.asarray(world.move(jnp.arange(world.states), jnp.asarray(action)))]
    return successor_measure(transition, discount) @ reward


def optimal_returns(world: World, reward: np.ndarray, discount: float) -> np.ndarray:
    """The best discounted return [S], by value iteration over the axis-aligned actions."""
    directions = np.concatenate([np.eye(world.action), -np.eye(world.action)])
    state = jnp.arange(world.states)
    after = np.stack([world.move(state, jnp.tile(d, (world.states, 1))) for d in directions])
    value = np.zeros(world.states)
    for _ in range(int(np.log(1e-6) / np.log(discount))):
        value = (reward + discount * value)[after].max(0)
    return value
