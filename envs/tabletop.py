"""Hands over a table: worlds in which skills push, pick and place without being told what to do.

A Cartesian stage carries a hand with two fingers, or an arm of seven joints does ("arm"). An action moves it by up to
3 cm along each axis per decision of 0.1 s; in the worlds "pick" a fourth component opens (1) and closes (-1) the
fingers, in the worlds "push" they stay closed. There are one or three objects ("three"). Of three, a pointer at the
edge of the table shows the one that the episode is about, and all that is said of "the object" is said of that one.
Episodes begin with the hand 0.15 m over the middle of the table and the objects anywhere around the point below it.

The stage's servos are told velocities of their targets, so that a decision moves the hand by a distance. So are the
arm's, by inverse kinematics (`envs.controller`), which is one function of the physics vector for both forms. A weld
that draws the hand along would need no such function, but its forces would not be those of the arm's joints.

Rewards come in groups, as skill discovery with one critic per group wants them (SLIM: Emukpere et al. 2024, "SLIM:
Skill Learning with Multiple Critics"): `reach` pays for being near the object, and `safety` is minus the number of
limits that are overstepped, each of which is also a task of its own, `cost_*`, to be bounded instead of weighed. What
skills should differ in is the term "object_position" of the observation. All other tasks ask for places of the object.
The paper gives no numbers; these are our own. Own models, `envs/assets/tabletop*.xml`.
"""

import importlib.resources
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

from embodied.deploy.contract import Term
from embodied.types import Env, Quantity
from envs.chain import Chain
from envs.compiled import Compiled, compile_model
from envs.controller import Controller, Hand
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

OBJECTS = {"cube": (0.025, 0.025, 0.025), "slab": (0.035, 0.022, 0.018), "tower": (0.02, 0.02, 0.04)}  # m, half sizes
LAMPS = 0.1  # m from one place of the pointer to the next
LEAST, MOST = 0.09, 0.2  # m from the middle of the table to an object at a start
WORKSPACE = ((-0.24, -0.34, 0.0), (0.24, 0.34, 0.28))  # m, lowest and highest x, y, z of hand and objects
MARGIN, FORCE, SPEED, DEPTH = 0.02, 15.0, 0.4, 0.0008  # share of a joint's range, N, m/s, m: what safety allows
REACH = ((-0.28, -0.38, -0.01), (0.28, 0.38, 0.32))  # m, where the hand may be sent
VELOCITY, CONTROL_DT = 0.3, 0.05  # m/s of the hand under an action of 1; s
HALF_OPEN = 0.02  # m of each finger from the middle, where the action 0 has it
PADS, PAD, TOUCH = ("left_low", "left_high", "right_low", "right_high"), 0.009, 0.01  # m: radius; distance in contact
FINGERS = ("left_opening", "right_opening")

