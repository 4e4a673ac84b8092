"""A ball in four rooms: the smallest world in which reaching a goal means going around walls.

The arena is 0.6 m wide with the origin at its centre. Walls lie on both axes; each of the four arms between
the centre and the border has one door, 0.10 to 0.20 m from the centre. The ball is pushed by two motors
(0.1 N, damping 1 N s/m: at most 0.1 m/s per axis). Tasks `reach_*` pay for being at the centre of a room,
0.15 m from both walls; `loop`, `square` and `fast_slow` pay for circulating counter-clockwise through all
four rooms.
"""

import importlib.resources

import numpy as np

from embodied.deploy.contract import Term
from embodied.types import Env, InputError, Quantity, nearest
from envs.compiled import compile_model
from envs.forms import build
from envs.model import Reading, WorldModel
from envs.randomise import Randomisation

ROOMS = {  # signs of x and y
    "top_left": (-1, 1),
    "top_right": (1, 1),
    "bottom_left": (-1, -1),
    "bottom_right": (1, -1),
}
CLEARANCE = 0.02  # from the wall axes to the ball's centre at a start: half the wall, and the ball's radius
REACH = 0.29  # furthest that the ball's centre can be from an axis

OBSERVATION = (
    Term("position", ("joint_position/x", "joint_position/y"), "m", "world", noise=(0.005,)),
    Term("velocity", ("joint_velocity/x", "joint_velocity/y"), "m/s", "world", noise=(0.01,)),
)
QUANTITIES = {
    "x": Quantity((), "m", "position to the right of the centre"),
    "y": Quantity((), "m", "position above the centre, seen from the top"),
    "position": Quantity((2,), "m", "position (x, y)"),
    "velocity_x": Quantity((), "m/s", "velocity to the right"),
    "velocity_y": Quantity((), "m/s", "velocity upwards, seen from the top"),
    "velocity": Quantity((2,), "m/s", "velocity (x, y)"),
    "speed": Quantity((), "m/s", "magnitude of the velocity"),
    "radius": Quantity((), "m", "distance from the centre"),
    "circulation": Quantity((), "m/s", "velocity counter-clockwise around the centre"),
    "control": Quantity((2,), "1", "the action being held, in [-1, 1]"),
}


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 10,
    threads: int | None = None,
    start: str = "anywhere",
    randomise: str | Randomisation = "none",
) -> Env:
    """The point maze; `start` is "anywhere" or the name of the room in which episodes begin."""
    if start != "anywhere" and start not in ROOMS:
        raise InputError(f"unknown start '{start}' of world '{name}'; {nearest(start, ['anywhere', *ROOMS])}")
    xml = importlib.resources.files("envs").joinpath("assets/point_maze.xml").read_text()
    world = WorldModel(
        name=name,
        source=compile_model(xml, include={}, sensors={}),
        control_dt=0.02,
        hold=hold,
        quantities=QUANTITIES,
        rewards=_rewards(),
        observation=OBSERVATION,
        measure=_measure,
        start=lambda generator, count: _start(generator, count, start),
        push=0.05,  # half of the ball's top speed
    )
    return build(world, form, threads, randomise)


def _start(generator: np.random.Generator, count: int, start: str) -> np.ndarray:
    """Positions [count, 2], uniform over where the ball fits: all rooms or one of them (doors excluded)."""
    signs = np.array(list(ROOMS.values()) if start == "anywhere" else [ROOMS[start]])
    room = signs[generator.integers(len(signs), size=count)]
    return room * generator.uniform(CLEARANCE, REACH, size=(count, 2))


def _measure(reading: Reading) -> dict:
    numpy = reading.numpy
    (x, y), (vx, vy) = (numpy.moveaxis(pair, -1, 0) for pair in (reading.qpos, reading.qvel))
    radius = numpy.hypot(x, y)
    return {
        "x": x,
        "y": y,
        "position": reading.qpos,
        "velocity_x": vx,
        "velocity_y": vy,
        "velocity": reading.qvel,
        "speed": numpy.hypot(vx, vy),
        "radius": radius,
        "circulation": (x * vy - y * vx) / numpy.maximum(radius, 1e-6),
        "control": reading.control,
    }


def _rewards() -> dict[str, tuple[str, str]]:
    rewards = {}
    for room, (sign_x, sign_y) in ROOMS.items():
        near = f"tolerance(distance(position, {0.15 * sign_x}, {0.15 * sign_y}), 0, 0.015, 0.05)"
        rewards[f"reach_{room}"] = (near, f"be at the centre of the {room.replace('_', ' ')} room")
    rewards["reach_bottom_left_long"] = (
        f"{rewards['reach_bottom_left'][0]} - 1",
        "reach_bottom_left at a cost of 1 per step until there; begin episodes with start=top_right",
    )
    path = "inside = tolerance(maximum(abs(x), abs(y)), 0.14, 0.16, 0.05)"
    rewards["loop"] = (
        "ring = tolerance(radius, 0.12, 0.18, 0.05); "
        "move = tolerance(circulation, 0.08, inf, 0.08, linear, 0); ring * move",
        "circle counter-clockwise through all doors at 0.08 m/s or more",
    )
    rewards["square"] = (
        f"{path}; move = tolerance(circulation, 0.06, inf, 0.06, linear, 0); inside * move",
        "go counter-clockwise along the square of half width 0.15 m at 0.06 m/s or more",
    )
    rewards["fast_slow"] = (
        f"{path}; fast = tolerance(circulation, 0.08, inf, 0.08, linear, 0); "
        "slow = tolerance(circulation, 0.02, 0.03, 0.02, linear, 0); inside * where(x < 0, fast, slow)",
        "the same square: at 0.08 m/s or more in the left half, at 0.02 to 0.03 m/s in the right half",
    )
    return rewards
