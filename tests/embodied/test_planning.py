"""The planner finds what is known to be best, in both of its forms, and never does worse than where it began."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.planning import Plan, Planning, drawn, imagined_return, plan, plan_on_host, refined, shifted
from embodied.types import InputError
from tests.embodied import toys

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
    mean, std, weight = refined(config, candidates, scores)
    assert mean[0, 0] == pytest.approx(0.75)
    assert std[0, 0] == pytest.approx(0.25)
    np.testing.assert_array_equal(weight, [0, 0.5, 0.5, 0])
    mean, _, weight = refined(dataclasses.replace(config, method="mppi", temperature=1.0), candidates, scores)
    best = np.exp(2.0) - 0.95  # the two are two standard deviations apart, and the others weigh what the second does
    np.testing.assert_allclose(weight, np.array([0.05, best, 0.05, 0.05]) / (0.15 + best), rtol=1e-5)
    assert mean[0, 0] == pytest.approx((best * 1.0 + 0.05 * (0.5 - 1.0)) / (0.15 + best), abs=1e-5)


def test_plan_by_weights_stays_what_it_was_where_rounding_changes_the_order_of_scores():
    """Sequences in pairs of scores that differ by rounding alone, which another processor might do otherwise."""
    config = Planning("mppi", horizon=2, samples=64, iterations=4, elites=9, resolution=0.01)

    def search(sign):
        wobble = sign * 1e-6 * jnp.cos(jnp.arange(64.0))
        score = lambda a: 50.0 - jnp.square(jnp.round(a, 1) - 0.3).sum((1, 2)) * 0.01 + 50.0 * wobble  # noqa: E731
        return plan(config, score, jnp.zeros((2, 1)), jax.random.key(0)).mean

    np.testing.assert_allclose(search(1.0), search(-1.0), atol=5e-3)


def test_proposals_win_where_they_are_best_and_count_among_the_samples():
    best = jnp.array([[0.9], [-0.9]])
    config, shapes = Planning(method="cem", horizon=2, samples=16, iterations=3, elites=1, spread=0.01), []

    def score(a):
        shapes.append(a.shape)
        return -jnp.abs(a - best[None]).sum((1, 2))

    found = plan(config, score, jnp.zeros((2, 1)), jax.random.key(0), jnp.stack([best, -best]))
    np.testing.assert_array_equal(found.actions, best)
    np.testing.assert_array_equal(found.mean, best)
    assert set(shapes) == {(16, 2, 1)}


def test_next_search_begins_one_action_later():
    mean = jnp.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    np.testing.assert_array_equal(shifted(mean), [mean[1], mean[2], [0.0, 0.0]])


def test_sequences_are_drawn_as_often_as_they_weigh():
    candidates = jnp.arange(4.0)[:, None, None]
    nothing = jnp.zeros((1, 1))
    found = Plan(nothing, jnp.float32(0), nothing, nothing, candidates, jnp.array([0.0, 0.5, 0.0, 0.5]))
    many = jax.vmap(lambda key: drawn(found, key)[0, 0])(jax.random.split(jax.random.key(0), 2000))
    assert set(np.asarray(many)) == {1.0, 3.0}
    assert (many == 1).mean() == pytest.approx(0.5, abs=0.06)


def test_imagined_return_counts_rewards_until_the_world_ends_and_the_value_behind_them():
    """From 1 the state grows by the action; it pays what it is, and ends for sure where it is above 3."""

    def step(state, action):
        after = state + action[:, 0]
        return after, after, jnp.where(after > 3, 0.0, 0.5)

    actions = jnp.array([[[1.0], [0.0]], [[4.0], [1.0]], [[1.0], [3.0]]])
    found = imagined_return(step, lambda state: 10 * state, 0.9, jnp.ones(3), actions)
    # 2 + 0.45 (2 + 0.45 * 20);  5;  2 + 0.45 * 5
    np.testing.assert_allclose(found, [2 + 0.45 * (2 + 0.45 * 20), 5.0, 2 + 0.45 * 5], rtol=1e-6)


def best_action(state):
    """The infinite-horizon optimum of the same system, and the value -x' P x, by the Riccati recursion."""
    value = Q
    for _ in range(500):
        gain = np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A)
        value = Q + A.T @ value @ (A - B @ gain)
    return -(gain @ state)[0], value


def test_plan_of_three_actions_with_the_true_value_behind_them_is_the_optimal_feedback():
    """A double integrator under the planner of TD-MPC2: its first action is within 2 % of Riccati's, cold or warm."""
    config = Planning("mppi", horizon=3, samples=512, iterations=6, elites=64, spread=2.0, floor=0.05, temperature=0.5)
    _, value = best_action(START)
    quadratic = lambda x, m: jnp.einsum("si,ij,sj->s", x, jnp.float32(m), x)  # noqa: E731

    def step(x, a):
        return x @ jnp.float32(A.T) + a @ jnp.float32(B.T), -quadratic(x, Q) - quadratic(a, R), jnp.ones(len(x))

    @jax.jit
    def search(state, mean, key):
        start = jnp.broadcast_to(state, (config.samples, 2))
        score = lambda a: imagined_return(step, lambda x: -quadratic(x, value), 1.0, start, a)  # noqa: E731
        return plan(config, score, mean, key)

    for state in (START, np.array([-0.1, 0.35]), np.array([0.1, 0.05])):
        wanted, _ = best_action(state)
        assert 0.1 < abs(wanted) < 0.9
        cold = search(jnp.float32(state), jnp.zeros((3, 1)), jax.random.key(1))
        warm = search(jnp.float32(state), shifted(cold.mean), jax.random.key(2))
        for found in (cold, warm):
            assert found.mean[0, 0] == pytest.approx(wanted, rel=0.02)
            assert float(found.std.min()) >= 0.05


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
        ({"method": "mppi", "elites": 1}, "planning: elites must be at least 2 with mppi, .* got 1"),
        ({"samples": 1}, r"planning: samples must be in \[2, inf\), got 1"),
        ({"method": "cemm"}, "planning: unknown method 'cemm'; did you mean 'cem'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(PLANNING, **changes)


@pytest.mark.parametrize("traced", [False, True])
def test_the_same_planner_reaches_a_goal_in_copies_of_a_simulator_on_the_host_and_traced(traced):
    env, goal = toys.Adder(jittable=traced), 2.7
    numpy = jnp if traced else np

    def score(physics, sequences):
        copies = env.reset_to(numpy.repeat(physics, len(sequences), 0))
        total = 0.0
        for t in range(sequences.shape[1]):
            copies = env.step(copies, sequences[:, t])
            total = total - numpy.abs(copies.quantities["x"] - goal)
        return total

    config = Planning(horizon=3, samples=64, iterations=4, elites=8)
    search = jax.jit(lambda physics, key: plan(config, lambda a: score(physics, a), jnp.zeros((3, 1)), key).actions)
    ts = env.reset_to(numpy.zeros((1, 1), np.float32))
    for decision in range(3):
        if traced:
            actions = search(ts.physics, jax.random.key(decision))
        else:
            actions = plan_on_host(config, lambda a, ts=ts: score(ts.physics, a), np.zeros((3, 1)), decision).actions
        ts = env.step(ts, actions[:1])  # x grows by twice the action
    assert abs(float(ts.quantities["x"][0]) - goal) < 0.1
