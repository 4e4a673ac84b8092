"""The two forms of a world: C MuJoCo on the CPU's threads, and MJX inside JAX."""

import dataclasses

from embodied.types import Env, InputError, nearest
from envs.dynamics import check
from envs.host import HostEnv
from envs.model import WorldModel
from envs.randomise import Randomisation, level

FORMS = ("host", "mjx")


def build(world: WorldModel, form: str, threads: int | None, randomise: str | Randomisation = "none") -> Env:
    """`world` in the given form, randomised by the level of that name or by ranges of one's own.

    Raises InputError for an unknown form or level, or one that the world's model does not allow.
    """
    world = dataclasses.replace(world, randomise=level(randomise))
    check(world)
    if form == "host":
        return HostEnv(world, threads)
    if form == "mjx":
        if threads is not None:
            raise InputError("threads belongs to form 'host'; leave it out for form 'mjx'")
        from envs.mjx import MjxEnv

        return MjxEnv(world)
    raise InputError(f"unknown form '{form}' of world '{world.name}'; {nearest(form, FORMS)}")
