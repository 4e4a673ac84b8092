"""The finger of the DeepMind Control Suite, which pushes a body around its hinge.

It is three worlds, because dm_control's tasks differ in more than their rewards:
    finger_spin                         spin the body; its hinge has less damping, and there is no target
    finger_turn_easy, finger_turn_hard  turn its tip to a target, within 7 cm or 3 cm; the observation has the distance
                                        to the target's rim
Models, timing, start states and observations are dm_control's own. The target of an episode is part of its state: it is
on a hinge of its own, which nothing moves.
Model: Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690.
"""

import re

import numpy as np
from dm_control.suite import finger

from embodied.deploy.contract import Term
from embodied.types import Env, Quantity
from envs.compiled import compile_model
from envs.dmc_common import FORCE, JOINT, JOINT_RATE, anyhow, declare_control, of_sensors, replaced, without_contact
from envs.dmc_rewards import REWARDS
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

TARGET = """
<body name="target" pos=".2 0 .4">
  <joint name="target" axis="0 1 0"/>
  <inertial pos="0 0 0" mass=".01" diaginertia=".01 .01 .01"/>
  <site name="target" type="sphere" size="{radius}" pos="0 0 .13" material="target"/>
</body>
"""
# A string without any force, for its length.
GAP = """
<tendon><spatial name="gap" rgba="0 0 0 0"><site site="tip"/><site site="target"/></spatial></tendon>
<sensor><tendonpos name="tip_to_target" tendon="gap"/></sensor>
</mujoco>
"""
RADIUS = {"finger_turn_easy": 0.07, "finger_turn_hard": 0.03}  # m, of the target
HINGE = (0.2, 0.4)  # m, where the spinner's hinge is, (x, z)
SPIN = {
    "proximal_angle": Quantity((), "rad", "angle of the finger's joint at the world"),
    "proximal_velocity": Quantity((), "rad/s", "angular velocity of that joint"),
    "distal_angle": Quantity((), "rad", "angle between the finger's links"),
    "distal_velocity": Quantity((), "rad/s", "angular velocity between the links"),
    "spinner_velocity": Quantity((), "rad/s", "angular velocity of the spinner"),
    "tip_position": Quantity((2,), "m", "position (x, z) of the spinner's tip from its hinge"),
    "top_force": Quantity((), "N", "normal force on one side of the fingertip"),
    "bottom_force": Quantity((), "N", "normal force on its other side"),
}
TURN = {
    **SPIN,
    "target_position": Quantity((2,), "m", "position (x, z) of the target from the spinner's hinge"),
    "target_distance": Quantity((), "m", "distance between the spinner's tip and the target's centre"),
}


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 1,
    threads: int | None = None,
    randomise: str | Randomisation = "none",
) -> Env:
    """The finger of that name."""
    return build(_finger(name, hold), form, threads, randomise)


def _finger(name: str, hold: int) -> WorldModel:
    xml, assets = finger.get_model_and_assets()
    xml, radius = xml.decode(), RADIUS.get(name)
    if radius is None:
        xml = replaced('damping=".5"', 'damping=".03"', xml)
        xml = re.sub(r'(<site name="(?:tip|target)".*?)material="target"', r'\1rgba="0 0 0 0"', xml)
    else:
        xml = replaced(r'<site name="target".*?/>', TARGET.format(radius=radius), xml)
        xml = replaced("</mujoco>", GAP, xml)
    source = compile_model(xml, assets, {})
    quantities = {**(TURN if radius else SPIN), "control": declare_control(source.model)}

    def measure(reading: Reading) -> dict:
        values = reading.joints() | {"control": reading.control}
        values["spinner_velocity"] = values["hinge_velocity"]
        for site in ("tip", "target"):
            place = reading.sensor(site)[..., ::2]
            values[f"{site}_position"] = place - np.broadcast_to(np.array(HINGE), place.shape)
        values |= {f"{side}_force": reading.sensor(f"touch{side}")[..., 0] for side in ("top", "bottom")}
        if radius:
            values["target_distance"] = reading.sensor("tip_to_target")[..., 0]
        return {quantity: values[quantity] for quantity in quantities}

    return WorldModel(
        name=name,
        source=source,
        control_dt=0.02,
        hold=hold,
        quantities=quantities,
        rewards=REWARDS[name],
        observation=_observation(radius),
        measure=measure,
        start=without_contact(source.model, anyhow(source.model)),  # the target is turned anyhow, too
    )


def _observation(radius: float | None) -> tuple[Term, ...]:
    position = ("sensor/proximal", "sensor/distal", "sensor/tip[0]", "sensor/tip[2]")
    noise, centre = (JOINT, JOINT, 0.005, 0.005), (0.0, 0.0, *HINGE)
    velocities = of_sensors(f"{part}_velocity" for part in ("proximal", "distal", "hinge"))
    terms = (
        Term("position", position, "rad, m", "world", offset=centre, noise=noise, estimated=True),
        Term("velocity", velocities, "rad/s", "joint", noise=(JOINT_RATE,)),
        Term("touch", of_sensors(("touchtop", "touchbottom")), "log1p of N", "body", "log1p", noise=(FORCE,)),
    )
    if radius is None:
        return terms
    place = ("sensor/target[0]", "sensor/target[2]")
    return (
        *terms,
        Term("target_position", place, "m", "world", offset=HINGE, noise=(0.005,), estimated=True),
        Term("dist_to_target", ("sensor/tip_to_target",), "m", "world", offset=(radius,), estimated=True),
    )
