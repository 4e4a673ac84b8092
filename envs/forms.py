"""The two forms of a world: C MuJoCo on the CPU's threads, and MJX inside JAX."""

from embodied.types import Env, InputError, nearest
from envs.host import HostEnv
from envs.model import WorldModel

FORMS = ("host", "mjx")


def build(world: WorldModel, form: str, threads: int | None) -> Env:
    """`world` in the given form. Raises InputError for an unknown form, or one that lacks a feature."""
    if form == "host":
        return HostEnv(world, threads)
    if form == "mjx":
        if threads is not None:
            raise InputError("threads belongs to form 'host'; leave it out for form 'mjx'")
        from envs.mjx import MjxEnv

        return MjxEnv(world)
    raise InputError(f"unknown form '{form}' of world '{world.name}'; {nearest(form, FORMS)}")
