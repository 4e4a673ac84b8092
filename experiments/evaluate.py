"""`embodied evaluate`: every task of a world, zero-shot, beside a random policy."""

import copy
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from embodied.evaluate import EvaluateConfig, Scores, evaluate, random_behaviour
from embodied.policy import Policy
from embodied.promptfile import Request, infer
from embodied.rollout import Trajectory, scored_behaviour
from embodied.types import Env, Goal, InputError, Prior, Reward, nearest, obs_type
from experiments import goals, skills

DRAWS = 10  # latents of the random baseline


def latents_of_tasks(policy: Policy, env: Env, request: Request) -> dict[str, np.ndarray]:
    """The latent of each task of the world; for an agent that takes neither rewards nor goals, its only one."""
    if not {Reward, Goal} & set(policy.agent.prompts):
        z = policy.prompt(Prior()).z
        return dict.fromkeys(env.tasks, z)
    return {name: infer(dataclasses.replace(request, kind="task", text=name), policy, env)[0].z for name in env.tasks}


def evaluate_tasks(
    policy: Policy, env: Env, episodes: int, inference: str = "plain", seed: int = EvaluateConfig().seed
) -> dict[str, Scores]:
    """Zero-shot scores on every task of the world; raises as `act_tasks`."""
    return act_tasks(policy, env, episodes, inference, seed)[0]


def act_tasks(
    policy: Policy, env: Env, episodes: int, inference: str = "plain", seed: int = EvaluateConfig().seed
) -> tuple[dict[str, Scores], dict[str, Trajectory]]:
    """Zero-shot scores and trajectories on every task of the world.

    Raises InputError where the world's decisions are longer or shorter than the policy's.
    """
    hold = policy.options.get("hold", env.spec.hold)
    if hold != env.spec.hold:
        raise InputError(f"evaluate: the world's hold must be the policy's, {hold}, got {env.spec.hold}")
    samples = min(10_000, len(policy.buffer.physics))
    request = Request("task", samples=samples, inference=inference)
    latents = latents_of_tasks(policy, env, request)
    behave = scored_behaviour(policy.agent)
    config = EvaluateConfig(episodes, seed)
    return evaluate(env, behave, policy.params, latents, env.tasks, config, carry=policy.agent.carry)


def only(env: Env, tasks: Sequence[str]) -> Env:
    """The world with these tasks alone. Raises InputError for an unknown one."""
    for name in tasks:
        if name not in env.tasks:
            raise InputError(f"tasks: world '{env.spec.name}' has no task '{name}'; {nearest(name, env.tasks)}")
    few = copy.copy(env)
    few.tasks = {name: env.tasks[name] for name in tasks}
    return few


