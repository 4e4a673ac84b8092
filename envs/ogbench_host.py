"""Worlds of OGBench on the CPU: C MuJoCo on threads, with a controller between the action and the actuators.

A physics vector is (time, qpos, qvel, switches, action, seen, warm start). OGBench reads some numbers before MuJoCo's
last step instead of after it, and its solver starts from the last solution: both are remembered, as `seen` and `warm
start`, so that a vector alone gives the same observation and, under the same commands, the same next state as the
package. Vectors that end with the action, such as imported ones, are completed as if the world had been put there by
hand.
"""

import concurrent.futures
import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import mujoco
import numpy as np
from jaxtyping import Float

from embodied.rewards import Task
from embodied.types import Env, EnvSpec, InputError, Obs, Quantities, Quantity, RandomKey, Timestep, Trial
from envs.host import single, usable_cores

log = logging.getLogger(__name__)

# -> positions [E, nq], velocities [E, nv], switches [E, B]
Start = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Switches:
    """Push buttons that flip switches, which may lock joints."""

    joints: tuple[str, ...]  # of the buttons
    flips: np.ndarray  # [B, B] whether pressing the row's button flips the column's switch
    locks: tuple[str, ...] = ()  # joints that the first switches lock when they are 0
    pressed: float = -0.02  # m
    locked: float = 1e6  # N s/m
    free: float = 2.0


@dataclasses.dataclass(frozen=True)
class ControlledWorld:
    """One world: its model, timing, controller, observation, named quantities, start states and tasks."""

    name: str
    model: mujoco.MjModel
    control_dt: float  # seconds per control step
    hold: int  # control steps per decision
    episode_length: int  # control steps
    action: int  # dimensions
    quantities: Mapping[str, Quantity]
    rewards: Mapping[str, tuple[str, str]]  # task -> (reward expression, one line about it)
    control: Callable[["State", np.ndarray | None], np.ndarray]  # action [E, A] or None (stay) -> commands [E, nu]
    look: Callable[[mujoco.MjData], np.ndarray]  # -> [S], what is read of MuJoCo's data after a control step
    observe: Callable[["State"], np.ndarray]  # -> [..., O]
    measure: Callable[["State"], dict[str, np.ndarray]]  # -> name -> [..., *shape]
    start: Start
    task_starts: Mapping[str, Start]  # where the episodes begin in which a task is judged
    switches: Switches | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.hold <= self.episode_length or self.episode_length % self.hold:
            raise InputError(f"hold must divide the {self.episode_length} control steps of an episode, got {self.hold}")

    @functools.cached_property
    def qpos(self) -> slice:
        """Where generalised positions lie in a physics vector."""
        return slice(1, 1 + self.model.nq)

    @functools.cached_property
    def qvel(self) -> slice:
        """Where generalised velocities lie."""
        return _after(self.qpos, self.model.nv)

    @functools.cached_property
    def act(self) -> slice:
        """Where the switches lie, each 0 or 1."""
        return _after(self.qvel, len(self.switches.joints) if self.switches else 0)

    @functools.cached_property
    def ctrl(self) -> slice:
        """Where the action lies that led to the state."""
        return _after(self.act, self.action)

    @functools.cached_property
    def seen(self) -> slice:
        """Where the result of `look` lies."""
        return _after(self.ctrl, len(self.look(mujoco.MjData(self.model))))

    @functools.cached_property
    def warm(self) -> slice:
        """Where the accelerations lie from which the solver starts."""
        return _after(self.seen, self.model.nv)

    @property
    def substeps(self) -> int:
        """Physics steps per control step."""
        return round(self.control_dt / self.model.opt.timestep)

    def command(self, action: Any, numpy: Any) -> Any:
        """Actions [..., A] as the physics vector holds them: clipped to [-1, 1]."""
        return numpy.clip(action, -1, 1)

    def spec(self) -> EnvSpec:
        """What is fixed about this world."""
        size = self.observe(State(self, np.zeros((1, self.warm.stop)))).shape[-1]
        return EnvSpec(
            name=self.name,
            obs={"state": (size,)},
            action=self.action,
            control_dt=self.control_dt,
            hold=self.hold,
            episode_length=self.episode_length,
            quantities=self.quantities,
            physics=self.warm.stop,
            jittable=False,
            lengths=(self.ctrl.stop, self.warm.stop),
        )


@dataclasses.dataclass(frozen=True)
class State:
    """Physics vectors [..., P], read by name."""

    world: ControlledWorld
    physics: np.ndarray

    def __getattr__(self, name: str) -> np.ndarray:
        """`qpos`, `qvel`, `act` (switches), `ctrl` (action), `seen` or `warm` [..., size]."""
        if name not in ("qpos", "qvel", "act", "ctrl", "seen", "warm"):
            raise AttributeError(name)
        return self.physics[..., getattr(self.world, name)]

    def joint(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [..., n] and velocity [..., m] of a joint of any kind."""
        joint = self.world.model.joint(name)
        position, velocity = int(joint.qposadr[0]), int(joint.dofadr[0])
        return (
            self.qpos[..., position : position + len(joint.qpos0)],
            self.qvel[..., velocity : velocity + len(joint.damping)],
        )


class ControlledEnv(Env):
    """Such a world on the CPU. Results are numpy arrays: float64 physics and quantities, float32 observations."""

    def __init__(self, world: ControlledWorld, threads: int | None = None):
        self.world = world
        self.spec = world.spec()
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
        data.ctrl[:] = command
        _lock(world.switches, model, before[world.act])
        if moves:
            mujoco.mj_step(model, data, nstep=world.substeps)
            mujoco.mj_getState(model, data, after[: world.qvel.stop], mujoco.mjtState.mjSTATE_FULLPHYSICS)
            after[world.warm] = data.qacc_warmstart
        else:
            mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)  # contact forces
        if world.switches and moves:
            after[world.act] = _flipped(world.switches, State(world, before), State(world, after))
            _lock(world.switches, model, after[world.act])
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


def _after(part: slice, size: int) -> slice:
    return slice(part.stop, part.stop + size)


def _lock(switches: Switches | None, model: mujoco.MjModel, states: np.ndarray) -> None:
    if switches:
        for joint, state in zip(switches.locks, states, strict=False):
            model.joint(joint).damping[0] = switches.free if state else switches.locked


def _flipped(switches: Switches, before: State, after: State) -> np.ndarray:
    """The switches [B] after a control step, in which a button counts when it passes its point of contact."""
    depth = [[state.joint(name)[0][0] for name in switches.joints] for state in (before, after)]
    pressed = (np.array(depth[0]) > switches.pressed) & (np.array(depth[1]) <= switches.pressed)
    return (before.act + pressed @ switches.flips) % 2
