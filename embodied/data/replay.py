"""A ring of recent episodes on the device, filled by a simulator between training chunks.

Episodes have one fixed length T and take T + 1 rows; the ring is part of the checkpoint, so a resumed run samples
what the interrupted one would have sampled.
"""

from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from embodied.data.dataset import Steps, gather, look_ahead
from embodied.types import TRANSITIONS, Batch, InputError, Needs, Source


@no_type_check
@struct.dataclass
class Ring:
    """Room for S episodes of T + 1 rows."""

    steps: Steps  # leaves [S * (T + 1), ...]
    written: Int[Array, ""]  # episodes written so far, those overwritten included


def empty(example: Steps, episodes: int) -> Ring:
    """A ring with room for `episodes` episodes like `example` (one episode: leaves [T + 1, ...])."""
    steps = jax.tree.map(lambda leaf: jnp.zeros((episodes * leaf.shape[0], *leaf.shape[1:]), leaf.dtype), example)
    return Ring(steps, jnp.int32(0))


def add(ring: Ring, episodes: Steps, rows: int) -> Ring:
    """The ring with whole episodes written (leaves [E * rows, ...]); the oldest make room, among the new ones too."""
    return _add(ring, jax.tree.map(jnp.asarray, episodes), rows)


def _write(ring: Ring, episodes: Steps, rows: int) -> Ring:
    capacity = ring.steps.action.shape[0] // rows
    count = episodes.action.shape[0] // rows
    first = max(count - capacity, 0)  # a slot written twice by one scatter would hold either episode
    slots = (ring.written + jnp.arange(first, count)) % capacity
    index = (slots[:, None] * rows + jnp.arange(rows)[None]).reshape(-1)
    steps = jax.tree.map(lambda store, new: store.at[index].set(new[first * rows :]), ring.steps, episodes)
    return Ring(steps, ring.written + count)


_add = jax.jit(_write, static_argnums=2, donate_argnums=0)


def draw(ring: Ring, rows: int, count: int, key: Key[Array, ""]) -> Int[Array, " count"]:
    """Rows that begin a transition, uniform over what the ring holds."""
    capacity = ring.steps.action.shape[0] // rows
    transitions = jnp.minimum(ring.written, capacity) * (rows - 1)
    pick = jax.random.randint(key, (count,), 0, transitions)
    return pick // (rows - 1) * rows + pick % (rows - 1)


def sample(ring: Ring, rows: int, count: int, needs: Needs, key: Key[Array, ""]) -> Batch:
    """Transitions drawn uniformly from what the ring holds, with what an agent needs besides."""
    index = draw(ring, rows, count, key)
    batch = gather(ring.steps, index)
    return look_ahead(batch, ring.steps, index, last_row(ring, rows, index), needs, jax.random.fold_in(key, 1))


def last_row(ring: Ring, rows: int, index: Int[Array, " B"]) -> Int[Array, " B"]:
    """The row in which the life of each given row ends: behind a termination, or the last one of the episode."""
    slot, time = index // rows, index % rows
    ends = (ring.steps.discount.reshape(-1, rows)[slot] == 0) | (jnp.arange(rows)[None] == rows - 2)
    return slot * rows + 1 + jnp.argmax(ends & (jnp.arange(rows)[None] >= time[:, None]), axis=1)


def from_ring(initial: Ring, rows: int, batch_size: int, needs: Needs = TRANSITIONS) -> Source:
    """A source of transitions drawn uniformly from a ring. Raises InputError for an empty one.

    `needs` are those of the agent that learns from it; they do not change which transitions are drawn.
    """
    if int(initial.written) == 0:
        raise InputError("replay: the ring is empty")

    def following(data: tuple[()], ring: Ring, key: Key[Array, ""]) -> tuple[Ring, Batch]:
        return ring, sample(ring, rows, batch_size, needs, key)

    # A copy, because the run that carries the ring is donated to each chunk.
    return Source(data=(), init=lambda key: jax.tree.map(jnp.copy, initial), next=following)
