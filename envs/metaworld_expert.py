"""Meta-World's scripted arms, which solve its tasks, and ways of not solving them.

    expert   the package's arm of the task, an answer to the observation
    noisy    the same, with white noise on its actions
    stopped  the same up to some moment early in the episode, and nothing from there on
    astray   the same, mistaken about where things are
    frozen   nothing at all
    random   actions that have nothing to do with each other or with the task

Actions are clipped to [-1, 1], which the package's arms exceed. Now and then one of these ways solves a task all the
same: its name is no verdict.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from embodied.rollout import Behaviour
from embodied.types import InputError, Obs, RandomKey, nearest
from envs.metaworld_tasks import TASKS

FAILING = ("noisy", "stopped", "astray", "frozen", "random")
NOISE = 2.0  # standard deviation, in units of the action
EARLY = (0.05, 0.25)  # share of an episode behind which an arm stops
AWAY = (0.1, 0.2)  # m by which an arm is mistaken, in any direction along the table
PLACES = (4, 11, 22, 29, 36)  # of objects, now and before, and of the goal in an observation; x comes first


class Mind(NamedTuple):
    """What an arm that fails has in mind for E episodes."""

    step: int
    stop: np.ndarray  # [E] decisions until it stops
    shift: np.ndarray  # [E, 2] m by which it is mistaken


def check(world: str) -> None:
    """Nothing; raises InputError for a world without such an arm."""
    known = [f"metaworld_{task}" for task in TASKS]
    if world not in known:
        raise InputError(f"collect: no arm of Meta-World acts in world '{world}'; {nearest(world, known)}")


@functools.cache
def expert(world: str) -> Callable[[Float[np.ndarray, "E 39"]], Float[np.ndarray, "E 4"]]:
    """The scripted arm of a world: observations to actions in [-1, 1]. Raises as `check`."""
    check(world)
    from metaworld.policies import ENV_POLICY_MAP

    arm = ENV_POLICY_MAP[f"{world.removeprefix('metaworld_').replace('_', '-')}-v3"]()

    def act(states: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # of the arm, about actions beyond [-1, 1]
            return np.clip([arm.get_action(state) for state in states.astype(np.float64)], -1, 1).astype(np.float32)

    return act


def behaviour(world: str, manner: str = "expert") -> Behaviour:
    """The arm acting in that manner, as it is (not to be compiled); its carry is a `mind`."""
    act = expert(world)
    assert manner in ("expert", *FAILING)

    def behave(obs: Obs, mind: Mind, key: RandomKey) -> tuple[Any, Mind]:
        states = np.array(obs["state"])
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        if manner == "astray":
            for place in PLACES:
                states[:, place : place + 2] += mind.shift
        if manner in ("frozen", "random"):
            actions = generator.uniform(-1, 1, (len(states), 4)) * (manner == "random")
        else:
            actions = act(states)
        if manner == "noisy":
            actions = np.clip(actions + NOISE * generator.normal(size=actions.shape), -1, 1)
        if manner == "stopped":
            actions = np.where(mind.step < mind.stop[:, None], actions, 0)
        return actions.astype(np.float32), mind._replace(step=mind.step + 1)

    return behave


def mind(count: int, decisions: int, seed: int = 0) -> Mind:
    """The start of `behaviour` for E = count worlds and episodes of so many decisions."""
    generator = np.random.default_rng(seed)
    angle, radius = generator.uniform(0, 2 * np.pi, count), generator.uniform(*AWAY, count)
    shift = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Mind(0, generator.uniform(*EARLY, count) * decisions, shift)
