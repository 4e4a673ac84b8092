"""Worlds of other packages on the CPU: C MuJoCo on threads, a controller between the action and the actuators."""

import concurrent.futures
import copy
import functools
import logging
from typing import Any

import jax
import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from embodied.rewards import Task
from embodied.types import Env, InputError, Obs, Quantities, RandomKey, Timestep, Trial
from envs import render
from envs.controlled_world import ControlledWorld, Start, State
from envs.host import single, usable_cores

log = logging.getLogger(__name__)


class ControlledEnv(Env):
    """Such a world on the CPU. Results are numpy arrays: float64 physics and quantities, float32 observations."""

    def __init__(self, world: ControlledWorld, threads: int | None = None):
        self.world = world
        self.spec = world.spec()
        self.eye = world.eye
        self.tasks = {
            name: Task.of(name, text, world.quantities, about) for name, (text, about) in world.rewards.items()
        }
        self.trials = {name: self._trial(self.tasks[name], start) for name, start in world.task_starts.items()}
        self._models = [copy.copy(world.model) for _ in range(threads or usable_cores())]  # locks differ
        self._data = [mujoco.MjData(model) for model in self._models]
        self._pool = concurrent.futures.ThreadPoolExecutor(len(self._models))

    def reset(self, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode."""
        return self._reset(self.world.start, key, count)

    def reset_to(self, physics: Float[Any, "E P"]) -> Timestep:
        """Worlds placed in the given physics states (time included)."""
        physics = self.complete(np.array(physics, np.float64))
        return self._timestep(np.repeat(physics[:, None], self.spec.hold, axis=1), np.zeros(len(physics), bool))

    def step(self, ts: Timestep, action: Float[Any, "E A"]) -> Timestep:
        """The worlds after asking for the same change `spec.hold` times.

        A world whose state becomes non-finite is replaced by one at a fresh start, with `last` true and discount 0,
        and named in a log line; the other worlds are not touched.
        """
        world = self.world
        state = before = self.complete(np.array(ts.physics, np.float64))
        asked = world.command(np.asarray(action, np.float64), np)
        wrong = ~(np.isfinite(state).all(axis=1) & np.isfinite(asked).all(axis=1))
        path = []
        for _ in range(self.spec.hold):
            safe = np.where(wrong[:, None], self._resting, state)
            asked = np.where(wrong[:, None], 0.0, asked)
            state = self._simulate(safe, asked, world.control(State(world, safe), asked))
            # MuJoCo sets the clock back where it finds a world unstable.
            late = np.abs(state[:, 0] - safe[:, 0] - world.control_dt) > world.model.opt.timestep / 2
            wrong |= late | ~np.isfinite(state).all(axis=1)
            path.append(state)
        states = np.stack(path, axis=1)
        if wrong.any():
            for index in np.flatnonzero(wrong):
                which, when = f"world {index} of '{self.spec.name}'", f"{before[index, 0]:g} s"
                log.warning("%s became unstable at %s; it was reset", which, when)
            fresh = self._starts(world.start, np.random.default_rng(np.flatnonzero(wrong)), int(wrong.sum()))
            states[wrong] = self.complete(fresh)[:, None]
        return self._timestep(states, wrong)

    def observe(self, physics: Float[Any, "E P"]) -> tuple[Obs, Quantities]:
        """Observations and named quantities of stored physics states."""
        state = State(self.world, self.complete(np.asarray(physics, np.float64)))
        return single({"state": self.world.observe(state)}), self.world.measure(state)

    def render(self, physics: Float[np.ndarray, " P"], camera: str, size: int) -> UInt8[np.ndarray, "H W 3"]:
        """A `size` x `size` image of one physics state; camera "" is the package's first, for people.

        The camera `eye` shows the world as the package paints it for agents that see pixels. Neither has marks of a
        goal, of which a physics vector knows nothing. Raises RuntimeError where no OpenGL is installed.
        """
        model, data = self.world.draw(State(self.world, physics), camera == self.eye)
        return render.draw(model, data, camera or 0, size)

    def close(self) -> None:
        """Frees the renderer."""
        render.close()

    def complete(self, physics: Float[Any, "E P"]) -> Float[Any, "E Q"]:
        """Physics states whole; those that end with the action get what MuJoCo says of them at rest in that moment.

        Raises InputError for vectors of another length.
        """
        given, (bare, whole) = physics.shape[-1], self.spec.lengths
        if given == whole:
            return physics
        if given != bare:
            raise InputError(
                f"physics: a vector of world '{self.spec.name}' has {bare} or {whole} numbers, got {given}"
            )
        bare_states = np.concatenate([physics, np.zeros((len(physics), whole - bare))], axis=1)
        return self._simulate(bare_states, None, self.world.control(State(self.world, bare_states), None))

    @functools.cached_property
    def _resting(self) -> np.ndarray:
        return self.complete(self._starts(self.world.start, np.random.default_rng(0), 1))

    def _trial(self, task: Task, start: Start) -> Trial:
        """A task is solved where all its goals are met at one step: then its reward is 0."""
        return Trial(functools.partial(self._reset, start), lambda path: task(None, None, path) >= 0)

    def _reset(self, start: Start, key: RandomKey, count: int) -> Timestep:
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return self.reset_to(self._starts(start, generator, count))

    def _starts(self, start: Start, generator: np.random.Generator, count: int) -> np.ndarray:
        """Physics vectors [E, bare] at the start of an episode."""
        world = self.world
        physics = np.zeros((count, world.ctrl.stop))
        physics[:, world.qpos], physics[:, world.qvel], physics[:, world.act] = start(generator, count)
        return physics

    def _simulate(self, before: np.ndarray, action: np.ndarray | None, command: np.ndarray) -> np.ndarray:
        """States [E, P] one control step after `before`; `before` itself, completed, where there is no action."""
        after = before.copy()
        if action is not None:
            after[:, self.world.ctrl] = action
        slots = len(self._models)

        def work(slot: int) -> None:
            for row in range(slot, len(before), slots):
                self._one(slot, before[row], command[row], after[row], moves=action is not None)

        list(self._pool.map(work, range(slots)))
        return after

    def _one(self, slot: int, before: np.ndarray, command: np.ndarray, after: np.ndarray, moves: bool) -> None:
        world, model, data = self.world, self._models[slot], self._data[slot]
        mujoco.mj_setState(model, data, before[: world.qvel.stop], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        data.qacc_warmstart[:] = before[world.warm]
        if world.own:
            world.own.put(model, data, before[world.act], command)
        else:
            data.ctrl[:] = command
        if moves:
            mujoco.mj_step(model, data, nstep=world.substeps)
            mujoco.mj_getState(model, data, after[: world.qvel.stop], mujoco.mjtState.mjSTATE_FULLPHYSICS)
            after[world.warm] = data.qacc_warmstart
        else:
            mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)  # contact forces
        if world.own and moves:
            after[world.act] = world.own.after(State(world, before), State(world, after), data)
            world.own.put(model, data, after[world.act], command)
            mujoco.mj_forward(model, data)  # so that places are those of now, not of one physics step before
            after[world.warm] = data.qacc_warmstart
        after[world.seen] = world.look(data)

    def _timestep(self, states: np.ndarray, failed: np.ndarray) -> Timestep:
        path = self.world.measure(State(self.world, states))
        elapsed = np.rint(states[:, -1, 0] / self.spec.control_dt)
        return Timestep(
            physics=states[:, -1],
            obs=single({"state": self.world.observe(State(self.world, states[:, -1]))}),
            quantities={name: value[:, -1] for name, value in path.items()},
            path=path,
            discount=np.where(failed, np.float32(0), np.float32(1)),
            last=failed | (elapsed >= self.spec.episode_length),
        )
