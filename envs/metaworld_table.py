"""Meta-World's table: what its arm sees, how it is moved, and where an episode begins."""

import copy
import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import numpy as np

from embodied.types import InputError, Quantity
from envs.controlled_world import ControlledWorld, State
from envs.metaworld_tasks import TASKS, Chore

HORIZON, HELD_OUT = 500, 50  # control steps after which the package ends an episode; starts that tasks are judged from
FRAME = 18  # numbers of what is seen at one moment
HAND, OBJECT, OTHER = slice(0, 3), slice(4, 7), slice(11, 14)  # places in a frame; the gripper lies between
MOCAP, BEFORE, GOAL = slice(0, 3), slice(3, 3 + FRAME), slice(3 + FRAME, 6 + FRAME)  # places in the own state
TURN = (1.0, 0.0, 1.0, 0.0)  # of the hand, which never changes
PLACE = Quantity((3,), "m", "")
CAMERA, AT = "corner2", (0.75, 0.075, 0.7)  # and where it stands in most work on pixels


class Episode(NamedTuple):
    """The own state: where the hand is pulled to, what was seen a step before, and what the episode drew."""

    bodies: np.ndarray  # of the model, which an episode puts somewhere
    sites: np.ndarray

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return GOAL.stop + 3 * (len(self.bodies) + len(self.sites))

    def put(self, model: mujoco.MjModel, data: mujoco.MjData, own: np.ndarray, command: np.ndarray) -> None:
        """Puts things where the episode has them and pulls the hand; a command is (place of the hand, fingers)."""
        middle = GOAL.stop + 3 * len(self.bodies)
        model.body_pos[self.bodies] = own[GOAL.stop : middle].reshape(-1, 3)
        model.site_pos[self.sites] = own[middle:].reshape(-1, 3)
        data.mocap_pos[0], data.mocap_quat[0] = command[:3], TURN
        data.ctrl[:] = command[3:]

    def after(self, before: State, after: State, data: mujoco.MjData) -> np.ndarray:
        """The own state after a control step."""
        return np.concatenate([data.mocap_pos[0], before.seen[:FRAME], before.act[GOAL.start :]])


class Package(NamedTuple):
    """The package's own world of a task, as we need it."""

    env: Any
    body_pos: np.ndarray  # of its model, before an episode moves any
    site_pos: np.ndarray
    episode: Episode


@functools.cache
def package(task: str) -> Package:
    """The package's own world of that task, whose arm waits at its start, with goals that can be seen."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env: Any = ALL_V3_ENVIRONMENTS[f"{task.replace('_', '-')}-v3"]()
    del env.sawyer_observation_space  # made when goals were hidden
    env._partially_observable = env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    pristine = env.model.body_pos.copy(), env.model.site_pos.copy()
    mujoco.mj_resetData(env.model, env.data)
    env._reset_hand()
    # The way of the hand to its start is the same in every episode, and takes longer than all the rest.
    settled, whole = np.empty(mujoco.mj_stateSize(env.model, ALL)), copy.copy(env.init_tcp)
    mujoco.mj_getState(env.model, env.data, settled, ALL)

    def wait(steps: int = 0) -> None:
        mujoco.mj_setState(env.model, env.data, settled, ALL)
        mujoco.mj_forward(env.model, env.data)
        env.init_tcp = whole.copy()

    env._reset_hand = wait
    moved: list[set[int]] = [set(), set()]
    for seed in range(3):
        env.np_random = np.random.default_rng(seed)
        env.reset_model()
        for found, now, then in zip(moved, (env.model.body_pos, env.model.site_pos), pristine, strict=True):
            found |= set(np.flatnonzero((now != then).any(1)).tolist())
            now[:] = then
    return Package(env, *pristine, Episode(*(np.array(sorted(found), int) for found in moved)))


ALL = mujoco.mjtState.mjSTATE_INTEGRATION


def table(name: str, hold: int, cap: int) -> ControlledWorld:
    """The world of that name, whose episodes take `cap` control steps."""
    if not 1 <= cap <= HORIZON:
        raise InputError(f"cap must lie in [1, {HORIZON}] control steps, got {cap}")
    task = name.removeprefix("metaworld_")
    chore, (env, *_, episode) = TASKS[task], package(task)
    model = copy.copy(env.model)
    space = env.sawyer_observation_space

    def control(state: State, action: np.ndarray | None) -> np.ndarray:
        fingers, place = (state.ctrl if action is None else action)[..., 3:], state.act[..., MOCAP]
        if action is not None:
            place = np.clip(place + action[..., :3] * env.action_scale, env.mocap_low, env.mocap_high)
        return np.concatenate([place, fingers, -fingers], axis=-1)

    def observe(state: State) -> np.ndarray:
        parts = [state.seen[..., :FRAME], state.act[..., BEFORE], state.act[..., GOAL]]
        return np.clip(np.concatenate(parts, axis=-1), space.low, space.high)

    return ControlledWorld(
        name=name,
        model=model,
        control_dt=env.frame_skip * model.opt.timestep,
        hold=hold,
        episode_length=cap,
        action=4,
        quantities=_quantities(chore),
        rewards={"success": (f"({chore.solved}) - 1", chore.instruction)},
        control=control,
        look=_look(env, chore),
        observe=observe,
        measure=functools.partial(_measure, chore),
        draw=functools.partial(_draw, task),
        eye=CAMERA,
        start=functools.partial(_start, task),
        task_starts={"success": functools.partial(_held_out, task)},
        own=episode,
    )


def twin(env: Any, data: mujoco.MjData, **more: Any) -> Any:
    """The package's world `env`, reading other data of the same model."""
    other = object.__new__(type(env))
    vars(other).update(vars(env), data=data, **more)
    return other


