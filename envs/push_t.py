"""A round pusher and a block like the letter T, seen from straight above: the world for goals that are pictures.

The table is 0.4 m wide with the origin in its middle, the T 0.12 m in both directions, the pusher 4 cm across. An
action of 1 moves the pusher by 4 cm along an axis in a decision of 0.1 s, an action of 0 leaves it where it is. Servos
hold its velocity, so a pusher that was held up has nothing to catch up with. The block moves only while it is pushed,
and walls keep it on the table. Episodes have 50 decisions. They begin with the block anywhere within 0.1 m of the
middle along each axis, turned anyhow, and the pusher anywhere beside it.

A goal is another state of the block. It is reached where the block is within 3 cm and 15 degrees of it (`at_pose`): of
random goals that many are reached by standing still as of random poses lie that near, fewer than one in a hundred.
Tasks are named poses, which the world judges itself (`Env.trials`); `touch` pays for being at the block.

The image shows all there is to know but velocities: flat colours, no shadows, 1.5 pixels to a centimetre at size 64.
Such a world was first used by Florence et al. 2021, "Implicit Behavioral Cloning", arXiv:2109.00137, and Chi et al.
2023, "Diffusion Policy", arXiv:2303.04137; these numbers are our own. Own model, `envs/assets/push_t.xml`.
"""

import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.deploy.contract import Term
from embodied.types import Env, Quantities, Quantity
from envs.compiled import compile_model
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

REACH = 0.04  # m that an action of 1 moves the pusher in a decision of 0.1 s
RADIUS = 0.02  # m, of the pusher
LIMIT = 0.18  # m from the middle to where the pusher may go, along each axis
AROUND = 0.1  # m, the same for the block's middle at a start
BOXES = (((0.0, 0.024), (0.06, 0.02)), ((0.0, -0.036), (0.02, 0.04)))  # of the T: middle, half sizes, m
NEAR, TURNED = 0.03, 15.0  # m, degrees: how far from a goal the block may be
POSES = {  # task -> x, y in m, angle in degrees
    "upright": (0.0, 0.0, 0.0),
    "upside_down": (0.0, 0.0, 180.0),
    "left": (-0.08, 0.04, 90.0),
    "right": (0.08, -0.04, -90.0),
}

OBSERVATION = (
    Term("pusher_position", ("joint_position/pusher_x", "joint_position/pusher_y"), "m", "world", noise=(0.002,)),
    Term("block_position", ("joint_position/block_x", "joint_position/block_y"), "m", noise=(0.002,), estimated=True),
    Term("block_axis", ("sensor/block_x_axis[0]", "sensor/block_x_axis[1]"), "1", noise=(0.02,), estimated=True),
    Term("pusher_velocity", ("joint_velocity/pusher_x", "joint_velocity/pusher_y"), "m/s", "world", noise=(0.01,)),
    Term("block_velocity", ("joint_velocity/block_x", "joint_velocity/block_y"), "m/s", noise=(0.01,), estimated=True),
    Term("block_rotation", ("joint_velocity/block_turn",), "rad/s", "world", noise=(0.1,), estimated=True),
)
QUANTITIES = {
    "pusher_position": Quantity((2,), "m", "position (x, y) of the pusher; x to the right, y upwards in the picture"),
    "pusher_velocity": Quantity((2,), "m/s", "velocity (x, y) of the pusher"),
    "block_x": Quantity((), "m", "position of the block's middle, to the right"),
    "block_y": Quantity((), "m", "position of the block's middle, upwards in the picture"),
    "block_position": Quantity((2,), "m", "position (x, y) of the block's middle"),
    "block_angle": Quantity((), "rad", "how far the block is turned counter-clockwise from an upright T, in [-pi, pi]"),
    "block_cosine": Quantity((), "1", "cosine of that angle"),
    "block_sine": Quantity((), "1", "sine of that angle"),
    "block_velocity": Quantity((2,), "m/s", "velocity (x, y) of the block's middle"),
    "block_rotation": Quantity((), "rad/s", "angular velocity of the block, counter-clockwise"),
    "gap": Quantity((), "m", "distance between the pusher's rim and the block; 0 where they touch"),
    "control": Quantity((2,), "1", "the action being held, in [-1, 1]"),
}


