"""`embodied train`: a preset meets a dataset, or its world alone; leaves checkpoints, logs and a policy folder."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import agents
from embodied import losses, parallel
from embodied.data import dataset, normalize, replay, store
from embodied.data.dataset import Dataset
from embodied.policy import Buffer, Policy
from embodied.train import Hook, train
from embodied.types import Env, InputError, Run, Spec, nearest
from experiments import results, rollouts
from experiments.collect import load_data, make_env, world_options
from experiments.evaluate import evaluate_tasks, only, task_features
from experiments.experiment import Experiment
from experiments.models import steered
from experiments.online import make_source
from experiments.teacher import begun_with, flow_of, taught

# What a continued run may change: how long it is, what it shows and when it saves.
MAY_CHANGE = {
    *("train.updates", "train.checkpoint_seconds", "train.keep_checkpoints", "train.tensorboard", "train.devices"),
    *("evaluate_every", "episodes"),
}


class Prepared(NamedTuple):
    """What training needs besides the experiment."""

    env: Env
    episodes: list[dict[str, np.ndarray]]
    stored: Dataset
    spec: Spec


def run(experiment: Experiment, data: Path | None, out: Path, quiet: bool = False) -> Path:
    """The policy folder of the finished run; the same call resumes an interrupted one.

    Every process of a job makes the same call, on one shared file system. Agents that learn from rollouts of their own
    alone take no data.

    Raises InputError for data of another world, or none, and for an `out` that holds another experiment.
    """
    experiment = taught(experiment)
    prepared = prepare(experiment, data)
    made = agents.module(agent_name(experiment)).make(experiment.agent, prepared.spec)
    agent = begun_with(made, flow_of(experiment, prepared.spec))
    if experiment.own_data:
        source = rollouts.make_source(experiment, agent, prepared.spec, prepared.env)
    else:
        source = make_source(experiment, agent, prepared.spec, prepared.env, prepared.stored, prepared.episodes)
    if parallel.is_first():
        claim(out, experiment, data)
    parallel.wait("the run directory is claimed")
    finished = train(
        agent,
        source,
        prepared.spec.example(),
        experiment.train,
        directory=out,
        hooks=[evaluation(experiment, prepared, out)] if parallel.is_first() else [],
        quiet=quiet,
    )
    if parallel.is_first():
        save_policy(experiment, prepared, finished, out)
    parallel.wait("the policy is saved")
    return out / "policy"


def prepare(experiment: Experiment, data: Path | None) -> Prepared:
    """World, data and shapes of an experiment; without data, random actions tell what observations are like.

    Raises InputError for data of another world, or that lack something, and where data are not asked for or missing.
    """
    name = agent_name(experiment)
    if experiment.own_data and data is not None:
        raise InputError(f"data: agent '{name}' learns from rollouts of its own alone; leave {data} out")
    env = make_env(experiment.world, experiment.hold, experiment.randomise, pixels=experiment.pixels)
    if experiment.skills:
        env = steered(env, experiment.skills, experiment.skill_decisions)
    if experiment.own_data:
        return _described(env, [], rollouts.random_actions(experiment, env))
    if data is None:
        raise InputError(f"data: agent '{name}' learns from stored data; make some with `embodied collect`")
    episodes, metadata = load_data(data, experiment.world, experiment.pixels)
    hold = metadata.get("options", {}).get("hold")
    if hold != env.spec.hold:
        raise InputError(
            f"data: was collected with hold={hold}, the experiment has {env.spec.hold}; pass --hold to one of the two"
        )
    stored = dataset.from_episodes(episodes, pixels=experiment.pixels > 0)
    if experiment.pixels:
        episodes = []  # what they hold is in `stored`; frames are too large to be kept twice
    if stored.steps.physics.shape[1]:
        stored = stored.replace(steps=stored.steps.replace(physics=env.complete(stored.steps.physics)))
    elif experiment.evaluate_every:
        raise InputError("evaluate_every: rewards of tasks need data with physics vectors, this data has none")
    if "privileged" in env.spec.obs:
        stored = add_privileged(stored, env)
    if experiment.task:
        stored = relabel(stored, env, experiment.task)
    return _described(env, episodes, stored)


def _described(env: Env, episodes: list[dict[str, np.ndarray]], stored: Dataset) -> Prepared:
    mean, std = normalize.statistics(stored.steps.obs)
    if stored.steps.frames is not None:
        mean["pixels"], std["pixels"] = normalize.frame_statistics(stored.steps.frames)
    shapes = {"obs": env.spec.obs, "action": env.spec.action, "parts": env.spec.parts}
    return Prepared(env, episodes, stored, Spec(**shapes, mean=mean, std=std))


def policy_of(experiment: Experiment, prepared: Prepared, run: Run) -> Policy:
    """What a run has learnt so far, as a policy."""
    options = world_options(prepared.env, experiment.randomise)
    if experiment.skills:
        options |= {"skills": experiment.skills, "skill_decisions": experiment.skill_decisions}
    params, buffer = jax.device_get(run.agent.params), _buffer(experiment, prepared.stored, run)
    return Policy(agent_name(experiment), experiment.agent, prepared.spec, experiment.world, options, params, buffer)


def save_policy(experiment: Experiment, prepared: Prepared, run: Run, out: Path) -> None:
    """Nothing; writes the policy folder of a finished run."""
    card = f"Trained by `embodied train`; see {out.name}/experiment.json.\n"
    policy_of(experiment, prepared, run).save(out / "policy", card=card)


def agent_name(experiment: Experiment) -> str:
    """The row of the agents' table whose Config the experiment holds."""
    return type(experiment.agent).__module__.removeprefix("agents.")