def _look(env: Any, chore: Chore) -> Callable[[mujoco.MjData], np.ndarray]:
    """Reads a frame, the place between the fingers, and what else the task reads."""
    model = env.model
    hand, *claws = (model.body(body).id for body in ("hand", "rightclaw", "leftclaw"))
    fingers = [model.site(site).id for site in ("rightEndEffector", "leftEndEffector")]
    point = [model.site(chore.site).id] if chore.site else []

    def look(data: mujoco.MjData) -> np.ndarray:
        other, objects = twin(env, data), np.zeros(FRAME - 4)
        places, turns = (np.reshape(other._get_pos_objects(), (-1, 3)), np.reshape(other._get_quat_objects(), (-1, 4)))
        objects[: 7 * len(places)] = np.hstack([places, turns]).ravel()
        apart = np.linalg.norm(data.xpos[claws[0]] - data.xpos[claws[1]])
        between = (data.site_xpos[fingers[0]] + data.site_xpos[fingers[1]]) / 2
        more = [data.site_xpos[point].ravel(), [float(other.touching_main_object)] if chore.grasp else []]
        return np.concatenate([data.xpos[hand], [min(apart / 0.1, 1.0)], objects, between, *more])

    return look


def _quantities(chore: Chore) -> dict[str, Quantity]:
    found = {
        "hand_position": PLACE._replace(about="position of the hand"),
        "fingers_position": PLACE._replace(about="position of the point between the fingers"),
        "gripper": Quantity((), "1", "0 where the fingers touch each other, 1 where they are open"),
        "object_position": PLACE._replace(about="position of the object, or of the handle or button"),
        "other_position": PLACE._replace(about="position of the second object; zeros where there is none"),
        "goal_position": PLACE._replace(about="where the object, or the hand, should be"),
        "fingers_to_object": Quantity((), "m", "distance between the fingers and the object"),
        "object_to_goal": Quantity((), "m", "distance between the object and the goal"),
        "control": Quantity((4,), "1", "the action being held, in [-1, 1]"),
    }
    if chore.site:
        found["point_position"] = PLACE._replace(about=f"position of the model's site {chore.site}")
    if chore.joint:
        found["joint_position"] = Quantity((), "m or rad", f"position of the model's joint {chore.joint}")
    if chore.grasp:
        found["grasped"] = Quantity((), "1", "1 where both fingers push on the object, else 0")
    return found


def _measure(chore: Chore, state: State) -> dict[str, np.ndarray]:
    seen, goal, rest = state.seen, state.act[..., GOAL], FRAME + 3
    fingers, thing = seen[..., FRAME:rest], seen[..., OBJECT]
    named = {"hand_position": seen[..., HAND], "fingers_position": fingers, "gripper": seen[..., 3]}
    named |= {"object_position": thing, "other_position": seen[..., OTHER], "goal_position": goal}
    named["fingers_to_object"] = np.linalg.norm(fingers - thing, axis=-1)
    named["object_to_goal"] = np.linalg.norm(thing - goal, axis=-1)
    named["control"] = state.ctrl
    named |= {"point_position": seen[..., rest : rest + 3]} if chore.site else {}
    named |= {"joint_position": state.joint(chore.joint)[0][..., 0]} if chore.joint else {}
    return named | ({"grasped": seen[..., -1]} if chore.grasp else {})


def _start(task: str, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [count, nq], velocities [count, nv] and own states [count, B] where an episode begins."""
    env, body_pos, site_pos, episode = package(task)
    look, starts = _look(env, TASKS[task]), []
    for _ in range(count):
        env.model.body_pos[:], env.model.site_pos[:] = body_pos, site_pos
        env.np_random = generator
        env.reset_model()
        mujoco.mj_forward(env.model, env.data)
        drawn = [env._target_pos, env.model.body_pos[episode.bodies].ravel(), env.model.site_pos[episode.sites].ravel()]
        own = np.concatenate([env.data.mocap_pos[0], look(env.data)[:FRAME], *drawn])
        starts.append((env.data.qpos.copy(), env.data.qvel.copy(), own))
    positions, velocities, owns = (np.array(part) for part in zip(*starts, strict=True))
    return positions, velocities, owns


@functools.cache
def _frozen(task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _start(task, np.random.default_rng(zlib.crc32(task.encode())), HELD_OUT)


def _held_out(task: str, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts like those of `_start`, of a fixed set that it never gives; all of it where `count` is its size."""
    rounds = -(-count // HELD_OUT)
    index = np.concatenate([generator.permutation(HELD_OUT) for _ in range(rounds)])[:count]
    positions, velocities, owns = _frozen(task)
    return positions[index], velocities[index], owns[index]


@functools.cache
def _canvas(task: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = copy.copy(package(task).env.model)
    camera = model.camera(CAMERA)
    w, x, y, z = camera.quat
    camera.pos[:], camera.quat[:] = AT, (-z, y, -x, w)  # by half a turn: the package's camera hangs upside down
    return model, mujoco.MjData(model)


def _draw(task: str, state: State, seen: bool) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """One state with the mark of its goal; agents and people see the same."""
    env, *_, episode = package(task)
    model, data = _canvas(task)
    data.qpos[:], data.qvel[:] = state.qpos, state.qvel
    episode.put(model, data, state.act, np.concatenate([state.act[MOCAP], [0, 0]]))
    mujoco.mj_forward(model, data)
    for site, place in twin(env, data, _target_pos=state.act[GOAL])._target_site_config:
        data.site(site).xpos = place
    return model, data
