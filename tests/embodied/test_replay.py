"""The ring of recent episodes: what it holds, what it forgets, what a draw may return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.data import replay
from embodied.data.dataset import Steps, gather
from embodied.types import InputError, Needs

LENGTH = 3  # transitions per episode
ROWS = LENGTH + 1
CAPACITY = 4  # episodes


def numbered(*numbers: int) -> Steps:
    """Episodes whose every value tells episode and time: 10 * number + time."""
    value = (10.0 * np.array(numbers)[:, None] + np.arange(ROWS)).astype(np.float32).reshape(-1)
    return Steps({"state": value[:, None]}, value[:, None], value, np.ones_like(value), value[:, None])


def ring_of(*numbers: int) -> replay.Ring:
    return replay.add(replay.empty(numbered(0), CAPACITY), numbered(*numbers), ROWS)


def held(ring: replay.Ring) -> list[int]:
    """The episode in each slot."""
    values = np.asarray(ring.steps.physics).reshape(-1, ROWS)
    np.testing.assert_array_equal(values % 10, np.tile(np.arange(ROWS), (len(values), 1)))
    return (values[:, 0] // 10).astype(int).tolist()


def test_ring_wraps_and_overwrites_its_oldest_episodes():
    ring = ring_of(1, 2, 3)
    assert int(ring.written) == 3
    ring = replay.add(ring, numbered(4, 5), ROWS)
    assert held(ring) == [5, 2, 3, 4]
    ring = replay.add(ring, numbered(6, 7, 8), ROWS)
    assert held(ring) == [5, 6, 7, 8]
    assert int(ring.written) == 8


def test_of_more_episodes_than_there_is_room_the_last_are_kept():
    ring = replay.add(ring_of(1, 2), numbered(*range(3, 12)), ROWS)
    assert int(ring.written) == 11
    assert held(ring) == [9, 10, 11, 8]
    jaxpr = jax.make_jaxpr(replay._write, static_argnums=2)(ring, numbered(*range(3, 12)), ROWS)
    scattered = [eqn.invars[2].aval.shape[0] for eqn in jaxpr.eqns if eqn.primitive.name == "scatter"]
    assert set(scattered) == {CAPACITY * ROWS}


@pytest.mark.parametrize(("numbers", "alive"), [((1, 2), {1, 2}), ((1, 2, 3, 4), {1, 2, 3, 4})])
def test_draw_is_uniform_over_what_is_held_and_never_begins_in_a_last_row(numbers, alive):
    ring = ring_of(*numbers)
    index = np.asarray(replay.draw(ring, ROWS, 2000, jax.random.key(0)))
    value = np.asarray(ring.steps.reward)[index]
    assert set((value // 10).astype(int)) == alive
    assert set(index % ROWS) == set(range(LENGTH))
    _, counts = np.unique(index, return_counts=True)
    expected = 2000 / (len(alive) * LENGTH)
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_ring_source_yields_transitions_within_one_episode():
    source = replay.from_ring(ring_of(1, 2, 3), ROWS, 64)
    ring, batch = source.next(source.data, source.init(jax.random.key(0)), jax.random.key(1))
    np.testing.assert_array_equal(batch.next_obs["state"], batch.obs["state"] + 1)
    np.testing.assert_array_equal(batch.action, batch.obs["state"])
    np.testing.assert_array_equal(batch.reward, batch.obs["state"][:, 0])
    assert int(ring.written) == 3


def test_source_starts_from_a_copy_so_that_a_donated_run_leaves_the_ring_alone():
    initial = ring_of(1, 2, 3, 4)
    source = replay.from_ring(initial, ROWS, 4)
    jax.jit(lambda ring: jax.tree.map(jnp.zeros_like, ring), donate_argnums=0)(source.init(jax.random.key(0)))
    assert held(initial) == [1, 2, 3, 4]


def test_source_without_needs_yields_the_plain_transitions_bit_for_bit():
    ring, key = ring_of(1, 2, 3), jax.random.key(3)
    batch = replay.from_ring(ring, ROWS, 16).next((), ring, key)[1]
    expected = gather(ring.steps, replay.draw(ring, ROWS, 16, key))
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    more = replay.from_ring(ring, ROWS, 16, Needs(future=0.9, chain=2)).next((), ring, key)[1]
    jax.tree.map(np.testing.assert_array_equal, expected, more.replace(future=None, chain=None))


def test_futures_and_chains_stay_in_the_life_of_their_transition():
    """Episodes of three transitions; those of episode 2 end after the first, where the world begins afresh."""
    ring = ring_of(1, 2, 3)
    ring = ring.replace(steps=ring.steps.replace(discount=ring.steps.discount.at[ROWS].set(0.0)))
    starts = jnp.array([0, 1, 2, 4, 5, 6, 8])
    np.testing.assert_array_equal(replay.last_row(ring, ROWS, starts), [3, 3, 3, 5, 7, 7, 11])
    batch = replay.from_ring(ring, ROWS, 10_000, Needs(future=0.9, chain=3)).next((), ring, jax.random.key(0))[1]
    begins, future = (np.asarray(obs["state"])[:, 0].astype(int) for obs in (batch.obs, batch.future))
    last = np.where(begins == 20, 21, begins // 10 * 10 + LENGTH)
    assert set(zip(begins, future, strict=True)) == {
        (now, then)
        for first, stop in ((10, 13), (20, 21), (21, 23), (30, 33))
        for now in range(first, stop)
        for then in range(now + 1, stop + 1)
    }
    for step in range(3):
        np.testing.assert_array_equal(batch.chain.inside[:, step], begins + step < last)
        np.testing.assert_array_equal(batch.chain.next_obs["state"][:, step, 0], np.minimum(begins + step + 1, last))
        row = np.minimum(begins + step, last - 1)
        np.testing.assert_array_equal(batch.chain.action[:, step, 0], row)
        np.testing.assert_array_equal(batch.chain.reward[:, step], row)
        np.testing.assert_array_equal(batch.chain.discount[:, step], row != 20)


def test_empty_ring_is_refused():
    with pytest.raises(InputError, match="replay: the ring is empty"):
        replay.from_ring(replay.empty(numbered(0), CAPACITY), ROWS, 4)
