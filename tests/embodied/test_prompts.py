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


def share_unexplained(features, reward, held, solve):
    """By hand: what an affine function of the solved direction, fitted on the other rows, leaves of the held ones."""
    direction = solve(features[~held], reward[~held])
    columns = np.stack([features[~held] @ direction, np.ones((~held).sum())], 1)
    slope, offset = np.linalg.lstsq(columns, reward[~held], rcond=None)[0]
    return np.square(reward[held] - slope * (features[held] @ direction) - offset).sum() / len(reward) / reward.var()


def test_held_out_errors_are_those_of_five_folds_by_hand():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(43, 4))
    reward = x @ [1.0, 0.0, -1.0, 2.0] + rng.normal(size=43) + 5.0

    def solve(features, reward):
        scale = 0.1 * np.square(features).mean(0).sum() / 4
        return np.linalg.solve(
            features.T @ features / len(reward) + scale * np.eye(4), features.T @ reward / len(reward)
        )

    expected = sum(share_unexplained(x, reward, np.arange(43) % 5 == fold, solve) for fold in range(5))
    (got,) = prompts.held_out_errors(
        jnp.asarray(x, jnp.float32), reward_prompt(reward), prompts.infer_by_regression, ({**RIDGE, "ridge": 0.1},)
    )
    assert 0.1 < expected < 0.9
    np.testing.assert_allclose(got, expected, rtol=1e-4)


RIDGE = {"inference": "ridge"}


def overfitted(rows=40, width=30, noise=3.0):
    """Few rows of many features under noise: without a ridge, least squares learns the noise by heart."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(rows, width))
    wish = rng.normal(size=width)
    reward = x @ wish + noise * np.linalg.norm(wish) * rng.normal(size=rows)
    return jnp.asarray(x, jnp.float32), reward, wish


def test_auto_takes_a_strong_ridge_where_least_squares_learns_noise_by_heart():
    features, reward, wish = overfitted()
    chosen = settled(prompts.infer_by_regression, features, reward)
    assert (chosen.inference, chosen.ridge) == ("ridge", 1.0)
    near = lambda **option: cosine(prompts.infer_by_regression(features, reward_prompt(reward, **option)), wish)  # noqa: E731
    assert near(inference="auto") > near(inference="plain") + 0.05


def test_auto_takes_no_ridge_where_rewards_are_exact():
    features, _, wish = overfitted(rows=200)
    features = jnp.asarray(
        np.asarray(features) * np.geomspace(1.0, 0.05, 30, dtype=np.float32)
    )  # any ridge would bend the small ones
    chosen = settled(prompts.infer_by_regression, features, np.asarray(features) @ wish)
    assert chosen.inference == "plain"


def test_auto_takes_the_temperature_at_which_the_weighted_mean_points_to_the_reward():
    # Rewards fall from 1 to 0 along the first axis and from 0.6 to 0.4 along the second, where six times as many states
    # lie: they ask for (0.5, 0.1), a ratio of 0.2. The weighted mean has 6 (0.6 exp(-0.4 T) - 0.4 exp(-0.6 T)): 0.69 at
    # T = 3, 0.06 at T = 10, more before and nothing at all after.
    rng = np.random.default_rng(7)
    kinds = [((1.0, 0.0), 1.0, 1), ((0.0, 1.0), 0.6, 6), ((0.0, -1.0), 0.4, 6), ((-1.0, 0.0), 0.0, 1)]
    features = np.concatenate([np.tile(feature, (40 * count, 1)) for feature, _, count in kinds])
    reward = np.concatenate([np.full(40 * count, level) for _, level, count in kinds])
    order = rng.permutation(len(reward))
    features, reward = jnp.asarray(features[order], jnp.float32), reward[order]
    options = tuple({"inference": "softmax", "temperature": t} for t in (0.1, 1.0, 3.0, 10.0, 30.0))
    errors = np.asarray(prompts.held_out_errors(features, reward_prompt(reward), prompts.infer_by_correlation, options))
    latents = [prompts.infer_by_correlation(features, reward_prompt(reward, **option)) for option in options]
    ratios = [float(z[1] / z[0]) for z in latents]
    np.testing.assert_allclose(ratios[2:4], [0.69, 0.06], atol=0.01)
    assert np.argmin(errors) == 3
    # By hand for the ratio q: the share that the best multiple of (1, q) leaves of the variance along (0.5, 0.1).
    left = [1 - (0.5 + 6 * 0.1 * q) ** 2 / (1 + 6 * q**2) / (0.25 + 6 * 0.01) for q in ratios]
    np.testing.assert_allclose(errors, left, atol=0.02)


def settled(infer, features, reward):
    return prompts.settle(reward_prompt(reward, inference="auto"), lambda prompt: infer(features, prompt))


@pytest.mark.parametrize("infer", [prompts.infer_by_regression, prompts.infer_by_correlation])
def test_auto_gives_the_latent_of_what_it_settles_on_bit_for_bit(features, infer):
    reward = np.asarray(features @ WISH) ** 2
    chosen = settled(infer, features, reward)
    assert chosen.inference != "auto"
    np.testing.assert_array_equal(infer(features, chosen), infer(features, reward_prompt(reward, inference="auto")))
    ridge = reward_prompt(reward, inference="ridge")
    assert prompts.settle(ridge, lambda prompt: infer(features, prompt)) is ridge


def test_auto_refuses_rows_too_few_to_hold_any_out(features):
    with pytest.raises(InputError, match="inference 'auto' holds rows out and needs at least 10, got 9"):
        prompts.infer_by_regression(features[:9], reward_prompt(np.arange(9), inference="auto"))


def test_latents_of_resampled_rows_agree_where_rewards_are_exact_and_less_under_noise(features):
    noise = np.random.default_rng(8).normal(size=400)

    def agreed(reward):
        rows = Reward(obs={"features": features}, reward=jnp.asarray(reward, jnp.float32))
        again = prompts.resampled(rows, 6, 0)
        assert len(again) == 6
        return prompts.agreement(np.stack([prompts.infer_by_regression(one.obs["features"], one) for one in again]))

    assert agreed(features @ WISH) == pytest.approx(1.0, abs=1e-6)
    assert agreed(np.asarray(features @ WISH) + 50 * noise) < 0.97


def test_resampled_rows_keep_their_rewards_and_are_drawn_by_the_seed():
    rows = Reward(obs={"state": jnp.arange(50.0)[:, None]}, reward=jnp.arange(50.0))
    first, second = prompts.resampled(rows, 2, 3)
    np.testing.assert_array_equal(first.obs["state"][:, 0], first.reward)
    assert len(set(np.asarray(first.reward).tolist())) < 50
    assert (first.reward != second.reward).any()
    np.testing.assert_array_equal(prompts.resampled(rows, 1, 3)[0].reward, first.reward)


def test_agreement_is_the_mean_cosine_to_the_mean_latent():
    assert prompts.agreement(np.array([[2.0, 0.0], [0.0, 2.0]])) == pytest.approx(0.5**0.5)
    assert prompts.agreement(np.array([[1.0, 1.0]] * 3)) == pytest.approx(1.0)
    # What asks for nothing agrees with nothing.
    assert prompts.agreement(np.array([[1.0, 1.0], [0.0, 0.0], [np.nan, 1.0]])) == pytest.approx(1 / 3)


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
