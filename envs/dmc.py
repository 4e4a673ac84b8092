"""Walker, cheetah and quadruped of the DeepMind Control Suite, with reward texts over named quantities.

Models, timing, start states, observations and the tasks stand, walk and run (cheetah: run; quadruped: walk,
run) are dm_control's own. Further tasks, which dm_control lacks:
    walker     spin           stand as in walk, angular momentum about the y axis of 5 kg m2/s or more
    cheetah    walk           2 m/s or more; *_backward: the same in the other direction
    quadruped  stand, jump    upright; upright with the torso at 1 m or more (it stands at 0.57 m)
Model: Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

import mujoco
import numpy as np
from dm_control.suite import cheetah, common, quadruped, walker

from embodied.deploy.contract import Term
from embodied.types import Env, InputError, Quantity, nearest
from envs.compiled import compile_model
from envs.dmc_rewards import REWARDS
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation
from envs.readings import places

TOES = ("toe_front_left", "toe_back_left", "toe_back_right", "toe_front_right")

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

STARTS = ("suite", "reference")
# Largest observation noise. Joints, turning and axes as for BFM-Zero's humanoid, the others of like size.
JOINT, JOINT_RATE, TURN, AXIS = 0.01, 0.5, 0.2, 0.05  # rad, rad/s, rad/s, 1
HEIGHT, VELOCITY, ACCELERATION, FORCE = 0.02, 0.1, 0.5, 0.1  # m, m/s, m/s2, 1 (arcsinh of N or N m)
PLANAR_RATES = (VELOCITY, VELOCITY, TURN, *[JOINT_RATE] * 6)


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 1,
    start: str = "suite",
    threads: int | None = None,
    randomise: str | Randomisation = "none",
) -> Env:
    """The world `name`: walker, cheetah or quadruped.

    Episodes start as in dm_control (`start` "suite"), or close to the pose that the model is drawn in ("reference"):
    on its feet, every hinge off by a normal 0.1 rad.
    """
    if start not in STARTS:
        raise InputError(f"start: unknown start '{start}' of world '{name}'; {nearest(start, STARTS)}")
    world = {"walker": _walker, "cheetah": _cheetah, "quadruped": _quadruped}[name](hold)
    if start == "reference":
        world = dataclasses.replace(world, start=_reference_pose(world.model), settle=0)
    return build(world, form, threads, randomise)


def _walker(hold: int) -> WorldModel:
    xml, assets = walker.get_model_and_assets()
    xml = xml.decode()
    bodies = re.findall(r'<body name="(\w+)"', xml)  # in the order of their numbers
    kinds = {body: ("position", "x_axis", "z_axis") for body in bodies}
    kinds["torso"] = (*kinds["torso"], "angular_momentum")
    source = compile_model(xml, assets, kinds)
    model = source.model
    feet = ("right_foot", "left_foot")

    axes = tuple(f"sensor/{body}_{axis}[0]" for body in bodies for axis in ("x_axis", "z_axis"))
    observation = (
        Term("orientations", axes, "1", "world", noise=(AXIS,), estimated=True),
        Term("height", ("sensor/torso_position[2]",), "m", "world", noise=(HEIGHT,), estimated=True),
        Term("velocity", _every(model, "joint_velocity"), "m/s, rad/s", "joint", noise=PLANAR_RATES, estimated=True),
    )

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        low, high = model.jnt_range.T.copy()
        turn = (model.jnt_limited == 0) & (model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE))
        low[turn], high[turn] = -np.pi, np.pi
        return generator.uniform(low, high, size=(count, model.nq))  # unlimited slides have the range (0, 0)

    def measure(reading: Reading) -> dict:
        heights = {f"{foot}_height": reading.sensor(f"{foot}_position")[..., 2] for foot in feet}
        return {**_planar(reading), **heights}

    return WorldModel(
        name="walker",
        source=source,
        control_dt=0.025,
        hold=hold,
        quantities={**PLANAR, **_heights(feet), **_declare_joints(model)},
        rewards=REWARDS["walker"],
        observation=observation,
        measure=measure,
        start=start,
    )


def _cheetah(hold: int) -> WorldModel:
    xml, assets = cheetah.get_model_and_assets()
    xml = xml.decode()
    feet = ("bfoot", "ffoot")
    kinds = {"torso": ("position", "z_axis", "angular_momentum"), **{foot: ("position",) for foot in feet}}
    source = compile_model(xml, assets, kinds)
    model = source.model
    positions, velocities = _every(model, "joint_position")[1:], _every(model, "joint_velocity")

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        low, high = np.where(model.jnt_limited, model.jnt_range.T, 0)
        return generator.uniform(low, high, size=(count, model.nq))

    def measure(reading: Reading) -> dict:
        heights = {f"{foot}_height": reading.sensor(f"{foot}_position")[..., 2] for foot in feet}
        return {**_planar(reading), **heights}

    return WorldModel(
        name="cheetah",
        source=source,
        control_dt=0.01,
        hold=hold,
        quantities={**PLANAR, **_heights(feet), **_declare_joints(model)},
        rewards=REWARDS["cheetah"],
        observation=(
            Term("position", positions, "m, rad", "joint", noise=(HEIGHT, AXIS, *[JOINT] * 6), estimated=True),
            Term("velocity", velocities, "m/s, rad/s", "joint", noise=PLANAR_RATES, estimated=True),
        ),
        measure=measure,
        start=start,
        settle=200,
    )


def _quadruped(hold: int) -> WorldModel:
    floor = 20 * 5  # half width in m: the time limit at the speed of `run`, as in dm_control's run task
    kinds = {"torso": ("position", "z_axis"), **{toe: ("position",) for toe in TOES}}
    source = compile_model(quadruped.make_model(floor_size=floor).decode(), common.ASSETS, kinds)
    model = source.model
    by_type = {kind: _sensors_of(model, kind) for kind in (("ACCELEROMETER", "GYRO"), ("FORCE", "TORQUE"))}
    imu, force_torque = by_type.values()

    activations = tuple(f"activation/{model.actuator(index).name}" for index in range(model.nu))
    observation = (
        Term("joint_position", _every(model, "joint_position"), "rad", "joint", noise=(JOINT,)),
        Term("joint_velocity", _every(model, "joint_velocity"), "rad/s", "joint", noise=(JOINT_RATE,)),
        Term("activation", activations, "1", "joint"),
        Term("torso_velocity", ("sensor/velocimeter",), "m/s", "body", noise=(VELOCITY,), estimated=True),
        Term("torso_upright", ("sensor/torso_z_axis[2]",), "1", "world", noise=(AXIS,), estimated=True),
        Term("imu", _sensors(imu), "m/s2, rad/s", "body", noise=(*[ACCELERATION] * 3, *[TURN] * 3)),
        Term("force_torque", _sensors(force_torque), "arcsinh of N, Nm", "body", "arcsinh", noise=(FORCE,)),
    )

    def measure(reading: Reading) -> dict:
        velocity, rate = reading.sensor("velocimeter"), reading.sensor("imu_gyro")
        values = {f"torso_velocity_{axis}": velocity[..., i] for i, axis in enumerate("xyz")}
        values |= {f"torso_{turn}_rate": rate[..., i] for i, turn in enumerate(("roll", "pitch", "yaw"))}
        values |= {f"{toe}_height": reading.sensor(f"{toe}_position")[..., 2] for toe in TOES}
        return {**_torso(reading), **values, **_joints(reading)}

    return WorldModel(
        name="quadruped",
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities={**FREE, **_heights(TOES), **_declare_joints(model)},
        rewards=REWARDS["quadruped"],
        observation=observation,
        measure=measure,
        start=_lowest_free_pose(model),
        camera="y",  # the first is far away
    )


def _reference_pose(model: mujoco.MjModel) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Start poses on the model's feet; the noise leaves slides and free bodies where they are."""
    hinges = model.jnt_qposadr[model.jnt_type == int(mujoco.mjtJoint.mjJNT_HINGE)]

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        poses = np.tile(model.qpos0, (count, 1))
        poses[:, hinges] += 0.1 * generator.normal(size=(count, len(hinges)))
        return poses

    return start


