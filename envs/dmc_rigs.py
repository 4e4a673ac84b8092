"""Cart-pole, reacher and ball in cup of the DeepMind Control Suite: what is fixed to the world.

Models, timing, start states, observations and tasks are dm_control's own:
    cartpole     swingup, swingup_sparse; balance, balance_sparse, whose episodes begin with the pole upright
    reacher      easy, hard: bring the tip of an arm to a target, within 6 cm or 2.5 cm
    ball_in_cup  catch: swing a ball on a string into the cup that it hangs from

The target of an episode is part of its state: a body that nothing moves and nothing touches, on joints of its own. Of
the reacher's two balls at the target, one in the other, the larger is that of `easy`, the smaller that of `hard`.
Model: Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690.
"""

import dataclasses

import numpy as np
from dm_control.suite import ball_in_cup, cartpole, reacher

from embodied.deploy.contract import Term
from embodied.types import Env, InputError, Quantity, nearest
from envs.compiled import compile_model
from envs.dmc_common import (
    AXIS,
    HEIGHT,
    JOINT,
    JOINT_RATE,
    VELOCITY,
    anyhow,
    declare_control,
    of_joints,
    replaced,
    without_contact,
)
from envs.dmc_rewards import REWARDS
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

REACHER_TARGET = """
<body name="target" pos="0 0 .01">
  <joint name="target_x" type="slide" axis="1 0 0" damping="0"/>
  <joint name="target_y" type="slide" axis="0 1 0" damping="0"/>
  <geom name="target" type="sphere" size=".05" rgba=".6 .3 .3 .4"/>
  <geom name="small_target" type="sphere" size=".015" material="target"/>
</body>
"""
NEAREST, FURTHEST = 0.05, 0.2  # m from the reacher's shoulder to its target
CUP = 0.05  # m from the cup's rim down to the middle of what is in it

ARM = {
    "shoulder_angle": Quantity((), "rad", "angle of the shoulder"),
    "shoulder_velocity": Quantity((), "rad/s", "angular velocity of the shoulder"),
    "wrist_angle": Quantity((), "rad", "angle of the wrist; 0 where the arm is straight"),
    "wrist_velocity": Quantity((), "rad/s", "angular velocity of the wrist"),
}


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 1,
    start: str = "suite",
    threads: int | None = None,
    randomise: str | Randomisation = "none",
) -> Env:
    """The world `name`. Episodes start as most of its tasks do (`start` "suite"), or as the task of that name does."""
    world = {"cartpole": _cartpole, "reacher": _reacher, "ball_in_cup": _ball_in_cup}[name](name, hold)
    if start != "suite":
        if start not in world.task_starts:
            known = nearest(start, ("suite", *world.task_starts))
            raise InputError(f"start: unknown start '{start}' of world '{name}'; {known}")
        world = dataclasses.replace(world, start=world.task_starts[start])
    return build(world, form, threads, randomise)


def _cartpole(name: str, hold: int) -> WorldModel:
    xml, assets = cartpole.get_model_and_assets()
    xml = replaced('energy="enable"', "", xml.decode())  # nothing reads it, and MJX cannot compute it
    source = compile_model(xml, assets, {"pole_1": ("z_axis",)})
    upright = ("sensor/pole_1_z_axis[2]", "sensor/pole_1_z_axis[0]")

    def hanging(generator: np.random.Generator, count: int) -> np.ndarray:
        poses = np.array([0, np.pi]) + 0.01 * generator.normal(size=(count, 2))
        return np.concatenate([poses, 0.01 * generator.normal(size=(count, 2))], axis=1)

    def balanced(generator: np.random.Generator, count: int) -> np.ndarray:
        poses = generator.uniform(-1, 1, (count, 2)) * [0.1, 0.034]
        return np.concatenate([poses, 0.01 * generator.normal(size=(count, 2))], axis=1)

    def measure(reading: Reading) -> dict:
        return {
            "cart_position": reading.qpos[..., 0],
            "cart_velocity": reading.qvel[..., 0],
            "pole_upright": reading.sensor("pole_1_z_axis")[..., 2],
            "pole_sine": reading.sensor("pole_1_z_axis")[..., 0],
            "pole_velocity": reading.qvel[..., 1],
            "control": reading.control,
        }

    return WorldModel(
        name=name,
        source=source,
        control_dt=0.01,
        hold=hold,
        quantities={
            "cart_position": Quantity((), "m", "place of the cart on its rail; 0 in the middle"),
            "cart_velocity": Quantity((), "m/s", "velocity of the cart"),
            "pole_upright": Quantity((), "1", "cosine between the pole and vertical; 1 is upright, -1 hangs"),
            "pole_sine": Quantity((), "1", "sine of the pole's angle; 1 where it points along the rail"),
            "pole_velocity": Quantity((), "rad/s", "angular velocity of the pole"),
            "control": declare_control(source.model),
        },
        rewards=REWARDS[name],
        observation=(
            Term("cart", ("joint_position/slider",), "m", "joint", noise=(HEIGHT,)),
            Term("pole", upright, "1", "world", noise=(AXIS,), estimated=True),
            Term("cart_velocity", ("joint_velocity/slider",), "m/s", "joint", noise=(VELOCITY,)),
            Term("pole_velocity", ("joint_velocity/hinge_1",), "rad/s", "joint", noise=(JOINT_RATE,), estimated=True),
        ),
        measure=measure,
        start=hanging,
        task_starts={"balance": balanced, "balance_sparse": balanced},
    )


