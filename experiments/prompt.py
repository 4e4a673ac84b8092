"""`embodied prompt`: from words, tasks or goals to a latent with provenance, scored at once."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from embodied import promptfile
from embodied.evaluate import EvaluateConfig, Scores, evaluate
from embodied.gpi import Ensemble, improving
from embodied.policy import Policy, Prompted
from embodied.promptfile import Request
from embodied.prompts import agreement, resampled
from embodied.rewards import Task, dry_run
from embodied.rollout import Behaviour, Trajectory, rollout, scored_behaviour
from embodied.types import Agent, Env, Goal, InputError, Obs, Prompt, Reward
from experiments.collect import load_data

RESAMPLES = 8  # bootstrap latents whose agreement is told
LOOSE = 0.9  # agreement below which a warning is given


def parse_goal(text: str) -> dict[str, float]:
    """{"x": 0.1, "y": -0.2} from "x=0.1, y=-0.2". Raises InputError naming the part that is no assignment."""
    goal = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            goal[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"goal: '{part.strip()}' is not of the form quantity=number") from None
    return goal


def parse_state(path: Path) -> tuple[float, ...]:
    """The physics vector in a .npy file or a JSON list. Raises InputError naming file and problem."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.asarray(json.loads(path.read_text(encoding="utf-8")), np.float64)
        return tuple(float(value) for value in np.asarray(values, np.float64).reshape(-1))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"state: {path} does not hold a list of numbers ({error})") from None


def state_of_row(data: Path, world: str, row: int) -> tuple[float, ...]:
    """The physics vector of a state of a dataset, its episodes counted through in order. Raises InputError."""
    episodes, _ = load_data(data, world)
    physics = np.concatenate([episode["physics"] for episode in episodes])
    if not physics.shape[1]:
        raise InputError(f"data: the states of {data} carry no physics vector")
    if not 0 <= row < len(physics):
        raise InputError(f"row: must be in [0, {len(physics)}), the states of {data}, got {row}")
    return tuple(physics[row].tolist())


def score(
    prompted: Prompted | Ensemble,
    task: Task,
    env: Env,
    episodes: int,
    seed: int = EvaluateConfig().seed,
    behaviour: Callable[[Agent], Behaviour] = scored_behaviour,
) -> tuple[Scores, Trajectory]:
    """Scores of the prompted policy on its own task, and its trajectories; `behaviour` says how a single one acts."""
    agent, config = prompted.policy.agent, EvaluateConfig(episodes, seed)
    if isinstance(prompted, Ensemble):
        behave, params, z = improving(agent), prompted.params, prompted.z[0]
    else:
        behave, params, z = behaviour(agent), prompted.policy.params, prompted.z
    scores, trajectories = evaluate(env, behave, params, {"prompt": z}, {"prompt": task}, config, carry=agent.carry)
    return scores["prompt"], trajectories["prompt"]


def approach(
    prompted: Prompted,
    goal: Obs,
    env: Env,
    episodes: int,
    seed: int = EvaluateConfig().seed,
    behaviour: Callable[[Agent], Behaviour] = scored_behaviour,
) -> tuple[dict[str, float], Trajectory]:
    """How far a policy prompted with an observation is from it, and its trajectories.

    The distance is the root mean square over components, in standard deviations of the training data, of pixels in
    steps of their 0 ... 255; medians over the episodes, at their start, at their closest and at their end.
    """
    policy, start = prompted.policy, env.reset(jax.random.key(seed), episodes)
    carry = (policy.params, jnp.asarray(prompted.z), policy.agent.carry(episodes))
    behave, key = behaviour(policy.agent), jax.random.key(seed)
    trajectory = rollout(env, behave, start, carry, env.spec.decisions, key)
    squares = 0.0
    for name, wanted in goal.items():
        std = np.asarray(policy.spec.std.get(name, np.ones(policy.spec.obs[name])))
        apart = (np.asarray(trajectory.obs[name], np.float32) - np.asarray(wanted, np.float32)) / std
        squares = squares + np.square(apart).reshape(*apart.shape[:2], -1).mean(-1)
    distance = np.sqrt(squares / len(goal))
    moments = {"start": distance[:, 0], "closest": distance.min(1), "end": distance[:, -1]}
    return {name: float(np.median(values)) for name, values in moments.items()}, trajectory


