"""From rewards, goals and motions to latents: closed-form solves against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from embodied import prompts
from embodied.types import InputError, Reward


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    # Correlated and off-centre, as learned features are.
    return jnp.asarray(rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + 0.5, jnp.float32)


WISH = np.array([1.0, -2.0, 0.5, 0.0, 3.0], np.float32)


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def reward_prompt(reward, **options):
    return Reward(obs={}, reward=jnp.asarray(reward, jnp.float32), **options)


@pytest.mark.parametrize("inference", ["plain", "ridge"])
def test_regression_recovers_the_weights_of_a_reward_that_is_linear_in_the_features(features, inference):
    prompt = reward_prompt(features @ WISH, inference=inference, ridge=1e-6)
    z = prompts.infer_by_regression(features, prompt)
    assert cosine(z, WISH) > 1 - 1e-5
    np.testing.assert_allclose(z, 5**0.5 * WISH / np.linalg.norm(WISH), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("inference", prompts.VARIANTS)
@pytest.mark.parametrize("infer", [prompts.infer_by_regression, prompts.infer_by_correlation])
def test_every_inferred_latent_lies_on_the_sphere(features, infer, inference):
    reward = np.random.default_rng(1).uniform(size=400)
    np.testing.assert_allclose(
        np.linalg.norm(infer(features, reward_prompt(reward, inference=inference))), 5**0.5, rtol=1e-5
    )


@pytest.mark.parametrize("inference", prompts.VARIANTS)
def test_cost_until_done_asks_for_what_the_same_reward_above_zero_asks_for(features, inference):
    reward = jnp.asarray(np.random.default_rng(3).uniform(size=len(features)), jnp.float32)
    reward = reward - reward.min()
    wish = lambda reward: prompts.infer_by_regression(features, reward_prompt(reward, inference=inference))  # noqa: E731
    np.testing.assert_allclose(wish(reward - reward.max()), wish(reward), atol=1e-3)


def test_least_squares_equals_numpy_with_weights():
    rng = np.random.default_rng(2)
    x, y, weight = rng.normal(size=(50, 4)), rng.normal(size=50), rng.uniform(size=50)
    root = np.sqrt(weight)
    expected = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
    got = prompts.least_squares(*(jnp.asarray(v, jnp.float32) for v in (x, y, weight)), 0.0)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_ridge_equals_numpy_least_squares_with_extra_rows():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=50)
    penalty = 0.3 * np.square(x).sum() / 4
    rows = np.concatenate([x, np.sqrt(penalty) * np.eye(4)])
    expected = np.linalg.lstsq(rows, np.concatenate([y, np.zeros(4)]), rcond=None)[0]
    got = prompts.least_squares(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), jnp.ones(50), 0.3)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_correlation_is_the_weighted_sum_of_rewards_times_features():
    features = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    got = prompts.correlate(features, jnp.array([2.0, 3.0, 4.0]), jnp.array([0.5, 1.0, 0.25]))
    np.testing.assert_allclose(got, [2 * 0.5 + 4 * 0.25, 3 * 1.0 + 4 * 0.25])


def test_centred_correlation_ignores_scale_and_offset_of_the_reward(features):
    reward = np.random.default_rng(4).uniform(size=400)
    plain = prompts.infer_by_correlation(features, reward_prompt(reward))
    moved = prompts.infer_by_correlation(features, reward_prompt(3.0 * reward + 7.0))
    opposite = prompts.infer_by_correlation(features, reward_prompt(-reward))
    np.testing.assert_allclose(moved, plain, atol=1e-4)
    np.testing.assert_allclose(opposite, -np.asarray(plain), atol=1e-4)


def test_softmax_weights_follow_the_exponential_of_the_reward():
    weight = prompts.softmax_weight(jnp.array([0.0, 0.1, 0.3]), 10.0)
    np.testing.assert_allclose(weight, np.exp([0, 1, 3]) / np.exp([0, 1, 3]).sum(), rtol=1e-5)


def test_softmax_inference_leans_on_the_rows_of_high_reward(features):
    reward = np.zeros(400)
    reward[:2] = 1.0
    prompt = reward_prompt(reward, inference="softmax", temperature=100.0)
    z = prompts.infer_by_correlation(features, prompt)
    assert cosine(z, features[:2].sum(0)) > 1 - 1e-5


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -1.0), (1.0, 100.0), (1e-10, 0.0), (5e3, -2e4)])
@pytest.mark.parametrize("infer", [prompts.infer_by_regression, prompts.infer_by_correlation])
def test_softmax_inference_ignores_scale_and_offset_of_the_reward(features, infer, scale, shift):
    # Multiples of 1/64 stay exact when they are moved.
    reward = np.random.default_rng(4).integers(0, 65, 400) / 64
    plain = infer(features, reward_prompt(reward, inference="softmax"))
    moved = infer(features, reward_prompt(scale * reward + shift, inference="softmax"))
    np.testing.assert_allclose(moved, plain, atol=2e-3)


def test_softmax_weights_rest_on_the_reward_in_units_of_its_range():
    np.testing.assert_allclose(prompts.unit_range(jnp.array([-3.0, -1.0, -2.0])), [0.0, 1.0, 0.5])
    assert not np.any(prompts.unit_range(jnp.full(4, -7.3)))


def test_effective_samples_count_equal_weights_and_ignore_scale():
    np.testing.assert_allclose(prompts.effective_samples(jnp.full(8, 3.0)), 8.0, rtol=1e-6)
    np.testing.assert_allclose(prompts.effective_samples(jnp.array([0.0, 5.0, 0.0])), 1.0, rtol=1e-6)
    np.testing.assert_allclose(prompts.effective_samples(jnp.array([0.5, 0.25, 0.25])), 1 / 0.375, rtol=1e-6)


def test_goal_latent_solves_for_the_inverse_covariance():
    covariance = jnp.array([[2.0, 0.0], [0.0, 0.5]])
    # C^-1 (1, 1) = (0.5, 2).
    expected = np.array([0.5, 2.0]) / np.hypot(0.5, 2.0) * 2**0.5
    np.testing.assert_allclose(prompts.goal_by_covariance(jnp.ones(2), covariance), expected, rtol=1e-4)


def test_goal_latent_equals_regression_of_a_reward_that_is_paid_in_the_goal_alone(features):
    covariance = features.T @ features / 400
    one_hot = np.zeros(400)
    one_hot[7] = 1.0
    by_reward = prompts.infer_by_regression(features, reward_prompt(one_hot))
    np.testing.assert_allclose(prompts.goal_by_covariance(features[7], covariance), by_reward, atol=1e-2)


def test_window_mean_looks_ahead_and_is_cut_at_the_end():
    features = jnp.array([[1.0], [2.0], [3.0], [5.0]])
    np.testing.assert_allclose(prompts.window_mean(features, 2), [[2.5], [4.0], [5.0], [5.0]])
    np.testing.assert_allclose(prompts.window_mean(features, 1), [[2.0], [3.0], [5.0], [5.0]])
    np.testing.assert_allclose(prompts.window_mean(features, 99), [[10 / 3], [4.0], [5.0], [5.0]], rtol=1e-6)
    np.testing.assert_allclose(prompts.window_mean(features[:1], 8), [[1.0]])


@pytest.mark.parametrize("inference", ["plain", "softmax"])
@pytest.mark.parametrize("level", [0.1, 7.3])
def test_constant_reward_asks_for_nothing(features, level, inference):
    assert not np.any(prompts.infer_by_correlation(features, reward_prompt(np.full(400, level), inference=inference)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": "rigde"}, "here: unknown inference 'rigde'; did you mean 'ridge'"),
        ({"ridge": -1e-3}, r"here: ridge must be in \[0, inf\), got -0.001"),
        ({"temperature": 0.0}, r"here: temperature must be in \(0, inf\), got 0.0"),
        ({"temperature": np.nan}, "here: temperature must be .* got nan"),
    ],
)
def test_inference_that_does_not_exist_is_refused(options, message):
    prompts.check_solver("here", reward_prompt(np.arange(3), inference="softmax", ridge=0.0))
    with pytest.raises(InputError, match=message):
        prompts.check_solver("here", reward_prompt(np.arange(3), **options))
