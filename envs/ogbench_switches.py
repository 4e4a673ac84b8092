"""Push buttons at OGBench's tables: they flip switches, which may lock joints."""

import dataclasses

import mujoco
import numpy as np

from envs.controlled_world import State


@dataclasses.dataclass(frozen=True)
class Switches:
    """The switches of a world, each 0 or 1: its own state."""

    joints: tuple[str, ...]  # of the buttons
    flips: np.ndarray  # [B, B] whether pressing the row's button flips the column's switch
    locks: tuple[str, ...] = ()  # joints that the first switches lock when they are 0
    pressed: float = -0.02  # m
    locked: float = 1e6  # N s/m
    free: float = 2.0

    @property
    def size(self) -> int:
        """How many switches there are."""
        return len(self.joints)

    def put(self, model: mujoco.MjModel, data: mujoco.MjData, own: np.ndarray, command: np.ndarray) -> None:
        """Locks joints as the switches [B] say, and gives the actuators their command."""
        data.ctrl[:] = command
        for joint, state in zip(self.locks, own, strict=False):
            model.joint(joint).damping[0] = self.free if state else self.locked

    def after(self, before: State, after: State, data: mujoco.MjData) -> np.ndarray:
        """The switches [B] after a control step, in which a button counts when it passes its point of contact."""
        depth = [[state.joint(name)[0][0] for name in self.joints] for state in (before, after)]
        pressed = (np.array(depth[0]) > self.pressed) & (np.array(depth[1]) <= self.pressed)
        return (before.act + pressed @ self.flips) % 2
