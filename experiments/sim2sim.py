"""`embodied sim2sim`: a bundle's own runtime around its own robot in plain MuJoCo, against the evaluation in training.

Every episode begins in a start state of the bundle. Conditions change what the robot is, not what the policy knows:
orders that arrive a control step late, each or half of them, noisy sensors, other masses, friction, damping and motors,
all of these at once, pushes, and everything at the level "hard".
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np

import envs
from embodied.deploy.bundle import STARTS, Bundle
from embodied.deploy.runtime import Runtime, Tick
from embodied.deploy.simulation import Simulation, load_model
from embodied.evaluate import Scores
from embodied.rewards import Task
from embodied.types import Env, InputError, nearest
from envs import dynamics
from envs.dynamics import altered
from envs.host import HostEnv
from envs.model import WorldModel
from experiments import falls
from experiments.video import record


@dataclasses.dataclass(frozen=True)
class Condition:
    """How the robot differs from the one in training."""

    late: float = 0.0  # share of orders, drawn at random, that take effect a control step late
    noise: bool = False  # the noise that the contract declares
    level: str = "none"  # of randomised physics
    pushes: str = "none"  # level of randomisation whose pushes the base gets


CONDITIONS = {
    "nominal": Condition(),
    "jitter": Condition(late=0.5),
    "late": Condition(late=1.0),
    "noise": Condition(noise=True),
    "randomised": Condition(level="standard"),
    "all": Condition(late=1.0, noise=True, level="standard"),
    "pushed": Condition(pushes="standard"),
    "hard": Condition(late=1.0, noise=True, level="hard", pushes="hard"),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What the episodes of a prompt under a condition came to."""

    scores: Scores
    fallen: np.ndarray | None  # [episodes] bool; None in a world where nothing stands
    stopped: tuple[str, ...]  # reasons of the runtimes that stopped by themselves
    physics: np.ndarray  # [S, P] of the first episode, one row per control step


def run(
    bundle: Bundle, prompts: Sequence[str], conditions: Sequence[str], episodes: int, seconds: float | None = None
) -> dict[str, dict[str, Result]]:
    """Prompt -> condition -> result; episodes last as long as in training unless told how many `seconds`.

    Raises InputError for unknown names and more episodes than there are starts.
    """
    for name in conditions:
        if name not in CONDITIONS:
            raise InputError(f"condition: unknown condition '{name}'; {nearest(name, CONDITIONS)}")
    starts = bundle.arrays(STARTS)["physics"]
    if not 1 <= episodes <= len(starts):
        raise InputError(f"episodes: must be in [1, {len(starts)}], the start states of the bundle, got {episodes}")
    env = world_of(bundle)
    if seconds is None:
        seconds = env.spec.episode_length * env.spec.control_dt
    elif not seconds >= bundle.contract.timing.control_dt:
        raise InputError(f"seconds: must be a control step or more, {bundle.contract.timing.control_dt}, got {seconds}")
    return {
        prompt: {
            name: one(bundle, env, task_of(bundle, env, prompt), prompt, CONDITIONS[name], starts[:episodes], seconds)
            for name in conditions
        }
        for prompt in prompts
    }


def world_of(bundle: Bundle, level: str = "none") -> HostEnv:
    """The world that the policy of a bundle was trained in, randomised as asked."""
    world = bundle.manifest["world"]
    return envs.make(world["name"], **{**world["options"], "randomise": level})


def request_of(bundle: Bundle, prompt: str) -> dict[str, Any]:
    """What a prompt of the bundle was inferred from: its kind and text."""
    provenance = bundle.provenance(prompt)
    return provenance.get("request", {"kind": "task", "text": provenance.get("task", "")})


def is_reward(bundle: Bundle, prompt: str) -> bool:
    """Whether a prompt has a reward to be scored on."""
    return request_of(bundle, prompt)["kind"] in ("task", "reward")


def task_of(bundle: Bundle, env: Env, prompt: str) -> Task:
    """The reward that a prompt of the bundle asked for. Raises InputError for one that is no reward."""
    request = request_of(bundle, prompt)
    if not is_reward(bundle, prompt):
        raise InputError(f"prompt: '{prompt}' is a goal, which has no reward to score")
    if request["kind"] == "task":
        return env.tasks[request["text"]]
    return Task.of(prompt, request["text"], env.spec.quantities)


