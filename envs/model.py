"""What a world is made of: a compiled MuJoCo model and the declaration of how to read it.

Observations and named quantities are slices and closed forms of the physics vector and of MuJoCo's sensors.
They are written once against an array namespace (numpy or jax.numpy), so the host and MJX forms of a world
cannot disagree on what a name means. A physics vector is (time, qpos, qvel, act, ctrl), and behind them, where the
observation shows a history, what is remembered of it (`envs.memory`), and where the world is randomised, the
parameters of the episode (`envs.randomise`). Where a controller stands between actions and actuators, ctrl is the
action that it is given.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

from embodied.deploy.contract import LAST_ACTION, Imu, Safety, Term, frame_width
from embodied.rewards import Task
from embodied.types import EnvSpec, InputError, Quantities, Quantity
from envs.compiled import Compiled
from envs.controller import Controller
from envs.memory import Memory
from envs.randomise import COLUMNS, NOMINAL, Randomisation
from envs.readings import check_privileged, check_terms, columns, frame

Start = Callable[[np.random.Generator, int], np.ndarray]  # -> qpos [count, nq], or qpos and qvel [count, nq + nv]


@dataclasses.dataclass(frozen=True)
class Reading:
    """Physics states with their sensor values, read by name; leading axes are free."""

    world: "WorldModel"
    numpy: ModuleType  # numpy or jax.numpy
    physics: Any  # [..., P]
    sensordata: Any  # [..., S]

    @property
    def qpos(self) -> Any:
        """Generalised positions [..., nq]."""
        return self.physics[..., self.world.qpos]

    @property
    def qvel(self) -> Any:
        """Generalised velocities [..., nv]."""
        return self.physics[..., self.world.qvel]

    @property
    def act(self) -> Any:
        """Actuator activations [..., na]."""
        return self.physics[..., self.world.act]

    @property
    def control(self) -> Any:
        """The action being held [..., A], in [-1, 1]."""
        command = self.physics[..., self.world.ctrl]
        centre, half = (np.broadcast_to(part, command.shape) for part in self.world.command_range)
        return (command - centre) / half

    def sensor(self, name: str) -> Any:
        """Values of one MuJoCo sensor [..., size]."""
        return self.sensordata[..., self.world.sensors[name]]

    def joints(self) -> dict[str, Any]:
        """'<joint>_angle' and '<joint>_velocity' of every hinge and slide joint."""
        values = {}
        for name, (position, velocity) in self.world.joints.items():
            values[f"{name}_angle"] = self.physics[..., position]
            values[f"{name}_velocity"] = self.physics[..., velocity]
        return values


@dataclasses.dataclass(frozen=True)
class WorldModel:
    """One world: its model, timing, named quantities, observation, start states and tasks."""

    name: str
    source: Compiled  # what `compile_model` gave
    control_dt: float  # seconds per control step, a multiple of the model's timestep
    hold: int  # control steps per decision
    quantities: Mapping[str, Quantity]
    rewards: Mapping[str, tuple[str, str]]  # task -> (reward expression, one line about it)
    observation: tuple[Term, ...]  # what an agent sees, one after the other
    measure: Callable[[Reading], dict[str, Any]]  # -> name -> [..., *shape]
    start: Start  # of episodes; velocities are zero where it gives none
    task_starts: Mapping[str, Start] = dataclasses.field(default_factory=dict)  # tasks whose episodes begin elsewhere
    success: Mapping[str, Callable[[Quantities], Any]] = dataclasses.field(default_factory=dict)  # task -> is it done?
    settle: int = 0  # physics steps without control between `start` and the beginning of an episode
    episode_length: int = 1000  # control steps
    randomise: Randomisation = Randomisation()
    imu: Imu | None = None  # of the robot, for its contract
    default_pose: Mapping[str, float] = dataclasses.field(default_factory=dict)  # joint -> rad; the model's otherwise
    safety: Safety = Safety()  # when a runtime stops by itself
    controller: Controller | None = None  # without one, an action is the actuators' commands, scaled
    camera: str = ""  # of the model, for videos; "" = its first
    push: float = 0.5  # m/s, velocity change of the base that a push of strength 1 stays below
    privileged: tuple[Term, ...] = ()  # what only training sees, beside the observation; estimates, without noise

    def __post_init__(self) -> None:
        if not 1 <= self.hold <= self.episode_length:
            raise InputError(f"hold must lie in [1, {self.episode_length}] control steps, got {self.hold}")
        if self.episode_length % self.hold:
            raise InputError(f"hold must divide the {self.episode_length} control steps of an episode, got {self.hold}")
        check_terms(self.model, self.observation)
        check_privileged(self.model, self.privileged)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self.source.model

    @functools.cached_property
    def substeps(self) -> int:
        """Physics steps per control step."""
        return round(self.control_dt / self.model.opt.timestep)

    @functools.cached_property
    def qpos(self) -> slice:
        """Where generalised positions lie in a physics vector."""
        return slice(1, 1 + self.model.nq)

    @functools.cached_property
    def qvel(self) -> slice:
        """Where generalised velocities lie in a physics vector."""
        return slice(self.qpos.stop, self.qpos.stop + self.model.nv)

    @functools.cached_property
    def act(self) -> slice:
        """Where actuator activations lie in a physics vector."""
        return slice(self.qvel.stop, self.qvel.stop + self.model.na)

    @functools.cached_property
    def ctrl(self) -> slice:
        """Where the commands lie that are held; what precedes them is MuJoCo's full physics state."""
        assert self.act.stop == mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        return slice(self.act.stop, self.act.stop + self.action)

    @property
    def action(self) -> int:
        """Components of an action."""
        return len(self.controller.names) if self.controller else self.model.nu

    @functools.cached_property
    def randomised(self) -> bool:
        """Whether episodes have parameters of their own."""
        return self.randomise != Randomisation()

    @functools.cached_property
    def noise(self) -> np.ndarray:
        """Largest noise [F] of each component of the terms' frames."""
        parts = []
        for term, width in zip(self.observation, self.widths, strict=True):
            scale = np.array(term.scale or (1.0,))
            parts.append(np.broadcast_to(np.array(term.noise or (0.0,)) * np.abs(scale), (width,)))
        return np.concatenate(parts)

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Components of one frame of each observation term."""
        return tuple(
            self.action if term.source == (LAST_ACTION,) else frame_width(term, len(where))
            for term, where in zip(self.observation, self._columns, strict=True)
        )

    @functools.cached_property
    def memory(self) -> Memory:
        """What is remembered of earlier decisions, behind the commands."""
        return Memory(self.observation, self.widths, self.ctrl.stop)

    @functools.cached_property
    def dynamics(self) -> slice:
        """Where the parameters of the episode lie; empty where the world is not randomised."""
        return slice(self.memory.stop, self.memory.stop + self.randomised * len(COLUMNS))

    @functools.cached_property
    def base(self) -> int:
        """The body that the first joint moves."""
        return int(self.model.dof_bodyid[0])

    @functools.cached_property
    def joints(self) -> dict[str, tuple[int, int]]:
        """Columns of position and velocity of every hinge and slide joint."""
        scalar = np.flatnonzero(self.model.jnt_type >= int(mujoco.mjtJoint.mjJNT_SLIDE))
        position = self.qpos.start + self.model.jnt_qposadr
        velocity = self.qvel.start + self.model.jnt_dofadr
        return {self.model.joint(i).name: (int(position[i]), int(velocity[i])) for i in scalar}

    @functools.cached_property
    def sensors(self) -> dict[str, slice]:
        """Where each sensor lies in sensordata."""
        each = [self.model.sensor(i) for i in range(self.model.nsensor)]
        return {s.name: slice(int(s.adr[0]), int(s.adr[0] + s.dim[0])) for s in each}

    @functools.cached_property
    def command_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and half width [A] of the ranges of the commands that are held."""
        if self.controller:
            return np.zeros(self.action), np.ones(self.action)
        low, high = self.model.actuator_ctrlrange.T
        return (low + high) / 2, (high - low) / 2

    def command(self, action: Any, numpy: ModuleType) -> Any:
        """Commands [E, A] as physics vectors hold them, of actions, which are clipped to [-1, 1]."""
        centre, half = self.command_range
        return centre + half * numpy.clip(action, -1, 1)

    def controls(self, physics: Any, numpy: ModuleType) -> Any:
        """What each actuator is told [..., nu] for a decision that begins in physics states, by what these hold."""
        held = physics[..., self.ctrl]
        return self.controller.commands(physics, held, numpy) if self.controller else held

    def complete(self, physics: Any, numpy: ModuleType) -> Any:
        """Physics vectors [..., P] of this world, randomised or not, with the columns that this one has.

        Without memory nothing came before. Parameters that are missing are nominal, those of a world that is not
        randomised are left out. Raises InputError for vectors of another length.
        """
        given, plain = physics.shape[-1], self.memory.stop
        if given not in self.lengths:
            wanted = " or ".join(str(length) for length in self.lengths)
            raise InputError(f"physics: a vector of world '{self.name}' has {wanted} numbers, got {given}")
        if given == self.ctrl.stop != plain:
            nothing = numpy.zeros((*physics.shape[:-1], plain - given), physics.dtype)
            physics, given = numpy.concatenate([physics, nothing], axis=-1), plain
        if given == self.dynamics.stop:
            return physics
        if given > plain:
            return physics[..., :plain]
        nominal = numpy.broadcast_to(numpy.asarray(NOMINAL, physics.dtype), (*physics.shape[:-1], len(COLUMNS)))
        return numpy.concatenate([physics, nominal], axis=-1)

    @functools.cached_property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the physics vectors that `complete` takes: bare, with memory, with an episode's parameters."""
        return tuple(dict.fromkeys((self.ctrl.stop, self.memory.stop, self.memory.stop + len(COLUMNS))))

    def read(self, physics: Any, sensordata: Any, numpy: ModuleType) -> tuple[Any, dict[str, Any]]:
        """Observation vector [..., O] without noise of now, and named quantities, in the states' own precision."""
        frames = self.frames(physics, sensordata, numpy)
        observation = self.memory.observation(physics, frames, numpy)
        return observation, self.measured(physics, sensordata, numpy)

    def measured(self, physics: Any, sensordata: Any, numpy: ModuleType) -> dict[str, Any]:
        """Named quantities [..., *shape] of physics states."""
        return self.measure(Reading(self, numpy, physics, sensordata))

    def frames(self, physics: Any, sensordata: Any, numpy: ModuleType) -> Any:
        """The frames [..., F] of all observation terms now, one after the other, scaled, without noise."""
        parts = []
        everything = numpy.concatenate([physics[..., : self.ctrl.start], sensordata], axis=-1)
        for term, where in zip(self.observation, self._columns, strict=True):
            values = everything[..., where]
            if term.source == (LAST_ACTION,):
                values = Reading(self, numpy, physics, sensordata).control
            parts.append(frame(term, values, numpy))
        return numpy.concatenate(parts, axis=-1)

    def extras(self, physics: Any, sensordata: Any, numpy: ModuleType) -> dict[str, Any]:
        """{"privileged": [..., R]}, what only training sees of states; {} where the world has no such terms."""
        if not self.privileged:
            return {}
        everything = numpy.concatenate([physics[..., : self.ctrl.start], sensordata], axis=-1)
        each = zip(self.privileged, self._privileged_columns, strict=True)
        return {"privileged": numpy.concatenate([frame(term, everything[..., w], numpy) for term, w in each], axis=-1)}

    @functools.cached_property
    def _privileged_columns(self) -> list[np.ndarray]:
        return [columns(self.model, term) for term in self.privileged]

    @functools.cached_property
    def _columns(self) -> list[np.ndarray]:
        return [columns(self.model, term) for term in self.observation]

    def spec(self, jittable: bool) -> EnvSpec:
        """What is fixed about this world."""
        sizes = [width * term.history.length for term, width in zip(self.observation, self.widths, strict=True)]
        ends = np.cumsum(sizes).tolist()
        obs = {"state": (sum(sizes),)}
        if self.privileged:
            obs["privileged"] = (sum(len(where) for where in self._privileged_columns),)
        return EnvSpec(
            name=self.name,
            obs=obs,
            action=self.action,
            control_dt=self.control_dt,
            hold=self.hold,
            episode_length=self.episode_length,
            quantities=self.quantities,
            physics=self.dynamics.stop,
            jittable=jittable,
            lengths=self.lengths,
            parts={term.name: (end - size, end) for term, size, end in zip(self.observation, sizes, ends, strict=True)},
        )

    def tasks(self) -> dict[str, Task]:
        """The tasks of this world by name."""
        return {name: Task.of(name, text, self.quantities, about) for name, (text, about) in self.rewards.items()}
