"""The arm of OGBench's tables: from a change of the gripper's pose to joint commands, all worlds at once.

An action moves the point between the fingers in x, y and z, turns it about the vertical, and opens or closes the
fingers. Joint angles that reach the new pose are found by damped least squares, as in OGBench (Park et al. 2025,
"OGBench: Benchmarking Offline Goal-Conditioned RL", arXiv:2410.20092).
"""

import dataclasses
from typing import Any

import mujoco
import numpy as np

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

    offsets: np.ndarray  # [J + 1, 3] m from one joint to the next in the former's frame; the last to the flange
    turns: np.ndarray  # [J + 1, 3, 3] frame of a joint at angle 0 in the former's frame; the last the flange's
    axes: np.ndarray  # [J, 3] in the joint's own frame
    grip_offset: np.ndarray  # [3] m from the point between the fingers to the flange, in the fingers' frame
    grip_turn: np.ndarray  # [3, 3] the flange's frame in that of the fingers

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "Arm":
        """The arm of a compiled model."""
        joints = [model.joint(f"ur5e/{name}_joint") for name in JOINTS]
        offsets, turns, axes = [], [], []
        offset, turn, body = np.zeros(3), np.eye(3), 0
        for joint in joints:
            offset, turn = _path(model, body, int(joint.bodyid[0]))
            offsets.append(offset)
            turns.append(turn)
            axes.append(joint.axis.copy())
            body = int(joint.bodyid[0])
        flange = model.site(FLANGE)
        offset, turn = _path(model, body, int(flange.bodyid[0]))
        offsets.append(offset + turn @ flange.pos)
        turns.append(turn @ _matrix(flange.quat))
        grip_offset, grip_turn = _grip(model)
        return cls(np.array(offsets), np.array(turns), np.array(axes), grip_offset, grip_turn)

    def angles(self, position: np.ndarray, yaw: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Joint angles [E, J] with the fingers at position [E, 3], turned by yaw [E]; searched from start [E, J]."""
        fingers = _about_z(yaw) @ DOWN
        wanted, facing = fingers @ self.grip_offset + position, fingers @ self.grip_turn
        angles = np.array(start)
        active = np.arange(len(angles))
        for _ in range(STEPS):
            flange, turn, jacobian = self.flange(angles[active])
            error = np.concatenate([wanted[active] - flange, _rotation(facing[active] @ turn.swapaxes(1, 2))], axis=1)
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
        position, turn = np.zeros((len(angles), 3)), np.broadcast_to(np.eye(3), (len(angles), 3, 3))
        anchors, axes = [], []
        for index, axis in enumerate(self.axes):
            position = position + turn @ self.offsets[index]
            turn = turn @ self.turns[index]
            anchors.append(position)
            axes.append(turn @ axis)
            turn = turn @ _about(axis, angles[:, index])
        position, turn = position + turn @ self.offsets[-1], turn @ self.turns[-1]
        around = np.stack(axes, axis=2)
        along = np.cross(around, position[:, :, None] - np.stack(anchors, axis=2), axis=1)
        return position, turn, np.concatenate([along, around], axis=1)

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


def _path(model: mujoco.MjModel, above: int, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Origin and frame of a body in those of one above it; nothing between them moves."""
    offset, turn = np.zeros(3), np.eye(3)
    while body != above:
        frame = _matrix(model.body_quat[body])
        offset, turn = model.body_pos[body] + frame @ offset, frame @ turn
        body = int(model.body_parentid[body])
    return offset, turn


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotations [E, 3, 3] by angles [E] about one axis (Rodrigues)."""
    cross = np.cross(np.eye(3), axis)
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def _about_z(angle: np.ndarray) -> np.ndarray:
    return _about(np.array([0.0, 0.0, 1.0]), angle)


def _rotation(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle [E, 3] of rotations [E, 3, 3]."""
    twice = np.stack([matrix[:, i, j] - matrix[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1)
    sine, cosine = np.linalg.norm(twice, axis=1) / 2, (np.trace(matrix, axis1=1, axis2=2) - 1) / 2
    angle = np.arctan2(sine, cosine)
    return twice * (np.where(sine > 0, angle / np.maximum(2 * sine, 1e-300), 0.5))[:, None]