QUANTITIES = {
    "gripper_position": Quantity((3,), "m", "position of the point between the fingertips; the table's top is z = 0"),
    "gripper_velocity": Quantity((3,), "m/s", "velocity of that point"),
    "object_position": Quantity((3,), "m", "position of the object's centre; x away from the robot, y to its left"),
    "object_velocity": Quantity((3,), "m/s", "velocity of the object's centre"),
    "object_height": Quantity((), "m", "height of the object's lowest point over the table"),
    "object_upright": Quantity((), "1", "cosine between the object's z axis and vertical; 1 as it begins"),
    "distance": Quantity((), "m", "distance between gripper_position and object_position"),
    "contact": Quantity((), "1", "1 where a finger touches the object, otherwise 0"),
    "grasp": Quantity((), "1", "1 where both fingers touch the object, otherwise 0"),
    "joint_margin": Quantity((), "1", "distance of the robot's joints from their limits, the least, over their range"),
    "outside": Quantity((), "m", "how far hand or objects are outside the workspace, the furthest; 0 inside"),
    "contact_force": Quantity((), "N", "normal force on the hand without its fingers, or on the table; the larger"),
    "fastest_object": Quantity((), "m/s", "speed of the fastest object"),
    "penetration": Quantity((), "m", "how deep fingertips or objects are pressed into the table, the deepest"),
}
COSTS = {
    "cost_joint_margin": (f"joint_margin < {MARGIN:g}", f"1 where a joint is within {MARGIN:.0%} of a limit"),
    "cost_workspace": ("outside > 0", "1 where hand or objects are outside the workspace"),
    "cost_force": (f"contact_force > {FORCE:g}", f"1 where hand or table bear more than {FORCE:g} N"),
    "cost_speed": (f"fastest_object > {SPEED:g}", f"1 where an object is faster than {SPEED:g} m/s"),
    "cost_penetration": (f"penetration > {DEPTH:g}", f"1 where something is {1000 * DEPTH:g} mm deep in the table"),
}
REWARDS = {
    "reach": ("1 - tanh(5 * distance)", "be near the object with the fingertips"),
    "safety": (
        "; ".join([*(f"{name} = {text}" for name, (text, _) in COSTS.items()), f"-({' + '.join(COSTS)})"]),
        "minus the number of limits that are overstepped, at most 5",
    ),
    **COSTS,
}
AT = "tolerance(component(object_position, {0}), {1}, {2}, 0.1, linear, 0)"
PLACES = {
    "push_forward": (AT.format(0, 0.18, "inf"), "have the object 0.18 m or more away from the middle, in x"),
    "push_backward": (AT.format(0, "-inf", -0.18), "the same towards the robot"),
    "push_left": (AT.format(1, 0.22, "inf"), "have the object 0.22 m or more to the robot's left, in y"),
    "push_right": (AT.format(1, "-inf", -0.22), "the same to its right"),
    "centre": ("tolerance(distance(object_position, 0, 0, 0.025), 0, 0.03, 0.15)", "have the object in the middle"),
}
LIFT = {
    "lift": ("tolerance(object_height, 0.1, 0.2, 0.1, linear, 0)", "hold the object 0.1 to 0.2 m over the table"),
}


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 2,
    threads: int | None = None,
    randomise: str | Randomisation = "none",
) -> Env:
    """The table of that name."""
    arm, pick, objects = "arm" in name, "pick" in name, list(OBJECTS) if name.endswith("three") else ["cube"]
    source = _compile(arm, pick, objects)
    world = WorldModel(
        name=name,
        source=source,
        control_dt=CONTROL_DT,
        hold=hold,
        quantities=QUANTITIES | _more_quantities(pick, objects),
        rewards=REWARDS | PLACES | (LIFT if pick else {}),
        observation=_observation(source.model, arm, pick, objects),
        measure=lambda reading: _measure(reading, objects),
        start=lambda generator, count: _start(source.model, generator, count, objects),
        episode_length=200,
        push=0.1,
        controller=_controller(source.model, pick, hold * CONTROL_DT) if arm else None,
        camera="front",
    )
    return build(world, form, threads, randomise)


def _compile(arm: bool, pick: bool, objects: list[str]) -> Compiled:
    def asset(name: str) -> str:
        return importlib.resources.files("envs").joinpath(f"assets/{name}.xml").read_text()

    parts = {"robot.xml": "tabletop_arm" if arm else "tabletop_stage", "hand.xml": "tabletop_hand"}
    absent = [name for name in OBJECTS if name not in objects] + ["lamps"] * (len(objects) == 1)
    return compile_model(
        asset("tabletop"),
        include={name: asset(part).encode() for name, part in parts.items()},
        sensors=dict.fromkeys(objects, ("position", "x_axis", "z_axis", "linear_velocity", "angular_velocity")),
        without=[*absent, *([] if pick else ["fingers", *FINGERS])],
    )


def _robot(model: mujoco.MjModel) -> list[int]:
    """The joints that carry the hand."""
    scalar = np.flatnonzero(model.jnt_type >= int(mujoco.mjtJoint.mjJNT_SLIDE))
    return [i for i in scalar.tolist() if model.joint(i).name not in (*FINGERS, "pointer")]


def _controller(model: mujoco.MjModel, pick: bool, period: float) -> Controller:
    """Inverse kinematics of the arm for decisions of `period` seconds; the fingers are told what the action says."""
    joints = [model.joint(index).name for index in _robot(model)]
    begin = 1 + model.nq + model.nv
    hand = Hand(
        chain=Chain.of(model, joints, "pinch"),
        targets=slice(begin, begin + len(joints)),
        facing=np.eye(3),
        low=np.array(REACH[0]),
        high=np.array(REACH[1]),
        reach=VELOCITY * period,
        period=period,
    )

    def commands(physics: Any, action: Any, numpy: ModuleType) -> Any:
        velocities = hand.velocities(physics, action[..., :3], numpy)
        return numpy.concatenate([velocities, HALF_OPEN * (1 + action[..., 3:])], axis=-1)

    return Controller(("x", "y", "z", "fingers")[: 3 + pick], commands)


