"""Policies that ship with the repository, by name, and run directories, by path."""

from pathlib import Path
from typing import Any

from embodied.policy import Policy, load
from embodied.types import InputError, nearest
from experiments.collect import make_env

MODELS = Path(__file__).resolve().parent / "models"


def shipped() -> dict[str, Path]:
    """Name -> folder of every shipped policy."""
    return {path.parent.name: path.parent for path in sorted(MODELS.glob("*/config.json"))}


def resolve(name: str) -> tuple[Policy, Any]:
    """The policy of a shipped model or a run directory, and its world. Raises InputError naming the nearest model."""
    if Path(name).exists():
        policy = load(name)
    elif name in shipped():
        policy = load(shipped()[name])
    else:
        raise InputError(f"model: no run directory or shipped model '{name}'; {nearest(name, shipped())}")
    return policy, make_env(policy.world, policy.options.get("hold"))
