"""Transitions resident on the device: episodes stored step by step, sampled inside the training scan.

Each observation is stored once. `starts` lists the rows that begin a transition; its next observation is the row
behind it, so an episode of T transitions takes T + 1 rows and its last row never begins one.
"""

from collections.abc import Mapping, Sequence
from typing import no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from embodied.types import Batch, InputError, Source


@no_type_check
@struct.dataclass
class Steps:
    """M stored rows. Row i + 1 follows row i within an episode."""

    obs: Mapping[str, Array]  # leaves [M, ...]
    action: Float[Array, "M A"]  # taken in row i; unused in an episode's last row
    reward: Float[Array, " M"]  # of the transition that begins in row i
    discount: Float[Array, " M"]  # of the transition that begins in row i
    physics: Float[Array, "M P"]  # float32 physics state of row i


@no_type_check
@struct.dataclass
class Dataset:
    """Stored rows and the rows that begin a transition."""

    steps: Steps
    starts: Int[Array, " N"]


def from_episodes(episodes: Sequence[Mapping[str, np.ndarray]]) -> Dataset:
    """A dataset of host arrays from episodes with `state` [T+1, O], `action` [T, A], `physics` [T+1, P].

    Optional: `reward` [T] (zeros), `discount` [T] (ones).
    """
    if not episodes:
        raise InputError("dataset: needs at least one episode, got none")
    lengths = np.array([len(episode["action"]) for episode in episodes])
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    starts = np.concatenate([offset + np.arange(length) for offset, length in zip(offsets, lengths, strict=True)])

    def pad(episode: Mapping[str, np.ndarray], name: str, fill: float) -> np.ndarray:
        values = np.asarray(episode.get(name, np.full(len(episode["action"]), fill)), np.float32)
        return np.concatenate([values, values[-1:]])

    rows = lambda name: np.concatenate([np.asarray(e[name], np.float32) for e in episodes])  # noqa: E731
    steps = Steps(
        obs={"state": rows("state")},
        action=np.concatenate([pad(e, "action", 0.0) for e in episodes]),
        reward=np.concatenate([pad(e, "reward", 0.0) for e in episodes]),
        discount=np.concatenate([pad(e, "discount", 1.0) for e in episodes]),
        physics=rows("physics"),
    )
    return Dataset(steps, starts.astype(np.int32))


def gather(steps: Steps, index: Int[Array, " B"]) -> Batch:
    """The transitions that begin in the given rows."""
    following = index + 1
    return Batch(
        obs={name: leaf[index] for name, leaf in steps.obs.items()},
        action=steps.action[index],
        next_obs={name: leaf[following] for name, leaf in steps.obs.items()},
        reward=steps.reward[index],
        discount=steps.discount[index],
    )


def from_dataset(dataset: Dataset, batch_size: int) -> Source:
    """A source of uniformly drawn transitions; the dataset is its read-only data, its state is empty."""

    def sample(data: Dataset, state: tuple[()], key: Key[Array, ""]) -> tuple[tuple[()], Batch]:
        index = jax.random.randint(key, (batch_size,), 0, data.starts.shape[0])
        return state, gather(data.steps, data.starts[index])

    return Source(data=jax.tree.map(jnp.asarray, dataset), init=lambda key: (), next=sample)
