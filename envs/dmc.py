"""Bodies of the DeepMind Control Suite that walk, run or hop, with reward texts over named quantities.

Models, timing, start states, observations and the tasks stand, walk and run (cheetah: run; quadruped: walk,
run; hopper: stand, hop) are dm_control's own. Further tasks, which dm_control lacks:
    walker     spin           stand as in walk, angular momentum about the y axis of 5 kg m2/s or more
    cheetah    walk           2 m/s or more; *_backward: the same in the other direction
    quadruped  stand, jump    upright; upright with the torso at 1 m or more (it stands at 0.57 m)
Model: Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690.
"""

import dataclasses
import re

import numpy as np
from dm_control.suite import cheetah, common, hopper, humanoid, quadruped, walker

from embodied.deploy.contract import Term
from embodied.types import Env, InputError, Quantity, nearest
from envs.compiled import compile_model
from envs.dmc_common import (
    ACCELERATION,
    AXIS,
    FORCE,
    FREE,
    HEIGHT,
    JOINT,
    JOINT_RATE,
    PLANAR,
    TORSO,
    TURN,
    VELOCITY,
    anyhow,
    declare_heights,
    declare_joints,
    heights,
    joints,
    lowest_free_pose,
    of_joints,
    of_sensors,
    planar,
    reference_pose,
    sensors_of,
    torso,
    turning,
    without_contact,
)
from envs.dmc_rewards import REWARDS
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

TOES = ("toe_front_left", "toe_back_left", "toe_back_right", "toe_front_right")

LIMBS = ("left_hand", "left_foot", "right_hand", "right_foot")

HOPPER = {
    **PLANAR,
    "torso_over_foot": Quantity((), "m", "height of the torso's centre of mass over that of the foot"),
    "toe_force": Quantity((), "N", "normal force on the toe"),
    "heel_force": Quantity((), "N", "normal force on the heel"),
}
HUMANOID = {
    **TORSO,
    "head_height": Quantity((), "m", "height of the head's centre"),
    "torso_velocity_x": Quantity((), "m/s", "velocity of the centre of mass in the world's x direction"),
    "torso_velocity_y": Quantity((), "m/s", "velocity of the centre of mass in the world's y direction"),
    "torso_velocity_z": Quantity((), "m/s", "upward velocity of the centre of mass"),
    "torso_speed": Quantity((), "m/s", "horizontal speed of the centre of mass"),
    **{name: FREE[name] for name in ("torso_roll_rate", "torso_pitch_rate", "torso_yaw_rate")},
}

STARTS = ("suite", "reference")
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
    """The world `name`: walker, cheetah, quadruped, hopper or humanoid.

    Episodes start as in dm_control (`start` "suite"), or close to the pose that the model is drawn in ("reference"):
    on its feet, every hinge off by a normal 0.1 rad.
    """
    if start not in STARTS:
        raise InputError(f"start: unknown start '{start}' of world '{name}'; {nearest(start, STARTS)}")
    bodies = {"walker": _walker, "cheetah": _cheetah, "quadruped": _quadruped, "hopper": _hopper}
    world = {**bodies, "humanoid": _humanoid}[name](hold)
    if start == "reference":
        world = dataclasses.replace(world, start=reference_pose(world.model), settle=0)
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
        Term("velocity", of_joints(model, "joint_velocity"), "m/s, rad/s", "joint", noise=PLANAR_RATES, estimated=True),
    )

    def measure(reading: Reading) -> dict:
        return {**planar(reading), **heights(reading, feet)}

    return WorldModel(
        name="walker",
        source=source,
        control_dt=0.025,
        hold=hold,
        quantities={**PLANAR, **declare_heights(feet), **declare_joints(model)},
        rewards=REWARDS["walker"],
        observation=observation,
        measure=measure,
        start=anyhow(model),
    )


