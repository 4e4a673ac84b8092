"""OGBench's tables: what an arm sees of cubes, buttons, a drawer and a window, and the tasks about them."""

import copy
import functools
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mujoco
import numpy as np

from embodied.types import InputError, Quantity, nearest
from envs.controlled_world import ControlledWorld, State
from envs.ogbench_arm import HOME, PINCH, Arm, opening, yaw_of
from envs.ogbench_switches import Switches

CENTRE, METRES, NEAR = np.array([0.425, 0.0, 0.0]), 10.0, 0.04  # of the table; observed per m; m from a goal
CLOSING, BUTTON, DRAWER, WINDOW, GRIP = 3.0, 120.0, 18.0, 15.0, 50.0  # scales of observations; N at a firm grip
PAD, DRIVER = "ur5e/robotiq/right_pad", "ur5e/robotiq/right_driver_joint"
SLIDES = {"drawer_slide": (-0.16, 0.0), "window_slide": (0.0, 0.2)}  # m
NEIGHBOURS = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))


class Layout(NamedTuple):
    """One kind of table: episode length, and where the fingers and cubes of play episodes begin."""

    episode_length: int  # control steps of 0.05 s
    fingers: tuple[tuple[float, float, float], tuple[float, float, float]]  # m, lowest and highest x, y, z
    cubes: tuple[tuple[float, float], tuple[float, float]] = ((0.3, -0.3), (0.55, 0.3))  # m, x and y


class Setting(NamedTuple):
    """Where things are at the beginning or at the end of a task."""

    cubes: np.ndarray  # [C, 3] m
    switches: np.ndarray  # [B]
    slides: tuple[float, ...]  # m, drawer and window


class Part(NamedTuple):
    """Something on the table: its named quantities, and state -> (what is observed of it, values by name)."""

    quantities: dict[str, Quantity]
    read: Callable[[State], tuple[list[np.ndarray], dict[str, np.ndarray]]]


WIDE = ((0.25, -0.35, 0.2), (0.6, 0.35, 0.35))
LAYOUTS = {
    "cube_single": Layout(200, WIDE),
    "cube_double": Layout(500, WIDE),
    "scene": Layout(750, ((0.25, -0.2, 0.2), (0.6, 0.2, 0.35)), ((0.3, -0.07), (0.45, 0.18))),
    "puzzle_3x3": Layout(500, ((0.25, -0.2, 0.2), (0.6, 0.2, 0.25))),
}


@functools.cache
def package_env(name: str, mode: str = "task") -> Any:
    """The package's own world of that name, in its mode "task" or "data_collection"."""
    return _built(name, mode=mode)


@functools.cache
def painter(name: str, seen: bool) -> Any:
    """The package's own world of that name to draw states with: as people see it, or as agents that see pixels do."""
    return _built(name, mode="data_collection", visualize_info=False, ob_type="pixels" if seen else "states")