def _observation(model: mujoco.MjModel, arm: bool, pick: bool, objects: list[str]) -> tuple[Term, ...]:
    joints = [model.joint(index).name for index in _robot(model)]

    def of_objects(*kinds: str) -> tuple[str, ...]:
        return tuple(f"sensor/{name}_{kind}" for name in objects for kind in kinds)

    terms = [
        Term("gripper_position", ("sensor/gripper_position",), "m", "world", noise=(0.002,), estimated=True),
        Term("gripper_velocity", ("sensor/gripper_velocity",), "m/s", "world", noise=(0.01,), estimated=True),
        Term("servo_target", tuple(f"activation/{joint}" for joint in joints), "rad" if arm else "m", "joint"),
        Term("object_position", of_objects("position"), "m", "world", noise=(0.005,), estimated=True),
        Term("object_axes", of_objects("x_axis", "z_axis"), "1", "world", noise=(0.02,), estimated=True),
        Term("object_velocity", of_objects("linear_velocity"), "m/s", "world", noise=(0.02,), estimated=True),
        Term("object_rotation", of_objects("angular_velocity"), "rad/s", "world", noise=(0.1,), estimated=True),
    ]
    if arm:
        sources = {kind: tuple(f"joint_{kind}/{joint}" for joint in joints) for kind in ("position", "velocity")}
        terms.append(Term("joint_position", sources["position"], "rad", "joint", noise=(0.002,)))
        terms.append(Term("joint_velocity", sources["velocity"], "rad/s", "joint", noise=(0.02,)))
    if pick:
        terms.append(Term("opening", ("joint_position/left_opening",), "m", "joint", noise=(0.0005,)))
    if len(objects) > 1:
        terms.append(Term("pointer", ("joint_position/pointer",), "1", "world", scale=(1 / LAMPS,), estimated=True))
    return tuple(terms)


def _more_quantities(pick: bool, objects: list[str]) -> dict[str, Quantity]:
    more = {"control": Quantity((3 + pick,), "1", "the action being held, in [-1, 1]")}
    if pick:
        more["opening"] = Quantity((), "m", "distance between the fingers")
    if len(objects) > 1:
        more |= {f"{name}_position": Quantity((3,), "m", f"position of the {name}'s centre") for name in objects}
        more["pointer"] = Quantity((), "1", f"which object the episode is about: {', '.join(objects)} are -1, 0, 1")
    return more


def _start(model: mujoco.MjModel, generator: np.random.Generator, count: int, objects: list[str]) -> np.ndarray:
    """Positions [count, nq]: objects on the table in a ring around the middle, apart and turned about the vertical."""
    poses, joints = np.tile(model.qpos0, (count, 1)), {model.joint(index).name for index in range(model.njnt)}
    first = generator.uniform(-np.pi, np.pi, count)
    for index, name in enumerate(objects):
        at = int(model.joint(name).qposadr[0])
        # Of three, each keeps to a sixth of the ring, a sixth apart from the next.
        around = first + 2 * np.pi * (index + generator.uniform(0, 0.5, count)) / len(objects)
        radius = np.sqrt(generator.uniform(LEAST**2, MOST**2, count))
        turn = generator.uniform(-np.pi, np.pi, count)
        poses[:, at : at + 3] = np.stack([radius * np.cos(around), radius * np.sin(around), poses[:, at + 2]], axis=1)
        poses[:, at + 3 : at + 7] = np.stack([np.cos(turn / 2), 0 * turn, 0 * turn, np.sin(turn / 2)], axis=1)
    for opening in joints & set(FINGERS):
        poses[:, int(model.joint(opening).qposadr[0])] = HALF_OPEN
    if len(objects) > 1:
        poses[:, int(model.joint("pointer").qposadr[0])] = LAMPS * generator.integers(-1, 2, count)
    return poses