def baselines(
    policy: Policy, env: Env, episodes: int, seed: int = EvaluateConfig().seed
) -> dict[str, dict[str, Scores]]:
    """Scores of uniformly random actions and, for a policy that rewards prompt, of latents drawn at random.

    The episodes of a task are shared among `DRAWS` latents: a single one may happen to ask for the task.
    """
    nothing = dict.fromkeys(env.tasks, np.zeros(1, np.float32))
    config = EvaluateConfig(episodes, seed)
    columns = {"random actions": evaluate(env, random_behaviour(env.spec.action), (), nothing, env.tasks, config)[0]}
    if Reward not in policy.agent.prompts:
        return columns
    draws = min(DRAWS, episodes)
    drawn = [policy.prompt(Prior(), seed + i).z for i in range(draws)]
    names = {f"{task} {i}": (task, i) for task in env.tasks for i in range(draws)}
    scores, _ = evaluate(
        env,
        scored_behaviour(policy.agent),
        policy.params,
        {name: drawn[i] for name, (_, i) in names.items()},
        {name: env.tasks[task] for name, (task, _) in names.items()},
        EvaluateConfig(-(-episodes // draws), seed),
        carry=policy.agent.carry,
    )
    shares = {task: [scores[f"{task} {i}"] for i in range(draws)] for task in env.tasks}
    return columns | {"random latent": {task: joined(rows) for task, rows in shares.items()}}


def joined(shares: Sequence[Scores]) -> Scores:
    """The episodes of several scores of one task, end to end."""
    successes = [one.success for one in shares if one.success is not None]
    return Scores(np.concatenate([one.returns for one in shares]), np.concatenate(successes) if successes else None)


def task_features(policy: Policy, rows: int = 2048) -> np.ndarray | None:
    """Features [N, D], on the sphere, of states of the policy's buffer; None for an agent without features."""
    if policy.agent.features is None:
        return None
    obs = {name: np.asarray(leaf[:rows], obs_type(name)) for name, leaf in policy.buffer.obs.items()}
    features = np.asarray(jax.jit(policy.agent.features)(policy.params, obs), np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True) * np.sqrt(features.shape[1])


def table(columns: Mapping[str, Mapping[str, Scores]]) -> str:
    """A text table: tasks down, one column per policy, IQM with its 95 % interval; beside it the rate of success."""
    names = list(next(iter(columns.values())))
    width = max(len(name) for name in [*names, "task"])
    cells = {column: [_cell(scores[name]) for name in names] for column, scores in columns.items()}
    wide = max(len(cell) for column in cells.values() for cell in column)
    head = f"{'task':<{width}}" + "".join(f"  {column:>{wide}}" for column in columns)
    rows = zip(names, *cells.values(), strict=True)
    lines = [f"{name:<{width}}" + "".join(f"  {cell:>{wide}}" for cell in row) for name, *row in rows]
    return "\n".join([head, "-" * len(head), *lines])


def _cell(scores: Scores) -> str:
    row = scores.summary()
    text = f"{row['iqm']:8.1f} [{row['low']:6.1f},{row['high']:6.1f}]".rjust(24)
    if scores.success is None:
        return text
    rate, low, high = (100 * row[name] for name in ("success", "success_low", "success_high"))
    return f"{text}  {rate:3.0f} % [{low:3.0f},{high:4.0f}]"


def run(policy: Policy, env: Env, episodes: int, inference: str, out: Path | None) -> dict[str, Any]:
    """The summaries per policy and task; prints the table and writes it as JSON where `out` is given."""
    columns = {policy.agent_name: evaluate_tasks(policy, env, episodes, inference)}
    columns |= baselines(policy, env, episodes)
    print(table(columns))
    solved = any(one.success is not None for scores in columns.values() for one in scores.values())
    beside = "beside it the % that were solved, with the Wilson interval" if solved else ""
    most = beside or f"maximum {env.spec.episode_length}"
    print(f"IQM and 95 % bootstrap interval of {episodes} episodes, one trained seed; {most}")
    body: dict[str, Any] = {
        column: {name: one.summary() for name, one in scores.items()} for column, scores in columns.items()
    }
    if skills.is_skilled(policy):
        played = skills.play(policy, env)
        body["skills"] = skills.measures(played)
        print(f"\n{len(played.latents)} skills from each of {played.places.shape[1]} starts:")
        print("\n".join(f"{name:<24}{value:10.3f}" for name, value in body["skills"].items()))
    if goals.takes_places(policy):
        found = {policy.agent_name: goals.go(policy, env), "random actions": goals.go_at_random(policy, env)}
        body["goals"] = {name: goals.measures(distance) for name, distance in found.items()}
        print(f"\nrandom goals reached at the end, to {goals.CELL:g}, with the Wilson interval:")
        print("\n".join(goals.line(name, row) for name, row in body["goals"].items()))
    if out:
        write(out, body)
    return body


def write(out: Path, body: Mapping[str, Any]) -> None:
    """Nothing; writes the summaries as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}", file=sys.stderr)


def success_within(radius: float, centre: Sequence[float], last: int) -> Any:
    """The criterion "within `radius` of `centre` during all of the last `last` control steps"."""

    def criterion(path: Mapping[str, np.ndarray]) -> np.ndarray:
        distance = np.linalg.norm(path["position"][:, -last:] - np.asarray(centre), axis=-1)
        return (distance <= radius).all(1)

    return criterion
