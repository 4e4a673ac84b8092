"""Chains of hinges from the world to a place on a robot: where joint angles bring it, and how each joint moves it.

Written once against an array namespace (numpy or jax.numpy); leading axes are free. Products of matrices are written as
sums of products of numbers, because accelerators round the factors of matrix products.
"""

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mujoco
import numpy as np


@dataclasses.dataclass(frozen=True)
class Chain:
    """The hinges between the world and a site, one behind the other."""

    offsets: np.ndarray  # [J + 1, 3] m from one joint to the next in the former's frame; the last to the site
    turns: np.ndarray  # [J + 1, 3, 3] frame of a joint at angle 0 in the former's frame; the last the site's
    axes: np.ndarray  # [J, 3] in the joint's own frame

    @classmethod
    def of(cls, model: mujoco.MjModel, joints: Sequence[str], site: str) -> "Chain":
        """The chain of a compiled model; `joints` are its hinges in order, nothing else moves the site."""
        offsets, turns, axes = [], [], []
        offset, turn, body = np.zeros(3), np.eye(3), 0
        for joint in (model.joint(name) for name in joints):
            offset, turn = _path(model, body, int(joint.bodyid[0]))
            offsets.append(offset)
            turns.append(turn)
            axes.append(joint.axis.copy())
            body = int(joint.bodyid[0])
        end = model.site(site)
        offset, turn = _path(model, body, int(end.bodyid[0]))
        offsets.append(offset + turn @ end.pos)
        turns.append(turn @ _matrix(end.quat))
        return cls(np.array(offsets), np.array(turns), np.array(axes))

    def end(self, angles: Any, numpy: ModuleType) -> tuple[Any, Any, Any]:
        """Position [..., 3], frame [..., 3, 3] and Jacobian [..., 6, J] of the site at joint angles [..., J]."""

        def everywhere(constant: np.ndarray) -> np.ndarray:
            return np.broadcast_to(constant, (*angles.shape[:-1], *constant.shape))

        position, turn = everywhere(np.zeros(3)), everywhere(np.eye(3))
        anchors, axes = [], []
        for index, axis in enumerate(self.axes):
            position = position + rotated(turn, everywhere(self.offsets[index]))
            turn = product(turn, everywhere(self.turns[index]))
            anchors.append(position)
            axes.append(rotated(turn, everywhere(axis)))
            turn = product(turn, about(axis, angles[..., index], numpy))
        position = position + rotated(turn, everywhere(self.offsets[-1]))
        turn = product(turn, everywhere(self.turns[-1]))
        around = numpy.stack(axes, axis=-2)
        along = numpy.cross(around, position[..., None, :] - numpy.stack(anchors, axis=-2))
        return position, turn, numpy.concatenate([along, around], axis=-1).swapaxes(-1, -2)


def product(left: Any, right: Any) -> Any:
    """Matrix products [..., m, k] of [..., m, n] and [..., n, k]."""
    return (left[..., :, :, None] * right[..., None, :, :]).sum(-2)


def rotated(matrix: Any, vector: Any) -> Any:
    """Products [..., m] of matrices [..., m, n] and vectors [..., n]."""
    return (matrix * vector[..., None, :]).sum(-1)


def about(axis: np.ndarray, angle: Any, numpy: ModuleType) -> Any:
    """Rotations [..., 3, 3] by angles [...] about one axis (Rodrigues)."""
    cross = np.cross(np.eye(3), axis)
    shape = (*angle.shape, 3, 3)
    sine, cosine = numpy.sin(angle)[..., None, None], numpy.cos(angle)[..., None, None]
    still, once, twice = (np.broadcast_to(part, shape) for part in (np.eye(3), cross, cross @ cross))
    return still + sine * once + (1 - cosine) * twice


def rotation_vector(matrix: Any, numpy: ModuleType) -> Any:
    """Axis times angle [..., 3] of rotations [..., 3, 3] by less than half a turn."""
    twice = [matrix[..., i, j] - matrix[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))]
    twice = numpy.stack(twice, axis=-1)
    sine = numpy.sqrt(numpy.square(twice).sum(-1)) / 2
    cosine = (matrix[..., 0, 0] + matrix[..., 1, 1] + matrix[..., 2, 2] - 1) / 2
    angle = numpy.arctan2(sine, cosine)
    return twice * numpy.where(sine > 0, angle / numpy.maximum(2 * sine, 1e-30), 0.5)[..., None]


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
