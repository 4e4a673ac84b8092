"""Worlds of OGBench, from the package ogbench: an arm at a table, and an ant in mazes.

    cube_single, cube_double       pick up cubes and put them down somewhere else, also on top of each other
    scene                          a cube, a drawer and a window, and two buttons that unlock these
    puzzle_3x3                     nine buttons; each flips its own light and those beside it
    antmaze_medium, antmaze_large  walk to a place

Models, timing, observations, start states and the five tasks of each world are the package's. A task pays, at each
control step, the number of goals that are met less the number of goals: 0 where all are. It is judged as OGBench does
(`Env.trials`): from its own start states, a success where all goals are met at any step. Goals stay the same: the
package deals those of several cubes anew in each episode, and moves those of the ant by up to a metre.
Source: Park et al. 2025, "OGBench: Benchmarking Offline Goal-Conditioned RL", arXiv:2410.20092.
"""

from embodied.types import Env, InputError
from envs.controlled import ControlledEnv
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
    it ends (its name with "-goal" behind it).
    """
    if form != "host":
        raise InputError(f"unknown form '{form}' of world '{name}'; it has one form: 'host'")
    if randomise != "none":
        raise InputError(f"randomise: world '{name}' cannot be randomised; choose 'none'")
    return ControlledEnv((maze if name in MAZES else table)(name, hold, start), threads)
