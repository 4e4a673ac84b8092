"""HILP: the value loss by hand, and features whose distances are numbers of steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import hilp
from embodied import losses, successor
from embodied.types import Needs, Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (5,)}, action=2)


def test_value_loss_of_three_rows_by_hand():
    # Values of both heads at s' and s of the targets, and at s online; row 1 is where it wants to be.
    next_value = jnp.array([[-2.0, -5.0, -1.0], [-4.0, -5.0, -3.0]])
    slow_value = jnp.array([[-3.0, 0.0, -6.0], [-3.0, 0.0, -4.0]])
    value = jnp.array([[-2.0, -1.0, -2.0], [-3.0, 0.0, -5.0]])
    going = jnp.array([1.0, 0.0, 1.0])
    aim, advantage = losses.goal_targets(next_value, slow_value, going, 0.5)
    # -1 + 0.5 V where the goal is ahead, 0 where it is reached.
    np.testing.assert_allclose(aim, [[-2.0, 0.0, -1.5], [-3.0, 0.0, -2.5]])
    # The least of both targets against the mean of both values: -3 - (-3), 0 - 0, -2.5 - (-5).
    np.testing.assert_allclose(advantage, [0.0, 0.0, 2.5])
    # Errors 0, 1, 0.5 and 0, 0, 2.5; nothing turned out worse than expected.
    first = 0.9 * (0 + 1 + 0.25) / 3
    second = 0.9 * (0 + 0 + 6.25) / 3
    assert losses.expectile_loss(aim, value, advantage, 0.9) == pytest.approx(first + second, rel=1e-6)
    # Had the second step been a bad one, its square would count 0.1.
    worse = jnp.array([0.0, -1.0, 2.5])
    assert losses.expectile_loss(aim, value, worse, 0.9) == pytest.approx(first + second - 0.8 / 3, rel=1e-6)


def test_distance_value_is_the_euclidean_one_and_flat_near_the_goal():
    here, goal = jnp.array([[[3.0, 4.0]], [[0.0, 0.0]]]), jnp.zeros((2, 1, 2))
    np.testing.assert_allclose(hilp.distance_value(here, goal, 2.0), [[-10.0], [-2e-3]], rtol=1e-5)
    gradient = jax.grad(lambda h: hilp.distance_value(h, goal, 2.0).sum())(here)
    np.testing.assert_allclose(gradient, [[[-1.2, -1.6]], [[0.0, 0.0]]], rtol=1e-5)


@pytest.fixture(scope="module")
def case():
    """(config, state with targets of their own, a function (params, target) -> metrics)."""
    config = dataclasses.replace(hilp.Config().tiny(), random_goals=0.0, expectile=0.7)
    agent = hilp.make(config, SPEC)
    state = random_state(agent, SPEC)
    state = state.replace(target=jax.tree.map(lambda leaf: 1.5 * leaf, state.target))

    def metrics(params, target):
        return agent.update(state.replace(params=params, target=target), batch(), jax.random.key(0))[1]

    return config, state, metrics


def batch():
    """Seven rows, of which the third already is where it wants to be."""
    made = random_batch(SPEC, 7)
    return made.replace(future={"state": made.future["state"].at[2].set(made.obs["state"][2])})


def test_loss_equals_a_plain_loop_over_futures(case):
    config, state, metrics = case
    net, made = successor.feature_net(config, on_sphere=False, members=2), batch()
    read = lambda group, obs: np.asarray(net.apply(group["features"], obs["state"]))  # noqa: E731
    here, goal = (read(state.params, obs) for obs in (made.obs, made.future))
    slow_here, slow_next, slow_goal = (read(state.target, obs) for obs in (made.obs, made.next_obs, made.future))
    steps = 1 / ((1 - 0.98) * np.sqrt(8))  # discount and width of the tiny agent
    far = lambda a, b: -steps * np.sqrt(np.maximum(np.square(a - b).sum(-1), 1e-6))  # noqa: E731
    expected = 0.0
    for i in range(7):
        going = 0.0 if i == 2 else 1.0
        aims = [-going + config.discount * going * far(slow_next[j, i], slow_goal[j, i]) for j in range(2)]
        expected_value = np.mean([far(slow_here[j, i], slow_goal[j, i]) for j in range(2)])
        weight = 0.7 if min(aims) - expected_value >= 0 else 0.3
        expected += sum(weight * (aims[j] - far(here[j, i], goal[j, i])) ** 2 for j in range(2)) / 7
    np.testing.assert_allclose(quick_jit(metrics)(state.params, state.target)["loss/features"], expected, rtol=1e-4)


def test_gradient_reaches_the_features_and_no_target(case):
    _, state, metrics = case
    gradient = quick_jit(jax.grad(lambda *groups: metrics(*groups)["loss/features"], argnums=(0, 1)))
    params, target = gradient(state.params, state.target)
    assert {name for name, group in params.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))} == {
        "features"
    }
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(target))


def test_goals_come_from_the_declared_future():
    assert hilp.make(hilp.Config(future=0.95).tiny(), SPEC).needs == Needs(future=0.95)


def test_features_of_a_corridor_keep_its_discounted_distances():
    """Five states in a row, walked to every goal on the shortest way: V = -(1 - discount^steps) / (1 - discount)."""
    here, goal = (np.asarray(x).reshape(-1) for x in np.meshgrid(np.arange(5), np.arange(5), indexing="ij"))
    there = here + np.sign(goal - here)  # the step that a shortest way takes
    exact = -(1 - 0.9 ** np.abs(np.subtract.outer(np.arange(5), np.arange(5)))) / (1 - 0.9)
    optimizer = optax.adam(0.02)

    def loss(table, slow):
        value = lambda t, a: hilp.distance_value(t[:, a], t[:, goal], 1.0)  # noqa: E731
        going = jnp.asarray(here != goal, jnp.float32)
        aim, advantage = losses.goal_targets(value(slow, there), value(slow, here), going, 0.9)
        return losses.expectile_loss(aim, value(table, here), advantage, 0.5)

    def step(_, carry):
        table, slow, state = carry
        delta, state = optimizer.update(jax.grad(loss)(table, slow), state)
        table = optax.apply_updates(table, delta)
        return table, slow + 0.05 * (table - slow), state

    start = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)
    learned = jax.jit(lambda t: jax.lax.fori_loop(0, 3000, step, (t, t, optimizer.init(t)))[0])(start)
    found = np.asarray(hilp.distance_value(learned[:, here], learned[:, goal], 1.0)).reshape(2, 5, 5)
    np.testing.assert_allclose(found, np.stack([exact] * 2), atol=0.35)