def make(
    name: str, form: str = "host", *, hold: int = 2, threads: int | None = None, randomise: str | Randomisation = "none"
) -> Env:
    """The table with the T."""
    xml = importlib.resources.files("envs").joinpath("assets/push_t.xml").read_text()
    world = WorldModel(
        name=name,
        source=compile_model(xml, include={}, sensors={"block": ("x_axis",)}),
        control_dt=0.05,
        hold=hold,
        quantities=QUANTITIES,
        rewards=_rewards(),
        observation=OBSERVATION,
        measure=_measure,
        start=_start,
        success={task: functools.partial(at_pose, _pose(*pose)) for task, pose in POSES.items()},
        episode_length=100,
        push=0.1,
    )
    return build(world, form, threads, randomise)


def at_pose(goal: Mapping[str, Any], here: Quantities) -> Any:
    """Whether the block [...] is within 3 cm and 15 degrees of where it is in a goal, of which quantities say so.

    The goal's `block_x`, `block_y`, `block_cosine` and `block_sine` are numbers, or have the leading axes of `here`.
    """
    apart = (here["block_x"] - goal["block_x"]) ** 2 + (here["block_y"] - goal["block_y"]) ** 2
    along = here["block_cosine"] * goal["block_cosine"] + here["block_sine"] * goal["block_sine"]
    return (apart <= NEAR**2) & (along >= np.cos(np.radians(TURNED)))


def _pose(x: float, y: float, degrees: float) -> dict[str, float]:
    angle = np.radians(degrees)
    return {"block_x": x, "block_y": y, "block_cosine": float(np.cos(angle)), "block_sine": float(np.sin(angle))}


def _rewards() -> dict[str, tuple[str, str]]:
    rewards = {}
    for task, (x, y, degrees) in POSES.items():
        cosine, sine = (round(float(part(np.radians(degrees))), 6) for part in (np.cos, np.sin))
        place = f"place = tolerance(distance(block_position, {x:g}, {y:g}), 0, {NEAR:g}, 0.2, linear, 0)"
        along = f"along = block_cosine * {cosine:g} + block_sine * {sine:g}"
        turn = f"turn = tolerance(along, {np.cos(np.radians(TURNED)):.6f}, inf, 2, linear, 0)"
        about = f"have the block at x = {x:g} m, y = {y:g} m, turned by {degrees:g} degrees"
        rewards[task] = (f"{place}; {along}; {turn}; place * turn", about)
    rewards["touch"] = ("tolerance(gap, 0, 0.005, 0.1, linear, 0)", "have the pusher at the block")
    return rewards


def _start(generator: np.random.Generator, count: int) -> np.ndarray:
    """Positions [count, 5]: the block near the middle, the pusher drawn until it is beside it."""
    low, high = np.array([LIMIT, LIMIT, AROUND, AROUND, np.pi]) * [[-1], [1]]
    poses = generator.uniform(low, high, (count, 5))
    while (on := _gap(poses[:, :2] - poses[:, 2:4], np.cos(poses[:, 4]), np.sin(poses[:, 4]), np) < RADIUS).any():
        poses[on, :2] = generator.uniform(-LIMIT, LIMIT, (on.sum(), 2))
    return poses


def _measure(reading: Reading) -> dict:
    numpy, block, axis = reading.numpy, reading.qpos[..., 2:4], reading.sensor("block_x_axis")
    cosine, sine = axis[..., 0], axis[..., 1]
    gap = _gap(reading.qpos[..., :2] - block, cosine, sine, numpy)
    return {
        "pusher_position": reading.qpos[..., :2],
        "pusher_velocity": reading.qvel[..., :2],
        "block_x": block[..., 0],
        "block_y": block[..., 1],
        "block_position": block,
        "block_angle": numpy.arctan2(sine, cosine),
        "block_cosine": cosine,
        "block_sine": sine,
        "block_velocity": reading.qvel[..., 2:4],
        "block_rotation": reading.qvel[..., 4],
        "gap": numpy.maximum(gap, 0.0),
        "control": reading.control,
    }


def _gap(offset: Any, cosine: Any, sine: Any, numpy: Any) -> Any:
    """Distance [...] from the pusher's rim to a block from whose middle the pusher is at `offset` [..., 2]."""
    x = offset[..., 0] * cosine + offset[..., 1] * sine
    y = offset[..., 1] * cosine - offset[..., 0] * sine
    distances = [
        numpy.hypot(numpy.maximum(abs(x - at[0]) - half[0], 0.0), numpy.maximum(abs(y - at[1]) - half[1], 0.0))
        for at, half in BOXES
    ]
    return numpy.minimum(*distances) - RADIUS
