"""What a policy's skills do: how far and how differently they move what they shall move, how reliably, at what cost.

Every skill acts from the same starts. A displacement is where the moved parts of the state are at some moment less
where they were at the start, in the units of the observation (m for positions).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, no_type_check

import jax
import numpy as np
from jaxtyping import Bool, Float

from embodied.evaluate import EvaluateConfig, rewards
from embodied.policy import Policy
from embodied.rewards import Task
from embodied.rollout import rollout, still_behaviour
from embodied.types import Env, InputError, Prior

CELL = 0.05  # side of the cells that coverage counts, in units of the observation


@no_type_check
@dataclasses.dataclass(frozen=True)
class Played:
    """Episodes of S skills from each of R starts, T decisions long."""

    latents: Float[np.ndarray, "S D"]
    places: Float[np.ndarray, "S R T+1 M"]  # of what skills move
    physics: Float[np.ndarray, "S R T+1 P"]
    paid: Mapping[str, Float[np.ndarray, "S R"]]  # mean reward per control step of each task that was asked for
    broken: Bool[np.ndarray, "S R T"] | None  # decisions in which the task "safety" fell below 0; None without it
    touched: Bool[np.ndarray, "S R T"] | None  # decisions that ended in contact, where the world knows the quantity

    @property
    def displacement(self) -> np.ndarray:
        """From the start of each episode, [S, R, T + 1, M]."""
        return self.places - self.places[:, :, :1]


def is_skilled(policy: Policy) -> bool:
    """Whether the policy has skills drawn from a prior, that move named parts of the state."""
    return getattr(policy.config, "told", None) == "skill"


def play(policy: Policy, env: Env, skills: int = 48, starts: int = 8, seed: int = EvaluateConfig().seed) -> Played:
    """Episodes of skills drawn from the prior, from held-out starts, without exploration.

    Raises InputError for a policy that has no skills.
    """
    if not is_skilled(policy):
        raise InputError(f"skills: agent '{policy.agent_name}' was not trained to have skills")
    agent, config = policy.agent, policy.config
    keys = jax.random.split(jax.random.key(seed), skills)
    latents = np.asarray(jax.vmap(lambda key: agent.prompt(policy.params, Prior(), key))(keys))
    begin = env.reset(jax.random.key(seed), starts)
    begin = jax.tree.map(lambda leaf: np.tile(np.asarray(leaf), (skills, *[1] * (np.ndim(leaf) - 1))), begin)
    carry = (policy.params, jax.numpy.repeat(latents, starts, 0), agent.carry(skills * starts))
    key = jax.random.fold_in(jax.random.key(seed), 1)
    whole = jax.device_get(rollout(env, still_behaviour(agent), begin, carry, env.spec.decisions, key))
    apart = lambda leaf: np.asarray(leaf).reshape(skills, starts, *leaf.shape[1:])  # noqa: E731

    def per_decision(task: Task) -> np.ndarray:
        return apart(rewards(whole, task, env.spec.hold).reshape(len(whole.action), -1, env.spec.hold))

    safety, contact = env.tasks.get("safety"), whole.quantities.get("contact")
    return Played(
        latents,
        apart(whole.obs["state"][..., moved_columns(policy)]),
        apart(whole.physics),
        {name: per_decision(env.tasks[name]).mean((2, 3)) for name in config.channels},
        None if safety is None else (per_decision(safety) < 0).any(-1),
        None if contact is None else apart(contact[:, 1:] > 0),
    )


def moved_columns(policy: Policy) -> list[int]:
    """Columns of the state that the policy's skills shall move."""
    parts, names = policy.spec.parts, policy.config.moved
    if not names:
        return list(range(policy.spec.obs["state"][0]))
    return [column for name in names for column in range(*parts[name])]


def measures(played: Played) -> dict[str, float]:
    """Numbers of the episodes; those about contact and safety where the world knows them.

    coverage      cells of displacement that the skills reach together from one start, mean over starts
    diversity     mean distance between the final displacements of two skills, less that of one skill from two starts
    spread        root mean square deviation of a skill's final displacement over starts, mean over skills
    recognisable  share of the variance of skills that a linear map of final displacements tells, on other starts
    contact       share of decisions that end in contact
    violations    decisions in which a limit is overstepped, per 1000
    paid_*        mean reward per control step of each channel
    """
    final = played.displacement[:, :, -1]
    found = {
        "coverage": float(coverage(played).mean()),
        "diversity": float(_pairs(final.swapaxes(0, 1)) - _pairs(final)),
        "spread": float(np.sqrt(np.square(final - final.mean(1, keepdims=True)).sum(-1).mean(1)).mean()),
        "recognisable": recognisable(played.latents, final),
    }
    if played.touched is not None:
        found["contact"] = float(played.touched.mean())
    if played.broken is not None:
        found["violations"] = 1000 * float(played.broken.mean())
    return found | {f"paid_{name}": float(values.mean()) for name, values in played.paid.items()}


def coverage(played: Played) -> Float[np.ndarray, " R"]:
    """Distinct cells of displacement that episodes of all skills pass through, from each start."""
    cells = np.floor(played.displacement / CELL + 0.5).astype(int)
    return np.array([len(np.unique(one.reshape(-1, one.shape[-1]), axis=0)) for one in cells.swapaxes(0, 1)], float)


def recognisable(latents: Float[np.ndarray, "S D"], final: Float[np.ndarray, "S R M"]) -> float:
    """The R^2, on the second half of the starts, of latents regressed on final displacements of the first half.

    0 where skills do not differ in what they do; never below 0.
    """
    skills, starts, _ = final.shape
    inputs = np.concatenate([final, np.ones((skills, starts, 1))], -1)
    half = max(starts // 2, 1)
    known = np.repeat(latents[:, None].astype(float), starts, 1)
    rows = lambda leaf: leaf.reshape(-1, leaf.shape[-1])  # noqa: E731
    weights = np.linalg.lstsq(rows(inputs[:, :half]), rows(known[:, :half]), rcond=None)[0]
    target = rows(known[:, starts - half :])
    wrong = np.square(target - rows(inputs[:, starts - half :]) @ weights).sum()
    total = np.square(target - target.mean(0)).sum()
    return float(max(0.0, 1 - wrong / max(total, 1e-12)))


def _pairs(points: Float[np.ndarray, "G N M"]) -> Any:
    """The mean distance between two different points of a group, mean over groups; 0 for groups of one."""
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    count = points.shape[1]
    return distance.sum((1, 2)).mean() / max(count * (count - 1), 1)
