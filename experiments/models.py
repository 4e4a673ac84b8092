"""Policies that ship with the repository, by name, and run directories, by path."""

from pathlib import Path
from typing import Any

from embodied.policy import Policy, load
from embodied.types import Env, InputError, nearest
from experiments.collect import make_env

MODELS = Path(__file__).resolve().parent / "models"


def shipped() -> dict[str, Path]:
    """Name -> folder of every shipped policy."""
    return {path.parent.name: path.parent for path in sorted(MODELS.glob("*/config.json"))}


def named(name: str) -> Policy:
    """The policy of a shipped model or a run directory. Raises InputError naming the nearest model."""
    if Path(name).exists():
        return load(name)
    if name in shipped():
        return load(shipped()[name])
    raise InputError(f"model: no run directory or shipped model '{name}'; {nearest(name, shipped())}")


def resolve(name: str, randomise: str | None = None) -> tuple[Policy, Any]:
    """The policy of that name and its world, randomised otherwise where a level is given.

    Raises InputError naming the nearest model or level.
    """
    policy = named(name)
    return policy, world_of(policy, randomise)


def world_of(policy: Policy, randomise: str | None = None) -> Env:
    """The world that a policy was trained in; `randomise` names another level of randomisation."""
    level = policy.options.get("randomise", "none") if randomise is None else randomise
    return make_env(policy.world, policy.options.get("hold"), level, pixels=policy.options.get("pixels", 0))
