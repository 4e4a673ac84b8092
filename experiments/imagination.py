"""The part of a run's page that is about imagination: how far ahead what a world model foresees is right."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure as Drawing

from embodied.data import collect
from embodied.evaluate import EvaluateConfig
from embodied.policy import Policy
from embodied.rollout import rollout
from embodied.types import Env, Obs
from experiments import figures, video
from experiments.figures import BLUE, INK, MUTED, WIDTH, png
from experiments.report import Block, Figure, Section, Video

EPISODES = 64  # whose actions are imagined
DECISIONS = 60  # of each, at most
SHOWN = video.COLUMNS  # of them, in the film
FILM = (
    "Above, what happened in some episodes. Below, what was foreseen of them: features have no picture, so each moment "
    "is the stored state with the nearest ones."
)


class Imagined(NamedTuple):
    """Episodes of random actions, and the features that a model foresees for the same actions."""

    physics: Float[np.ndarray, "E N+1 P"]  # where blocks of decisions end, the start first
    real: Float[np.ndarray, "E N+1 D"]  # features of these states
    foreseen: Float[np.ndarray, "E N D"]  # of all but the first
    every: int  # decisions from one to the next

    @property
    def errors(self) -> Float[np.ndarray, "2 N"]:
        """Mean distance from the real features, of those foreseen and of those at the start.

        Relative to the distance of two episodes at the same time: 1 tells nothing about which of them it is.
        """
        after = self.real[:, 1:]
        apart = np.linalg.norm(after - np.roll(after, 1, 0), axis=-1).mean(0)
        guesses = np.stack([self.foreseen, np.broadcast_to(self.real[:, :1], after.shape)])
        return np.linalg.norm(guesses - after[None], axis=-1).mean(1) / apart


def imagine(policy: Policy, env: Env, episodes: int = EPISODES, seed: int = EvaluateConfig().seed) -> Imagined:
    """Episodes of correlated noise from held-out starts, imagined from the first state on."""
    agent, key = policy.agent, jax.random.key(seed)
    decisions = min(DECISIONS, env.spec.decisions)
    noise, quiet = collect.coloured_noise(correlation=5.0), collect.noise_carry(env.spec.action, episodes)
    made = rollout(env, noise, env.reset(key, episodes), quiet, decisions, key)
    begin = {name: jnp.asarray(leaf[:, 0]) for name, leaf in made.obs.items()}
    foreseen = np.asarray(jax.jit(agent.imagine)(policy.params, begin, jnp.asarray(made.action)))  # type: ignore[arg-type]
    every = decisions // foreseen.shape[1]
    moments = slice(0, foreseen.shape[1] * every + 1, every)
    seen = {name: np.asarray(leaf[:, moments]) for name, leaf in made.obs.items()}
    flat = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in seen.items()}
    real = _features(policy, flat).reshape(episodes, -1, foreseen.shape[-1])
    return Imagined(np.asarray(made.physics)[:, moments], real, foreseen, every)


def nearest(policy: Policy, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N P"]:
    """The stored states whose features are nearest: what latents, which nobody decodes, look like."""
    stored = _features(policy, policy.buffer.obs)
    return policy.buffer.physics[(np.square(stored).sum(-1) - 2 * features @ stored.T).argmin(1)]


def _features(policy: Policy, obs: Obs) -> Float[np.ndarray, "N D"]:
    read = jax.jit(policy.agent.features)  # type: ignore[arg-type]
    device = {name: jnp.asarray(leaf) for name, leaf in obs.items() if name in policy.spec.obs}
    return np.asarray(read(policy.params, device))


def section(policy: Policy, env: Env, place: Path) -> Section:
    """The error over the horizon, and imagined episodes beside the real ones; the film is written into `place`."""
    found = imagine(policy, env)
    about = (
        f"The model is told the first observation of {len(found.real)} episodes of random actions and their actions, "
        "and nothing of what these lead to."
    )
    caption = (
        "Distance of foreseen features from those of what happened, relative to the distance between two episodes: "
        "at 1 nothing is known of where this one is. Beside it, the features of the start."
    )
    blocks: list[Block] = [about, Figure(png(curve(found, env.spec.control_dt * env.spec.hold)), caption)]
    shown = film(policy, env, found, place / "imagination.mp4")
    if shown:
        blocks.append(Video(shown, FILM))
    return Section("Imagination", blocks)


def film(policy: Policy, env: Env, found: Imagined, path: Path) -> Path | None:
    """The mp4 of some episodes, as they happened and as they were foreseen; None without a renderer."""
    happened = found.physics[:SHOWN]
    foreseen = [
        np.concatenate([real[:1], nearest(policy, features)])
        for real, features in zip(happened, found.foreseen[:SHOWN], strict=True)
    ]
    seconds = found.every * env.spec.control_dt * env.spec.hold
    return video.record(env, np.concatenate([happened, np.stack(foreseen)]), "", path, size=240, fps=1 / seconds)


def curve(found: Imagined, seconds: float) -> Drawing:
    """Both errors over the decisions ahead, each so many seconds long."""
    figure = Drawing(figsize=(WIDTH, 2.7), layout="constrained")
    axes = figure.subplots()
    ahead = found.every * np.arange(1, found.foreseen.shape[1] + 1)
    for values, name, colour in zip(found.errors, ("foreseen", "as at the start"), (BLUE, MUTED), strict=True):
        axes.plot(ahead, values, color=colour, linewidth=1.5, marker="o", markersize=3, label=name)
    axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"decisions ahead, {seconds:g} s each", fontsize=9, color=MUTED)
    axes.set_ylabel("relative error", fontsize=9, color=MUTED)
    figures.style(axes, grid="y")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure
