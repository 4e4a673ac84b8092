"""Scoring prompted policies: every prompt and episode in one batched simulation, training state never seen."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from embodied import statistics
from embodied.rewards import Task
from embodied.rollout import Behaviour, Trajectory, rollout
from embodied.types import Carry, Env, Obs, Params, Quantities, RandomKey


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How a score is made."""

    episodes: int = 10  # per prompt
    seed: int = 1_000_003  # of the starts; training seeds are small, so starts are held out


@dataclasses.dataclass(frozen=True)
class Scores:
    """Returns of one prompt: undiscounted, summed over the control steps of an episode."""

    returns: np.ndarray  # [episodes]
    success: np.ndarray | None = None  # [episodes] bool, where the caller gave a criterion or the world has one

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


def memoryless(count: int) -> Carry:
    """What an agent without memory remembers of `count` worlds."""
    return ()


Criterion = Callable[[Quantities], np.ndarray]  # path of one prompt's episodes, leaves [E, S, ...] -> bool [E]


def evaluate(
    env: Env,
    behave: Behaviour,
    params: Params,
    latents: Mapping[str, np.ndarray],
    tasks: Mapping[str, Task],
    config: EvaluateConfig,
    criteria: Mapping[str, Criterion] | None = None,
    carry: Callable[[int], Carry] = memoryless,
) -> tuple[dict[str, Scores], dict[str, Trajectory]]:
    """Scores and trajectories of each prompt on the task of the same name; nothing is paid behind a termination.

    A latent is [D], or [T, D] for a motion, which is walked along, one per decision, the last one held. `behave` is a
    behaviour whose carry is `(params, z, inner carry)`, see `embodied.rollout.agent_behaviour`, and `carry` makes the
    inner one for a number of worlds: an agent's is `agent.carry`. All prompts start from the same `config.episodes`
    states, except on tasks that the world judges itself (`Env.trials`): those start where the task does, and succeed
    where its goal, if it has one, is ever met, unless `criteria` says otherwise.
    """
    names = list(latents)
    trials = {name: env.trial(tasks[name]) for name in names}
    begins = {name: trial.start if trial else env.reset for name, trial in trials.items()}
    made = {begin: begin(jax.random.key(config.seed), config.episodes) for begin in dict.fromkeys(begins.values())}
    join = lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves])  # noqa: E731
    starts = jax.tree.map(join, *[made[begins[name]] for name in names])
    tracks = jnp.repeat(_side_by_side([latents[name] for name in names]), config.episodes, 0)
    inner = (params, tracks, carry(len(tracks)))
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    whole = rollout(env, _walking(behave), starts, (jnp.int32(0), inner), env.spec.decisions, key)
    scores, trajectories = {}, {}
    for i, name in enumerate(names):
        rows = slice(i * config.episodes, (i + 1) * config.episodes)
        one = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf[rows]), whole)
        success = None
        if criterion := (criteria or {}).get(name):
            success = criterion(one.path)
        elif (trial := trials[name]) and trial.met:
            success = ever(one, trial.met(one.path), env.spec.hold)
        scores[name] = Scores(returns(one, tasks[name], env.spec.hold), success)
        trajectories[name] = one
    return scores, trajectories


def returns(whole: Trajectory, task: Task, hold: int) -> Float[np.ndarray, " E"]:
    """The undiscounted return of each episode, host arrays; nothing is paid behind a termination."""
    return np.where(np.repeat(_running(whole.discount), hold, 1), rewards(whole, task, hold), 0.0).sum(1)


def rewards(whole: Trajectory, task: Task, hold: int) -> Float[np.ndarray, "E S"]:
    """What a task pays at each control step, host arrays."""
    action = np.repeat(whole.action, hold, 1)
    before = {
        quantity: np.concatenate([whole.quantities[quantity][:, :1], leaf[:, :-1]], 1)
        for quantity, leaf in whole.path.items()
    }
    return np.asarray(task(before, action, whole.path), np.float64)


def ever(whole: Trajectory, met: Bool[Any, "E S"], hold: int) -> Bool[np.ndarray, " E"]:
    """Whether a goal that is met at those control steps was met in each episode; not behind a termination."""
    running = np.repeat(_running(whole.discount), hold, 1)
    return np.any(np.asarray(met) & running, axis=1)


def _side_by_side(latents: Sequence[np.ndarray]) -> Float[Array, "N T D"]:
    """Latents [D] or [T, D] as tracks of one length; shorter ones end in repetitions of their last."""
    tracks = [np.atleast_2d(np.asarray(z)) for z in latents]
    steps = max(map(len, tracks))
    return jnp.asarray(np.stack([track[np.minimum(np.arange(steps), len(track) - 1)] for track in tracks]))


@functools.lru_cache(maxsize=8)  # the same behaviour gives the same one again, which is then compiled already
def _walking(behave: Behaviour) -> Behaviour:
    """`behave` along tracks of latents; its carry is `(decision, (params, tracks [E, T, D], inner carry))`."""

    def walk(obs: Obs, carry: tuple[Array, tuple[Params, Array, Carry]], key: RandomKey) -> tuple[Any, Any]:
        decision, (params, tracks, inner) = carry
        z = tracks[:, jnp.minimum(decision, tracks.shape[1] - 1)]
        action, (_, _, inner) = behave(obs, (params, z, inner), key)
        return action, (decision + 1, (params, tracks, inner))

    return walk


def _running(discount: Float[np.ndarray, "E T"]) -> Bool[np.ndarray, "E T"]:
    """Whether no earlier decision terminated the world: what happens after that belongs to another episode."""
    terminated = discount == 0
    return np.cumsum(terminated, 1) - terminated == 0


def random_behaviour(action: int) -> Behaviour:
    """Uniformly random actions, with the carry of an agent's behaviour; the baseline that knows nothing."""

    def behave(obs: Obs, carry: Any, key: RandomKey) -> tuple[Any, Any]:
        count = next(iter(obs.values())).shape[0]
        return jax.random.uniform(key, (count, action), minval=-1.0, maxval=1.0), carry

    return behave