def _built(name: str, **more: Any) -> Any:
    from ogbench.manipspace.envs import cube_env, puzzle_env, scene_env

    kind, options = {
        "cube_single": (cube_env.CubeEnv, {"env_type": "single", "permute_blocks": False}),
        "cube_double": (cube_env.CubeEnv, {"env_type": "double", "permute_blocks": False}),
        "scene": (scene_env.SceneEnv, {"env_type": "scene", "permute_blocks": False}),
        "puzzle_3x3": (puzzle_env.PuzzleEnv, {"env_type": "3x3"}),
    }[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered.*")  # in the package's own action space
        env = kind(**options, **more, terminate_at_goal=False)
        env.get_pixel_observation = lambda: None  # would draw, with a renderer of the package's
        env.reset(seed=0)
    return env


def table(name: str, hold: int, start: str) -> ControlledWorld:
    """The table of that name. Raises InputError for an unknown start."""
    env, layout = package_env(name), LAYOUTS[name]
    model = copy.copy(env.model)
    goals = {task["task_name"]: _setting(task, "goal") for task in env.task_infos}
    starts = {"play": None} | {task["task_name"]: _setting(task, "init") for task in env.task_infos}
    starts |= {f"{task}-goal": goal for task, goal in goals.items()}
    if start not in starts:
        raise InputError(f"start: unknown start '{start}' of world '{name}'; {nearest(start, starts)}")
    arm, parts = Arm.of(model), _parts(model)
    quantities = {name: quantity for part in parts for name, quantity in part.quantities.items()}
    begin = functools.partial(_start, model, arm, layout)
    pad, pinch, driver = model.body(PAD).id, model.site(PINCH).id, int(model.joint(DRIVER).qposadr[0])

    def control(state: State, action: np.ndarray | None) -> np.ndarray:
        if action is None:
            return np.concatenate([state.qpos[..., :6], 255 * opening(state.qpos[..., driver : driver + 1])], axis=-1)
        return arm.command(action, state.seen[:, :4], state.qpos[:, :6], state.qpos[:, driver])

    def look(data: mujoco.MjData) -> np.ndarray:
        yaw, grip = yaw_of(data.site_xmat[pinch].reshape(3, 3)), np.linalg.norm(data.cfrc_ext[pad]) / GRIP
        return np.array([*data.site_xpos[pinch], yaw, np.clip(grip, 0, 1)])

    def draw(state: State, seen: bool) -> tuple[mujoco.MjModel, mujoco.MjData]:
        canvas = painter(name, seen)
        canvas.set_state(state.qpos, state.qvel, *[state.act] * ("button_0" in quantities))
        return canvas.model, canvas.data

    return ControlledWorld(
        name=name,
        model=model,
        control_dt=0.05,
        hold=hold,
        episode_length=layout.episode_length,
        action=5,
        quantities=quantities,
        rewards={task: (_reward(model, goal), f"OGBench's {task.replace('_', ' ')}") for task, goal in goals.items()},
        control=control,
        look=look,
        observe=lambda state: np.concatenate([values for part in parts for values in part.read(state)[0]], axis=-1),
        measure=lambda state: {name: value for part in parts for name, value in part.read(state)[1].items()},
        draw=draw,
        eye="front_pixels",
        start=functools.partial(begin, starts[start]),
        task_starts={task: functools.partial(begin, starts[task]) for task in goals},
        own=_switches(model),
    )


def _joints(model: mujoco.MjModel, pattern: str) -> list[str]:
    names = [model.joint(index).name for index in range(model.njnt)]
    return [name for name in names if re.fullmatch(pattern, name)]


def _cubes(model: mujoco.MjModel) -> dict[str, str]:
    """Name -> joint of every cube."""
    joints = _joints(model, r"object_joint_\d")
    return {"cube" if len(joints) == 1 else f"cube_{index}": joint for index, joint in enumerate(joints)}


def _switches(model: mujoco.MjModel) -> Switches | None:
    buttons = _joints(model, r"buttonbox_joint_\d")
    if not buttons:
        return None
    locks = tuple(_joints(model, "|".join(SLIDES)))
    beside = np.add.outer(NEIGHBOURS, NEIGHBOURS).swapaxes(1, 2).reshape(9, 9) <= 1
    return Switches(tuple(buttons), np.eye(len(buttons)) if locks else beside.astype(float), locks)


def _setting(task: Mapping[str, Any], which: str) -> Setting:
    """The beginning ("init") or the end ("goal") of one of the package's tasks."""
    inner = task.get(which, {})
    cubes = task.get(f"{which}_xyzs", inner.get("block_xyzs", np.zeros((0, 3))))
    switches = task.get(f"{which}_button_states", inner.get("button_states", np.zeros(0)))
    return Setting(cubes, switches, tuple(inner[key] for key in ("drawer_pos", "window_pos") if key in inner))


def _reward(model: mujoco.MjModel, goal: Setting) -> str:
    places = [", ".join(f"{number:g}" for number in place) for place in goal.cubes]
    met = [f"(distance({cube}_position, {place}) <= {NEAR})" for cube, place in zip(_cubes(model), places, strict=True)]
    met += [f"(button_{index} {'>' if state else '<'} 0.5)" for index, state in enumerate(goal.switches)]
    slides = zip(SLIDES, goal.slides, strict=False)
    met += [f"(abs({joint.partition('_')[0]} {-place:+g}) <= {NEAR})" for joint, place in slides]
    return f"{' + '.join(met)} - {len(met)}"


def _start(
    model: mujoco.MjModel, arm: Arm, layout: Layout, begin: Setting | None, generator: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [count, nq], velocities [count, nv], which are zero, and switches [count, B] where an episode begins.

    Things are where `begin` has them, give or take a centimetre, or anywhere where it is None.
    """
    poses = np.tile(model.qpos0, (count, 1))
    fingers, yaw = generator.uniform(*np.array(layout.fingers), (count, 3)), generator.uniform(-np.pi, np.pi, count)
    poses[:, :6] = arm.angles(fingers, yaw, np.tile(HOME, (count, 1)))
    for index, joint in enumerate(_cubes(model).values()):
        place = int(model.joint(joint).qposadr[0])
        if begin is None:
            poses[:, place : place + 2] = generator.uniform(*np.array(layout.cubes), (count, 2))
            poses[:, place + 2] = 0.02
        else:
            poses[:, place : place + 3] = begin.cubes[index]
            poses[:, place : place + 2] += generator.uniform(-0.01, 0.01, (count, 2))
        turn = generator.uniform(0, 2 * np.pi, count) / 2
        poses[:, place + 3], poses[:, place + 4 : place + 7] = np.cos(turn), np.sin(turn)[:, None] * [0, 0, 1]
    for index, joint in enumerate(_joints(model, "|".join(SLIDES))):
        low, high = SLIDES[joint]
        anywhere = generator.uniform(low, high, count)
        near = (0 if begin is None else begin.slides[index]) + generator.uniform(-0.01, 0.01, count)
        poses[:, int(model.joint(joint).qposadr[0])] = anywhere if begin is None else np.clip(near, low, high)
    buttons = len(_joints(model, r"buttonbox_joint_\d"))
    anyhow = generator.integers(2, size=(count, buttons))
    switches = anyhow if begin is None else np.tile(begin.switches, (count, 1))
    return poses, np.zeros((count, model.nv)), switches


def _parts(model: mujoco.MjModel) -> list[Part]:
    parts = [_fingers(model)]
    parts += [_cube(name, joint) for name, joint in _cubes(model).items()]
    parts += [_button(index, joint) for index, joint in enumerate(_joints(model, r"buttonbox_joint_\d"))]
    scales = zip(SLIDES, (DRAWER, WINDOW), strict=True)
    return parts + [_slide(joint, scale) for joint, scale in scales if _joints(model, joint)]


def _fingers(model: mujoco.MjModel) -> Part:
    driver = int(model.joint(DRIVER).qposadr[0])

    def read(state: State) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        position, yaw, grip = state.seen[..., :3], state.seen[..., 3:4], state.seen[..., 4:]
        closed = opening(state.qpos[..., driver : driver + 1])
        observed = [state.qpos[..., :6], state.qvel[..., :6], (position - CENTRE) * METRES, np.cos(yaw), np.sin(yaw)]
        named = {"fingers_position": position, "fingers_yaw": yaw[..., 0], "fingers_closed": closed[..., 0]}
        named |= {"fingers_grip": grip[..., 0], "arm_velocity": state.qvel[..., :6], "control": state.ctrl}
        return [*observed, closed * CLOSING, grip], named

    quantities = {
        "fingers_position": Quantity((3,), "m", "position of the point between the fingers"),
        "fingers_yaw": Quantity((), "rad", "turn of the fingers about the vertical"),
        "fingers_closed": Quantity((), "1", "0 where the fingers are open, 1 where they are closed"),
        "fingers_grip": Quantity((), "1", f"force on the right finger: 0 is none, 1 is {GRIP:g} N or more"),
        "arm_velocity": Quantity((6,), "rad/s", "velocities of the arm's joints"),
        "control": Quantity((5,), "1", "the action being held, in [-1, 1]"),
    }
    return Part(quantities, read)


def _cube(name: str, joint: str) -> Part:
    def read(state: State) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        pose, velocity = state.joint(joint)
        position, quaternion = pose[..., :3], pose[..., 3:]
        w, x, y, z = np.moveaxis(quaternion, -1, 0)
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2))
        turn = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
        named = {f"{name}_position": position, f"{name}_velocity": velocity[..., :3], f"{name}_yaw": yaw}
        return [(position - CENTRE) * METRES, quaternion, turn], named

    quantities = {
        f"{name}_position": Quantity((3,), "m", "position of the cube's centre, 0.02 m high when it lies on the table"),
        f"{name}_velocity": Quantity((3,), "m/s", "velocity of the cube"),
        f"{name}_yaw": Quantity((), "rad", "turn of the cube about the vertical"),
    }
    return Part(quantities, read)


def _button(index: int, joint: str) -> Part:
    def read(state: State) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        position, velocity = state.joint(joint)
        on = state.act[..., index]
        named = {f"button_{index}": on, f"button_{index}_depth": -position[..., 0]}
        return [np.stack([1 - on, on], axis=-1), position * BUTTON, velocity], named

    quantities = {
        f"button_{index}": Quantity((), "1", "0 or 1; flips when the button is pushed"),
        f"button_{index}_depth": Quantity((), "m", "how far the button is pushed in"),
    }
    return Part(quantities, read)


def _slide(joint: str, scale: float) -> Part:
    name, (low, high) = joint.partition("_")[0], SLIDES[joint]

    def read(state: State) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        position, velocity = state.joint(joint)
        return [position * scale, velocity], {name: position[..., 0]}

    return Part({name: Quantity((), "m", f"place of the {name}: 0 is closed, {low or high:g} open")}, read)


def physics_of(env: Any, info: Mapping[str, Any], action: np.ndarray) -> np.ndarray:
    """The state of the package's own world, with what it says of it, as a physics vector [P]; `action` led to it."""
    seen = [info[f"proprio/{name}"] for name in ("effector_pos", "effector_yaw", "gripper_contact")]
    switches = info.get("button_states", np.zeros(0))
    parts = [info["time"], info["qpos"], info["qvel"], switches, action, *seen, env.data.qacc_warmstart]
    return np.concatenate(parts, dtype=np.float64)
