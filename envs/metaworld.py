"""Worlds of Meta-World, from the package metaworld: an arm at a table, and fifty things to do there.

    metaworld_reach, metaworld_push, metaworld_pick_place, metaworld_door_open, ...   one world per task

Models, controller, timing, observations and conditions of success are the package's (version 3), with goals that can be
seen. An observation is what is seen now and a step before (each: hand, gripper, two objects with their turns) and the
goal. An action moves the place that the hand is pulled to by up to a centimetre, and opens or closes the fingers.

The one task of a world, `success`, pays -1 at each control step and 0 where it is solved. It is judged from 50 starts
that are the same for everyone and that `Env.reset` never gives (`Env.trials`): a success where it is solved at any
step.
Source: Yu et al. 2019, "Meta-World", arXiv:1910.10897; McLean et al. 2025, "Meta-World+", arXiv:2505.11289.
"""

from embodied.types import Env, InputError
from envs.controlled import ControlledEnv
from envs.metaworld_table import HORIZON, table


def make(
    name: str,
    form: str = "host",
    *,
    hold: int = 1,
    cap: int = HORIZON,
    threads: int | None = None,
    randomise: str = "none",
) -> Env:
    """The world of that name, on the CPU; its episodes end after `cap` control steps of 1/80 s, at most 500."""
    if form != "host":
        raise InputError(f"unknown form '{form}' of world '{name}'; it has one form: 'host'")
    if randomise != "none":
        raise InputError(f"randomise: world '{name}' cannot be randomised; choose 'none'")
    return ControlledEnv(table(name, hold, cap), threads)
