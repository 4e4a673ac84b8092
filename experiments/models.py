"""Policies that ship with the repository, by name, and run directories, by path."""

from pathlib import Path
from typing import Any

from embodied.policy import Policy, load
from embodied.skill_world import SkillWorld
from embodied.types import Env, Goal, InputError, Prior, nearest
from experiments.collect import make_env
from experiments.skills import is_skilled, moved_columns

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
    options = policy.options
    level = options.get("randomise", "none") if randomise is None else randomise
    if "skills" in options:
        decisions = int(options["skill_decisions"])
        env = make_env(policy.world, int(options["hold"]) // decisions, level)
        return steered(env, options["skills"], decisions)
    return make_env(policy.world, options.get("hold"), level, pixels=options.get("pixels", 0))


def steered(env: Env, skills: str, decisions: int) -> SkillWorld:
    """`env` with the skills of a run, or the latents of a model, as its actions, each for so many decisions.

    Raises InputError for a policy of another world, or of other decisions.
    """
    policy = named(skills)
    hold = policy.options.get("hold", env.spec.hold)
    for field, theirs, ours in (("world", policy.world, env.spec.name), ("hold", hold, env.spec.hold)):
        if theirs != ours:
            raise InputError(f"skills: {field} of '{skills}' is {theirs}, of the world that it shall act in {ours}")
    latent = policy.prompt(Prior()).z
    # Of agents with skills, what follows the skill names places.
    width = len(latent) - (len(moved_columns(policy)) + 1 if is_skilled(policy) and Goal in policy.agent.prompts else 0)
    return SkillWorld(env, policy.agent, policy.params, width, decisions)
