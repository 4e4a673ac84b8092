"""The arm of OGBench's tables: from a change of the gripper's pose to joint commands, all worlds at once.

An action moves the point between the fingers in x, y and z, turns it about the vertical, and opens or closes the
fingers. Joint angles that reach the new pose are found by damped least squares, as in OGBench (Park et al. 2025,
"OGBench: Benchmarking Offline Goal-Conditioned RL", arXiv:2410.20092).
"""

import dataclasses
from typing import Any

import mujoco
import numpy as np

from envs.chain import Chain, about, rotation_vector

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
FLANGE, PINCH = "ur5e/attachment_site", "ur5e/robotiq/pinch"
REACH = np.array([0.05, 0.05, 0.05, 0.3, 1.0])  # m, m, m, rad, share of the opening: what an action of 1 asks for
LOW, HIGH = np.array([0.25, -0.35, 0.02]), np.array([0.6, 0.35, 0.35])  # m, where the fingers may be sent
DOWN = np.diag([1.0, -1.0, -1.0])  # the fingers point to the floor
HOME = np.array([-0.5, -0.5, 0.5, -0.5, -0.5, 0.0]) * np.pi  # rad
CLOSED = 0.8  # rad of the fingers' driving joint
STEPS, LARGEST, ENOUGH, DAMPING = 20, np.pi / 4, 1e-4, 1e-12  # steps; rad per step; m and rad of error; of the squares


@dataclasses.dataclass(frozen=True)
class Arm:
    """The chain of hinges from the world to the flange, and where the fingers are on it."""

    chain: Chain
    grip_offset: np.ndarray  # [3] m from the point between the fingers to the flange, in the fingers' frame
    grip_turn: np.ndarray  # [3, 3] the flange's frame in that of the fingers

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "Arm":
        """The arm of a compiled model."""
        return cls(Chain.of(model, [f"ur5e/{name}_joint" for name in JOINTS], FLANGE), *_grip(model))

    def angles(self, position: np.ndarray, yaw: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Joint angles [E, J] with the fingers at position [E, 3], turned by yaw [E]; searched from start [E, J]."""
        fingers = _about_z(yaw) @ DOWN
        wanted, facing = fingers @ self.grip_offset + position, fingers @ self.grip_turn
        angles = np.array(start)
        active = np.arange(len(angles))
        for _ in range(STEPS):
            flange, turn, jacobian = self.flange(angles[active])
            turned = rotation_vector(facing[active] @ turn.swapaxes(1, 2), np)
            error = np.concatenate([wanted[active] - flange, turned], axis=1)
            far = (np.linalg.norm(error[:, :3], axis=1) > ENOUGH) | (np.linalg.norm(error[:, 3:], axis=1) > ENOUGH)
            if not far.any():
                break
            active, error, jacobian = active[far], error[far], jacobian[far]
            transposed = jacobian.swapaxes(1, 2)
            squares = jacobian @ transposed + DAMPING * np.eye(6)
            change = (transposed @ np.linalg.solve(squares, error[..., None]))[..., 0]
            largest = np.abs(change).max(axis=1, keepdims=True)
            angles[active] += change * np.minimum(1, LARGEST / np.maximum(largest, LARGEST))
        return angles

    def flange(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position [E, 3], frame [E, 3, 3] and Jacobian [E, 6, J] of the flange at joint angles [E, J]."""
        return self.chain.end(angles, np)

    def command(self, action: np.ndarray, fingers: np.ndarray, joints: np.ndarray, driver: np.ndarray) -> np.ndarray:
        """Commands [E, J + 1] of actions [E, 5]: joint angles, then the fingers' closing in 0 to 255.

        `fingers` [E, 4] is where they are and how they are turned, `joints` [E, J] the arm's angles and `driver` [E]
        the angle of the fingers' joint.
        """
        change = np.clip(action, -1, 1) * REACH
        position = np.clip(fingers[:, :3] + change[:, :3], LOW, HIGH)
        angles = self.angles(position, fingers[:, 3] + change[:, 3], joints)
        closing = np.clip(opening(driver) + change[:, 4], 0, 1)
        return np.concatenate([angles, 255.0 * closing[:, None]], axis=1)


def opening(driver: np.ndarray) -> np.ndarray:
    """How far the fingers are closed, from 0 to 1, at these angles of the joint that drives them."""
    return np.clip(driver / CLOSED, 0, 1)


def yaw_of(matrix: np.ndarray) -> Any:
    """The turn about the vertical [...] of frames [..., 3, 3]."""
    return np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])


def _grip(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    fingers, flange = (data.site(name) for name in (PINCH, FLANGE))
    inverse = fingers.xmat.reshape(3, 3).T
    return inverse @ (flange.xpos - fingers.xpos), inverse @ flange.xmat.reshape(3, 3)


def _about_z(angle: np.ndarray) -> np.ndarray:
    return about(np.array([0.0, 0.0, 1.0]), angle, np)