def one(
    bundle: Bundle, env: Env, task: Task, prompt: str, condition: Condition, starts: np.ndarray, seconds: float
) -> Result:
    """The result of a prompt under a condition. Returns are per episode of training, however long these last."""
    model, drawn = load_model(bundle), {}
    for level in {condition.level, condition.pushes} - {"none"}:
        other = world_of(bundle, level)
        drawn[level] = other.world, np.asarray(other.reset(jax.random.key(0), len(starts)).physics)
    returns, fallen, stopped, first = [], [], [], None
    for index, start in enumerate(starts):
        one_model, push = model, unpushed
        if condition.level in drawn:
            world, rows = drawn[condition.level]
            one_model = altered(model, rows[index, world.dynamics])
        if condition.pushes in drawn:
            world, rows = drawn[condition.pushes]
            push = functools.partial(pushed, world, rows[index])
        physics, actions, reason = episode(bundle, env, one_model, prompt, start, condition, index, seconds, push)
        _, quantities = env.observe(physics)
        before = {name: value[:-1] for name, value in quantities.items()}
        after = {name: value[1:] for name, value in quantities.items()}
        returns.append(float(np.mean(task(before, actions, after))) * env.spec.episode_length)
        lies = falls.down({name: value[None] for name, value in after.items()}, env.spec.control_dt)
        fallen += [] if lies is None else [lies[0]]
        stopped += [reason] if reason else []
        first = physics if first is None else first
    assert first is not None
    return Result(Scores(np.array(returns)), np.array(fallen) if fallen else None, tuple(stopped), first)


def unpushed(data: mujoco.MjData) -> None:
    """Nothing happens."""


def pushed(world: WorldModel, drawn: np.ndarray, data: mujoco.MjData) -> None:
    """Nothing; the base gets the push that falls into the decision that begins now, as in a world with that state."""
    state = np.concatenate([[data.time], data.qpos, data.qvel, drawn[world.qvel.stop :]])
    data.qvel[:] = dynamics.pushed(world, state[None], np)[0, world.qvel]


def episode(
    bundle: Bundle,
    env: Env,
    model: mujoco.MjModel,
    prompt: str,
    start: np.ndarray,
    condition: Condition,
    seed: int,
    seconds: float,
    push: Callable[[mujoco.MjData], None],
) -> tuple[np.ndarray, np.ndarray, str]:
    """(physics [S+1, P], actions [S, A], why the runtime stopped or "") at the world's control steps."""
    spec, timing = env.spec, bundle.contract.timing
    every = round(spec.control_dt / timing.sim_dt)
    rows: list[np.ndarray] = []

    def note(data: mujoco.MjData) -> None:
        if round(data.time / timing.sim_dt) % every == 0:
            rows.append(np.concatenate([[data.time], data.qpos, data.qvel, data.act, data.ctrl]))
            if (len(rows) - 1) % spec.hold == 0:
                push(data)

    noise = np.random.default_rng(seed) if condition.noise else None
    jitter = np.random.default_rng((seed, 1))
    delay = lambda: timing.decimation * int(jitter.random() < condition.late)  # noqa: E731
    robot = Simulation(bundle.contract, model, start, delay, noise, note)
    note(robot.data)
    ticks: list[Tick] = []
    # In simulated time an inference takes none.
    reason = Runtime(bundle, robot, prompt, clock=lambda: 0.0).run(seconds, ticks.append)
    robot.wait(seconds)
    actions = np.repeat([tick.action for tick in ticks], spec.hold, axis=0)
    held = np.minimum(np.arange(len(rows) - 1), len(actions) - 1)  # after a stop there are no more actions
    return np.array(rows), actions[held], reason


def table(bundle: Bundle, results: Mapping[str, Mapping[str, Result]]) -> str:
    """A text table: returns and the share that fell, with intervals, beside those of the evaluation in training."""
    lines = [
        f"{'prompt':<14}{'condition':<12}{'return [95 %]':>18}{'in training':>18}{'down [95 %]':>18}{'in training':>18}"
    ]
    for prompt, columns in results.items():
        trained = bundle.manifest["evaluation"]["prompts"][prompt]
        for name, result in columns.items():
            row = result.scores.summary()
            cells = [f"{part['iqm']:.0f} [{part['low']:.0f}, {part['high']:.0f}]" for part in (row, trained)]
            for fallen in (result.fallen is not None and falls.share(result.fallen), trained.get("down")):
                cells.append(f"{fallen['rate']:.0%} [{fallen['low']:.0%}, {fallen['high']:.0%}]" if fallen else "-")
            lines.append(f"{prompt:<14}{name:<12}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def summary(bundle: Bundle, results: Mapping[str, Mapping[str, Result]]) -> dict[str, Any]:
    """The numbers of the table, as JSON."""
    body: dict[str, Any] = {}
    for prompt, columns in results.items():
        trained = bundle.manifest["evaluation"]["prompts"][prompt]
        body[prompt] = {"in_training": trained}
        for name, result in columns.items():
            row: dict[str, Any] = result.scores.summary() | {"stopped": len(result.stopped)}
            row["within_training"] = falls.overlap(row, trained)
            if result.fallen is not None:
                row["down"] = falls.share(result.fallen)
                if "down" in trained:
                    row["falls_within_training"] = row["down"]["low"] <= trained["down"]["high"]
            body[prompt][name] = row
    return body


def video(bundle: Bundle, results: Mapping[str, Mapping[str, Result]], path: Path) -> Path | None:
    """The first episode of the first prompt under each condition, side by side; None without a renderer."""
    env = world_of(bundle)
    shown = [result.physics[:: env.spec.hold] for result in next(iter(results.values())).values()]
    return record(env, np.stack(shown), "", path)
