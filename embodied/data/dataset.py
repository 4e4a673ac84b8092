"""Transitions resident on the device: episodes stored step by step, sampled inside the training scan.

Each observation is stored once. `starts` lists the rows that begin a transition; its next observation is the row
behind it, so an episode of T transitions takes T + 1 rows and its last row never begins one.

A life is what an episode holds up to a termination; a world that terminated goes on from a fresh start, which is no
future of what was before. What agents need besides transitions (`Needs`) stays within a life.

Frames are kept as they were drawn, uint8 and once each. An observation of them, "pixels", is a stack of the latest
`STACK`, made when rows are drawn; where a life has fewer frames behind it, its first one is repeated.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key, UInt8

from embodied.types import TRANSITIONS, Batch, Chain, InputError, Needs, Obs, Source

STACK = 3  # frames that an observation of pixels shows


@no_type_check
@struct.dataclass
class Steps:
    """M stored rows. Row i + 1 follows row i within an episode."""

    obs: Mapping[str, Array]  # leaves [M, ...]
    action: Float[Array, "M A"]  # taken in row i; unused in an episode's last row
    reward: Float[Array, " M"]  # of the transition that begins in row i; [M, C] for an agent of C channels
    discount: Float[Array, " M"]  # of the transition that begins in row i
    physics: Float[Array, "M P"]  # float32 physics state of row i
    latent: Float[Array, "M D"] | None = None  # what the actor was told in row i, where that is kept
    frames: UInt8[Array, "M H W 3"] | None = None  # what a camera saw in row i
    age: Int[Array, " M"] | None = None  # with frames: rows between the first of a life and row i


@no_type_check
@struct.dataclass
class Dataset:
    """Stored rows, those that begin a transition, and of these the last one of each life; both ascend."""

    steps: Steps
    starts: Int[Array, " N"]
    ends: Int[Array, " L"]


def from_episodes(episodes: Sequence[Mapping[str, np.ndarray]], pixels: bool = False) -> Dataset:
    """A dataset of host arrays from episodes with `state` [T+1, O], `action` [T, A], `physics` [T+1, P].

    Optional: `reward` [T] (zeros), `discount` [T] (ones). With `pixels` observations are stacks of the episodes'
    frames `pixels` [T+1, H, W, 3] in place of states; otherwise frames are left out.
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
        obs={} if pixels else {"state": rows("state")},
        action=np.concatenate([pad(e, "action", 0.0) for e in episodes]),
        reward=np.concatenate([pad(e, "reward", 0.0) for e in episodes]),
        discount=np.concatenate([pad(e, "discount", 1.0) for e in episodes]),
        physics=rows("physics"),
        frames=np.concatenate([e["pixels"] for e in episodes]) if pixels else None,
        age=np.concatenate([_ages(e) for e in episodes]) if pixels else None,
    )
    final = (steps.discount[starts] == 0) | np.isin(starts, offsets + lengths - 1)
    return Dataset(steps, starts.astype(np.int32), starts[final].astype(np.int32))