def _measure(reading: Reading, objects: list[str]) -> dict:
    numpy, gripper, joints = reading.numpy, reading.sensor("gripper_position"), reading.joints()
    each = {
        kind: numpy.stack([reading.sensor(f"{name}_{kind}") for name in objects], axis=-2)  # [..., N, 3]
        for kind in ("position", "x_axis", "z_axis", "linear_velocity")
    }
    # The boxes [..., N, 3]: along their third axis too, and how far each of their sides is from the centre.
    axes = [each["x_axis"], numpy.cross(each["z_axis"], each["x_axis"]), each["z_axis"]]
    sizes = np.broadcast_to(np.array([OBJECTS[name] for name in objects]), each["position"].shape)
    heights = each["position"][..., 2] - sum(abs(axis[..., 2]) * sizes[..., i] for i, axis in enumerate(axes))
    pads = numpy.stack([reading.sensor(name) for name in PADS], axis=-2)  # [..., 4, 3], the two of each side together
    around = lambda values: values[..., None, :, :]  # noqa: E731
    offset = pads[..., None, :] - around(each["position"])
    gaps = _gap(offset, [around(axis) for axis in axes], around(sizes), numpy)  # [..., 4, N]
    left, right = (gaps[..., side : side + 2, :].min(-2) < TOUCH for side in (0, 2))
    meant = numpy.ones_like(heights)  # [..., N], 1 for the object that the episode is about
    if len(objects) > 1:
        place = joints["pointer_angle"][..., None] / LAMPS
        meant = numpy.where(abs(place - np.broadcast_to(np.arange(-1.0, 2.0), heights.shape)) < 0.5, 1.0, 0.0)

    def chosen(values: Any) -> Any:
        if len(objects) == 1:
            return values[..., 0, :] if values.ndim > meant.ndim else values[..., 0]
        return (values * meant[..., None]).sum(-2) if values.ndim > meant.ndim else (values * meant).sum(-1)

    position = chosen(each["position"])
    force = [reading.sensor(f"{part}_force")[..., 0] for part in ("hand", "table")]
    lowest = pads[..., ::2, 2].min(-1) - PAD
    values = {
        "gripper_position": gripper,
        "gripper_velocity": reading.sensor("gripper_velocity"),
        "object_position": position,
        "object_velocity": chosen(each["linear_velocity"]),
        "object_height": chosen(heights),
        "object_upright": chosen(each["z_axis"][..., 2]),
        "distance": numpy.sqrt(numpy.square(gripper - position).sum(-1)),
        "contact": chosen((left | right) * 1.0),
        "grasp": chosen((left & right) * 1.0),
        "joint_margin": _margin(reading),
        "outside": numpy.maximum(_outside(gripper, numpy), _outside(each["position"], numpy).max(-1)),
        "contact_force": numpy.maximum(*force),
        "fastest_object": numpy.sqrt(numpy.square(each["linear_velocity"]).sum(-1)).max(-1),
        "penetration": numpy.maximum(-numpy.minimum(lowest, heights.min(-1)), 0.0),
        "control": reading.control,
    }
    if "left_opening_angle" in joints:
        values["opening"] = joints["left_opening_angle"] + joints["right_opening_angle"]
    if len(objects) > 1:
        values |= {f"{name}_position": each["position"][..., index, :] for index, name in enumerate(objects)}
        values["pointer"] = numpy.rint(joints["pointer_angle"] / LAMPS)
    return values


def _gap(offset: Any, axes: list[Any], sizes: Any, numpy: ModuleType) -> Any:
    """Distances [..., N] from boxes to the points that are at `offset` [..., N, 3] from their centres; 0 inside."""
    along = numpy.stack([(offset * axis).sum(-1) for axis in axes], axis=-1)
    return numpy.sqrt(numpy.square(numpy.maximum(abs(along) - sizes, 0.0)).sum(-1))


def _outside(position: Any, numpy: ModuleType) -> Any:
    """How far positions [..., 3] are outside the workspace along the axis where they are furthest."""
    low, high = (np.broadcast_to(np.array(corner), position.shape) for corner in WORKSPACE)
    return numpy.maximum(numpy.maximum(low - position, position - high).max(-1), 0.0)


def _margin(reading: Reading) -> Any:
    """The least distance [...] of the robot's joints from a limit, as a share of the joint's range."""
    model = reading.world.model
    which = _robot(model)
    angles = reading.qpos[..., model.jnt_qposadr[which]]
    low, high = (np.broadcast_to(limit, angles.shape) for limit in model.jnt_range[which].T)
    return (reading.numpy.minimum(angles - low, high - angles) / (high - low)).min(-1)
