"""Episodes of OGBench's scripted arms, which do one thing after the other on a table, each chosen at random.

    play   each thing is planned as a path beforehand, with correlated noise on it: smooth, and it often fails
    noisy  each action answers the state, with white noise of a strength that is drawn for each episode

The arms are the package's own, on the package's own world; states are stored as physics vectors of ours.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embodied.types import InputError, nearest
from envs.controlled_world import ControlledWorld, State
from envs.ogbench_table import LAYOUTS, package_env, physics_of, table

STYLES = ("play", "noisy")
NOISE, SMOOTHING, LEAST = 0.1, 0.5, 0.4  # share of an action; steps; shortest way that a noisy arm aims for
WHITE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # how noise is shared out over the components of an action
STACKED = {"cube_single": (0.0, 0.0), "cube_double": (0.0, 0.25)}  # range of the share of cubes put on others
OUTSIDE = 0.1  # m beyond the table where a cube must not be
BOUNDS = np.array([0.25, -0.35, 0.02]) - OUTSIDE, np.array([0.6, 0.35, 0.35]) + OUTSIDE


def check(name: str, style: str) -> None:
    """Nothing; raises InputError for a world without such arms, or an unknown style."""
    if name not in LAYOUTS:
        raise InputError(f"collect: no arm of OGBench plays in world '{name}'; {nearest(name, LAYOUTS)}")
    if style not in STYLES:
        raise InputError(f"collect: unknown style '{style}' of play; {nearest(style, STYLES)}")


def episode(name: str, style: str, decisions: int, seed: int) -> dict[str, np.ndarray]:
    """state [T+1, O], action [T, 5], physics [T+1, P] and discount [T] of one episode.

    Only the arguments decide what happens in it. An episode in which a cube left the table, which MuJoCo's contacts
    allow once in a while, is made anew.
    """
    world = _world(name)
    for attempt in range(100):
        physics, actions = _attempt(world, style, decisions, np.random.SeedSequence((seed, attempt)))
        named = world.measure(State(world, physics))
        cubes = [places for quantity, places in named.items() if "cube" in quantity and "position" in quantity]
        if all(((places >= BOUNDS[0]) & (places <= BOUNDS[1])).all() for places in cubes):
            state = world.observe(State(world, physics)).astype(np.float32)
            discount = np.ones(decisions, np.float32)
            return {"state": state, "action": actions.astype(np.float32), "physics": physics, "discount": discount}
    raise RuntimeError(f"in 100 episodes of '{name}' in a row a cube left the table")


@functools.cache
def _world(name: str) -> ControlledWorld:
    return table(name, hold=1, start="play")


def _attempt(
    world: ControlledWorld, style: str, decisions: int, sequence: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    """Physics vectors [T+1, P] and actions [T, 5]."""
    env = package_env(world.name, "data_collection")
    number = int(sequence.generate_state(1)[0])
    np.random.seed(number)  # the package's arms draw from numpy's global generator  # noqa: NPY002
    generator = np.random.default_rng(sequence)
    stacked = generator.uniform(*STACKED.get(world.name, (0.5, 0.5)))
    white = generator.uniform(0, NOISE) * WHITE if style == "noisy" else 0 * WHITE
    arms = _arms(env, world.name, style)
    observation, info = env.reset(seed=number)
    arm = arms[info["privileged/target_task"]]
    arm.reset(observation, info)
    physics, actions = [physics_of(env, info, np.zeros(5))], []
    for _ in range(decisions):
        wanted = np.asarray(arm.select_action(observation, info)) + white * generator.normal(size=5)
        # What is stored is what was done, to the last digit.
        action = np.clip(wanted, -1, 1).astype(np.float32).astype(np.float64)
        observation, _, _, _, info = env.step(action)
        actions.append(action)
        physics.append(physics_of(env, info, action))
        if arm.done:
            observation, info = env.set_new_target(p_stack=stacked)
            arm = arms[info["privileged/target_task"]]
            arm.reset(observation, info)
    return np.array(physics), np.array(actions)


def _arms(env: Any, name: str, style: str) -> Mapping[str, Any]:
    """Thing to do -> the package's arm that does it."""
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    closed = {"gripper_always_closed": name.startswith("puzzle")}
    kinds: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, bool]]] = {
        "cube": (cube_plan.CubePlanOracle, cube_markov.CubeMarkovOracle, {}),
        "button": (button_plan.ButtonPlanOracle, button_markov.ButtonMarkovOracle, closed),
        "drawer": (drawer_plan.DrawerPlanOracle, drawer_markov.DrawerMarkovOracle, {}),
        "window": (window_plan.WindowPlanOracle, window_markov.WindowMarkovOracle, {}),
    }
    if style == "noisy":
        return {thing: answering(env=env, min_norm=LEAST, **more) for thing, (_, answering, more) in kinds.items()}
    noise = {"noise": NOISE, "noise_smoothing": SMOOTHING}
    return {thing: planning(env=env, **noise, **more) for thing, (planning, _, more) in kinds.items()}
