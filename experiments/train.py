"""`embodied train`: a preset meets a dataset; leaves checkpoints, logs and a policy folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import agents
from embodied.data import collect, dataset, normalize, replay
from embodied.data.dataset import Dataset
from embodied.policy import Buffer, Policy
from embodied.rollout import Trajectory, rollout
from embodied.train import Hook, train
from embodied.types import Agent, Env, Goal, InputError, Params, Prior, Run, Source, Spec, nearest
from experiments import results
from experiments.collect import load_data, make_env
from experiments.evaluate import evaluate_tasks
from experiments.presets import Experiment

_NEIGHBOURS = (slice(None, -1), slice(1, None))  # decisions before and after each action


def run(experiment: Experiment, data: Path, out: Path, quiet: bool = False) -> Path:
    """The policy folder of the finished run; the same call resumes an interrupted one.

    Raises InputError for data of another world, or an `out` that holds another experiment.
    """
    env = make_env(experiment.world, experiment.hold)
    episodes, metadata = load_data(data, experiment.world)
    if metadata["options"].get("hold") != env.spec.hold:
        raise InputError(
            f"data: was collected with hold={metadata['options'].get('hold')}, the experiment has {env.spec.hold}; "
            "pass --hold to one of the two"
        )
    stored = dataset.from_episodes(episodes)
    if experiment.task:
        stored = relabel(stored, env, experiment.task)
    mean, std = normalize.statistics(stored.steps.obs)
    spec = Spec(obs=env.spec.obs, action=env.spec.action, mean=mean, std=std)
    name = agent_name(experiment)
    agent = agents.module(name).make(experiment.agent, spec)
    _claim(out, experiment, data)
    source = make_source(experiment, agent, env, stored, episodes)

    def policy_of(run: Run) -> Policy:
        params = jax.device_get(run.agent.params)
        buffer = _buffer(experiment, stored, run)
        return Policy(name, experiment.agent, spec, experiment.world, {"hold": env.spec.hold}, params, buffer)

    finished = train(
        agent,
        source,
        spec.example(),
        experiment.train,
        directory=out,
        hooks=[_evaluation(experiment, env, policy_of, out)],
        quiet=quiet,
    )
    policy_of(finished).save(out / "policy", card=f"Trained by `embodied train`; see {out.name}/experiment.json.\n")
    return out / "policy"


def agent_name(experiment: Experiment) -> str:
    """The row of the agents' table whose Config the experiment holds."""
    return type(experiment.agent).__module__.removeprefix("agents.")


def relabel(stored: Dataset, env: Env, task: str) -> Dataset:
    """The dataset with the rewards of a named task, computed from its physics states."""
    if task not in env.tasks:
        raise InputError(f"task: world '{env.spec.name}' has no task '{task}'; {nearest(task, env.tasks)}")
    reward = np.empty(len(stored.steps.physics), np.float32)
    for first in range(0, len(reward), 50_000):
        rows = slice(first, first + 50_000)
        _, quantities = env.observe(stored.steps.physics[rows].astype(np.float64))
        action = stored.steps.action[rows]
        reward[rows] = env.tasks[task](quantities, action, quantities)
    # The reward of the transition that begins in row i belongs to the state in row i + 1.
    return stored.replace(steps=stored.steps.replace(reward=np.concatenate([reward[1:], reward[-1:]])))


def make_source(
    experiment: Experiment, agent: Agent, env: Env, stored: Dataset, episodes: list[Mapping[str, np.ndarray]]
) -> Source:
    """Stored data alone, or a ring that starts with it and grows by the model's own rollouts."""
    online = experiment.online
    if not online.worlds:
        return dataset.from_dataset(stored, experiment.train.batch_size)
    rows = online.decisions + 1
    lengths = {len(episode["action"]) for episode in episodes}
    if lengths != {online.decisions}:
        raise InputError(
            f"online.decisions: must equal the length of the stored episodes ({sorted(lengths)[0]}), got "
            f"{online.decisions}"
        )
    one = jax.tree.map(lambda leaf: leaf[:rows], stored.steps)
    ring = replay.add(replay.empty(one, online.capacity), stored.steps, rows)
    behave = _changing_latents(agent, online.latent_hold)
    count = -(-online.decisions // online.latent_hold)

    @jax.jit
    def latents(params: Params, ring: replay.Ring, key: jax.Array) -> jax.Array:
        """[E, S, D]: half drawn from the prior, half goals from the ring."""
        total = online.worlds * count
        key_rows, key_prior, key_mask = jax.random.split(key, 3)
        index = replay.draw(ring, rows, total, key_rows) + 1
        z = jax.vmap(lambda key: agent.prompt(params, Prior(), key))(jax.random.split(key_prior, total))
        if Goal in agent.prompts:
            goals = {name: leaf[index] for name, leaf in ring.steps.obs.items()}
            of_goal = jax.vmap(lambda obs: agent.prompt(params, Goal(obs), key_rows))(goals)
            z = jnp.where(jax.random.bernoulli(key_mask, 0.5, (total, 1)), of_goal, z)
        return z.reshape(online.worlds, count, z.shape[-1])

    def refill(ring: replay.Ring, params: Params, done: int, key: jax.Array) -> replay.Ring:
        key_z, key_reset, key_rows, key_roll = jax.random.split(key, 4)
        z = latents(params, ring, key_z)
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


def _changing_latents(agent: Agent, hold: int) -> Any:
    """Exploring behaviour with carry (params, z [E, S, D], decision): latent S = decision // hold."""

    def behave(obs: Any, carry: tuple, key: jax.Array) -> tuple[jax.Array, tuple]:
        params, z, decision = carry
        action, _ = agent.act(params, obs, z[:, decision // hold], (), key)
        return action, (params, z, decision + 1)

    return behave


def _buffer(experiment: Experiment, stored: Dataset, run: Run) -> Buffer:
    """States for reward prompts: rows behind a transition of the stored data, or of the ring where there is one."""
    generator = np.random.Generator(np.random.PCG64(experiment.train.seed))
    if experiment.online.worlds:
        ring = run.source
        rows = experiment.online.decisions + 1
        key = jax.random.key(experiment.train.seed)
        index = np.asarray(replay.draw(ring, rows, experiment.buffer, key)) + 1
        steps = ring.steps
    else:
        count = min(experiment.buffer, len(stored.starts))
        index = np.asarray(stored.starts)[generator.permutation(len(stored.starts))[:count]] + 1
        steps = stored.steps
    obs = {name: np.asarray(leaf[index]) for name, leaf in steps.obs.items()}
    return Buffer(obs, np.asarray(steps.physics[index]))


def _evaluation(experiment: Experiment, env: Env, policy_of: Any, out: Path) -> Hook:
    def hook(run: Run, done: int, row: dict[str, float]) -> dict[str, float]:
        extra = {"speed/transitions_per_second": row["speed/updates_per_second"] * experiment.train.batch_size}
        if experiment.evaluate_every and done % experiment.evaluate_every == 0:
            policy = policy_of(run)
            policy.save(out / "policy", card=f"Update {done} of an unfinished run.\n")
            scores = evaluate_tasks(policy, env, experiment.episodes)
            extra |= {f"eval/{name}/return": float(one.returns.mean()) for name, one in scores.items()}
        return extra

    return hook


def _claim(out: Path, experiment: Experiment, data: Path) -> None:
    """Writes experiment.json, or raises InputError where `out` belongs to a different experiment."""
    made = {"commit": results.commit(), "hardware": results.hardware(), "versions": results.versions()}
    body = json.dumps(
        {"experiment": dataclasses.asdict(experiment), "agent": agent_name(experiment), "made": made}, indent=1
    )
    path = out / "experiment.json"
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))["experiment"]
        ours = json.loads(body)["experiment"]
        # A longer budget continues the same run.
        for one in (ours, theirs):
            one["train"].pop("updates")
        if ours != theirs:
            field = next(name for name in ours if ours[name] != theirs.get(name))
            raise InputError(f"out: {out} holds another experiment (field '{field}' differs); choose another directory")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(body + "\n", encoding="utf-8")
    (out / "data.txt").write_text(f"{data}\n", encoding="utf-8")