def add_privileged(stored: Dataset, env: Env, chunk: int = 50_000) -> Dataset:
    """The dataset with what only training sees, read from its physics states, `chunk` rows at a time.

    Raises InputError for states without physics.
    """
    physics = stored.steps.physics
    if not physics.shape[1]:
        raise InputError(
            f"data: its states carry no physics vector, so what only training sees of world '{env.spec.name}' cannot "
            "be computed"
        )
    chunks = [physics[first : first + chunk].astype(np.float64) for first in range(0, len(physics), chunk)]
    privileged = np.concatenate([env.observe(rows)[0]["privileged"] for rows in chunks])
    return stored.replace(steps=stored.steps.replace(obs={**stored.steps.obs, "privileged": privileged}))


def relabel(stored: Dataset, env: Env, task: str, chunk: int = 50_000) -> Dataset:
    """The dataset with the rewards of a named task, computed from its physics states, `chunk` rows at a time.

    A reward that is nowhere positive (a cost until done) counts from its least value, as in a prompt: actors that are
    held to the data weigh their values by their mean size, which a constant cost would fill. Raises InputError for a
    task that the world lacks, or for states without physics.
    """
    if task not in env.tasks:
        raise InputError(f"task: world '{env.spec.name}' has no task '{task}'; {nearest(task, env.tasks)}")
    steps = stored.steps
    if not steps.physics.shape[1]:
        raise InputError(f"data: its states carry no physics vector, so the rewards of '{task}' cannot be computed")
    reward = np.zeros(len(steps.physics), np.float32)
    for first in range(0, len(reward) - 1, chunk):
        rows = slice(first, min(first + chunk, len(reward) - 1))
        # The transition that begins in row i ends in row i + 1.
        _, seen = env.observe(steps.physics[first : rows.stop + 1].astype(np.float64))
        before, after = ({name: leaf[part] for name, leaf in seen.items()} for part in (slice(-1), slice(1, None)))
        reward[rows] = env.tasks[task](before, steps.action[rows], after)
    begins = np.isin(np.arange(len(reward)), stored.starts)
    if reward[begins].max() <= 0:
        reward -= reward[begins].min()
    # Behind the last row of an episode, which begins no transition, comes a row of another one.
    return stored.replace(steps=steps.replace(reward=np.where(begins, reward, np.float32(0.0))))


def _buffer(experiment: Experiment, stored: Dataset, run: Run) -> Buffer:
    """States for reward prompts: rows behind a transition of the stored data, or of the ring where there is one."""
    generator = np.random.Generator(np.random.PCG64(experiment.train.seed))
    if isinstance(run.source, rollouts.State):
        obs, physics = rollouts.visited(run.source)
        index = generator.permutation(len(physics))[: experiment.buffer]
        return Buffer({name: leaf[index] for name, leaf in obs.items()}, physics[index])
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
    obs = {name: np.asarray(leaf) for name, leaf in dataset.observations(steps, index).items()}
    return Buffer(obs, np.asarray(steps.physics[index]))


