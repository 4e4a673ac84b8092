"""Rewards that are nowhere positive, such as goals that are not met yet: what least squares makes of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from embodied import prompts
from embodied.types import Reward


def reward_prompt(reward, **options):
    return Reward(obs={}, reward=jnp.asarray(reward, jnp.float32), **options)


@pytest.mark.parametrize("inference", prompts.VARIANTS)
def test_cost_until_done_asks_for_what_the_same_reward_above_zero_asks_for(inference):
    rng = np.random.default_rng(3)
    # Correlated and off-centre, as learned features are.
    features = jnp.asarray(rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 0.5, jnp.float32)
    reward = jnp.asarray(rng.uniform(size=400), jnp.float32)
    reward = reward - reward.min()
    wish = lambda reward: prompts.infer_by_regression(features, reward_prompt(reward, inference=inference))  # noqa: E731
    np.testing.assert_allclose(wish(reward - reward.max()), wish(reward), atol=1e-3)


def test_cost_of_a_single_goal_is_inferred_as_if_one_were_added():
    features = jnp.eye(3)[jnp.array([0, 0, 1, 2])]
    cost = np.array([-1.0, -1.0, 0.0, -1.0])
    wish = [prompts.infer_by_regression(features, reward_prompt(reward)) for reward in (cost, cost + 1)]
    np.testing.assert_array_equal(*wish)
    np.testing.assert_allclose(wish[0], [0, 3**0.5, 0], atol=1e-5)


def test_cost_of_two_goals_asks_for_the_state_that_meets_one_where_none_meets_both():
    # Feature 0: no goal is met; 1: one of the two; 2: other states, which were not sampled.
    features, cost = jnp.eye(3)[jnp.array([0, 0, 0, 1])], np.array([-2.0, -2.0, -2.0, -1.0])
    wish = prompts.infer_by_regression(features, reward_prompt(cost))
    np.testing.assert_allclose(wish, [0, 3**0.5, 0], atol=1e-5)
    # With one added the wish would be no more than to leave where one is.
    added = prompts.least_squares(features, jnp.asarray(cost + 1, jnp.float32), jnp.full(4, 0.25), 1e-6)
    np.testing.assert_allclose(added, [-1, 0, 0], atol=1e-5)
