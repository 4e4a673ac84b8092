"""A small world that has everything which randomisation changes, and states of it."""

import functools

import numpy as np

from embodied.deploy.contract import Term
from embodied.types import Quantity
from envs.compiled import compile_model
from envs.forms import build
from envs.model import WorldModel
from envs.randomise import COLUMNS, NOMINAL, Randomisation

# A sled with an arm on a plane: slides with armature and damping, contacts with friction, a motor and a servo.
XML = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.005"/>
  <default><geom friction="{friction} 0.005 0.0001"/></default>
  <worldbody>
    <geom type="plane" size="5 5 1"/>
    <body name="sled" pos="0 0 0.1">
      <inertial pos="{com}" mass="{mass}" diaginertia="{inertia} {inertia} {inertia}"/>
      <joint name="x" type="slide" axis="1 0 0" damping="{slide_damping}"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <joint name="tilt" type="hinge" axis="0 1 0" armature="{armature}"/>
      <geom type="capsule" size="0.1 0.2" euler="0 1.5708 0"/>
      <body name="arm" pos="0.1 0 0.1">
        <inertial pos="0 0 0.2" mass="{arm_mass}" diaginertia="{inertia} {inertia} {inertia}"/>
        <joint name="arm" type="hinge" axis="0 1 0" damping="{arm_damping}" armature="{armature}"/>
        <geom type="sphere" size="0.05" pos="0 0 0.4"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x" gear="{gear}" ctrllimited="true" ctrlrange="-1 1"/>
    <general joint="arm" biastype="affine" gainprm="{kp}" biasprm="0 -{kp} -{kd}" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
ALL = Randomisation((0.5, 1.25), (0.9, 1.1), 0.02, (0.8, 1.2), (0.5, 2.0), (0.0, 0.5), 1.0, (0.04, 0.12), 1.0)
NOISE = (0.01,) * 4 + (0.1,) * 4
OBSERVATION = tuple(
    Term(kind, tuple(f"{kind}/{joint}" for joint in ("x", "z", "tilt", "arm")), noise=(size,), estimated=True)
    for kind, size in (("joint_position", 0.01), ("joint_velocity", 0.1))
)


def sled(randomise="none", form="host", hold=2, com="0 0 0", **scale):
    """The world, its XML multiplied by the given scales."""
    mass, friction, damping, gain = (scale.get(name, 1.0) for name in ("mass", "friction", "damping", "gain"))
    numbers = {"mass": 3 * mass, "arm_mass": mass, "inertia": 0.02 * mass, "armature": 0.01 * mass}
    numbers |= {
        "slide_damping": 2 * damping,
        "arm_damping": 0.1 * damping,
        "gear": 20 * gain,
        "kp": 10 * gain,
        "kd": gain,
    }
    source = compile_model(XML.format(com=com, friction=0.8 * friction, **numbers), {}, {})
    world = WorldModel(
        name="sled",
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities={"x": Quantity((), "m", "place"), "speed": Quantity((), "m/s", "velocity")},
        rewards={"go": ("speed", "move")},
        observation=OBSERVATION,
        measure=lambda reading: {"x": reading.qpos[..., 0], "speed": reading.qvel[..., 0]},
        start=lambda generator, count: generator.uniform(-0.1, 0.1, (count, 4)),
        episode_length=100,
    )
    return build(world, form, 1 if form == "host" else None, randomise)


@functools.cache
def made(form="host"):
    return sled(ALL, form)


def under(physics, **parameters):
    """The physics vectors with these parameters behind them, the others nominal."""
    values = np.tile(NOMINAL, (len(physics), 1))
    for name, value in parameters.items():
        values[:, COLUMNS.index(name)] = value
    return np.concatenate([physics, values], axis=1)


def starts(count=4, height=0.0):
    """Physics vectors of the sled in motion, without parameters."""
    generator = np.random.default_rng(1)
    physics = np.concatenate([np.zeros((count, 1)), generator.uniform(-0.3, 0.3, (count, 8)), np.zeros((count, 2))], 1)
    physics[:, 2] = height
    return physics


def actions(count=4, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)


def walk(env, physics, decisions=5):
    """Physics vectors after each decision, without parameters."""
    ts, states = env.reset_to(physics), []
    for seed in range(decisions):
        ts = env.step(ts, actions(len(physics), seed))
        states.append(ts.physics[:, :11])
    return np.stack(states)
