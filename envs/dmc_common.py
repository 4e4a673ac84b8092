"""What bodies of the DeepMind Control Suite share: start states, readings and quantities of their joints."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from embodied.types import Quantity
from envs.model import Reading, Start
from envs.readings import places

# Largest observation noise. Joints, turning and axes as for BFM-Zero's humanoid, the others of like size.
JOINT, JOINT_RATE, TURN, AXIS = 0.01, 0.5, 0.2, 0.05  # rad, rad/s, rad/s, 1
HEIGHT, VELOCITY, ACCELERATION, FORCE = 0.02, 0.1, 0.5, 0.1  # m, m/s, m/s2, 1 (logarithm of N or N m)

TORSO = {
    "torso_height": Quantity((), "m", "height of the torso's centre"),
    "torso_upright": Quantity((), "1", "cosine between the torso's z axis and vertical; 1 is upright"),
    "torso_position": Quantity((3,), "m", "position of the torso in the world"),
    "torso_x": Quantity((), "m", "distance travelled in the x direction"),
}
PLANAR = {
    **TORSO,
    "torso_velocity_x": Quantity((), "m/s", "forward velocity of the centre of mass"),
    "torso_velocity_z": Quantity((), "m/s", "upward velocity of the centre of mass"),
    "torso_pitch_rate": Quantity((), "rad/s", "angular velocity of the torso about the y axis"),
    "angular_momentum_y": Quantity((), "kg m2/s", "angular momentum about the centre of mass, y axis"),
}
FREE = {
    **TORSO,
    "torso_velocity_x": Quantity((), "m/s", "forward velocity of the torso, in the torso's frame"),
    "torso_velocity_y": Quantity((), "m/s", "velocity of the torso to its left, in the torso's frame"),
    "torso_velocity_z": Quantity((), "m/s", "upward velocity of the torso, in the torso's frame"),
    "torso_roll_rate": Quantity((), "rad/s", "angular velocity about the torso's x axis"),
    "torso_pitch_rate": Quantity((), "rad/s", "angular velocity about the torso's y axis"),
    "torso_yaw_rate": Quantity((), "rad/s", "angular velocity about the torso's z axis"),
}


def anyhow(model: mujoco.MjModel) -> Start:
    """Start poses as dm_control draws them: joints uniform within their limits, other hinges turned anyhow.

    Unlimited slides stay where they are. A free body's orientation is a unit quaternion of four numbers in [0, 1].
    """
    free = model.jnt_qposadr[model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE)]
    scalar = model.jnt_type >= int(mujoco.mjtJoint.mjJNT_SLIDE)
    low, high = model.jnt_range.T.copy()
    turn = (model.jnt_limited == 0) & (model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE))
    low[turn], high[turn] = -np.pi, np.pi
    still = (model.jnt_limited == 0) & (model.jnt_type == int(mujoco.mjtJoint.mjJNT_SLIDE))
    low[still] = high[still] = model.qpos0[model.jnt_qposadr[still]]

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        poses = np.tile(model.qpos0, (count, 1))
        poses[:, model.jnt_qposadr[scalar]] = generator.uniform(low[scalar], high[scalar], (count, scalar.sum()))
        for at in free:
            turns = generator.uniform(size=(count, 4))
            poses[:, at + 3 : at + 7] = turns / np.linalg.norm(turns, axis=1, keepdims=True)
        return poses

    return start


def without_contact(model: mujoco.MjModel, start: Start) -> Start:
    """The same starts, each drawn again until nothing touches."""

    def free(generator: np.random.Generator, count: int) -> np.ndarray:
        data, poses = mujoco.MjData(model), start(generator, count)
        for index in range(count):
            while _touches(model, data, poses[index]):
                poses[index] = start(generator, 1)[0]
        return poses

    return free


def _touches(model: mujoco.MjModel, data: mujoco.MjData, pose: np.ndarray) -> bool:
    data.qpos[:] = pose
    mujoco.mj_fwdPosition(model, data)
    return data.ncon > 0


def reference_pose(model: mujoco.MjModel) -> Start:
    """Start poses on the model's feet; the noise leaves slides and free bodies where they are."""
    hinges = model.jnt_qposadr[model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE)]

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        poses = np.tile(model.qpos0, (count, 1))
        poses[:, hinges] += 0.1 * generator.normal(size=(count, len(hinges)))
        return poses

    return start


