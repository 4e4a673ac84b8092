"""A cart that sees its place alone; what hangs from it and how fast they move is for training."""

from embodied.deploy.contract import Term
from embodied.types import Env, Quantity
from envs.compiled import compile_model
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

# The swing turns about the cart's own centre, 0.3 m above its frame.
XML = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01"/>
  <worldbody>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0" damping="1"/>
      <geom type="box" size=".05 .05 .05" mass="1" contype="0" conaffinity="0"/>
      <body name="swing" pos="0 0 -0.3">
        <joint name="swing" type="hinge" axis="0 1 0" pos="0 0 0.3" damping="0.1"/>
        <geom type="sphere" size=".05" mass="0.5" contype="0" conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="2" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
OBSERVATION = (Term("place", ("joint_position/rail",), "m", "world", noise=(0.1,)),)
PRIVILEGED = (
    Term("velocity", ("joint_velocity/rail", "joint_velocity/swing"), offset=(0.5, 0.0), scale=(2.0,)),
    Term("swing", ("sensor/swing_position[0]", "sensor/swing_position[2]"), "arcsinh of m", "world", "arcsinh"),
)
QUANTITIES = {"x": Quantity((), "m", "place of the cart"), "speed": Quantity((), "m/s", "velocity of the cart")}


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 2,
    threads: int | None = None,
    randomise: str | Randomisation = "none",
    privileged: tuple[Term, ...] = PRIVILEGED,
) -> Env:
    """The cart, of 20 decisions per episode."""
    world = WorldModel(
        name=name,
        source=compile_model(XML, {}, {"swing": ("position",)}),
        control_dt=0.02,
        hold=hold,
        quantities=QUANTITIES,
        rewards={"right": ("tolerance(x, 0.1, inf, 0.5)", "be on the right")},
        observation=OBSERVATION,
        measure=_measure,
        start=lambda generator, count: generator.uniform(-0.3, 0.3, (count, 2)),
        episode_length=40,
        privileged=privileged,
    )
    return build(world, form, threads, randomise)


def _measure(reading: Reading) -> dict:
    return {"x": reading.qpos[..., 0], "speed": reading.qvel[..., 0]}