def _reacher(name: str, hold: int) -> WorldModel:
    xml, assets = reacher.get_model_and_assets()
    xml = replaced(r'<geom name="target".*?/>', REACHER_TARGET, xml.decode())
    source = compile_model(xml, assets, {"finger": ("position", "position_in_target"), "target": ("position",)})
    apart = ("sensor/finger_position_in_target[0]", "sensor/finger_position_in_target[1]")
    angles, rates = (of_joints(source.model, f"joint_{kind}")[:2] for kind in ("position", "velocity"))
    pose = anyhow(source.model)

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        poses = pose(generator, count)
        angle = generator.uniform(0, 2 * np.pi, count)
        radius = generator.uniform(NEAREST, FURTHEST, count)
        poses[:, 2:] = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
        return poses

    def measure(reading: Reading) -> dict:
        numpy, angles = reading.numpy, reading.joints()
        offset = reading.sensor("finger_position_in_target")[..., :2]
        return {
            **{name: angles[name] for name in ARM},
            "finger_position": reading.sensor("finger_position")[..., :2],
            "target_position": reading.sensor("target_position")[..., :2],
            "target_distance": numpy.sqrt(numpy.square(offset).sum(-1)),
            "control": reading.control,
        }

    return WorldModel(
        name=name,
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities={
            **ARM,
            "finger_position": Quantity((2,), "m", "position (x, y) of the arm's tip; the shoulder is at 0"),
            "target_position": Quantity((2,), "m", "position (x, y) of the target, drawn for each episode"),
            "target_distance": Quantity((), "m", "distance between the arm's tip and the target's centre"),
            "control": declare_control(source.model),
        },
        rewards=REWARDS[name],
        observation=(
            Term("position", angles, "rad", "joint", noise=(JOINT,)),
            Term("to_target", apart, "m", "world", scale=(-1.0,), noise=(0.005,), estimated=True),
            Term("velocity", rates, "rad/s", "joint", noise=(JOINT_RATE,)),
        ),
        measure=measure,
        start=start,
    )


def _ball_in_cup(name: str, hold: int) -> WorldModel:
    xml, assets = ball_in_cup.get_model_and_assets()
    source = compile_model(xml.decode(), assets, {"cup": ("position",), "ball": ("position",)})
    model = source.model
    positions, velocities = (of_joints(model, f"joint_{kind}") for kind in ("position", "velocity"))

    def start(generator: np.random.Generator, count: int) -> np.ndarray:
        return generator.uniform([0, 0, -0.2, 0.2], [0, 0, 0.2, 0.5], (count, 4))

    def measure(reading: Reading) -> dict:
        cup, ball = reading.sensor("cup_position"), reading.sensor("ball_position")
        return {
            "cup_position": cup[..., ::2],
            "cup_velocity": reading.qvel[..., :2],
            "ball_position": ball[..., ::2],
            "ball_velocity": reading.qvel[..., 2:],
            "ball_offset_x": ball[..., 0] - cup[..., 0],
            "ball_offset_z": ball[..., 2] - cup[..., 2] + CUP,
            "control": reading.control,
        }

    return WorldModel(
        name=name,
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities={
            "cup_position": Quantity((2,), "m", "position (x, z) of the middle of the cup's rim"),
            "cup_velocity": Quantity((2,), "m/s", "velocity (x, z) of the cup"),
            "ball_position": Quantity((2,), "m", "position (x, z) of the ball's centre"),
            "ball_velocity": Quantity((2,), "m/s", "velocity (x, z) of the ball"),
            "ball_offset_x": Quantity((), "m", "x from the middle of the cup to the ball; 0 in the cup"),
            "ball_offset_z": Quantity((), "m", "the same in z; 0 in the cup"),
            "control": declare_control(model),
        },
        rewards=REWARDS[name],
        observation=(
            Term("position", positions, "m", "world", noise=(0.005,), estimated=True),
            Term("velocity", velocities, "m/s", "world", noise=(VELOCITY,), estimated=True),
        ),
        measure=measure,
        start=without_contact(model, start),
    )
