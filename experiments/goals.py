"""How often what a policy shall move arrives where it is asked to: random goals, each from a start of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from embodied import statistics
from embodied.evaluate import EvaluateConfig, random_behaviour
from embodied.policy import Policy
from embodied.rollout import Behaviour, rollout, still_behaviour
from embodied.types import Carry, Env, Goal, Obs, RandomKey
from experiments.skills import CELL, moved_columns

GOALS = 50


def takes_places(policy: Policy) -> bool:
    """Whether the policy moves named parts of the state, and goals prompt it."""
    return hasattr(policy.config, "moved") and Goal in policy.agent.prompts


def go(policy: Policy, env: Env, goals: int = GOALS, seed: int = EvaluateConfig().seed) -> Float[np.ndarray, "G S"]:
    """Distance of each goal in the S states of its episode, in units of the observation (m for positions).

    Goals are where the moved parts are at held-out starts of other episodes. There is no exploration.
    """
    key = jax.random.key(seed)
    asked = env.reset(jax.random.fold_in(key, 1), goals).obs
    latents = jax.vmap(lambda obs: policy.agent.prompt(policy.params, Goal(obs), key))(jax.tree.map(jnp.asarray, asked))
    carry = (policy.params, latents, policy.agent.carry(goals))
    return _distances(policy, env, asked, still_behaviour(policy.agent), carry, key)


def go_at_random(
    policy: Policy, env: Env, goals: int = GOALS, seed: int = EvaluateConfig().seed
) -> Float[np.ndarray, "G S"]:
    """The same for uniformly random actions in place of the policy's."""
    key = jax.random.key(seed)
    asked = env.reset(jax.random.fold_in(key, 1), goals).obs
    carry = ((), jnp.zeros((goals, 1)), ())
    return _distances(policy, env, asked, random_behaviour(env.spec.action), carry, key)


def _distances(
    policy: Policy, env: Env, asked: Obs, behave: Behaviour, carry: Carry, key: RandomKey
) -> Float[np.ndarray, "G S"]:
    columns = moved_columns(policy)
    start = env.reset(jax.random.fold_in(key, 2), len(asked["state"]))
    states = np.asarray(rollout(env, behave, start, carry, env.spec.decisions, key).obs["state"])
    return np.linalg.norm(states[..., columns] - np.asarray(asked["state"])[:, None, columns], axis=-1)


def measures(distance: Float[np.ndarray, "G S"], within: float = CELL) -> dict[str, Any]:
    """Shares of goals that were `within` that distance at the start, at some moment and at the end, and the medians.

    `success` is that of the end, with its 95 % Wilson interval.
    """
    moments = {"start": distance[:, 0], "closest": distance.min(1), "end": distance[:, -1]}
    rate = statistics.wilson(int((moments["end"] <= within).sum()), len(distance))
    return {
        "goals": len(distance),
        "success": rate.value,
        "success_low": rate.low,
        "success_high": rate.high,
        **{f"within_{name}": float((values <= within).mean()) for name, values in moments.items()},
        **{f"median_{name}": float(np.median(values)) for name, values in moments.items()},
    }


def line(name: str, row: dict[str, Any]) -> str:
    """One line of a table of `measures`."""
    rate, low, high = (100 * row[key] for key in ("success", "success_low", "success_high"))
    ways = " -> ".join(f"{row[f'median_{moment}']:.3f}" for moment in ("start", "end"))
    closest = row["median_closest"]
    return f"{name:<24}{rate:4.0f} % [{low:3.0f}, {high:3.0f}]  median distance {ways}, closest {closest:.3f}"
