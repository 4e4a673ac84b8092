"""`embodied train`: a preset meets a dataset; leaves checkpoints, logs and a policy folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import agents
from embodied.data import dataset, normalize, replay
from embodied.data.dataset import Dataset
from embodied.policy import Buffer, Policy
from embodied.train import Hook, train
from embodied.types import Env, InputError, Run, Spec, nearest
from experiments import results
from experiments.collect import load_data, make_env
from experiments.evaluate import evaluate_tasks
from experiments.online import make_source
from experiments.presets import Experiment


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
    source = make_source(experiment, agent, spec, env, stored, episodes)

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


def _buffer(experiment: Experiment, stored: Dataset, run: Run) -> Buffer:
    """States for reward prompts: rows behind a transition of the stored data, or of the ring where there is one."""
    generator = np.random.Generator(np.random.PCG64(experiment.train.seed))
    if experiment.online.worlds:
        ring = run.source.ring
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
