"""Squashed numbers, two-hot classes and returns along a path, against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.values import Bins, expected, lambda_returns, return_scale, symexp, symlog, two_hot, two_hot_loss

SYMLOG, SYMEXP = Bins(101, 10.0, "symlog"), Bins(65, 10.0, "symexp")
SMALL = Bins(5, 2.0, "symexp")  # at +-(e^2 - 1), +-(e - 1) and 0
NUMBERS = jnp.array([-2e4, -321.5, -1.0, -1e-3, 0.0, 0.3, 1.0, 7.7, 999.0, 2.1e4])


def test_symexp_undoes_symlog():
    np.testing.assert_allclose(symlog(jnp.array([np.e - 1, -3.0])), [1.0, -np.log(4.0)], rtol=1e-6)
    x = jnp.array([-1e6, -3.0, -1e-3, 0.0, 1e-3, 3.0, 1e6])
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-3)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.array([-1e6, -3.0, -1e-3, 0.0, 1e-3, 3.0, 1e6]))
        assert wide.dtype == np.float64
        np.testing.assert_allclose(symexp(symlog(wide)), wide, rtol=1e-5)


def test_two_hot_weighs_the_two_bins_around_a_number():
    low, high = np.e - 1, np.e**2 - 1
    np.testing.assert_allclose(SMALL.centres, [-high, -low, 0.0, low, high], rtol=1e-6)
    np.testing.assert_allclose(two_hot(SMALL, jnp.float32(0.25 * low)), [0, 0, 0.75, 0.25, 0], atol=1e-6)
    between = 0.6 * low + 0.4 * high
    np.testing.assert_allclose(two_hot(SMALL, jnp.float32(between)), [0, 0, 0, 0.6, 0.4], atol=1e-6)
    # In the space of symlog the middle of two bins is another number.
    same = Bins(5, 2.0, "symlog")
    np.testing.assert_allclose(two_hot(same, symexp(jnp.float32(-1.5))), [0.5, 0.5, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("bins", [SYMLOG, SYMEXP, SMALL, Bins(2, 10.0, "symexp")], ids=str)
def test_two_hot_rows_sum_to_one_on_at_most_two_neighbours_also_beyond_both_edges(bins):
    rows = np.asarray(two_hot(bins, jnp.concatenate([NUMBERS, jnp.array([-1e9, 1e9, -jnp.inf, jnp.inf])])))
    np.testing.assert_allclose(rows.sum(-1), 1.0, atol=1e-6)
    assert rows.min() >= 0
    for row in rows:
        used = np.flatnonzero(row)
        assert len(used) <= 2
        assert np.ptp(used) <= 1
    np.testing.assert_array_equal(rows[[-4, -2], 0], 1.0)
    np.testing.assert_array_equal(rows[[-3, -1], -1], 1.0)


@pytest.mark.parametrize(("bins", "tolerance"), [(SYMLOG, 1e-4), (SYMEXP, 1e-5)], ids=["symlog", "symexp"])
def test_decoding_gives_back_what_was_encoded(bins, tolerance):
    weights = two_hot(bins, NUMBERS)
    found = expected(bins, jnp.log(jnp.maximum(weights, 1e-30)))
    np.testing.assert_allclose(found, NUMBERS, rtol=tolerance, atol=2e-3)


def test_mean_of_two_numbers_is_kept_by_bins_at_symexp_and_shrunk_by_bins_in_symlog():
    for bins, mean in ((SYMEXP, 499.5), (SYMLOG, float(symexp(symlog(jnp.float32(999.0)) / 2)))):
        weights = two_hot(bins, jnp.array([0.0, 999.0])).mean(0)
        assert expected(bins, jnp.log(jnp.maximum(weights, 1e-30))) == pytest.approx(mean, rel=1e-3)


def test_two_hot_loss_is_the_cross_entropy_and_pulls_towards_the_number():
    logits = jnp.array([0.0, 1.0, 2.0, -1.0, 0.5])
    log_prob = np.asarray(logits) - np.log(np.exp(np.asarray(logits)).sum())
    y = jnp.float32(0.25 * (np.e - 1))
    assert two_hot_loss(SMALL, logits, y) == pytest.approx(-(0.75 * log_prob[2] + 0.25 * log_prob[3]), rel=1e-5)
    gradient = jax.grad(lambda logits: two_hot_loss(SMALL, logits, y))(logits)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - jnp.array([0, 0, 0.75, 0.25, 0]), atol=1e-6)


def test_lambda_returns_are_the_discounted_sum_the_one_step_target_and_between_them_the_mixture():
    reward, value = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[10.0], [20.0], [30.0]])
    discount = jnp.full((3, 1), 0.5)
    whole = lambda_returns(reward, discount, value, 1.0)[:, 0]
    # 3 + 0.5 * 30;  2 + 0.5 * 18;  1 + 0.5 * 11
    np.testing.assert_allclose(whole, [6.5, 11.0, 18.0])
    one = lambda_returns(reward, discount, value, 0.0)[:, 0]
    np.testing.assert_allclose(one, [6.0, 12.0, 18.0])
    # 2 + 0.5 (0.75 * 20 + 0.25 * 18);  1 + 0.5 (0.75 * 10 + 0.25 * 11.75)
    mixed = lambda_returns(reward, discount, value, 0.25)[:, 0]
    np.testing.assert_allclose(mixed, [6.21875, 11.75, 18.0])
    ended = lambda_returns(reward, discount.at[1].set(0.0), value, 1.0)[:, 0]
    np.testing.assert_allclose(ended, [2.0, 2.0, 18.0])


def test_return_scale_moves_towards_the_range_between_percentiles_but_not_below_one():
    values = jnp.linspace(-100.0, 100.0, 201)  # P5 = -90, P95 = 90
    assert return_scale(jnp.float32(1.0), values, 0.01) == pytest.approx(0.99 + 0.01 * 180)
    assert return_scale(jnp.float32(5.0), values / 1e4, 0.5) == pytest.approx(3.0)
