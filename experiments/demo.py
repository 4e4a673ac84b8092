"""`embodied demo`: the whole story in minutes: collect, train, prompt, evaluate, report."""

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from embodied import promptfile
from embodied.evaluate import EvaluateConfig, Scores, evaluate, random_behaviour
from embodied.policy import Policy, load
from embodied.promptfile import Request
from embodied.rollout import Behaviour, scored_behaviour
from embodied.types import Env, InputError
from experiments import collect, demo_report, prompt, train
from experiments.demo_report import Outcome, Walk
from experiments.evaluate import success_within
from experiments.models import resolve, shipped
from experiments.presets import COLLECT, PRESETS

CORNERS = ("reach_top_left", "reach_top_right", "reach_bottom_left", "reach_bottom_right")
CORNER_RADIUS, GOAL_RADIUS = 0.10, 0.15  # metres; success is being inside during all of the last 100 control steps
LAST = 100
MARK = ".demo"  # a file of this name says that a directory is the demo's own
FLOOR = {"corner_success_mean": 0.80, "goal_success_mean": 0.75}  # below these the demo fails
CEILING = {"untrained_corner_success_mean": 0.15, "untrained_goal_success_mean": 0.15}
_TALL = "tolerance(torso_height, 1.2, inf, 0.6) * (1 + torso_upright) / 2"
WALKER_PROMPTS = {
    "stand tall": _TALL,
    "walk upright": f"{_TALL} * tolerance(torso_velocity_x, 1, inf, 1, linear, 0)",
}


def corner_goals() -> dict[str, tuple[float, float]]:
    """Task name -> the room centre that it rewards."""
    sign = {"left": -1, "right": 1, "bottom": -1, "top": 1}
    return {name: (0.15 * sign[name.split("_")[2]], 0.15 * sign[name.split("_")[1]]) for name in CORNERS}


def random_goals(count: int, seed: int) -> dict[str, tuple[float, float]]:
    """Goals uniform over the rooms, at least 3 cm from wall axes and borders."""
    generator = np.random.Generator(np.random.PCG64(seed))
    position = generator.uniform(0.03, 0.27, (count, 2)) * generator.choice([-1.0, 1.0], (count, 2))
    return {f"goal_{i:02d}": (round(float(x), 3), round(float(y), 3)) for i, (x, y) in enumerate(position)}


def latents(policy: Policy, env: Env, out: Path | None) -> dict[str, np.ndarray]:
    """The latent of every corner reward and goal; prompt files are written to `out`."""
    # The rewards are narrow bumps of height 1: weighting by softmax(10 r) finds them more precisely than regression.
    requests = {name: Request("task", text=name, inference="softmax") for name in CORNERS}
    requests |= {
        name: Request("goal", goal={"x": x, "y": y}, inference="softmax")
        for name, (x, y) in random_goals(20, seed=1).items()
    }
    found = {}
    for name, request in requests.items():
        prompted, _ = promptfile.infer(request, policy, env)
        found[name] = prompted.z
        if out:
            promptfile.save(out / f"{name}.json", request, prompted, {})
    return found


def judge(
    env: Env, behave: Behaviour, params: Any, found: Mapping[str, np.ndarray], seed: int
) -> tuple[Outcome, Outcome]:
    """(corners, goals): success over 20 episodes per corner and 5 per goal."""
    groups = []
    for goals, radius, episodes in ((corner_goals(), CORNER_RADIUS, 20), (random_goals(20, seed=1), GOAL_RADIUS, 5)):
        names = list(goals)
        tasks = dict.fromkeys(names, env.tasks[CORNERS[0]])
        chosen = {name: found[name] for name in names}
        config = EvaluateConfig(episodes, seed)
        criteria = {name: success_within(radius, goals[name], LAST) for name in names}
        scores, trajectories = evaluate(env, behave, params, chosen, tasks, config, criteria)
        distance = [
            np.linalg.norm(trajectories[name].path["position"][:, -LAST:] - np.asarray(goals[name]), axis=-1).max(1)
            for name in names
        ]
        success = np.stack([_required(scores[name]) for name in names])
        groups.append(Outcome(success, np.stack(distance), trajectories))
    return groups[0], groups[1]


def _required(scores: Scores) -> np.ndarray:
    assert scores.success is not None
    return scores.success


class FloorError(RuntimeError):
    """The demo ran but its model is worse than it should be; the message says where."""