def _cheetah(hold: int) -> WorldModel:
    xml, assets = cheetah.get_model_and_assets()
    xml = xml.decode()
    feet = ("bfoot", "ffoot")
    kinds = {"torso": ("position", "z_axis", "angular_momentum"), **{foot: ("position",) for foot in feet}}
    source = compile_model(xml, assets, kinds)
    model = source.model
    positions, velocities = of_joints(model, "joint_position")[1:], of_joints(model, "joint_velocity")

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        low, high = np.where(model.jnt_limited, model.jnt_range.T, 0)
        return generator.uniform(low, high, size=(count, model.nq))

    def measure(reading: Reading) -> dict:
        return {**planar(reading), **heights(reading, feet)}

    return WorldModel(
        name="cheetah",
        source=source,
        control_dt=0.01,
        hold=hold,
        quantities={**PLANAR, **declare_heights(feet), **declare_joints(model)},
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
    by_type = {kind: sensors_of(model, kind) for kind in (("ACCELEROMETER", "GYRO"), ("FORCE", "TORQUE"))}
    imu, force_torque = by_type.values()

    activations = tuple(f"activation/{model.actuator(index).name}" for index in range(model.nu))
    observation = (
        Term("joint_position", of_joints(model, "joint_position"), "rad", "joint", noise=(JOINT,)),
        Term("joint_velocity", of_joints(model, "joint_velocity"), "rad/s", "joint", noise=(JOINT_RATE,)),
        Term("activation", activations, "1", "joint"),
        Term("torso_velocity", ("sensor/velocimeter",), "m/s", "body", noise=(VELOCITY,), estimated=True),
        Term("torso_upright", ("sensor/torso_z_axis[2]",), "1", "world", noise=(AXIS,), estimated=True),
        Term("imu", of_sensors(imu), "m/s2, rad/s", "body", noise=(*[ACCELERATION] * 3, *[TURN] * 3)),
        Term("force_torque", of_sensors(force_torque), "arcsinh of N, Nm", "body", "arcsinh", noise=(FORCE,)),
    )

    def measure(reading: Reading) -> dict:
        velocity = reading.sensor("velocimeter")
        values = {f"torso_velocity_{axis}": velocity[..., i] for i, axis in enumerate("xyz")}
        values |= turning(reading.sensor("imu_gyro"))
        return {**torso(reading), **values, **heights(reading, TOES), **joints(reading)}

    return WorldModel(
        name="quadruped",
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities={**FREE, **declare_heights(TOES), **declare_joints(model)},
        rewards=REWARDS["quadruped"],
        observation=observation,
        measure=measure,
        start=lowest_free_pose(model),
        camera="y",  # the first is far away
    )


def _hopper(hold: int) -> WorldModel:
    xml, assets = hopper.get_model_and_assets()
    kinds = {"torso": ("position", "z_axis", "angular_momentum", "centre_of_mass"), "foot": ("centre_of_mass",)}
    source = compile_model(xml.decode(), assets, kinds)
    model = source.model
    positions, velocities = of_joints(model, "joint_position")[1:], of_joints(model, "joint_velocity")

    def measure(reading: Reading) -> dict:
        centre = {body: reading.sensor(f"{body}_centre_of_mass")[..., 2] for body in kinds}
        forces = {f"{part}_force": reading.sensor(f"touch_{part}")[..., 0] for part in ("toe", "heel")}
        return {**planar(reading), **forces, "torso_over_foot": centre["torso"] - centre["foot"]}

    return WorldModel(
        name="hopper",
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities={**HOPPER, **declare_joints(model)},
        rewards=REWARDS["hopper"],
        observation=(
            Term("position", positions, "m, rad", "joint", noise=(HEIGHT, AXIS, *[JOINT] * 4), estimated=True),
            Term("velocity", velocities, "m/s, rad/s", "joint", noise=PLANAR_RATES[:-2], estimated=True),
            Term("touch", of_sensors(("touch_toe", "touch_heel")), "log1p of N", "body", "log1p", noise=(FORCE,)),
        ),
        measure=measure,
        start=anyhow(model),
    )


def _humanoid(hold: int) -> WorldModel:
    xml, assets = humanoid.get_model_and_assets()
    xml = xml.decode()
    kinds = {limb: ("position_in_torso", "position") for limb in LIMBS} | {"head": ("position",)}
    kinds["torso"] = ("position", "linear_velocity", "x_axis", "y_axis", "z_axis")
    # Nothing reads them, and reading stored states takes three times as long where a sensor needs forces.
    unread = re.findall(r'<(?:accelerometer|velocimeter|force|torque|touch)\s+name="(\w+)"', xml)
    source = compile_model(xml, assets, kinds, without=unread)
    model = source.model
    velocities = (*of_sensors(("torso_linear_velocity", "torso_gyro")), *of_joints(model, "joint_velocity"))
    rates = (*[VELOCITY] * 3, *[TURN] * 3, *[JOINT_RATE] * model.nu)
    vertical = tuple(f"sensor/torso_{axis}_axis[2]" for axis in "xyz")
    limbs = of_sensors(f"{limb}_position_in_torso" for limb in LIMBS)

    def measure(reading: Reading) -> dict:
        velocity = reading.sensor("torso_subtreelinvel")
        values = {f"torso_velocity_{axis}": velocity[..., i] for i, axis in enumerate("xyz")}
        values["torso_speed"] = reading.numpy.sqrt(reading.numpy.square(velocity[..., :2]).sum(-1))
        values |= turning(reading.sensor("torso_gyro"))
        return {**torso(reading), **values, **heights(reading, ("head", *LIMBS)), **joints(reading)}

    return WorldModel(
        name="humanoid",
        source=source,
        control_dt=0.025,
        hold=hold,
        quantities={**HUMANOID, **declare_heights(LIMBS), **declare_joints(model)},
        rewards=REWARDS["humanoid"],
        observation=(
            Term("joint_angles", of_joints(model, "joint_position"), "rad", "joint", noise=(JOINT,)),
            Term("head_height", ("sensor/head_position[2]",), "m", "world", noise=(HEIGHT,), estimated=True),
            Term("extremities", limbs, "m", "body", noise=(HEIGHT,), estimated=True),
            Term("torso_vertical", vertical, "1", "world", noise=(AXIS,), estimated=True),
            Term("com_velocity", ("sensor/torso_subtreelinvel",), "m/s", "world", noise=(VELOCITY,), estimated=True),
            Term("velocity", velocities, "m/s, rad/s", "joint", noise=rates, estimated=True),
        ),
        measure=measure,
        start=without_contact(model, anyhow(model)),
    )
