"""A four-legged robot as robots are: twelve position servos, encoders, an inertial unit, 50 decisions a second.

What the actor sees comes from sensors that such a robot has, three frames of each: angular velocity, direction of
gravity, joint angles from the standing pose, joint velocities, the last action. An action moves the servos' targets
around the standing pose. Training alone sees how fast the trunk moves and how high trunk and feet are. Episodes begin
near the standing pose, on the feet. Own model, `envs/assets/robot_dog.xml`.
"""

import dataclasses
import importlib.resources

import mujoco
import numpy as np

from embodied.deploy.contract import LAST_ACTION, History, Imu, Safety, Term
from embodied.types import Env, InputError, Quantity, nearest
from envs.compiled import compile_model
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation
from envs.readings import places

STAND = (0.0, 0.8, -1.6) * 4  # rad: abduction, hip and knee of each leg
HEIGHT = 0.3  # m of the trunk's centre over the floor when standing
LEGS = ("front_left", "front_right", "rear_left", "rear_right")
STARTS = ("stand", "anyhow")
PAST = History(3, "newest_first", includes_current=True, reset_fill="repeat_first")

QUANTITIES = {
    "torso_height": Quantity((), "m", f"height of the trunk's centre; {HEIGHT} when standing"),
    "torso_upright": Quantity((), "1", "cosine between the trunk's z axis and vertical; 1 is upright"),
    "torso_position": Quantity((3,), "m", "position of the trunk in the world"),
    "torso_x": Quantity((), "m", "distance travelled in the x direction"),
    "torso_velocity_x": Quantity((), "m/s", "forward velocity, in the trunk's frame"),
    "torso_velocity_y": Quantity((), "m/s", "velocity to the left, in the trunk's frame"),
    "torso_velocity_z": Quantity((), "m/s", "upward velocity, in the trunk's frame"),
    "torso_roll_rate": Quantity((), "rad/s", "angular velocity about the trunk's x axis"),
    "torso_pitch_rate": Quantity((), "rad/s", "angular velocity about the trunk's y axis"),
    "torso_yaw_rate": Quantity((), "rad/s", "angular velocity about the trunk's z axis, positive to the left"),
    **{f"{leg}_foot_height": Quantity((), "m", f"height of the foot {leg.replace('_', ' ')}") for leg in LEGS},
    **{
        f"{leg}_{joint}_angle": Quantity((), "rad", f"angle of the {joint} joint {leg.replace('_', ' ')}")
        for leg in LEGS
        for joint in ("abduction", "hip", "knee")
    },
    "effort": Quantity((), "rad2/s2", "mean square of the joint velocities"),
    "control": Quantity((12,), "1", "the action being held, in [-1, 1]"),
}
UP = "up = tolerance(torso_upright, 0.95, 1, 1); tall = tolerance(torso_height, 0.27, 0.33, 0.15); stand = up * tall"
MOVE = "tolerance({0}, {1}, inf, {1}, linear, 0)"
REWARDS = {
    "stand": (f"{UP}; stand", "stand upright with the trunk at 0.3 m"),
    "walk": (f"{UP}; stand * {MOVE.format('torso_velocity_x', 0.5)}", "stand and move forward at 0.5 m/s or more"),
    "walk_backward": (f"{UP}; stand * {MOVE.format('-torso_velocity_x', 0.5)}", "the same backward"),
    "turn_left": (f"{UP}; stand * {MOVE.format('torso_yaw_rate', 1)}", "stand and turn left at 1 rad/s or more"),
    "crouch": (
        "up = tolerance(torso_upright, 0.95, 1, 1); up * tolerance(torso_height, 0.14, 0.18, 0.08)",
        "keep the trunk level at 0.16 m",
    ),
}


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 1,
    start: str = "stand",
    threads: int | None = None,
    randomise: str | Randomisation = "none",
) -> Env:
    """The robot; episodes begin near the standing pose (`start` "stand") or with any turn of the trunk ("anyhow")."""
    if start not in STARTS:
        raise InputError(f"start: unknown start '{start}' of world '{name}'; {nearest(start, STARTS)}")
    xml = importlib.resources.files("envs").joinpath("assets/robot_dog.xml").read_text()
    source = compile_model(xml, include={}, sensors={"trunk": ("position", "z_axis")})
    joints = [place.partition("/")[2] for place in places(source.model) if place.startswith("joint_position/")]
    world = WorldModel(
        name=name,
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities=QUANTITIES,
        rewards=REWARDS,
        observation=_observation(joints),
        privileged=(
            Term("velocity", ("sensor/velocity",), "m/s", "body", estimated=True),
            Term("height", ("sensor/trunk_position[2]",), "m", "world", estimated=True),
            Term("feet", tuple(f"sensor/{leg}_foot_position[2]" for leg in LEGS), "m", "world", estimated=True),
        ),
        measure=_measure,
        start=lambda generator, count: _start(source.model, generator, count, start),
        settle=40 if start == "anyhow" else 0,
        imu=Imu("sensor/orientation", "sensor/gyro"),
        default_pose=dict(zip(joints, STAND, strict=True)),
        safety=Safety(tilt=1.0, slew=dict.fromkeys(joints, 0.3), passive_kd=3.0),
    )
    return build(world, form, threads, randomise)


