"""Relabelling stored walker states with a reward text: all states at once beside one after the other.

    python -m experiments.bench.relabel [--states 100000] [--sample 2000] [--out results/bench-relabel.json]

"at once" is what prompts do: the text is parsed, sensors of all states are read, quantities and reward computed on
arrays. "one by one" places each state in one MuJoCo data, calls `mj_forward` and evaluates the same text for it.
"dm_control" is the suite's own task: `reset_context`, `set_state`, `get_reward`. The loops see a sample of the states
and are scaled to all of them. Measured by turns in one process; compare ratios. All three must give equal rewards.
"""

import dataclasses
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import mujoco
import numpy as np
import tyro
from dm_control import suite

from embodied.data import collect
from embodied.rewards import Task
from embodied.rollout import rollout
from envs.host import HostEnv
from experiments.collect import make_env
from experiments.results import write_result

DECISIONS = 500  # per episode of the collection
EQUAL = 1e-9  # largest difference of a reward that is rounding


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How much faster rewards of stored states are computed at once."""

    task: Literal["stand", "walk", "run"] = "walk"  # whose text is evaluated; dm_control has these
    states: int = 100_000
    sample: int = 2_000  # of the states, for the loops
    rounds: int = 5
    seed: int = 0
    out: Path = Path("results/bench-relabel.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the ratios and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.relabel")
    started = time.perf_counter()
    env = make_env("walker", None)
    text = env.world.rewards[chosen.task][0]
    metrics = measure(env, chosen.task, collected(env, chosen.states, chosen.seed), chosen.sample, chosen.rounds)
    command = shlex.join(["python", "-m", "experiments.bench.relabel", *words])
    write_result(chosen.out, command, metrics, [chosen.seed], time.perf_counter() - started, text=text)
    for name, seconds in metrics["seconds"].items():
        print(f"{name:<12} {seconds:9.3f} s for {metrics['states']:,} states")
    print(", ".join(f"{name} / at once {ratio:.1f}" for name, ratio in metrics["over_at_once"].items()))
    print(f"wrote {chosen.out}")


def collected(env: HostEnv, count: int, seed: int) -> np.ndarray:
    """`count` physics states [N, P] that correlated noise visits, in float32 as datasets store them."""
    worlds = -(-count // (DECISIONS + 1))
    key_reset, key_roll = jax.random.split(jax.random.key(seed))
    behave, carry = collect.coloured_noise(5.0, 1.0), collect.noise_carry(env.spec.action, worlds)
    trajectory = rollout(env, behave, env.reset(key_reset, worlds), carry, DECISIONS, key_roll)
    return np.asarray(trajectory.physics, np.float32).reshape(-1, env.spec.physics)[:count]


def measure(env: HostEnv, task: str, stored: np.ndarray, sample: int, rounds: int) -> dict[str, Any]:
    """Median seconds for all states, and ratios (medians over rounds); the loops' seconds are scaled.

    Raises ValueError where rewards differ.
    """
    rows = np.random.default_rng(0).permutation(len(stored))[:sample]
    original = suite.load("walker", task)
    calls = {
        "at once": lambda: at_once(env, task, stored),
        "one by one": lambda: one_by_one(env, task, stored[rows]),
        "dm_control": lambda: by_dm_control(original, stored[rows]),
    }
    first = {name: call() for name, call in calls.items()}  # also what the first call builds
    apart = {name: float(np.abs(first[name] - first["at once"][rows]).max()) for name in ("one by one", "dm_control")}
    if max(apart.values()) > EQUAL:
        raise ValueError(f"rewards differ from those computed at once, by at most {apart}")
    seconds = interleave(calls, rounds)
    for name in apart:
        seconds[name] = [one * len(stored) / len(rows) for one in seconds[name]]
    pairs = {name: zip(seconds[name], seconds["at once"], strict=True) for name in apart}
    return {
        "states": len(stored),
        "sampled": len(rows),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "over_at_once": {name: statistics.median(slow / fast for slow, fast in pair) for name, pair in pairs.items()},
        "largest_difference": apart,
        "rounds": seconds,
    }


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def at_once(env: HostEnv, task: str, stored: np.ndarray) -> np.ndarray:
    """Rewards [N] of states, as prompts compute them from a text."""
    reward = _parsed(env, task)
    return reward(None, None, env.observe(stored.astype(np.float64))[1])


def one_by_one(env: HostEnv, task: str, stored: np.ndarray) -> np.ndarray:
    """The same rewards, each state by itself."""
    world, reward = env.world, _parsed(env, task)
    data, rewards = mujoco.MjData(world.model), []
    for state in stored.astype(np.float64):
        mujoco.mj_setState(world.model, data, state[: world.ctrl.start], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        data.ctrl[:] = state[world.ctrl]
        mujoco.mj_forward(world.model, data)
        rewards.append(float(reward(None, None, world.measured(state, data.sensordata, np))))
    return np.array(rewards)


def by_dm_control(original: Any, stored: np.ndarray) -> np.ndarray:
    """The same rewards from the suite's own environment of the task."""
    moving, rewards = original.physics.get_state().size, []
    for state in stored.astype(np.float64):
        with original.physics.reset_context():
            original.physics.set_state(state[1 : 1 + moving])  # behind the time
        rewards.append(original.task.get_reward(original.physics))
    return np.array(rewards)


def _parsed(env: HostEnv, task: str) -> Task:
    return Task.of(task, env.world.rewards[task][0], env.spec.quantities)


if __name__ == "__main__":
    main()