def run(out: Path) -> dict[str, Any]:
    """The content of report.json. Raises FloorError where success is below the floor.

    `out` is emptied first; InputError where it holds something that no demo made.
    """
    started = time.perf_counter()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
        raise InputError(f"out: {out} holds something else than a demo, which would be lost; name another directory")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()
    seconds: dict[str, float] = {}

    def stage(number: int, text: str) -> None:
        print(f"[{number}/5] {text}", file=sys.stderr, flush=True)

    stage(1, "collecting reward-free data in the point maze")
    mark = time.perf_counter()
    data = collect.run(COLLECT["point_maze-noise"], out / "data")
    seconds["collect"] = time.perf_counter() - mark

    stage(2, "training TD-JEPA without any reward")
    mark = time.perf_counter()
    experiment = PRESETS["point_maze-td_jepa-small"]
    policy = load(train.run(experiment, data, out / "run"))
    env = collect.make_env(experiment.world, experiment.hold)
    seconds["train"] = time.perf_counter() - mark

    stage(3, "prompting it with 4 corner rewards and 20 random goals")
    mark = time.perf_counter()
    untrained = _untrained(policy, experiment.train.seed)
    seed = EvaluateConfig().seed
    behave = scored_behaviour(policy.agent)
    results = {"TD-JEPA": judge(env, behave, policy.params, latents(policy, env, out / "prompts"), seed)}
    results["untrained"] = judge(env, behave, untrained.params, latents(untrained, env, None), seed)
    nothing = dict.fromkeys((*CORNERS, *random_goals(20, seed=1)), np.zeros(1, np.float32))
    results["random actions"] = judge(env, random_behaviour(env.spec.action), (), nothing, seed)
    seconds["evaluate"] = time.perf_counter() - mark

    stage(4, "prompting the shipped walker with two reward texts")
    mark = time.perf_counter()
    walks = _walker(out)
    seconds["walker"] = time.perf_counter() - mark

    stage(5, "writing the report")
    body = _body(results, walks, seconds)
    body["seconds_total"] = round(time.perf_counter() - started, 1)
    (out / "report.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    goals = (corner_goals(), random_goals(20, seed=1))
    demo_report.write(out, policy, env, results, goals, (CORNER_RADIUS, GOAL_RADIUS), walks, body)
    _check(body)
    return body


def _untrained(policy: Policy, seed: int) -> Policy:
    """The same policy before its first update."""
    state = jax.jit(policy.agent.init)(jax.random.key(seed), policy.spec.example())
    return dataclasses.replace(policy, params=jax.device_get(state.params))


def _walker(out: Path) -> dict[str, Walk]:
    """The shipped walker under each of the reward texts, beside random actions."""
    if "walker" not in shipped():
        return {}
    policy, env = resolve("walker")
    walks = {}
    for name, text in WALKER_PROMPTS.items():
        samples = min(10_000, len(policy.buffer.physics))
        prompted, task = promptfile.infer(Request("reward", text, samples=samples), policy, env)
        assert task is not None
        scores, trajectory = prompt.score(prompted, task, env, episodes=10)
        promptfile.save(
            out / "prompts" / f"walker_{name.replace(' ', '_')}.json",
            Request("reward", text, samples=samples),
            prompted,
            {"evaluated_return": scores.summary()},
        )
        nothing = {"prompt": np.zeros(1, np.float32)}
        chance, _ = evaluate(
            env, random_behaviour(env.spec.action), (), nothing, {"prompt": task}, EvaluateConfig(episodes=10)
        )
        walks[name] = Walk(text, scores.summary(), chance["prompt"].summary(), trajectory.physics[0], env)
    return walks


def _body(
    results: Mapping[str, tuple[Outcome, Outcome]], walks: Mapping[str, Walk], seconds: Mapping[str, float]
) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name, prefix in (("TD-JEPA", ""), ("untrained", "untrained_"), ("random actions", "random_")):
        for group, outcome in zip(("corner", "goal"), results[name], strict=True):
            body[f"{prefix}{group}_success_mean"] = outcome.summary()["mean"]
            body[f"{prefix}{group}"] = outcome.summary()
    body["corner_radius_m"], body["goal_radius_m"] = CORNER_RADIUS, GOAL_RADIUS
    body["walker"] = {
        name: {"text": walk.text, "prompted": walk.prompted, "random": walk.random} for name, walk in walks.items()
    }
    body["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return body


def _check(body: Mapping[str, Any]) -> None:
    low = [f"{name} {body[name]:.2f} < {floor:.2f}" for name, floor in FLOOR.items() if body[name] < floor]
    high = [f"{name} {body[name]:.2f} > {top:.2f}" for name, top in CEILING.items() if body[name] > top]
    if low or high:
        raise FloorError("; ".join(low + high))
