"""`embodied collect`: reward-free data from noise, an explorer or a scripted arm, into the native store."""

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from agents import rnd
from embodied.data import collect, replay, store
from embodied.policy import Policy
from embodied.rollout import Trajectory, agent_behaviour, rollout
from embodied.train import fetch, init_run, make_chunk
from embodied.types import Env, Goal, InputError, Prior, Spec
from envs import metaworld_expert, ogbench_play, push_t_play
from envs.host import usable_cores
from envs.pixels import frames, setting
from experiments.experiment import PROMPTED, Collect

BEHIND = 10  # decisions behind the first solved one that an episode of an expert keeps
HOPELESS = 10  # batches in a row without a solved episode


def run(config: Collect, out: Path, quiet: bool = False, policy: Policy | None = None) -> Path:
    """The directory of the finished dataset; `policy` is what `config.policy` names.

    Raises InputError where `out` already holds one or the policy does not fit, and NonFiniteError where the explorer
    diverges.
    """
    starts = [{"start": start} for start in config.starts] or [{}]
    worlds = [make_env(config.world, config.hold, config.randomise, **options) for options in starts]
    env = worlds[0]
    if config.pixels:
        make_env(config.world, config.hold, pixels=config.pixels).reset(jax.random.key(0), 1)  # refused before the work
    if config.explorer == "pushes" and config.world != push_t_play.WORLD:
        raise InputError(f"collect: explorer 'pushes' needs world '{push_t_play.WORLD}', got '{config.world}'")
    if config.explorer in ogbench_play.STYLES:
        batches = _scripted(config)
    elif config.explorer == "expert":
        metaworld_expert.check(config.world)
        batches = _solved(config, env)
    else:
        if config.explorer in PROMPTED:
            assert policy is not None
            rollouts = _prompted(config, worlds, policy)
        else:
            rollouts = (_rnd if config.explorer == "rnd" else _noise)(config, worlds)
        batches = map(collect.episodes, rollouts)
    options = world_options(env, config.randomise)
    metadata = {"world": config.world, "options": options, "collector": dataclasses.asdict(config)}
    metadata["seed"] = config.seed
    metadata |= {"frames": setting(env, config.pixels)} if config.pixels else {}
    started, done = time.perf_counter(), 0
    with store.Writer(out, f"{config.world}_{config.explorer}", metadata) as writer:
        for batch in itertools.islice(batches, config.episodes // config.worlds):
            for episode in with_frames(env, batch, config.pixels) if config.pixels else batch:
                writer.add(episode)
            done += config.worlds
            if not quiet and (done * 5 // config.episodes != (done - config.worlds) * 5 // config.episodes):
                speed = done * config.decisions * env.spec.hold / (time.perf_counter() - started)
                print(f"  {done:,} / {config.episodes:,} episodes  {speed:,.0f} frames/s", file=sys.stderr, flush=True)
    return out


def make_env(world: str, hold: int | None, randomise: str = "none", **options: Any) -> Any:
    """The host form of a world, with its own default for `hold` where that is None."""
    given = {} if hold is None else {"hold": hold}
    given |= {} if randomise == "none" else {"randomise": randomise}
    return envs.make(world, **options, **given)


def world_options(env: Env, randomise: str) -> dict[str, Any]:
    """What a dataset or a policy remembers of its world; no randomisation and no pixels are not mentioned."""
    seen = {"pixels": env.spec.obs["pixels"][0]} if "pixels" in env.spec.obs else {}
    return {"hold": env.spec.hold} | ({} if randomise == "none" else {"randomise": randomise}) | seen


def with_frames(env: Env, episodes: Iterable[Mapping[str, np.ndarray]], size: int) -> Iterator[dict[str, np.ndarray]]:
    """The episodes with an image of each of their states. Raises InputError where nothing can be drawn."""
    for episode in episodes:
        yield {**episode, "pixels": frames(env, episode["physics"], size)}


def _noise(config: Collect, worlds: Sequence[Env]) -> Iterator[Trajectory]:
    """Noise, on its own or on a pusher that heads for the block."""
    if config.explorer == "pushes":
        behave = push_t_play.pushes(config.correlation, config.scale)
        quiet = push_t_play.carry(config.worlds)
    else:
        behave = collect.coloured_noise(config.correlation, config.scale)
        quiet = collect.noise_carry(worlds[0].spec.action, config.worlds)
    root = jax.random.key(config.seed)
    for i in range(config.episodes // config.worlds):
        key_reset, key_roll = jax.random.split(jax.random.fold_in(root, i))
        env = worlds[i % len(worlds)]
        yield rollout(env, behave, env.reset(key_reset, config.worlds), quiet, config.decisions, key_roll)


def _rnd(config: Collect, worlds: Sequence[Env]) -> Iterator[Trajectory]:
    """The first batch of episodes is noise; after each batch the explorer learns from all data so far."""
    env = worlds[0]
    spec = Spec(obs=env.spec.obs, action=env.spec.action)
    agent = rnd.make(config.explorer_config, spec)
    behave = agent_behaviour(agent, explore=True)
    rows, root = config.decisions + 1, jax.random.key(config.seed)
    episodes = jax.random.fold_in(root, 2**31 - 3)  # apart from the keys of updates
    trajectory = next(_noise(dataclasses.replace(config, episodes=config.worlds), worlds))
    yield trajectory
    steps = collect.as_steps(trajectory)
    one = jax.tree.map(lambda leaf: leaf[:rows], steps)
    ring = replay.add(replay.empty(one, config.episodes), steps, rows)
    source = replay.from_ring(ring, rows, config.batch_size)
    state = init_run(agent, source, spec.example(), config.seed)
    chunk = make_chunk(agent, source, config.updates)
    for i in range(1, config.episodes // config.worlds):
        state, summary = chunk(source.data, state, root)
        fetch(summary)
        key_reset, key_roll = jax.random.split(jax.random.fold_in(episodes, i))
        env = worlds[i % len(worlds)]
        carry = (jax.tree.map(jnp.copy, state.agent.params), jnp.zeros(0), agent.carry(config.worlds))
        trajectory = rollout(env, behave, env.reset(key_reset, config.worlds), carry, config.decisions, key_roll)
        yield trajectory
        state = state.replace(source=replay.add(state.source, collect.as_steps(trajectory), rows))


def _prompted(config: Collect, worlds: Sequence[Env], policy: Policy) -> Iterator[Trajectory]:
    """A policy explores under one latent after the other. Raises InputError at once."""
    env, agent = worlds[0], policy.agent
    theirs = {"world": policy.world, "hold": policy.options.get("hold", env.spec.hold)}
    for field, value in {"world": config.world, "hold": env.spec.hold}.items():
        if theirs[field] != value:
            raise InputError(f"collect: the {field} of policy '{config.policy}' must be {value}, got {theirs[field]}")
    needed = Goal if config.explorer == "goals" else Prior
    if needed not in agent.prompts:
        raise InputError(
            f"collect: policy '{config.policy}' must take {config.explorer}, got an agent '{policy.agent_name}'"
        )
    return _from_latent_to_latent(config, worlds, policy)


def _from_latent_to_latent(config: Collect, worlds: Sequence[Env], policy: Policy) -> Iterator[Trajectory]:
    """Latents are drawn from the prior, or are those of states of the policy's own buffer."""
    agent, stretches = policy.agent, -(-config.decisions // config.latent_hold)
    behave = collect.changing_latents(agent, config.latent_hold)
    obs = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in policy.buffer.obs.items()}

    @jax.jit
    def to_goals(key: jax.Array) -> jax.Array:
        """Latents [E, S, D]."""
        index = jax.random.randint(key, (config.worlds, stretches), 0, len(policy.buffer.physics))
        one = lambda row: agent.prompt(policy.params, Goal({name: leaf[row] for name, leaf in obs.items()}), key)  # noqa: E731
        return jax.vmap(jax.vmap(one))(index)

    @jax.jit
    def of_prior(key: jax.Array) -> jax.Array:
        """Latents [E, S, D]."""
        keys = jax.random.split(key, (config.worlds, stretches))
        return jax.vmap(jax.vmap(lambda key: agent.prompt(policy.params, Prior(), key)))(keys)

    draw = to_goals if config.explorer == "goals" else of_prior
    for i in range(config.episodes // config.worlds):
        key_latents, key_reset, key_roll = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), i), 3)
        carry = (policy.params, draw(key_latents), jnp.int32(0), agent.carry(config.worlds))
        start = worlds[i % len(worlds)].reset(key_reset, config.worlds)
        yield rollout(worlds[i % len(worlds)], behave, start, carry, config.decisions, key_roll)


def _scripted(config: Collect) -> Iterator[list[dict[str, np.ndarray]]]:
    """Episodes of a scripted arm. Raises InputError for a world or an option that it does not know."""
    ogbench_play.check(config.world, config.explorer)
    for field in ("starts", "hold"):
        if (value := getattr(config, field)) not in ((), None, 1):
            raise InputError(f"collect: explorer '{config.explorer}' needs {field} left out, got {value}")
    return _side_by_side(config)


def _side_by_side(config: Collect) -> Iterator[list[dict[str, np.ndarray]]]:
    """The same episodes whatever the number of processes."""
    one = functools.partial(ogbench_play.episode, config.world, config.explorer, config.decisions)
    seeds = range(config.seed * config.episodes, (config.seed + 1) * config.episodes)
    # Forked processes would inherit JAX's threads.
    context, processes = multiprocessing.get_context("spawn"), min(config.worlds, usable_cores())
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        made = pool.map(one, seeds)
        for _ in range(config.episodes // config.worlds):
            yield [next(made) for _ in range(config.worlds)]


def _solved(config: Collect, env: Env) -> Iterator[list[dict[str, np.ndarray]]]:
    """Episodes in which Meta-World's arm solves its task, each up to a little behind the first step at which it does.

    Raises InputError where ten batches in a row solve nothing.
    """
    behave, kept, failed = metaworld_expert.behaviour(config.world), [], 0
    met = env.trials["success"].met
    for i in itertools.count():
        if failed == HOPELESS:
            raise InputError(f"collect: the arm solves nothing in {config.decisions} decisions; give it more of them")
        key_reset, key_roll = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), i))
        carry, start = metaworld_expert.mind(config.worlds, config.decisions), env.reset(key_reset, config.worlds)
        made = rollout(env, behave, start, carry, config.decisions, key_roll, traced=False)
        solved = np.asarray(met(made.path)).reshape(config.worlds, config.decisions, -1).any(2)
        for episode, when in zip(collect.episodes(made), solved, strict=True):
            if when.any():
                end = int(when.argmax()) + 1 + BEHIND
                kept.append({name: leaf[: end + (name in ("state", "physics"))] for name, leaf in episode.items()})
        failed = 0 if solved.any() else failed + 1
        while len(kept) >= config.worlds:
            yield kept[: config.worlds]
            kept = kept[config.worlds :]


def load_data(directory: Path, world: str, pixels: int = 0) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
    """(episodes, metadata) of a native dataset, with frames of that size; says so where its writer did not finish.

    Raises InputError where it is of another world, has no such frames, or holds numbers that are not finite.
    """
    metadata = store.read_metadata(directory)
    if metadata.get("world") != world:
        raise InputError(f"data: {directory} is of world '{metadata.get('world')}', expected '{world}'")
    if not metadata["complete"]:
        print(f"warning: {directory} is incomplete: its writer was stopped", file=sys.stderr)
    shape = metadata["shapes"].get("pixels")
    if pixels and shape != [pixels, pixels, 3]:
        found = f"frames of {shape[0]} x {shape[1]}" if shape else "no frames"
        raise InputError(
            f"data: {directory} has {found}, pixels is {pixels}; draw them with: embodied data render {directory} "
            f"--out DIR --pixels {pixels}"
        )
    episodes = store.read_episodes(directory, frames=pixels > 0)
    for index, episode in enumerate(episodes):
        for field in ("state", "action"):
            if not np.isfinite(episode[field]).all():
                raise InputError(
                    f"data: '{field}' of episode {index} is not finite; see: embodied data check {directory}"
                )
    return episodes, metadata
