"""Worlds: simulators with named quantities, so that a reward written as text can be computed anywhere."""

import importlib
import importlib.util
import inspect
from typing import Any

from embodied.types import Env, InputError, nearest
from envs.metaworld_tasks import TASKS

WORLDS = {
    "walker": "envs.dmc",
    "cheetah": "envs.dmc",
    "quadruped": "envs.dmc",
    "hopper": "envs.dmc",
    "humanoid": "envs.dmc",
    "cartpole": "envs.dmc_rigs",
    "reacher": "envs.dmc_rigs",
    "ball_in_cup": "envs.dmc_rigs",
    "finger_spin": "envs.dmc_finger",
    "finger_turn_easy": "envs.dmc_finger",
    "finger_turn_hard": "envs.dmc_finger",
    "point_maze": "envs.point_maze",
    "robot_dog": "envs.robot_dog",
    "push_t": "envs.push_t",
    "tabletop_push": "envs.tabletop",
    "tabletop_pick": "envs.tabletop",
    "tabletop_push_three": "envs.tabletop",
    "tabletop_pick_three": "envs.tabletop",
    "tabletop_arm_push": "envs.tabletop",
    "tabletop_arm_pick": "envs.tabletop",
    "tabletop_arm_push_three": "envs.tabletop",
    "tabletop_arm_pick_three": "envs.tabletop",
}
EXTRA_WORLDS = {  # these need the package of the same name as their module, which an extra of that name is for
    "cube_single": "envs.ogbench",
    "cube_double": "envs.ogbench",
    "scene": "envs.ogbench",
    "puzzle_3x3": "envs.ogbench",
    "antmaze_medium": "envs.ogbench",
    "antmaze_large": "envs.ogbench",
} | {f"metaworld_{task}": "envs.metaworld" for task in TASKS}
# Packages that ask for another release of MuJoCo than ours, and work with it: no resolver takes both.
ALONE = {"metaworld": "metaworld==3.1.1"}


def make(name: str, form: str = "host", pixels: int = 0, **options: Any) -> Env:
    """The world called `name`, on the CPU's threads (form "host") or traceable by JAX (form "mjx").

    With `pixels` observations are stacks of frames of that size (`envs.pixels`), otherwise vectors.

    Every world takes the options `hold` (control steps per decision), `randomise` ("none", "standard", "hard" or a
    `Randomisation`) and, in its host form, `threads`; what else a world takes stands at its module's `make`. Raises
    InputError for an unknown name, form or option, and for a world whose package is not installed.
    """
    modules = WORLDS | EXTRA_WORLDS
    if name not in modules:
        raise InputError(f"unknown world '{name}'; {nearest(name, modules)}")
    if command := needs(name):
        raise InputError(f"world '{name}' needs the package {_package(name)}: {command}")
    module_make = importlib.import_module(modules[name]).make
    parameters = inspect.signature(module_make).parameters.values()
    valid = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in valid:
            raise InputError(f"unknown option '{option}' of world '{name}'; {nearest(option, [*valid, 'pixels'])}")
    if pixels and form == "mjx":
        raise InputError("pixels belongs to form 'host'; leave it out for form 'mjx'")
    env = module_make(name, form, **options)
    return importlib.import_module("envs.pixels").PixelEnv(env, pixels) if pixels else env


def needs(name: str) -> str | None:
    """The command that installs what a world still needs here; None where nothing is missing."""
    if name not in EXTRA_WORLDS or importlib.util.find_spec(_package(name)):
        return None
    alone = f" && pip install --no-deps {ALONE[_package(name)]}" if _package(name) in ALONE else ""
    return f"pip install 'embodied-stack[{_package(name)}]'{alone}"


def _package(name: str) -> str:
    return EXTRA_WORLDS[name].rpartition(".")[2]
