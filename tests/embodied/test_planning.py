"""The planner finds what is known to be best, in both of its forms, and never does worse than where it began."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.planning import Plan, Planning, plan, plan_on_host, refined
from embodied.types import InputError

HORIZON = 6
PLANNING = Planning(horizon=HORIZON, samples=300, iterations=12, elites=30, spread=0.5, floor=0.005)
A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.005], [0.1]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])
START = np.array([0.3, -0.2])


def cost(actions, numpy):
    """The quadratic cost [S] of sequences [S, H, 1] from the start."""
    state, total = numpy.broadcast_to(numpy.asarray(START), (len(actions), 2)), 0.0
    for t in range(HORIZON):
        action = actions[:, t]
        total = total + (state @ Q * state).sum(-1) + (action @ R * action).sum(-1)
        state = state @ A.T + action @ B.T
    return total + (state @ Q * state).sum(-1)


def least_cost():
    """The optimal cost by the Riccati recursion."""
    value = Q
    for _ in range(HORIZON):
        gain = np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A)
        value = Q + A.T @ value @ (A - B @ gain)
    return START @ value @ START


@pytest.mark.parametrize("method", ["cem", "mppi"])
def test_plan_of_a_linear_quadratic_problem_costs_at_most_two_percent_more_than_riccati(method):
    config = dataclasses.replace(PLANNING, method=method)
    search = jax.jit(lambda key: plan(config, lambda a: -cost(a, jnp), jnp.zeros((HORIZON, 1)), key))
    found = [search(jax.random.key(seed)) for seed in range(3)]
    host = plan_on_host(config, lambda a: -cost(a, np), np.zeros((HORIZON, 1)), seed=0)
    for one in (*found, host):
        assert least_cost() * 0.999 <= -one.score <= 1.02 * least_cost()
        assert cost(np.asarray(one.actions)[None], np)[0] == pytest.approx(-float(one.score), rel=1e-4)


def test_plan_is_never_worse_than_what_it_began_with():
    best = np.array([[0.3], [-0.7], [0.1]], np.float32)
    score = lambda a: -jnp.abs(a - best[None]).sum((1, 2))  # noqa: E731
    config = Planning(horizon=3, samples=4, iterations=1, elites=2)
    found = plan(config, score, jnp.asarray(best), jax.random.key(0))
    np.testing.assert_array_equal(found.actions, best)
    assert found.score == 0


def test_actions_stay_in_range_where_the_score_pulls_out_of_it():
    found = plan(PLANNING, lambda a: a.sum((1, 2)), jnp.zeros((HORIZON, 2)), jax.random.key(0))
    assert isinstance(found, Plan)
    np.testing.assert_allclose(found.mean, 1.0, atol=0.02)
    assert np.abs(found.actions).max() <= 1.0


def test_elites_are_averaged_by_cem_and_weighed_by_mppi():
    candidates = jnp.array([0.0, 1.0, 0.5, -1.0])[:, None, None]
    scores = jnp.array([0.0, 4.0, 2.0, -9.0])
    config = Planning(horizon=1, samples=4, elites=2, floor=1e-3)
    mean, std = refined(config, candidates, scores)
    assert mean[0, 0] == pytest.approx(0.75)
    assert std[0, 0] == pytest.approx(0.25)
    mean, _ = refined(dataclasses.replace(config, method="mppi", temperature=1.0), candidates, scores)
    weight = 1 / (1 + np.exp(-2.0))  # the two are two standard deviations apart
    assert mean[0, 0] == pytest.approx(weight * 1.0 + (1 - weight) * 0.5, abs=1e-5)


def test_many_searches_side_by_side_are_those_of_each_alone():
    config = dataclasses.replace(PLANNING, iterations=2, samples=16, elites=4)
    targets = jnp.linspace(-0.5, 0.5, 3)

    def search(target, key):
        score = lambda a: -jnp.square(a - target).sum((1, 2))  # noqa: E731
        return plan(config, score, jnp.zeros((HORIZON, 1)), key).actions

    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.vmap(search)(targets, keys)
    for i in range(3):
        np.testing.assert_allclose(together[i], search(targets[i], keys[i]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elites": 400}, "planning: elites must be at most samples, 300, got 400"),
        ({"samples": 1}, r"planning: samples must be in \[2, inf\), got 1"),
        ({"method": "cemm"}, "planning: unknown method 'cemm'; did you mean 'cem'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(PLANNING, **changes)
