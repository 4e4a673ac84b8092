"""Episodes as vectors: averages over the steps that count, by a policy's features or by those of a baseline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import rnd
from embodied import embedding
from embodied.types import Goal, InputError, Spec
from tests.embodied import toys

OBS = {"state": np.array([[1.0, 0.0], [3.0, 4.0], [5.0, -4.0], [np.nan, 9.0]], np.float32)}
MASK = np.array([1, 0, 1, 0])
SPEC = Spec({"state": (2,)}, 1, mean={"state": (1.0, 0.0)}, std={"state": (2.0, 4.0)})


def test_steps_that_count_are_averaged_and_those_that_do_not_may_hold_anything():
    raw = lambda obs: jnp.asarray(obs["state"])  # noqa: E731
    expected = [[1, 0], [1, 0], [3, -2], [3, -2]]
    np.testing.assert_allclose(embedding.prefixes(raw, OBS, MASK), expected)
    np.testing.assert_allclose(embedding.encode(raw, OBS, MASK), [3, -2])
    np.testing.assert_array_equal(embedding.encode(raw, OBS, np.zeros(4)), [0, 0])


def test_longer_padding_changes_nothing_and_many_episodes_are_encoded_side_by_side():
    encoder = embedding.learned(toys.policy())
    short = {"state": OBS["state"][:3]}
    alone = embedding.encode(encoder, short, MASK[:3])
    np.testing.assert_allclose(embedding.encode(encoder, OBS, MASK), alone, rtol=1e-6)
    both = {"state": jnp.stack([short["state"]] * 2)}
    together = jax.vmap(lambda obs, mask: embedding.encode(encoder, obs, mask))(both, jnp.stack([MASK[:3]] * 2))
    np.testing.assert_allclose(together, [alone, alone], rtol=1e-5)


def test_learned_features_are_those_that_a_goal_is_prompted_by():
    policy = toys.policy()
    features = embedding.learned(policy)({"state": OBS["state"][1:2]})
    goal = policy.agent.prompt(policy.params, Goal({"state": OBS["state"][1]}), jax.random.key(0))
    np.testing.assert_allclose(features[0], goal, rtol=1e-5)


def test_baselines_are_the_state_in_deviations_and_the_numbers_of_the_image():
    np.testing.assert_allclose(embedding.states(SPEC)({"state": OBS["state"][:2]}), [[0, 0], [1, 1]])
    images = np.array([0, 51, 102, 255], np.uint8).reshape(2, 1, 1, 2)
    np.testing.assert_allclose(embedding.pixels({"pixels": images}), [[0, 0.2], [0.4, 1]], rtol=1e-6)


def test_window_is_the_mean_of_the_latest_steps():
    raw = lambda obs: jnp.asarray(obs["state"])  # noqa: E731
    latest = embedding.windows(raw, {"state": OBS["state"][:3]}, width=2)
    np.testing.assert_allclose(latest, [[1, 0], [2, 2], [4, 0]])


def test_way_of_an_episode_is_its_features_at_moments_evenly_spread_up_to_each_step():
    raw = lambda obs: jnp.asarray(obs["state"])  # noqa: E731
    ways = embedding.paths(raw, {"state": OBS["state"][:3]}, points=3)
    expected = [[1, 0, 1, 0, 1, 0], [1, 0, 2, 2, 3, 4], [1, 0, 3, 4, 5, -4]]
    np.testing.assert_allclose(ways, expected)


def test_agent_without_features_is_refused_by_name():
    policy = dataclasses.replace(toys.policy(), agent_name="rnd", config=rnd.Config().tiny())
    with pytest.raises(InputError, match="agent 'rnd' has no features"):
        embedding.learned(policy)