def _ages(episode: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows [T+1] since the episode began or the world went on from a fresh start."""
    row = np.arange(len(episode["action"]) + 1, dtype=np.int32)
    ended = np.asarray(episode.get("discount", np.ones(len(row) - 1))) == 0
    return row - np.maximum.accumulate(np.where(np.concatenate([[False], ended]), row, 0))


def stack(steps: Steps, row: Int[Any, "*B"]) -> UInt8[Any, "*B H W channels"]:
    """The latest `STACK` frames of the given rows, the oldest first, along the last axis."""
    assert steps.frames is not None
    assert steps.age is not None
    rows = [row - steps.age[row].clip(0, back) for back in reversed(range(STACK))]
    numpy = np if isinstance(steps.frames, np.ndarray) else jnp
    return numpy.concatenate([steps.frames[one] for one in rows], -1)


def observations(steps: Steps, row: Int[Any, "*B"]) -> Obs:
    """What was observed in the given rows: leaves [*B, ...], of the rows' own kind (host or device)."""
    seen = {name: leaf[row] for name, leaf in steps.obs.items()}
    return seen if steps.frames is None else seen | {"pixels": stack(steps, row)}


def gather(steps: Steps, index: Int[Array, " B"]) -> Batch:
    """The transitions that begin in the given rows."""
    return Batch(
        obs=observations(steps, index),
        action=steps.action[index],
        next_obs=observations(steps, index + 1),
        reward=steps.reward[index],
        discount=steps.discount[index],
        latent=None if steps.latent is None else steps.latent[index],
    )


def look_ahead(
    batch: Batch,
    steps: Steps,
    index: Int[Array, " B"],
    last: Int[Array, " B"],
    needs: Needs,
    key: Key[Array, ""],
) -> Batch:
    """The batch of the transitions that begin in rows `index`, with what an agent needs besides.

    `last` are the rows in which their lives end; no row behind is read.
    """
    if needs.future is not None:
        row = index + steps_ahead(key, last - index, needs.future)
        batch = dataclasses.replace(batch, future=observations(steps, row))
    if needs.chain:
        row = index[:, None] + jnp.arange(needs.chain)[None]
        inside = (row < last[:, None]).astype(jnp.float32)
        row = jnp.minimum(row, last[:, None] - 1)
        chain = Chain(steps.action[row], observations(steps, row + 1), steps.reward[row], steps.discount[row], inside)
        batch = dataclasses.replace(batch, chain=chain)
    return batch


@no_type_check
@struct.dataclass
class Path:
    """Chains as a learner of sequences reads them: C decisions in a row, time-major, of a single task."""

    x: Float[Array, "C+1 B I"]  # what networks see before each decision, and behind the last
    action: Float[Array, "C B A"]
    reward: Float[Array, "C B"]
    discount: Float[Array, "C B"]  # 0 where the world terminated
    inside: Float[Array, "C B"]  # 1 where the decision is part of the episode; behind its end, the last one again


def path_of(batch: Batch, see: Callable[[Obs], Float[Array, "B I"]]) -> Path:
    """The chains of a batch whose rewards have one channel, as networks see them."""
    chain = batch.chain
    assert chain is not None
    major = lambda leaf: jnp.swapaxes(leaf, 0, 1)  # noqa: E731
    join = lambda now, after, later: jnp.concatenate([now[None], after[None], major(later)[1:]])  # noqa: E731
    x = jax.vmap(see)(jax.tree.map(join, batch.obs, batch.next_obs, chain.next_obs))
    return Path(x, major(chain.action), major(chain.reward)[..., 0], major(chain.discount), major(chain.inside))


def steps_ahead(key: Key[Array, ""], most: Int[Array, " B"], discount: float) -> Int[Array, " B"]:
    """k with P(k) ~ discount^k for k = 1 ... most, by inverting the distribution function; 1 for a discount of 0."""
    low = jnp.power(discount, most.astype(jnp.float32))
    uniform = 1.0 - jax.random.uniform(key, most.shape) * (1.0 - low)  # in (discount^most, 1]
    ahead = jnp.ceil(jnp.log(uniform) / jnp.log(discount)) if discount else jnp.ones(most.shape)
    return jnp.clip(ahead.astype(jnp.int32), 1, most)  # rounding may lead past either end


def from_dataset(dataset: Dataset, batch_size: int, needs: Needs = TRANSITIONS) -> Source:
    """A source of uniformly drawn transitions; the dataset is its read-only data, its state is empty.

    `needs` are those of the agent that learns from it; they do not change which transitions are drawn.
    """

    def sample(data: Dataset, state: tuple[()], key: Key[Array, ""]) -> tuple[tuple[()], Batch]:
        index = data.starts[jax.random.randint(key, (batch_size,), 0, data.starts.shape[0])]
        last = data.ends[jnp.searchsorted(data.ends, index)] + 1
        return state, look_ahead(gather(data.steps, index), data.steps, index, last, needs, jax.random.fold_in(key, 1))

    return Source(data=jax.tree.map(jnp.asarray, dataset), init=lambda key: (), next=sample)