def predicted_return(
    prompted: Prompted | Ensemble, request: Request, env: Env, seed: int = EvaluateConfig().seed
) -> float | None:
    """What the agent's own value says of an episode: mean reward per decision from the value at its start, times
    the episode's control steps; of several latents the best at each start. None for prompts that are no reward, and
    agents without a value."""
    policy = prompted.policy
    prompt, task = promptfile.make_prompt(request, policy, env)
    if not isinstance(prompt, Reward) or policy.agent.value is None:
        return None
    start = env.begin(task, jax.random.key(seed), 64)
    rates = [policy.agent.value(policy.params, prompt, jnp.asarray(z), start.obs) for z in np.atleast_2d(prompted.z)]
    return float(np.max(rates, 0).mean()) * env.spec.episode_length


def run(
    policy: Policy, env: Env, request: Request, out: Path, episodes: int
) -> tuple[Prompted | Ensemble, dict[str, Any], Trajectory | None]:
    """The prompted policy, its scores and its trajectories; writes the prompt file. Episodes = 0 does not score.

    Beside a search or several latents stands the return of the plain latent, on the same held-out starts.
    """
    asked, task = promptfile.make_prompt(request, policy, env)
    prompted, scores = promptfile.answer(request, asked, task, policy, env)
    trajectory = None
    if task is not None:
        settled = asked
        if isinstance(asked, Reward):
            settled = dataclasses.replace(asked, **scores.get("chosen", {}))
            scores |= _agreed(settled, prompted, request.seed)
        scores["warnings"] = [*_warnings(settled, task, policy, env), *scores.get("warnings", [])]
        predicted = predicted_return(prompted, request, env)
        if predicted is not None:
            scores["predicted_return"] = predicted
        if episodes:
            result, trajectory = score(prompted, task, env, episodes)
            scores["evaluated_return"] = result.summary()
        if episodes and (request.search or request.bootstraps):
            plain, _ = score(policy.prompt(settled, request.seed), task, env, episodes)
            scores["plain_return"] = plain.summary()
    elif episodes and isinstance(asked, Goal):
        scores["distance"], trajectory = approach(prompted, asked.obs, env, episodes)
    promptfile.save(out, request, prompted, scores)
    return prompted, scores, trajectory


def _agreed(asked: Reward, prompted: Prompted | Ensemble, seed: int) -> dict[str, Any]:
    """How far latents from resampled states agree, and a warning where they do not."""
    found = _agreement(asked, prompted, seed)
    warning = f"latents of resampled states agree by {found:.2f} only; sample more states, or infer with ridge"
    return {"agreement": found} | ({"warnings": [warning]} if found < LOOSE else {})


def _warnings(asked: Prompt, task: Task, policy: Policy, env: Env) -> list[str]:
    _, quantities = env.observe(policy.buffer.physics[:2000].astype(np.float64))
    action = np.zeros((len(quantities[next(iter(quantities))]), env.spec.action))
    return dry_run(task, quantities, action) + promptfile.cautions(asked)


def _agreement(asked: Reward, prompted: Prompted | Ensemble, seed: int) -> float:
    """Mean cosine of bootstrap latents to their mean: the ensemble's own, or `RESAMPLES` made for it."""
    if isinstance(prompted, Ensemble):
        return agreement(prompted.z[1:])
    policy, key = prompted.policy, jax.random.key(seed)
    # Not Policy.prompt: where none of a sparse reward's few rows are drawn again, there is no latent to complain about.
    again = [policy.agent.prompt(policy.params, one, key) for one in resampled(asked, RESAMPLES, seed)]
    return agreement(np.stack(again))
