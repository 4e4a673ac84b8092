"""Losses and estimators against hand-computed values and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied import losses, parallel
from tests.agents.chains import mean_over_pairs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_aggregate_of_two_heads_is_the_mean_at_zero_and_the_minimum_at_one_half(rng):
    heads = rng.normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(losses.aggregate(jnp.asarray(heads), 0.0), heads.mean(0), rtol=1e-6)
    np.testing.assert_allclose(losses.aggregate(jnp.asarray(heads), 0.5), heads.min(0), rtol=1e-5, atol=1e-6)


def test_aggregate_subtracts_the_mean_distance_between_different_heads():
    # Heads 0, 3 and 9: mean 4, distances 3, 9 and 6, their mean 6.
    heads = jnp.array([[0.0], [3.0], [9.0]])
    np.testing.assert_allclose(losses.aggregate(heads, 0.25), [4 - 0.25 * 6], rtol=1e-6)
    np.testing.assert_allclose(losses.aggregate(heads[:1], 0.5), [0.0])


def test_orthonormality_by_the_gram_identity_equals_the_masked_matrix_form(rng):
    x = rng.normal(size=(9, 4)).astype(np.float32)
    products = x.astype(np.float64) @ x.T
    off_diagonal = ~np.eye(9, dtype=bool)
    expected = np.square(products[off_diagonal]).sum() / (2 * 9 * 8) - np.diag(products).mean()
    np.testing.assert_allclose(losses.orthonormality_loss(jnp.asarray(x)), expected, rtol=1e-5)


def test_descent_on_orthonormality_ends_at_identity_covariance_and_minus_half_the_width(rng):
    count, width = 12, 3
    start = jnp.asarray(rng.normal(size=(count, width)), jnp.float32)
    population = lambda x: mean_over_pairs(lambda pair: losses.orthonormality_loss(x[pair]), count)  # noqa: E731
    descend = lambda _, x: x - 0.2 * count * jax.grad(population)(x)  # noqa: E731
    end, value = jax.jit(lambda x: (y := jax.lax.fori_loop(0, 200, descend, x), population(y)))(start)
    np.testing.assert_allclose(end.T @ end / count, np.eye(width), atol=1e-5)
    np.testing.assert_allclose(value, -width / 2, rtol=1e-5)


def test_forward_backward_loss_equals_a_loop_over_all_pairs(rng):
    heads, n, d = 2, 7, 3
    forward, backward = rng.normal(size=(heads, n, d)), rng.normal(size=(n, d))
    target, discount = rng.normal(size=(n, n)), rng.uniform(size=n)
    off_diagonal = diagonal = 0.0
    for k in range(heads):
        for i in range(n):
            for j in range(n):
                error = sum(forward[k, i, c] * backward[j, c] for c in range(d)) - discount[i] * target[i, j]
                if i == j:
                    diagonal -= error / n
                else:
                    off_diagonal += error**2 / (2 * n * (n - 1))
    inputs = (jnp.asarray(value, jnp.float32) for value in (forward, backward, target, discount))
    loss, parts = losses.forward_backward_loss(*inputs)
    np.testing.assert_allclose(loss, off_diagonal + diagonal, rtol=1e-5)
    np.testing.assert_allclose(parts["loss/fb_offdiag"], off_diagonal, rtol=1e-5)
    np.testing.assert_allclose(parts["loss/fb_diag"], diagonal, rtol=1e-5)


def test_latent_prediction_sums_over_features_and_averages_over_heads_and_rows():
    prediction = jnp.array([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]])
    # Squared distances to the targets (0, 0) and (0, 1): heads 5, 1 and 0, 10.
    target = jnp.array([[0.0, 0.0], [0.0, 1.0]])
    assert losses.latent_prediction_loss(prediction, target) == 16 / 4


def test_successor_target_adds_the_discounted_pessimistic_successors_without_gradient():
    features = jnp.array([[1.0], [1.0]])
    heads = jnp.array([[[10.0], [10.0]], [[20.0], [20.0]]])
    discount = jnp.array([0.9, 0.0])
    np.testing.assert_allclose(losses.successor_target(features, heads, discount, 0.5), [[10.0], [1.0]], rtol=1e-6)
    gradient = jax.grad(lambda *x: losses.successor_target(*x, discount, 0.5).sum(), argnums=(0, 1))(features, heads)
    assert not any(np.any(leaf) for leaf in gradient)


def test_exploration_is_clipped_and_its_gradient_is_one_even_when_saturated():
    mean = jnp.array([[-1.0, 0.0, 1.0]] * 500)
    key = jax.random.key(0)
    action = losses.explore(key, mean, 0.2, 0.3)
    assert np.abs(action).max() < 1
    noise = np.asarray(action[:, 1])
    np.testing.assert_allclose([noise.min(), noise.max()], [-0.3, 0.3], atol=1e-6)
    # A normal clipped at 1.5 deviations has variance 0.7784 sigma^2.
    assert abs(noise.std() - 0.2 * 0.7784**0.5) < 0.01
    gradient = jax.grad(lambda m: losses.explore(key, m, 0.2, 0.3).sum())(mean)
    np.testing.assert_array_equal(gradient, np.ones_like(mean))


def test_training_latents_lie_on_the_sphere_and_carry_no_gradient(rng):
    goals = jnp.asarray(rng.normal(size=(400, 6)), jnp.float32)
    z = losses.sample_latents(jax.random.key(1), goals, 0.5)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 6**0.5, rtol=1e-5)
    gradient = jax.grad(lambda g: losses.sample_latents(jax.random.key(1), g, 1.0).sum())(goals)
    assert not np.any(gradient)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_training_latents_are_shuffled_goals_in_the_asked_share(rng, ratio):
    goals = jnp.asarray(rng.normal(size=(400, 6)), jnp.float32)
    z = np.asarray(losses.sample_latents(jax.random.key(2), goals, ratio))
    on_sphere = np.asarray(goals) / np.linalg.norm(goals, axis=-1, keepdims=True)
    nearest = (z @ on_sphere.T).max(1) / 6**0.5
    origin = (z @ on_sphere.T).argmax(1)
    is_goal = nearest > 1 - 1e-5
    assert abs(is_goal.mean() - ratio) < (0.1 if 0 < ratio < 1 else 1e-9)
    assert len(set(origin[is_goal])) == is_goal.sum()  # a permutation: no goal twice
    assert (origin[is_goal] == np.flatnonzero(is_goal)).mean() < 0.1 if ratio else True


def test_latents_that_a_batch_brings_replace_the_share_asked_for():
    goals, brought = jnp.ones((4000, 3)), jnp.full((4000, 3), 7.0)
    plain = losses.sample_latents(jax.random.key(2), goals, 0.5)
    mixed = losses.sample_latents(jax.random.key(2), goals, 0.5, brought, 0.25)
    taken = (mixed == 7.0).all(1)
    np.testing.assert_allclose(taken.mean(), 0.25, atol=0.03)
    np.testing.assert_array_equal(mixed[~taken], plain[~taken])


def test_spectrum_ratio_is_the_smallest_over_the_largest_covariance_eigenvalue():
    features = jnp.array([[3.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(losses.spectrum_ratio(features), 1 / 9, rtol=1e-5)
    np.testing.assert_allclose(losses.spectrum_ratio(features.at[:, 1].set(0.0)), 0.0, atol=1e-7)


def test_distance_to_a_gaussian_is_small_for_its_draws_and_large_for_what_collapsed_or_repeats(rng):
    distance = lambda x: float(losses.gaussian_distance(jnp.asarray(x, jnp.float32), jax.random.key(0), 256, 17))  # noqa: E731
    draws = rng.normal(size=(1000, 6))
    few = np.mean([distance(draws[i : i + 50]) for i in range(0, 1000, 50)])
    assert few == pytest.approx(1.06 / 50, rel=0.2)
    assert distance(draws) < few / 10
    # A point at 0: the integral of (1 - e^(-t^2 / 2))^2 e^(-t^2 / 2) = sqrt(2 pi) (1 - 2 / sqrt 2 + 1 / sqrt 3).
    point = np.sqrt(2 * np.pi) * (1 - np.sqrt(2) + 1 / np.sqrt(3))
    assert distance(np.zeros((50, 6))) == pytest.approx(point, rel=0.02)
    repeated = np.repeat(draws[:, :1], 6, 1)
    uniform = rng.uniform(-1, 1, (1000, 6))
    shrunk, moved = 0.3 * draws, draws + 1.0
    for wrong in (repeated, uniform, shrunk, moved):
        assert distance(wrong) > 20 * distance(draws)


def test_distance_to_a_gaussian_along_one_direction_is_the_integral_on_a_fine_grid(rng):
    x = rng.uniform(-1, 2, (30, 1)).astype(np.float32)  # in one dimension every direction is this one or its opposite
    t = np.linspace(-3, 3, 20_001)
    error = np.abs(np.exp(1j * t * x).mean(0) - np.exp(-(t**2) / 2)) ** 2
    expected = np.trapezoid(error * np.exp(-(t**2) / 2), t)
    for knots, within in ((200, 1e-4), (17, 5e-3)):
        found = losses.gaussian_distance(jnp.asarray(x), jax.random.key(1), 8, knots)
        assert found == pytest.approx(expected, rel=within)


def test_distance_to_a_gaussian_of_a_batch_shared_among_devices_is_that_of_the_whole(rng):
    mesh = parallel.mesh(2, 8)
    # Each half is a point, and both together are two: no mean of halves tells that.
    halves = jnp.repeat(jnp.array([[-1.0, 0.5], [1.0, -0.5]]), 4, 0) + jnp.asarray(rng.normal(size=(8, 2)) * 0.1)
    distance = lambda x, mesh: losses.gaussian_distance(parallel.split(x, mesh), jax.random.key(0), 16, 17)  # noqa: E731
    whole = distance(halves, None)
    shared, gradient = jax.jit(jax.value_and_grad(lambda x: distance(x, mesh)))(halves)
    assert shared == pytest.approx(float(whole), rel=1e-5)
    assert abs(float(distance(halves[:4], None)) - whole) > 0.02
    np.testing.assert_allclose(gradient, jax.grad(lambda x: distance(x, None))(halves), atol=1e-6)