def evaluation(experiment: Experiment, prepared: Prepared, out: Path) -> Hook:
    """The hook that adds speeds, and scores and saves the policy as often as the experiment says.

    An agent that learns one task is scored on no other.
    """
    env, learned = prepared.env, experiment.task or getattr(experiment.agent, "task", None)
    scored = only(env, [learned]) if learned else env

    def hook(run: Run, done: int, row: dict[str, float]) -> dict[str, float]:
        extra = {"speed/transitions_per_second": row["speed/updates_per_second"] * experiment.train.batch_size}
        if "time/refill" in row:
            frames = experiment.online.worlds * experiment.online.decisions * env.spec.hold
            extra["speed/frames_per_second"] = frames / row["time/refill"]
        if experiment.evaluate_every and done % experiment.evaluate_every == 0:
            policy = policy_of(experiment, prepared, run)
            policy.save(out / "policy", card=f"Update {done} of an unfinished run.\n")
            scores = evaluate_tasks(policy, scored, experiment.episodes)
            for name, one in scores.items():
                extra[f"eval/{name}/return"] = float(one.returns.mean())
                if one.success is not None:
                    extra[f"eval/{name}/success"] = float(one.success.mean())
            features = task_features(policy)
            if features is not None:
                extra["health/spectrum"] = float(losses.spectrum_ratio(features))
        return extra

    return hook


def claim(out: Path, experiment: Experiment, data: Path | None, checkpoints: Path | None = None) -> None:
    """Writes experiment.json; raises InputError where `out` holds checkpoints of another experiment or of other data.

    `checkpoints` is their folder where the run shares them with others. The commit that began a run stays; commits that
    went on with it are listed behind.
    """
    made = {"commit": results.commit(), "hardware": results.hardware(), "versions": results.versions()}
    content = {"experiment": dataclasses.asdict(experiment), "agent": agent_name(experiment)}
    digest = {"data": str(data), "data_sha256": store.state_digest(data)} if data else {}
    content |= digest | {"made": made}
    content = json.loads(json.dumps(content))
    path = out / "experiment.json"
    if path.exists() and any((checkpoints or out / "checkpoints").glob("*")):
        before = read_experiment(out)
        _same(experiment, before, content, out)
        later = before.get("continued_with", [])
        if made["commit"] not in (before["made"]["commit"], *later):
            later = [*later, made["commit"]]
        content |= {"made": before["made"]} | ({"continued_with": later} if later else {})
    out.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(".experiment.json")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def read_experiment(run: Path) -> dict[str, Any]:
    """The content of a run's experiment.json. Raises InputError where there is none, or a damaged one."""
    path = run / "experiment.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content["experiment"], dict)
        assert isinstance(content["made"]["commit"], str)
    except FileNotFoundError:
        raise InputError(f"run: {path} is missing; name the directory that `embodied train` wrote to") from None
    except (ValueError, TypeError, KeyError, AssertionError):
        raise InputError(f"run: {path} is damaged; name the directory that `embodied train` wrote to") from None
    return content


def _same(experiment: Experiment, before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raises InputError naming the first difference that would make a continued run another one."""
    theirs, ours = _flat(before["experiment"]), _flat(now["experiment"])
    # A field that came after the run began had its default.
    theirs = {field: _default(experiment, field) for field in ours} | theirs
    for field in sorted(theirs.keys() - MAY_CHANGE):
        if theirs[field] != ours.get(field):
            difference = f"{field} was {theirs[field]}, is {ours.get(field)}"
            raise InputError(f"out: {out} holds another experiment ({difference}); choose another directory")
    if before.get("data_sha256") != now.get("data_sha256"):
        raise InputError(f"out: {out} was trained on other data ({before.get('data')}); choose another directory")


def _default(experiment: Experiment, path: str) -> Any:
    """The default of a field such as "agent.discount", as JSON has it; None where it must be given."""
    *owners, name = path.split(".")
    owner = functools.reduce(lambda part, field: getattr(part, field, None), owners, experiment)
    fields = {field.name: field for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
    if name not in fields or fields[name].default is dataclasses.MISSING:
        return None
    return json.loads(json.dumps(fields[name].default))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"agent.discount": 0.98, ...}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {path: leaf for name, one in tree.items() for path, leaf in _flat(one, f"{prefix}{name}.").items()}
