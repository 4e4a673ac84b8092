"""Stored transitions: what lies where, and what a draw may return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.data import normalize
from embodied.data.dataset import from_dataset, from_episodes, gather, look_ahead, steps_ahead
from embodied.types import InputError, Needs, Spec
from tests.embodied.toys import episodes

LENGTHS = (5, 1, 3, 7)
EVERYTHING = Needs(future=0.8, chain=3)


def test_rows_lie_episode_behind_episode_with_one_more_state_than_actions():
    stored = from_episodes(episodes((2, 1)))
    np.testing.assert_array_equal(stored.steps.obs["state"], [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    np.testing.assert_array_equal(stored.steps.physics, [[0], [1], [2], [1000], [1001]])
    np.testing.assert_array_equal(stored.starts, [0, 1, 3])
    assert stored.steps.action.shape == (5, 1)


def test_gather_returns_the_transition_that_begins_in_a_row():
    episode = episodes((3,))[0]
    batch = gather(from_episodes([episode]).steps, jnp.array([2, 0]))
    np.testing.assert_array_equal(batch.obs["state"], [[0, 2], [0, 0]])
    np.testing.assert_array_equal(batch.next_obs["state"], [[0, 3], [0, 1]])
    np.testing.assert_array_equal(batch.action, episode["action"][[2, 0]])
    np.testing.assert_array_equal(batch.reward, [2.0, 0.0])
    np.testing.assert_array_equal(batch.discount, [0.0, 1.0])


def test_reward_is_zero_and_discount_one_where_episodes_do_not_say():
    bare = [{name: e[name] for name in ("state", "action", "physics")} for e in episodes((2, 2))]
    steps = from_episodes(bare).steps
    np.testing.assert_array_equal(steps.reward, np.zeros(6))
    np.testing.assert_array_equal(steps.discount, np.ones(6))


@pytest.fixture(scope="module")
def drawn():
    """8000 drawn transitions of unequal episodes."""
    source = from_dataset(from_episodes(episodes(LENGTHS)), 8000)
    return source.next(source.data, source.init(jax.random.key(0)), jax.random.key(1))[1]


def test_no_draw_crosses_the_end_of_an_episode(drawn):
    (episode, time), (next_episode, next_time) = drawn.obs["state"].T, drawn.next_obs["state"].T
    np.testing.assert_array_equal(episode, next_episode)
    np.testing.assert_array_equal(time + 1, next_time)
    assert (np.asarray(next_time) <= np.asarray(LENGTHS)[np.asarray(episode, int)]).all()
    np.testing.assert_array_equal(drawn.reward, 100 * episode + time)


def test_every_transition_is_drawn_about_equally_often(drawn):
    _, counts = np.unique(np.asarray(drawn.reward), return_counts=True)
    assert len(counts) == sum(LENGTHS)
    # 500 each; the standard deviation of a count is below 22.
    assert np.abs(counts - 500).max() < 5 * 22


def test_draws_differ_with_the_key_and_repeat_with_it():
    source = from_dataset(from_episodes(episodes(LENGTHS)), 16)
    draw = lambda seed: np.asarray(source.next(source.data, (), jax.random.key(seed))[1].reward)  # noqa: E731
    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).any()


def test_source_without_needs_yields_the_plain_transitions_bit_for_bit():
    source, key = from_dataset(from_episodes(episodes(LENGTHS)), 16), jax.random.key(3)
    batch = source.next(source.data, (), key)[1]
    expected = gather(source.data.steps, source.data.starts[jax.random.randint(key, (16,), 0, sum(LENGTHS))])
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_needs_do_not_change_which_transitions_are_drawn():
    stored = from_episodes(episodes(LENGTHS))
    sources = from_dataset(stored, 64), from_dataset(stored, 64, EVERYTHING)
    plain, more = (source.next(source.data, (), jax.random.key(5))[1] for source in sources)
    jax.tree.map(np.testing.assert_array_equal, plain, more.replace(future=None, chain=None))
    np.testing.assert_array_equal(more.chain.action[:, 0], more.action)
    np.testing.assert_array_equal(more.chain.next_obs["state"][:, 0], more.next_obs["state"])
    np.testing.assert_array_equal(more.chain.inside[:, 0], np.ones(64))


def test_futures_and_chains_of_every_transition_stay_in_its_life():
    """All starts, many keys: an episode of seven with a termination in its middle is two lives."""
    made = episodes(LENGTHS)
    made[3]["discount"][2] = 0.0  # the world goes on from a fresh start at time 3
    stored = from_episodes(made)
    np.testing.assert_array_equal(stored.ends, [4, 6, 10, 14, 18])
    life_ends = {0: [5], 1: [1], 2: [3], 3: [3, 7]}  # times that end the lives of each episode
    source = from_dataset(stored, 10_000, EVERYTHING)
    batch = source.next(source.data, (), jax.random.key(0))[1]
    (episode, time), (later_episode, later) = (np.asarray(o["state"], int).T for o in (batch.obs, batch.future))
    end = np.array([next(t for t in life_ends[e] if t > now) for e, now in zip(episode, time, strict=True)])
    np.testing.assert_array_equal(later_episode, episode)
    assert (later > time).all()
    assert (later <= end).all()
    assert {(e, now, then) for e, now, then in zip(episode, time, later, strict=True)} == {
        (e, now, then)
        for e, stops in life_ends.items()
        for begin, stop in zip([0, *stops], stops, strict=False)
        for now in range(begin, stop)
        for then in range(now + 1, stop + 1)
    }
    for step in range(3):
        inside = np.asarray(batch.chain.inside[:, step])
        np.testing.assert_array_equal(inside, time + step < end)
        reached = np.asarray(batch.chain.next_obs["state"][:, step], int)
        np.testing.assert_array_equal(reached, np.stack([episode, np.minimum(time + step + 1, end)], 1))
        row = list(zip(episode, np.minimum(time + step, end - 1), strict=True))
        for name in ("action", "reward", "discount"):
            stored_there = np.stack([made[e][name][t] for e, t in row])
            np.testing.assert_array_equal(getattr(batch.chain, name)[:, step], stored_there)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
def test_steps_ahead_are_geometric_within_what_is_left(discount):
    most = jnp.full(20_000, 4)
    ahead = np.asarray(steps_ahead(jax.random.key(1), most, discount))
    share = np.bincount(ahead, minlength=6)[1:] / 20_000
    expected = discount ** np.arange(4.0) / (discount ** np.arange(4.0)).sum()
    np.testing.assert_allclose(share, [*expected, 0], atol=0.02)  # five standard deviations
    np.testing.assert_array_equal(steps_ahead(jax.random.key(1), jnp.ones(100, int), discount), np.ones(100))


def test_futures_read_every_observation_of_the_row_that_they_lead_to():
    stored = from_episodes(episodes((4,))).steps
    stored = stored.replace(obs={**stored.obs, "privileged": 10 * stored.obs["state"]})
    index, last = jnp.arange(4), jnp.full(4, 4)
    batch = look_ahead(gather(stored, index), stored, index, last, EVERYTHING, jax.random.key(0))
    np.testing.assert_array_equal(batch.future["privileged"], 10 * batch.future["state"])
    np.testing.assert_array_equal(batch.chain.next_obs["privileged"], 10 * batch.chain.next_obs["state"])


def test_dataset_without_episodes_is_refused():
    with pytest.raises(InputError, match="needs at least one episode"):
        from_episodes([])


def test_statistics_standardise_each_component_and_leave_constant_ones():
    state = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    mean, std = normalize.statistics({"state": state})
    assert mean == {"state": (2.0, 5.0)}
    assert std == {"state": (1.0, 1.0)}
    spec = Spec(obs={"state": (2,)}, action=1, mean=mean, std=std)
    np.testing.assert_array_equal(normalize.observation_inputs("raw", spec, ("state",))({"state": state}), state)
    standard = normalize.observation_inputs("standardized", spec, ("state",))({"state": state})
    np.testing.assert_allclose(standard, [[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])


def test_observations_are_joined_in_the_given_order_each_with_its_own_statistics():
    spec = Spec(
        obs={"privileged": (1,), "state": (2,)},
        action=1,
        mean={"privileged": (3.0,), "state": (1.0, 2.0)},
        std={"privileged": (2.0,), "state": (1.0, 4.0)},
    )
    assert spec.trained_on == ("state", "privileged")
    obs = {"privileged": np.array([[7.0]], np.float32), "state": np.array([[2.0, 6.0]], np.float32)}
    joined = {i: normalize.observation_inputs(i, spec, spec.trained_on)(obs) for i in ("raw", "standardized")}
    np.testing.assert_array_equal(joined["raw"], [[2.0, 6.0, 7.0]])
    np.testing.assert_array_equal(joined["standardized"], [[1.0, 1.0, 2.0, 1.0]])
    np.testing.assert_array_equal(
        normalize.observation_inputs("standardized", spec, ("state",))({"state": obs["state"]}), [[1.0, 1.0, 1.0]]
    )