def _observation(joints: list[str]) -> tuple[Term, ...]:
    angles = tuple(f"joint_position/{joint}" for joint in joints)
    rates = tuple(f"joint_velocity/{joint}" for joint in joints)
    now = (
        Term("angular_velocity", ("sensor/gyro",), "rad/s", "body", scale=(0.25,), noise=(0.2,)),
        Term("gravity", ("sensor/orientation",), "1", "body", "projected_gravity", noise=(0.05,)),
        Term("joint_position", angles, "rad", "joint", offset=STAND, noise=(0.01,)),
        Term("joint_velocity", rates, "rad/s", "joint", scale=(0.05,), noise=(0.5,)),
        Term("last_action", (LAST_ACTION,), "1", "joint"),
    )
    return tuple(dataclasses.replace(term, history=PAST) for term in now)


def _measure(reading: Reading) -> dict:
    numpy, position = reading.numpy, reading.sensor("trunk_position")
    velocity, rate, joints = reading.sensor("velocity"), reading.sensor("gyro"), reading.joints()
    values = {f"torso_velocity_{axis}": velocity[..., i] for i, axis in enumerate("xyz")}
    values |= {f"torso_{turn}_rate": rate[..., i] for i, turn in enumerate(("roll", "pitch", "yaw"))}
    values |= {f"{leg}_foot_height": reading.sensor(f"{leg}_foot_position")[..., 2] for leg in LEGS}
    values |= {name: value for name, value in joints.items() if name.endswith("_angle")}
    return {
        "torso_height": position[..., 2],
        "torso_upright": reading.sensor("trunk_z_axis")[..., 2],
        "torso_position": position,
        "torso_x": position[..., 0],
        "effort": numpy.square(reading.qvel[..., 6:]).mean(-1),
        "control": reading.control,
        **values,
    }


def _start(model: mujoco.MjModel, generator: np.random.Generator, count: int, start: str) -> np.ndarray:
    """Poses [count, 19]: joints off by a normal 0.1 rad, the trunk turned about the vertical, or anyhow."""
    poses = np.tile(model.qpos0, (count, 1))
    poses[:, 7:] = np.array(STAND) + 0.1 * generator.normal(size=(count, 12))
    heading = generator.uniform(-np.pi, np.pi, count)
    poses[:, 3], poses[:, 6] = np.cos(heading / 2), np.sin(heading / 2)
    if start == "anyhow":
        turns = generator.normal(size=(count, 4))
        poses[:, 3:7] = turns / np.linalg.norm(turns, axis=1, keepdims=True)
        poses[:, 2] = 0.4
    return poses
