"""Control steps per second of a world: all worlds of a call together, beside a Python loop over them.

    python -m experiments.bench.steps --world tabletop_push [--worlds 64] [--out results/bench-steps.json]

"loop" is what environments usually do: one world after the other in Python, each with a MuJoCo data of its own, one
`mj_step` and one observation per control step. "threads_N" is `HostEnv.step` with N threads, with the observation after
each decision and all named quantities at each control step. "bare_N" is MuJoCo's own batched rollout with N threads,
without any reading: the limit. Measured by turns in one process from the same states and actions; compare ratios. Loop
and threads must end in the same states.
"""

import dataclasses
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import mujoco
import mujoco.rollout
import numpy as np
import tyro

import envs
from embodied.types import Timestep
from envs.host import HostEnv
from experiments.results import write_result

EQUAL = 1e-9  # largest difference of a state that is rounding


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How many control steps a second a world takes."""

    world: str = "tabletop_push"
    worlds: int = 64  # side by side
    decisions: int = 20  # per round
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    seed: int = 0
    out: Path = Path("results/bench-steps.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the rates and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.steps")
    started = time.perf_counter()
    metrics = measure(chosen)
    command = shlex.join(["python", "-m", "experiments.bench.steps", *words])
    write_result(chosen.out, command, metrics, [chosen.seed], time.perf_counter() - started)
    for name, rate in metrics["steps_per_second"].items():
        print(f"{name:<12}{rate:12,.0f} control steps per second, {metrics['over_loop'][name]:.2f} of the loop")
    print(f"wrote {chosen.out}")


def measure(chosen: Arguments) -> dict[str, Any]:
    """Median control steps per second, and ratios to the loop (medians over rounds).

    Raises ValueError where loop and threads end in different states.
    """
    hosts = {count: _host(chosen.world, count) for count in chosen.threads}
    env = next(iter(hosts.values()))
    start = env.reset(jax.random.key(chosen.seed), chosen.worlds)
    shape = (chosen.decisions, chosen.worlds, env.spec.action)
    action = np.random.default_rng(chosen.seed).uniform(-1, 1, shape)
    ways: dict[str, Callable[[], np.ndarray]] = {"loop": lambda: looped(env, start, action)}
    ways |= {f"threads_{n}": lambda host=host: together(host, start, action) for n, host in hosts.items()}
    ways |= {f"bare_{n}": lambda n=n: bare(env, start, action, n) for n in chosen.threads}
    ends = {name: way() for name, way in ways.items()}
    for name, end in ends.items():
        apart = np.abs(end - ends["loop"]).max()
        if not name.startswith("bare") and apart > EQUAL:
            raise ValueError(f"'{name}' and 'loop' end in states that differ by {apart:.1e}")
    rounds = [{name: _seconds(way) for name, way in ways.items()} for _ in range(chosen.rounds)]
    steps = chosen.worlds * chosen.decisions * env.spec.hold
    return {
        "world": chosen.world,
        "worlds": chosen.worlds,
        "steps": steps,
        "steps_per_second": {name: steps / _median(rounds, lambda one, n=name: one[n]) for name in ways},
        "over_loop": {name: _median(rounds, lambda one, n=name: one["loop"] / one[n]) for name in ways},
    }


def looped(env: HostEnv, start: Timestep, action: np.ndarray) -> np.ndarray:
    """Final qpos and qvel [E, Q] of worlds that are stepped one after the other."""
    world, model = env.world, env.world.model
    datas = [mujoco.MjData(model) for _ in range(action.shape[1])]
    for data, physics in zip(datas, start.physics, strict=True):
        mujoco.mj_setState(model, data, physics[: world.ctrl.start], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    for row in action:
        for data, one in zip(datas, row, strict=True):
            # Every decision starts cold, as those of the batched form do.
            data.qacc_warmstart[:] = 0
            data.ctrl[:] = _controls(env, data, one)
            for _ in range(env.spec.hold):
                mujoco.mj_step(model, data, world.substeps)
                np.concatenate([data.qpos, data.qvel, data.sensordata])
    return np.stack([np.concatenate([data.qpos, data.qvel]) for data in datas])


def together(env: HostEnv, start: Timestep, action: np.ndarray) -> np.ndarray:
    """The same by `HostEnv.step`."""
    ts = start
    for row in action:
        ts = env.step(ts, row)
    return np.asarray(ts.physics)[:, env.world.qpos.start : env.world.qvel.stop]


def bare(env: HostEnv, start: Timestep, action: np.ndarray, threads: int) -> np.ndarray:
    """As many physics steps by MuJoCo's batched rollout alone, under the first action."""
    world, model = env.world, env.world.model
    datas = [mujoco.MjData(model) for _ in range(threads)]
    steps = env.spec.hold * world.substeps
    state = start.physics[:, : world.ctrl.start]
    with mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0) as pool:
        for _ in action:
            state = pool.rollout(model, datas, state, world.controls(start.physics, np)[:, None], nstep=steps)[0][:, -1]
    return state[:, world.qpos.start : world.qvel.stop]


def _host(world: str, threads: int) -> HostEnv:
    env = envs.make(world, threads=threads)
    assert isinstance(env, HostEnv)
    return env


def _controls(env: HostEnv, data: mujoco.MjData, action: np.ndarray) -> np.ndarray:
    """What the actuators are told for an action in the state of `data`."""
    world = env.world
    state = np.empty(world.ctrl.start)
    mujoco.mj_getState(world.model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    return world.controls(np.concatenate([state, world.command(action, np)])[None], np)[0]


def _seconds(way: Callable[[], np.ndarray]) -> float:
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun


def _median(rounds: Sequence[Mapping[str, float]], of: Callable[[Mapping[str, float]], float]) -> float:
    return statistics.median(of(one) for one in rounds)


if __name__ == "__main__":
    main()