def lowest_free_pose(model: mujoco.MjModel) -> Start:
    """Start poses of a free body: any orientation, at the lowest whole centimetre without contact."""

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        data, poses = mujoco.MjData(model), np.tile(model.qpos0, (count, 1))
        turns = generator.normal(size=(count, 4))
        poses[:, 3:7] = turns / np.linalg.norm(turns, axis=1, keepdims=True)
        for pose in poses:
            for height in np.arange(0, 3, 0.01):
                pose[:3] = 0, 0, height
                data.qpos[:] = pose
                mujoco.mj_fwdPosition(model, data)
                if data.ncon == 0:
                    break
        return poses

    return start


def of_sensors(names: Iterable[str]) -> tuple[str, ...]:
    """The readings of sensors."""
    return tuple(f"sensor/{name}" for name in names)


def of_joints(model: mujoco.MjModel, kind: str) -> tuple[str, ...]:
    """The readings of this kind of all hinges and slides, in the model's order."""
    return tuple(name for name in places(model) if name.startswith(f"{kind}/"))


def joints(reading: Reading) -> dict:
    """Angles and velocities of the joints that are no part of a root, and the action."""
    driven = {name: value for name, value in reading.joints().items() if not name.startswith("root")}
    return {**driven, "control": reading.control}


def declare_joints(model: mujoco.MjModel) -> Mapping[str, Quantity]:
    """What `joints` gives."""
    declared = {}
    for index in range(model.njnt):
        joint = model.joint(index).name
        if not joint.startswith("root"):
            words = joint.replace("_", " ")
            declared[f"{joint}_angle"] = Quantity((), "rad", f"angle of the joint {words}")
            declared[f"{joint}_velocity"] = Quantity((), "rad/s", f"angular velocity of the joint {words}")
    return {**declared, "control": declare_control(model)}


def declare_control(model: mujoco.MjModel) -> Quantity:
    """The action."""
    return Quantity((model.nu,), "1", "the action being held, in [-1, 1]")


def torso(reading: Reading) -> dict:
    """The quantities `TORSO`, of a model with sensors of position and z axis of its torso."""
    position = reading.sensor("torso_position")
    return {
        "torso_height": position[..., 2],
        "torso_upright": reading.sensor("torso_z_axis")[..., 2],
        "torso_position": position,
        "torso_x": position[..., 0],
    }


def planar(reading: Reading) -> dict:
    """The quantities `PLANAR`, and those of the joints, of a model with a sensor of angular momentum besides."""
    velocity = reading.sensor("torso_subtreelinvel")
    motion = {
        "torso_velocity_x": velocity[..., 0],
        "torso_velocity_z": velocity[..., 2],
        "torso_pitch_rate": reading.physics[..., reading.world.joints["rooty"][1]],
        "angular_momentum_y": reading.sensor("torso_angular_momentum")[..., 1],
    }
    return {**torso(reading), **motion, **joints(reading)}


def turning(rate: Any) -> dict:
    """Angular velocities about the torso's axes, of what a gyro says [..., 3]."""
    return {f"torso_{turn}_rate": rate[..., i] for i, turn in enumerate(("roll", "pitch", "yaw"))}


def heights(reading: Reading, bodies: Sequence[str]) -> dict:
    """How high bodies are that have sensors of their position."""
    return {f"{body}_height": reading.sensor(f"{body}_position")[..., 2] for body in bodies}


def declare_heights(bodies: Sequence[str]) -> Mapping[str, Quantity]:
    """What `heights` gives."""
    about = {body: f"height of the centre of {body.replace('_', ' ')} above the floor" for body in bodies}
    return {f"{body}_height": Quantity((), "m", line) for body, line in about.items()}


def sensors_of(model: mujoco.MjModel, kinds: Sequence[str]) -> list[str]:
    """Names of the sensors of these types, in the model's order (dm_control's order of readings)."""
    types = [int(getattr(mujoco.mjtSensor, f"mjSENS_{kind}")) for kind in kinds]
    return [model.sensor(index).name for index in np.flatnonzero(np.isin(model.sensor_type, types))]


def replaced(pattern: str, text: str, xml: str) -> str:
    """The text of a model with another text in place of the one part that looks like the pattern."""
    changed, count = re.subn(pattern, text, xml)
    assert count == 1, pattern
    return changed
