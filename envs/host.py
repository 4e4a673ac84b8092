"""Worlds on the CPU: C MuJoCo stepped by a pool of threads, all worlds of a call together.

A decision holds one action for `hold` control steps of `substeps` physics steps each. Every call starts from
the physics vector alone (the solver starts cold): equal vectors and actions give equal results, bit by bit.
Sensor values belong to the state they are returned with; dm_control's lag by one physics step for sensors
that depend on acceleration.

Randomised worlds step side by side, each on a copy of the model that has its episode's parameters.
"""

import functools
import logging
import os
from typing import Any

import jax
import mujoco
import mujoco.rollout
import numpy as np
from jaxtyping import Float, UInt8

from embodied.types import Env, Obs, Quantities, RandomKey, Timestep, Trial
from envs import dynamics, render
from envs.compiled import without_forces
from envs.model import Start, WorldModel
from envs.randomise import SEEDS, draw

log = logging.getLogger(__name__)

HUGE = 1e10  # MuJoCo calls a state beyond this unstable and resets it


class HostEnv(Env):
    """A world on the CPU. Results are numpy arrays: float64 physics and quantities, float32 observations."""

    def __init__(self, world: WorldModel, threads: int | None = None):
        threads = threads or usable_cores()
        self.world = world
        self.spec = world.spec(jittable=False)
        self.tasks = world.tasks()
        self.trials = {
            name: Trial(
                functools.partial(self._begin, world.task_starts.get(name, world.start)), world.success.get(name)
            )
            for name in dict.fromkeys((*world.task_starts, *world.success))
        }
        self._data = [mujoco.MjData(world.model) for _ in range(threads)]
        self._pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._still = without_forces(world.model)
        self._copies = dynamics.Copies(world) if world.randomised else None

    def reset(self, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode."""
        return self._begin(self.world.start, key, count)

    def reset_to(self, physics: Float[Any, "E P"]) -> Timestep:
        """Worlds placed in the given physics states (time included)."""
        physics = self.complete(np.array(physics, np.float64))
        states = np.repeat(physics[:, None], self.spec.hold, axis=1)
        sensordata = np.repeat(self._sense(physics)[:, None], self.spec.hold, axis=1)
        return self._timestep(states, sensordata, failed=np.zeros(len(physics), bool))

    def step(self, ts: Timestep, action: Float[Any, "E A"]) -> Timestep:
        """The worlds after holding `action` for `spec.hold` control steps.

        A world whose state becomes non-finite is replaced by one at a fresh start, with `last` true and
        discount 0, and named in a log line; the other worlds are not touched.
        """
        world, hold = self.world, self.spec.hold
        ctrl = world.command(np.asarray(action, np.float64), np)
        before = dynamics.pushed(world, self.complete(np.asarray(ts.physics, np.float64)), np)
        older = world.memory.shifted(before, np)
        start = np.concatenate([before[:, : world.ctrl.start], ctrl, older[:, world.ctrl.stop :]], axis=1)
        steps = hold * world.substeps
        # Entry t of a rollout holds the sensor values before its step and the state after it: one step more
        # than asked for gives the sensor values of the last state.
        visited, sensed = self._roll(start, steps + 1, before)
        failed = self._failed(start, visited)
        ends = np.arange(1, hold + 1) * world.substeps
        held = np.repeat(start[:, None, world.ctrl.start :], hold, axis=1)
        states, sensordata = np.concatenate([visited[:, ends - 1], held], axis=2), sensed[:, ends]
        if failed.any():
            fresh = self._starts(world.start, np.random.default_rng(np.flatnonzero(failed)), int(failed.sum()))
            states[failed] = fresh[:, None]
            sensordata[failed] = self._sense(fresh)[:, None]
        return self._timestep(states, sensordata, failed)

    def observe(self, physics: Float[Any, "E P"]) -> tuple[Obs, Quantities]:
        """Observations, with their noise, and named quantities of stored physics states."""
        physics = self.complete(np.asarray(physics, np.float64))
        sensordata = self.sensordata(physics)
        _, obs = dynamics.seen(self.world, physics, sensordata, np)
        return single(obs), self.world.measured(physics, sensordata, np)

    def read(self, physics: Float[Any, "E P"]) -> tuple[Float[np.ndarray, "E O"], Quantities]:
        """The observation "state" without noise and the named quantities of physics states, in float64."""
        physics = self.complete(np.asarray(physics, np.float64))
        return self.world.read(physics, self.sensordata(physics), np)

    def sensordata(self, physics: Float[Any, "E P"]) -> Float[np.ndarray, "E S"]:
        """Values of all sensors of the model in physics states."""
        return self._sense(self.complete(np.asarray(physics, np.float64)))

    def complete(self, physics: Float[Any, "E P"]) -> Float[Any, "E Q"]:
        """Physics states with the columns that this world has, see `WorldModel.complete`."""
        return self.world.complete(physics, np)

    def render(self, physics: Float[np.ndarray, " P"], camera: str, size: int) -> UInt8[np.ndarray, "H W 3"]:
        """A `size` x `size` image of one physics state; camera "" is the world's own.

        Raises RuntimeError where no OpenGL is installed.
        """
        model, data = self.world.model, self._data[0]
        mujoco.mj_setState(model, data, physics[: self.world.ctrl.start], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        mujoco.mj_forward(model, data)
        return render.draw(model, data, camera or self.world.camera or 0, size)

    def close(self) -> None:
        """Frees the renderer, if one was made for this world."""
        render.close(self.world.model)

    def _begin(self, start: Start, key: RandomKey, count: int) -> Timestep:
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return self.reset_to(self._starts(start, generator, count))

    def _starts(self, start: Start, generator: np.random.Generator, count: int) -> np.ndarray:
        world = self.world
        physics, begun = np.zeros((count, self.spec.physics)), start(generator, count)
        physics[:, world.qpos.start : world.qpos.start + begun.shape[1]] = begun
        physics[:, world.ctrl] = world.command_range[0]  # the action 0
        if world.randomised:
            physics[:, world.dynamics] = draw(world.randomise, generator.integers(1, SEEDS, count), np)
        if world.settle:
            physics[:, : world.ctrl.start] = self._roll(physics, world.settle)[0][:, -1]
            physics[:, 0] = 0
        return physics

    def _sense(self, physics: np.ndarray) -> np.ndarray:
        """Values of all sensors [E, S] in complete physics states."""
        world = self.world
        if self._copies is not None:
            return self._roll(physics, 1)[1][:, 0]
        state, ctrl = physics[:, : world.ctrl.start], world.controls(physics, np)[:, None]
        return self._pool.rollout(self._still, self._data, state, ctrl, nstep=1)[1][:, 0]

    def _roll(
        self, physics: np.ndarray, steps: int, previous: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """States after [E, steps, ...] and sensor values before each of `steps` physics steps.

        Where worlds have latency, what `previous` states [E, P] hold goes on until it is over.
        """
        world = self.world
        state, ctrl = physics[:, : world.ctrl.start], world.controls(physics, np)[:, None]
        if self._copies is None:
            return self._pool.rollout(world.model, self._data, state, ctrl, nstep=steps)
        if previous is not None:
            waits = np.arange(steps) < dynamics.late(world, physics, np)[:, None]
            ctrl = np.where(waits[..., None], world.controls(previous, np)[:, None], ctrl)
        parts = []
        for first in range(0, len(physics), dynamics.LIMIT):
            rows = slice(first, first + dynamics.LIMIT)
            models = self._copies.of(physics[rows, world.dynamics])
            parts.append(self._pool.rollout(models, self._data, state[rows], ctrl[rows], nstep=steps))
        visited, sensed = zip(*parts, strict=True)
        return np.concatenate(visited), np.concatenate(sensed)

    def _failed(self, start: np.ndarray, visited: np.ndarray) -> np.ndarray:
        """Which worlds [E] MuJoCo found unstable: it sets their clock back and stops stepping them."""
        finite = np.isfinite(start).all(axis=1) & np.isfinite(visited).all(axis=(1, 2))
        expected = start[:, 0] + visited.shape[1] * self.world.model.opt.timestep
        failed = ~finite | (np.abs(visited[:, -1, 0] - expected) > self.world.model.opt.timestep / 2)
        for index in np.flatnonzero(failed):
            states = np.vstack([start[index, : self.world.ctrl.start], visited[index]])
            bad = np.argwhere(~(np.abs(states) < HUGE))
            where = f"entry {bad[0, 1]} of the physics vector" if len(bad) else "acceleration or action"
            which = f"world {index} of '{self.spec.name}'"
            when = f"became unstable at {start[index, 0]:g} s, first in {where}"
            log.warning("%s %s; it was reset", which, when)
        return failed

    def _timestep(self, states: np.ndarray, sensordata: np.ndarray, failed: np.ndarray) -> Timestep:
        path = self.world.measured(states, sensordata, np)
        physics, obs = dynamics.seen(self.world, states[:, -1], sensordata[:, -1], np)
        elapsed = np.rint(states[:, -1, 0] / self.spec.control_dt)
        return Timestep(
            physics=physics,
            obs=single(obs),
            quantities={name: value[:, -1] for name, value in path.items()},
            path=path,
            discount=np.where(failed, np.float32(0), np.float32(1)),
            last=failed | (elapsed >= self.spec.episode_length),
        )


def single(obs: Obs) -> dict[str, np.ndarray]:
    """Observations in float32, as agents take them."""
    return {name: np.asarray(values, np.float32) for name, values in obs.items()}


def usable_cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
