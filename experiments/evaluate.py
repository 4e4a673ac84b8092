"""`embodied evaluate`: every task of a world, zero-shot, beside a random policy."""

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
from embodied.rollout import agent_behaviour
from embodied.types import Env, Prior, Reward


def latents_of_tasks(policy: Policy, env: Env, request: Request) -> dict[str, np.ndarray]:
    """The latent of each task of the world; for an agent that takes no reward prompt, its only one."""
    if Reward not in policy.agent.prompts:
        z = policy.prompt(Prior()).z
        return dict.fromkeys(env.tasks, z)
    return {name: infer(dataclasses.replace(request, kind="task", text=name), policy, env)[0].z for name in env.tasks}


def evaluate_tasks(
    policy: Policy, env: Env, episodes: int, inference: str = "plain", seed: int = EvaluateConfig().seed
) -> dict[str, Scores]:
    """Zero-shot scores on every task of the world."""
    samples = min(10_000, len(policy.buffer.physics))
    request = Request("task", samples=samples, inference=inference)
    latents = latents_of_tasks(policy, env, request)
    behave = agent_behaviour(policy.agent, explore=False)
    scores, _ = evaluate(env, behave, policy.params, latents, env.tasks, EvaluateConfig(episodes, seed))
    return scores


def baselines(
    policy: Policy, env: Env, episodes: int, seed: int = EvaluateConfig().seed
) -> dict[str, dict[str, Scores]]:
    """Scores of uniformly random actions and of the policy under a latent drawn at random."""
    config = EvaluateConfig(episodes, seed)
    nothing = dict.fromkeys(env.tasks, np.zeros(1, np.float32))
    random_actions, _ = evaluate(env, random_behaviour(env.spec.action), (), nothing, env.tasks, config)
    keys = jax.random.split(jax.random.key(seed), len(env.tasks))
    drawn = {
        name: np.asarray(policy.agent.prompt(policy.params, Prior(), key))
        for name, key in zip(env.tasks, keys, strict=True)
    }
    behave = agent_behaviour(policy.agent, explore=False)
    random_latent, _ = evaluate(env, behave, policy.params, drawn, env.tasks, config)
    return {"random actions": random_actions, "random latent": random_latent}


def table(columns: Mapping[str, Mapping[str, Scores]]) -> str:
    """A text table: tasks down, one column per policy, IQM with its 95 % interval."""
    names = list(next(iter(columns.values())))
    width = max(len(name) for name in [*names, "task"])
    head = f"{'task':<{width}}" + "".join(f"  {column:>24}" for column in columns)
    lines = [head, "-" * len(head)]
    for name in names:
        cells = []
        for scores in columns.values():
            row = scores[name].summary()
            cells.append(f"  {row['iqm']:8.1f} [{row['low']:6.1f},{row['high']:6.1f}]".rjust(26))
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)


def run(policy: Policy, env: Env, episodes: int, inference: str, out: Path | None) -> dict[str, Any]:
    """The summaries per policy and task; prints the table and writes it as JSON where `out` is given."""
    columns = {policy.agent_name: evaluate_tasks(policy, env, episodes, inference)}
    columns |= baselines(policy, env, episodes)
    print(table(columns))
    print(
        f"IQM and 95 % bootstrap interval of {episodes} episodes, one trained seed; maximum {env.spec.episode_length}"
    )
    body = {column: {name: one.summary() for name, one in scores.items()} for column, scores in columns.items()}
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
