"""OGBench's mazes: an ant of eight motors that must find its way to a place."""

import copy
import functools
import gc
import warnings
from typing import Any

import mujoco
import numpy as np

from embodied.types import InputError, Quantity, nearest
from envs import render
from envs.controlled_world import ControlledWorld, State

MAZES = {"antmaze_medium": "medium", "antmaze_large": "large"}
NEAR, AWAY, SHAKEN = 0.5, 1.0, 0.1  # m from a goal; m from the middle of a cell at a start; of all else there
QUANTITIES = {
    "torso_position": Quantity((3,), "m", "position of the torso; cells of the maze are 4 m wide"),
    "torso_xy": Quantity((2,), "m", "position of the torso, seen from the top"),
    "torso_height": Quantity((), "m", "height of the torso's centre"),
    "torso_upright": Quantity((), "1", "cosine between the torso's z axis and vertical; 1 is upright"),
    "torso_velocity": Quantity((3,), "m/s", "velocity of the torso in the world"),
    "torso_speed": Quantity((), "m/s", "speed over the ground"),
    "control": Quantity((8,), "1", "the action being held, in [-1, 1]"),
}


@functools.cache
def package_maze(name: str) -> Any:
    """The package's own maze of that name."""
    return _built(name)


@functools.cache
def painter(name: str, seen: bool) -> Any:
    """The package's own maze to draw states with: as people see it, or as agents that see pixels do.

    For them the colour of the floor says where one is. Raises RuntimeError where no OpenGL is installed: the package
    makes a renderer.
    """
    if not seen:
        env = _built(name)
        env.unwrapped.model.geom("target").rgba[3] = 0.0
        return env
    render.check()
    render.close()
    env = _built(name, ob_type="pixels", render_mode="rgb_array", camera_name="back", width=64, height=64)
    env.unwrapped.custom_renderer.close()  # there is never a second one
    env.unwrapped.custom_renderer = None
    gc.collect()
    return env


def _built(name: str, **options: Any) -> Any:
    from ogbench.locomaze.maze import make_maze_env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the versions of MuJoCo that gymnasium knows
        fixed = {"terminate_at_goal": False, "add_noise_to_goal": False}
        return make_maze_env("ant", "maze", maze_type=MAZES[name], **fixed, **options)


def maze(name: str, hold: int, start: str) -> ControlledWorld:
    """The maze of that name. Raises InputError for an unknown start."""
    env = package_maze(name)
    model = copy.copy(env.unwrapped.model)
    goals = {task["task_name"]: np.array(task["goal_xy"], float) for task in env.task_infos}
    free = np.array([env.ij_to_xy(cell) for cell in np.argwhere(env.maze_map == 0)], float)
    starts = {"play": (free, AWAY)}
    starts |= {task["task_name"]: (np.array([task["init_xy"]], float), AWAY) for task in env.task_infos}
    starts |= {f"{task}-goal": (place[None], 0.0) for task, place in goals.items()}
    if start not in starts:
        raise InputError(f"start: unknown start '{start}' of world '{name}'; {nearest(start, starts)}")

    def draw(state: State, seen: bool) -> tuple[mujoco.MjModel, mujoco.MjData]:
        canvas = painter(name, seen).unwrapped
        canvas.set_state(state.qpos, state.qvel)
        return canvas.model, canvas.data

    return ControlledWorld(
        name=name,
        model=model,
        control_dt=float(env.dt),
        hold=hold,
        episode_length=1000,
        action=8,
        quantities=QUANTITIES,
        rewards={
            task: (f"(distance(torso_xy, {x:g}, {y:g}) <= {NEAR}) - 1", f"OGBench's {task}: be at ({x:g}, {y:g})")
            for task, (x, y) in goals.items()
        },
        control=lambda state, action: np.zeros((len(state.physics), 8)) if action is None else np.clip(action, -1, 1),
        look=lambda data: np.zeros(0),
        observe=lambda state: np.concatenate([state.qpos, state.qvel], axis=-1),
        measure=_measure,
        draw=draw,
        eye="back",
        start=functools.partial(_start, model, *starts[start]),
        task_starts={task: functools.partial(_start, model, *starts[task]) for task in goals},
    )


def _measure(state: State) -> dict[str, np.ndarray]:
    position, velocity = state.qpos[..., :3], state.qvel[..., :3]
    turn = state.qpos[..., 3:7] / np.linalg.norm(state.qpos[..., 3:7], axis=-1, keepdims=True)
    return {
        "torso_position": position,
        "torso_xy": position[..., :2],
        "torso_height": position[..., 2],
        "torso_upright": 1 - 2 * (turn[..., 1] ** 2 + turn[..., 2] ** 2),
        "torso_velocity": velocity,
        "torso_speed": np.hypot(velocity[..., 0], velocity[..., 1]),
        "control": state.ctrl,
    }


def _start(
    model: mujoco.MjModel, places: np.ndarray, away: float, generator: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [count, nq] up to `away` from one of the places [K, 2], velocities [count, nv], and no switches."""
    poses = model.qpos0 + generator.uniform(-SHAKEN, SHAKEN, (count, model.nq))
    poses[:, :2] = places[generator.integers(len(places), size=count)] + generator.uniform(-away, away, (count, 2))
    return poses, SHAKEN * generator.normal(size=(count, model.nv)), np.zeros((count, 0))
