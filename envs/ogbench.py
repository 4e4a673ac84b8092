"""Worlds of OGBench, from the package ogbench: an arm at a table, and an ant in mazes.

    cube_single, cube_double       pick up cubes and put them down somewhere else, also on top of each other
    scene                          a cube, a drawer and a window, and two buttons that unlock these
    puzzle_3x3                     nine buttons; each flips its own light and those beside it
    antmaze_medium, antmaze_large  walk to a place

Models, timing, observations, start states and the five tasks of each world are the package's. A task pays, at each
control step, the number of goals that are met less the number of goals: 0 where all are. Goals stay the same: the
package deals those of several cubes anew in each episode, and moves those of the ant by up to a metre.
Source: Park et al. 2025, "OGBench: Benchmarking Offline Goal-Conditioned RL", arXiv:2410.20092.
"""

import functools
import importlib.util
from collections.abc import Callable

import numpy as np

from embodied.rewards import Task
from embodied.types import Env, InputError, Quantities
from envs.ogbench_host import ControlledEnv
from envs.ogbench_maze import MAZES, maze
from envs.ogbench_table import table


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 1,
    start: str = "play",
    threads: int | None = None,
    randomise: str = "none",
) -> Env:
    """The world of that name, on the CPU.

    Episodes begin anyhow, as those that data is made of (`start` "play"), as a task does (its name), or close to where
    it ends (its name with "-goal" behind it). Raises InputError where the package is missing.
    """
    if importlib.util.find_spec("ogbench") is None:
        raise InputError(f"world '{name}' needs the package ogbench: pip install 'embodied-stack[ogbench]'")
    if form != "host":
        raise InputError(f"unknown form '{form}' of world '{name}'; it has one form: 'host'")
    if randomise != "none":
        raise InputError(f"randomise: world '{name}' cannot be randomised; choose 'none'")
    return ControlledEnv((maze if name in MAZES else table)(name, hold, start), threads)


def solved(task: Task, path: Quantities) -> np.ndarray:
    """Whether all goals of a task were met at any control step of a path (leaves [E, S, ...]): bool [E]."""
    return (task(None, None, path) >= 0).any(axis=1)


def criteria(env: Env) -> dict[str, Callable[[Quantities], np.ndarray]]:
    """`solved` for each task of a world, as `embodied.evaluate` takes it."""
    return {name: functools.partial(solved, task) for name, task in env.tasks.items()}
