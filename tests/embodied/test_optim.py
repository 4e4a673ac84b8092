"""Grouped optimisers and moving averages against separate ones and hand-computed steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from embodied.optim import adam_by_group, pick, soft_update

PARAMS = {"fast": {"kernel": jnp.array([1.0, -2.0])}, "slow": {"kernel": jnp.array([3.0]), "bias": jnp.array([0.5])}}
RATES = {"fast": 1e-1, "slow": 1e-3}


def steps(optimizer, params, count=3):
    """The parameters after minimising the sum of fourth powers for a few steps."""
    state = optimizer.init(params)
    for _ in range(count):
        grad = jax.tree.map(lambda leaf: 4 * leaf**3, params)
        delta, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, delta)
    return params


def test_adam_by_group_equals_one_adam_for_each_group():
    together = steps(adam_by_group(RATES), PARAMS)
    for name, rate in RATES.items():
        alone = steps(optax.adam(rate), PARAMS[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), together[name], alone)


def test_first_adam_step_moves_each_parameter_by_its_group_rate():
    moved = steps(adam_by_group(RATES), PARAMS, count=1)
    np.testing.assert_allclose(moved["fast"]["kernel"], [1.0 - 0.1, -2.0 + 0.1], rtol=1e-5)
    np.testing.assert_allclose(moved["slow"]["kernel"], [3.0 - 0.001], rtol=1e-6)
    np.testing.assert_allclose(moved["slow"]["bias"], [0.5 - 0.001], rtol=1e-5)


def test_soft_update_moves_the_target_by_tau_of_the_way():
    target, online = {"a": jnp.array([0.0, 4.0])}, {"a": jnp.array([10.0, 0.0])}
    np.testing.assert_allclose(soft_update(target, online, 0.1)["a"], [1.0, 3.6], rtol=1e-6)
    np.testing.assert_array_equal(soft_update(target, online, 1.0)["a"], online["a"])
    np.testing.assert_array_equal(soft_update(target, online, 0.0)["a"], target["a"])


def test_pick_keeps_the_named_groups_alone():
    assert pick(PARAMS, ("slow",)) == {"slow": PARAMS["slow"]}
