"""Scoring prompted policies: every prompt and episode in one batched simulation, training state never seen."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from embodied import statistics
from embodied.rewards import Task
from embodied.rollout import Behaviour, Trajectory, rollout
from embodied.types import Env, Obs, Params, Quantities, RandomKey


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How a score is made."""

    episodes: int = 10  # per prompt
    seed: int = 1_000_003  # of the starts; training seeds are small, so starts are held out


@dataclasses.dataclass(frozen=True)
class Scores:
    """Returns of one prompt: undiscounted, summed over the control steps of an episode."""

    returns: np.ndarray  # [episodes]
    success: np.ndarray | None = None  # [episodes] bool, where the caller gave a criterion

    def summary(self) -> dict[str, float]:
        """IQM with its 95 % interval, mean, standard error, episodes; success rate with Wilson interval if known."""
        iqm = statistics.bootstrap(self.returns)
        count = len(self.returns)
        row = {
            "iqm": iqm.value,
            "low": iqm.low,
            "high": iqm.high,
            "mean": float(self.returns.mean()),
            "standard_error": float(self.returns.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0,
            "episodes": count,
        }
        if self.success is not None:
            rate = statistics.wilson(int(self.success.sum()), count)
            row |= {"success": rate.value, "success_low": rate.low, "success_high": rate.high}
        return row


Criterion = Callable[[Quantities], np.ndarray]  # path of one prompt's episodes, leaves [E, S, ...] -> bool [E]


def evaluate(
    env: Env,
    behave: Behaviour,
    params: Params,
    latents: Mapping[str, np.ndarray],
    tasks: Mapping[str, Task],
    config: EvaluateConfig,
    criteria: Mapping[str, Criterion] | None = None,
) -> tuple[dict[str, Scores], dict[str, Trajectory]]:
    """Scores and trajectories of each prompt (a latent [D]) on the task of the same name.

    `behave` is a behaviour whose carry is `(params, z, ())`, see `embodied.rollout.agent_behaviour`. All prompts start
    from the same `config.episodes` states.
    """
    names = list(latents)
    start = env.reset(jax.random.key(config.seed), config.episodes)
    tile = lambda leaf: np.concatenate([np.asarray(leaf)] * len(names))  # noqa: E731
    starts = jax.tree.map(tile, start)
    z = jnp.repeat(jnp.stack([jnp.asarray(latents[name]) for name in names]), config.episodes, 0)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    whole = rollout(env, behave, starts, (params, z, ()), env.spec.decisions, key)
    scores, trajectories = {}, {}
    for i, name in enumerate(names):
        rows = slice(i * config.episodes, (i + 1) * config.episodes)
        one = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf[rows]), whole)
        action = np.repeat(one.action, env.spec.hold, 1)
        before = {
            quantity: np.concatenate([one.quantities[quantity][:, :1], leaf[:, :-1]], 1)
            for quantity, leaf in one.path.items()
        }
        returns = np.asarray(tasks[name](before, action, one.path), np.float64).sum(1)
        criterion = (criteria or {}).get(name)
        scores[name] = Scores(returns, criterion(one.path) if criterion else None)
        trajectories[name] = one
    return scores, trajectories


def random_behaviour(action: int) -> Behaviour:
    """Uniformly random actions, with the carry of an agent's behaviour; the baseline that knows nothing."""

    def behave(obs: Obs, carry: Any, key: RandomKey) -> tuple[Any, Any]:
        count = next(iter(obs.values())).shape[0]
        return jax.random.uniform(key, (count, action), minval=-1.0, maxval=1.0), carry

    return behave