def _lowest_free_pose(model: mujoco.MjModel) -> Callable[[np.random.Generator, int], np.ndarray]:
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


def _sensors(names: list[str]) -> tuple[str, ...]:
    return tuple(f"sensor/{name}" for name in names)


def _every(model: mujoco.MjModel, kind: str) -> tuple[str, ...]:
    """The readings of this kind of all hinges and slides, in the model's order."""
    return tuple(name for name in places(model) if name.startswith(f"{kind}/"))


def _torso(reading: Reading) -> dict:
    position = reading.sensor("torso_position")
    return {
        "torso_height": position[..., 2],
        "torso_upright": reading.sensor("torso_z_axis")[..., 2],
        "torso_position": position,
        "torso_x": position[..., 0],
    }


def _planar(reading: Reading) -> dict:
    velocity = reading.sensor("torso_subtreelinvel")
    motion = {
        "torso_velocity_x": velocity[..., 0],
        "torso_velocity_z": velocity[..., 2],
        "torso_pitch_rate": reading.physics[..., reading.world.joints["rooty"][1]],
        "angular_momentum_y": reading.sensor("torso_angular_momentum")[..., 1],
    }
    return {**_torso(reading), **motion, **_joints(reading)}


def _joints(reading: Reading) -> dict:
    driven = {name: value for name, value in reading.joints().items() if not name.startswith("root")}
    return {**driven, "control": reading.control}


def _declare_joints(model: mujoco.MjModel) -> Mapping[str, Quantity]:
    declared = {}
    for index in range(model.njnt):
        joint = model.joint(index).name
        if not joint.startswith("root"):
            words = joint.replace("_", " ")
            declared[f"{joint}_angle"] = Quantity((), "rad", f"angle of the joint {words}")
            declared[f"{joint}_velocity"] = Quantity((), "rad/s", f"angular velocity of the joint {words}")
    return {**declared, "control": Quantity((model.nu,), "1", "the action being held, in [-1, 1]")}


def _heights(bodies: tuple[str, ...]) -> Mapping[str, Quantity]:
    about = {body: f"height of the centre of {body.replace('_', ' ')} above the floor" for body in bodies}
    return {f"{body}_height": Quantity((), "m", line) for body, line in about.items()}


def _sensors_of(model: mujoco.MjModel, kinds: tuple[str, ...]) -> list[str]:
    """Names of the sensors of these types, in the model's order (dm_control's order of readings)."""
    types = [int(getattr(mujoco.mjtSensor, f"mjSENS_{kind}")) for kind in kinds]
    return [model.sensor(index).name for index in np.flatnonzero(np.isin(model.sensor_type, types))]
