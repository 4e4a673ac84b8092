"""Search over latents in the simulator: the weights stay, only z moves, on the sphere of radius sqrt(D).

Both methods perturb a mean latent, score all candidates on the same start states in one batch, and move the mean:

    cem       mean <- project(mean of the best `elites` candidates)                     (cross-entropy method)
    gradient  mean <- project(mean + step * g / |g|),  g = sum_i (J_i - mean of the other J_j) eps_i

The second is REINFORCE with a leave-one-out baseline; with `terminal` the frozen value of the last state stands for the
rest of the episode, as in LoLA (Sikchi et al. 2025). Candidates are project(mean + spread eps), with a spread that
shrinks linearly to zero, kept within an angle of the latent that the search began from. The mean itself is scored in
every iteration and the best one seen is returned: on the searched episodes it is never worse than the start.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from embodied.evaluate import EvaluateConfig, returns
from embodied.policy import Policy
from embodied.ranges import check_choice, check_ranges
from embodied.rewards import Task
from embodied.rollout import rollout, scored_behaviour
from embodied.types import Agent, Env, InputError, Reward, Timestep

METHODS = ("cem", "gradient")
STEP = 0.5  # of the gradient, in lengths of a perturbation
RANGES = {
    "[1, inf)": ("iterations", "elites", "episodes"),
    "[2, inf)": ("population",),
    "[0, inf)": ("horizon",),
    "(0, inf)": ("spread",),
    "(0, 180]": ("trust",),
    # Scores are given on the starts of the bound itself, so they are held out whatever seed is searched with.
    f"[0, {EvaluateConfig().seed})": ("seed",),
}


@dataclasses.dataclass(frozen=True)
class Search:
    """How a latent is searched for; an iteration costs (population + 1) * episodes rollouts."""

    method: str = "cem"  # or "gradient"
    iterations: int = 8
    population: int = 15  # candidates per iteration, beside the mean
    elites: int = 4  # best candidates that the next mean is made of (cem)
    episodes: int = 4  # that every candidate is scored on
    horizon: int = 0  # control steps of an episode that are simulated; 0 = all of them
    terminal: bool = False  # the agent's value of the last state stands for the steps behind the horizon
    spread: float = 0.3  # of the first candidates, in lengths of the latent
    trust: float = 60.0  # largest angle to the inferred latent, in degrees
    seed: int = 0  # of start states and perturbations

    def __post_init__(self) -> None:
        check_choice("search", "method", self.method, METHODS)
        check_ranges("search", self, RANGES)
        if self.elites > self.population:
            raise InputError(f"search: elites must be at most the population, {self.population}, got {self.elites}")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search returns."""

    z: np.ndarray  # float32 [D]
    progress: tuple[float, ...]  # score of the mean at the start, after each iteration, on the searched episodes
    rollouts: int


Score = Callable[[Float[np.ndarray, "P D"]], Float[np.ndarray, " P"]]


def search(score: Score, start: Float[np.ndarray, " D"], config: Search) -> Found:
    """The best mean latent that the search came across; `start` bit for bit where none was better.

    `score` says how good each of several float32 latents is, the higher the better.
    """
    generator = np.random.Generator(np.random.PCG64(config.seed))
    mean = np.asarray(start, np.float64)
    means, progress = [mean], []
    for i in range(config.iterations):
        spread = config.spread * (1.0 - i / config.iterations)
        noise = generator.normal(size=(config.population, len(mean)))
        candidates = within(mean + spread * noise, start, config.trust)
        scores = _finite(score(np.concatenate([mean[None], candidates]).astype(np.float32)))
        progress.append(float(scores[0]))
        if config.method == "cem":
            best = np.argsort(-scores[1:], kind="stable")[: config.elites]
            mean = within(candidates[best].mean(0), start, config.trust)
        else:
            mean = within(mean + STEP * spread * _ascent(scores[1:], noise), start, config.trust)
        means.append(mean)
    progress.append(float(_finite(score(mean[None].astype(np.float32)))[0]))
    return Found(
        z=means[int(np.argmax(progress))].astype(np.float32),
        progress=tuple(progress),
        rollouts=(config.iterations * (config.population + 1) + 1) * config.episodes,
    )


