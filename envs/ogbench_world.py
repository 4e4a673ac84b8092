"""What a world of OGBench on the CPU declares, and its physics vectors read by name.

A physics vector is (time, qpos, qvel, switches, action, seen, warm start). OGBench reads some numbers before MuJoCo's
last step instead of after it, and its solver starts from the last solution: both are remembered, as `seen` and `warm
start`, so that a vector alone gives the same observation and, under the same commands, the same next state as the
package. Vectors that end with the action, such as imported ones, are completed as if the world had been put there by
hand.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from embodied.types import EnvSpec, InputError, Quantity

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
    draw: Callable[["State", bool], tuple[mujoco.MjModel, mujoco.MjData]]  # one state, as an agent sees it where True
    eye: str  # camera that shows what an agent sees
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


def _after(part: slice, size: int) -> slice:
    return slice(part.stop, part.stop + size)
