"""What a world of another package on the CPU declares, and its physics vectors read by name.

A physics vector is (time, qpos, qvel, own state, action, seen, warm start). A world may have a state of its own beside
MuJoCo's, such as switches or what an episode drew. Packages read some numbers before MuJoCo's last step instead of
after it, and the solver starts from the last solution: both are remembered, as `seen` and `warm start`, so that a
vector alone gives the same observation and, under the same commands, the same next state as the package. Vectors that
end with the action, such as imported ones, are completed as if the world had been put there by hand.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import mujoco
import numpy as np

from embodied.types import EnvSpec, InputError, Quantity

# -> positions [E, nq], velocities [E, nv], own states [E, B]
Start = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


@runtime_checkable
class Own(Protocol):
    """What a world remembers and changes beside MuJoCo's physics."""

    @property
    def size(self) -> int:
        """How many numbers it is."""

    def put(self, model: mujoco.MjModel, data: mujoco.MjData, own: np.ndarray, command: np.ndarray) -> None:
        """Tells MuJoCo of an own state [B] and gives it a command."""

    def after(self, before: "State", after: "State", data: mujoco.MjData) -> np.ndarray:
        """The own state [B] after a control step; of `after` its physics alone are known."""


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
    draw: Callable[["State", bool], tuple[mujoco.MjModel, mujoco.MjData]]  # one state, as an agent sees it where True
    eye: str  # camera that shows what an agent sees
    start: Start
    task_starts: Mapping[str, Start]  # where the episodes begin in which a task is judged
    own: Own | None = None

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
        """Where the own state lies."""
        return _after(self.qvel, self.own.size if self.own else 0)

    @functools.cached_property
    def ctrl(self) -> slice:
        """Where the action lies that led to the state."""
        return _after(self.act, self.action)

    @functools.cached_property
    def seen(self) -> slice:
        """Where the result of `look` lies."""
        data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, data)
        return _after(self.ctrl, len(self.look(data)))

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
        """`qpos`, `qvel`, `act` (own state), `ctrl` (action), `seen` or `warm` [..., size]."""
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


def _after(part: slice, size: int) -> slice:
    return slice(part.stop, part.stop + size)
