"""Advantages of several rewards, what they weigh, and the clipped objective, against plain loops and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied import policy_gradient as pg


def rollout(seed=0, worlds=3, decisions=6, kinds=2):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, worlds, decisions, kinds)).astype(np.float32)
    discount = (rng.uniform(size=(worlds, decisions)) < 0.8).astype(np.float32)
    last = (rng.uniform(size=(worlds, decisions)) < 0.3) | (discount == 0)
    return reward, value, next_value, discount, last


def test_advantages_equal_a_plain_loop_that_bootstraps_through_time_outs_alone():
    reward, value, next_value, discount, last = rollout()
    discounts = np.array([0.9, 0.5], np.float32)
    found = pg.advantages(*map(jnp.asarray, (reward, value, next_value, discount, last, discounts)), 0.8)
    expected = np.zeros_like(reward)
    for e in range(3):
        for k in range(2):
            ahead = 0.0
            for t in reversed(range(6)):
                delta = reward[e, t, k] + discounts[k] * discount[e, t] * next_value[e, t, k] - value[e, t, k]
                ahead = delta + (0.0 if last[e, t] else discounts[k] * 0.8 * ahead)
                expected[e, t, k] = ahead
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_weighted_advantages_of_many_critics_are_those_of_one_critic_of_the_weighted_sum():
    """With one discount and nothing normalised everything is linear, so values and advantages add up."""
    reward, value, next_value, discount, last = map(jnp.asarray, rollout(1, kinds=3))
    weight = jnp.array([0.5, 2.0, 1.0])
    each = pg.advantages(reward, value, next_value, discount, last, jnp.full(3, 0.9), 0.95)
    summed = [(leaf * weight[None, None]).sum(-1, keepdims=True) for leaf in (reward, value, next_value)]
    one = pg.advantages(*summed, discount, last, jnp.full(1, 0.9), 0.95)
    np.testing.assert_allclose((each * weight[None, None]).sum(-1), one[..., 0], rtol=1e-4, atol=1e-5)


def test_normalised_advantages_forget_size_and_offset_and_are_silent_where_a_reward_is_dead():
    advantage = jnp.array([[1.0, 1e-9], [2.0, 0.0], [3.0, -1e-9]])
    found = pg.normalised(advantage, 1e-6)
    np.testing.assert_allclose(found[:, 0], [-1.2247449, 0.0, 1.2247449], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], 0.0)
    moved = pg.normalised(advantage * jnp.array([[1e3, 1.0]]) + 7.0, 1e-6)
    np.testing.assert_allclose(moved[:, 0], found[:, 0], rtol=1e-4, atol=1e-5)


def test_kinds_that_are_dead_take_no_share_of_the_weight():
    each = jnp.array([[1.0, 4.0, 0.0], [-1.0, 2.0, 0.0]])
    found = pg.weighted(each, jnp.array([1.0, 3.0, 96.0]), jnp.array([True, True, False]))
    np.testing.assert_allclose(found, [13 / 4, 5 / 4])
    np.testing.assert_array_equal(pg.weighted(each, jnp.ones(3), jnp.zeros(3, bool)), 0.0)


def test_clipped_objective_by_hand():
    ratio, advantage = jnp.array([1.5, 0.5, 1.5, 0.5]), jnp.array([1.0, 1.0, -1.0, -1.0])
    # min(1.5, 1.2), min(0.5, 0.8), min(-1.5, -1.2), min(-0.5, -0.8)
    assert pg.surrogate(ratio, advantage, 0.2) == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)


def test_log_probability_and_divergence_of_gaussians_by_hand():
    zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    assert pg.gaussian_log_prob(one, zero, jnp.zeros(1))[0] == pytest.approx(-0.5 - 0.5 * np.log(2 * np.pi), rel=1e-6)
    assert pg.divergence(zero, jnp.zeros(1), zero, jnp.zeros(1)) == 0
    # KL(N(1, 1) | N(0, 4)) = log 2 + (1 + 1) / 8 - 1 / 2
    found = pg.divergence(zero, jnp.log(jnp.full(1, 2.0)), one, jnp.zeros(1))
    assert found == pytest.approx(np.log(2) + 2 / 8 - 0.5, rel=1e-5)


def test_explained_share_is_one_for_perfect_values_and_zero_for_constants():
    goal = jnp.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    values = goal.at[:, 1].set(7.0)
    np.testing.assert_allclose(pg.explained(goal, values), [1.0, 0.0], atol=1e-6)


def test_cosines_of_gradients_by_hand():
    found = pg.cosines(jnp.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]], atol=1e-6)


def test_minibatches_of_an_epoch_hold_no_row_twice():
    order = pg.minibatches(jax.random.key(0), 10, 3, 4)
    assert order.shape == (12, 2)
    for epoch in np.asarray(order).reshape(3, 8):
        assert len(set(epoch.tolist())) == 8
        assert max(epoch) < 10


def test_gradients_are_clipped_whole_or_member_by_member():
    gradient = {"kernel": jnp.array([[3.0], [0.3]]), "bias": jnp.array([4.0, 0.4])}
    whole = pg.clipped(gradient, 1.0)
    assert np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in whole.values())) == pytest.approx(1.0, rel=1e-5)
    each = pg.clipped(gradient, 1.0, members=2)
    np.testing.assert_allclose(each["kernel"], [[0.6], [0.3]], rtol=1e-5)
    np.testing.assert_allclose(each["bias"], [0.8, 0.4], rtol=1e-5)


def test_values_stay_what_they_were_when_moments_change_also_where_each_kind_has_two_critics():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, 5, 3))  # of four critics, two for each of two kinds, on five rows
    head = {"kernel": jnp.asarray(rng.normal(size=(4, 3, 1))), "bias": jnp.asarray(rng.normal(size=(4, 1)))}
    before = {"critic": {"head": head}, "moments": {"mean": jnp.array([1.0, -2.0]), "scale": jnp.array([3.0, 0.5])}}
    after = pg.with_moments(before, jnp.array([0.0, 5.0]), jnp.array([10.0, 2.0]))
    values = []
    for params in (before, after):
        found, moments = params["critic"]["head"], params["moments"]
        raw = (hidden @ np.asarray(found["kernel"]))[..., 0] + np.asarray(found["bias"])
        values.append(np.repeat(moments["mean"], 2)[:, None] + np.repeat(moments["scale"], 2)[:, None] * raw)
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)
    assert np.abs(after["critic"]["head"]["kernel"] - head["kernel"]).min() > 1e-3


def test_moments_of_targets_begin_with_the_first_ones_and_stay_where_a_reward_is_dead():
    before = {"mean": jnp.zeros(2), "scale": jnp.ones(2)}
    target, alive = jnp.array([[1.0, 5.0], [3.0, 5.0]]), jnp.array([True, False])
    first = pg.target_moments(before, target, alive, jnp.int32(0), 0.9)
    np.testing.assert_allclose(first, [[2.0, 0.0], [1.0, 1.0]], rtol=1e-6)
    # Second moments move too: 0.9 (1 + 4) + 0.1 (9 + 25) / 2, of which the square of the mean, 2.2, is taken off.
    later = pg.target_moments(dict(zip(("mean", "scale"), first, strict=True)), target + 2.0, alive, jnp.int32(1), 0.9)
    np.testing.assert_allclose(later[0], [2.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(later[1][0], np.sqrt(0.9 * 5 + 0.1 * 17 - 2.2**2), rtol=1e-5)