def within(z: Float[np.ndarray, "*b D"], centre: Float[np.ndarray, " D"], trust: float) -> Float[np.ndarray, "*b D"]:
    """z on the sphere of radius sqrt(D), moved along it towards `centre` where further than `trust` degrees away."""
    limit = np.radians(trust)
    unit = z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
    axis = np.asarray(centre, np.float64) / np.linalg.norm(np.asarray(centre, np.float64))
    cosine = (unit * axis).sum(-1, keepdims=True)
    aside = unit - cosine * axis
    aside = aside / np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-12)
    rim = np.cos(limit) * axis + np.sin(limit) * aside
    return np.where(cosine < np.cos(limit), rim, unit) * z.shape[-1] ** 0.5


def _ascent(scores: Float[np.ndarray, " P"], noise: Float[np.ndarray, "P D"]) -> Float[np.ndarray, " D"]:
    """The policy gradient with a leave-one-out baseline, as long as a latent; zero where all score the same."""
    count = len(scores)
    advantage = scores - (scores.sum() - scores) / (count - 1)
    gradient = (advantage[:, None] * noise).sum(0)
    length = np.linalg.norm(gradient)
    return gradient / length * noise.shape[1] ** 0.5 if length > 0 else gradient


def _finite(scores: Any) -> Float[np.ndarray, " P"]:
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise InputError(f"search: the return of candidate {int(np.argmin(np.isfinite(scores)))} is not finite")
    return scores


def starts(env: Env, config: Search, task: Task | None = None) -> Timestep:
    """The states that every candidate starts from: those of the task where it has its own."""
    return env.begin(task, jax.random.key(config.seed), config.episodes)


def in_simulator(policy: Policy, env: Env, prompt: Reward, task: Task, config: Search) -> Score:
    """A latent's mean return over the search's own episodes, all candidates and episodes in one rollout.

    Raises InputError for a horizon that the world does not have, or a terminal value that the agent does not have.
    """
    spec, agent = env.spec, policy.agent
    horizon = config.horizon or spec.episode_length
    if not spec.hold <= horizon <= spec.episode_length or horizon % spec.hold:
        raise InputError(
            f"search: horizon must be 0 or a multiple of {spec.hold} control steps, at most the world's "
            f"{spec.episode_length}, got {config.horizon}"
        )
    rest = spec.episode_length - horizon if config.terminal else 0
    if config.terminal and (agent.value is None or not rest):
        why = f"'{policy.agent_name}' has no value" if agent.value is None else "the horizon is the whole episode"
        raise InputError(f"search: terminal must be False where {why}, got True")
    start, behave = starts(env, config, task), scored_behaviour(agent)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)

    def score(latents: Float[np.ndarray, "P D"]) -> Float[np.ndarray, " P"]:
        count = len(latents)
        tiled = jax.tree.map(lambda leaf: np.concatenate([np.asarray(leaf)] * count), start)
        z = jnp.asarray(np.repeat(latents, config.episodes, 0))
        carry = (policy.params, z, agent.carry(len(z)))
        whole = jax.tree.map(np.asarray, rollout(env, behave, tiled, carry, horizon // spec.hold, key))
        total = returns(whole, task, spec.hold)
        if rest:
            last = jax.tree.map(lambda leaf: leaf[:, -1], whole.obs)
            ahead = np.asarray(_value(agent)(policy.params, prompt, z, last), np.float64) * rest
            total = total + np.where((whole.discount == 0).any(1), 0.0, ahead)
        return total.reshape(count, config.episodes).mean(1)

    return score


@functools.lru_cache(maxsize=8)
def _value(agent: Agent) -> Any:
    assert agent.value is not None
    return jax.jit(agent.value)
