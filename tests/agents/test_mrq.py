"""MR.Q: losses and targets as plain loops, features that stand still for a period, and what a policy then does."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import mrq
from embodied.data.dataset import path_of
from embodied.types import InputError, Needs, Spec
from embodied.values import Bins, two_hot
from tests.agents.chains import for_agent, learn_to_stay, quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (3,)}, action=2)
ROWS, KEY = 12, jax.random.key(7)
CONFIG = dataclasses.replace(mrq.Config().tiny(), unroll=4, steps=3, discount=0.9, period=3)
BINS = Bins(CONFIG.bins, CONFIG.limit, "symexp")


@functools.cache
def compiled(config=CONFIG):
    agent = mrq.make(config, SPEC)
    return agent, quick_jit(agent.update)


def started(config=CONFIG):
    """A state in the middle of a period, with Gaussian networks, targets that are others, and sizes of rewards."""
    state = random_state(compiled(config)[0], SPEC)
    aside = jax.tree.map(lambda leaf: leaf + 0.05, state.target)
    return state.replace(target=aside, sizes=jnp.array([1.3, 2.0, 0.5]), age=jnp.int32(3 * CONFIG.period))


def batch_of(seed=0):
    """Chains of which every other one ends by time; the second and fourth terminate after one and two decisions."""
    batch = for_agent(random_batch(SPEC, ROWS, seed), compiled()[0], SPEC)
    chain = batch.chain
    discount = chain.discount.at[1, 0].set(0.0).at[3, 1].set(0.0)
    inside = chain.inside.at[1, 1:].set(0.0).at[3, 2:].set(0.0)
    last = inside.sum(1).astype(int) - 1
    again = lambda leaf: leaf[jnp.arange(ROWS)[:, None], jnp.minimum(jnp.arange(4)[None], last[:, None])]  # noqa: E731
    chain = jax.tree.map(again, chain.replace(discount=discount)).replace(inside=inside)
    return batch.replace(discount=discount[:, 0], chain=chain)


def test_chains_are_read_as_paths():
    batch = batch_of()
    path = path_of(batch, lambda obs: obs["state"])
    assert path.x.shape == (5, ROWS, 3)
    np.testing.assert_array_equal(path.x[0], batch.obs["state"])
    for t in range(4):
        np.testing.assert_array_equal(path.x[t + 1], batch.chain.next_obs["state"][:, t])
        np.testing.assert_array_equal(path.reward[t], batch.chain.reward[:, t, 0])
        np.testing.assert_array_equal(path.inside[t], batch.chain.inside[:, t])
    assert compiled()[0].needs == Needs(chain=4, channels=("walk",), replay=True)


def test_model_is_unrolled_along_the_actions_until_the_episode_ends():
    net, state, batch = mrq.networks(CONFIG, SPEC), started(), batch_of()
    _, metrics = compiled()[1](state, batch, KEY)
    model, expected = state.model, 0.0
    z = net.state.apply(model["state"], batch.obs["state"])
    for t in range(4):
        pair = net.pair.apply(model["pair"], z, batch.chain.action[:, t])
        out = np.asarray(net.heads.apply(model["heads"], pair))
        z = jnp.asarray(out[:, : CONFIG.latent])
        aim = np.asarray(net.state.apply(state.params["state"], batch.chain.next_obs["state"][:, t]))
        weights = np.asarray(two_hot(BINS, batch.chain.reward[:, t, 0]))
        for i in np.flatnonzero(batch.chain.inside[:, t]):
            logits, ended = out[i, CONFIG.latent : -1], 1.0 - float(batch.chain.discount[i, t])
            cross_entropy = -(weights[i] * (logits - np.log(np.exp(logits).sum()))).sum()
            apart = np.square(out[i, : CONFIG.latent] - aim[i]).mean()
            expected += (apart + 0.1 * cross_entropy + 0.1 * (out[i, -1] - ended) ** 2) / ROWS
    assert metrics["loss/world"] == pytest.approx(expected, rel=1e-4)


def test_targets_are_rewards_until_an_end_and_the_value_behind_them_unless_the_world_terminated():
    net, state, batch = mrq.networks(CONFIG, SPEC), started(), batch_of()
    _, metrics = compiled()[1](state, batch, KEY)
    scale, before = 2.0, 0.5
    noise = np.clip(0.2 * np.asarray(jax.random.normal(KEY, (ROWS, 2))), -0.3, 0.3)
    target, params, expected, lengths = state.target, state.params, 0.0, set()
    totals, factors = np.zeros(ROWS), np.ones(ROWS)
    last = np.asarray(batch.chain.inside[:, :3]).sum(1).astype(int)
    for i in range(ROWS):
        for t in range(last[i]):
            totals[i] += factors[i] * float(batch.chain.reward[i, t, 0])
            factors[i] *= 0.9 * float(batch.chain.discount[i, t])
        lengths.add((int(last[i]), bool(factors[i] > 0)))
    z = net.state.apply(target["state"], batch.chain.next_obs["state"][jnp.arange(ROWS), last - 1])
    action = jnp.clip(jnp.tanh(net.policy.apply(target["policy"], z)) + noise, -1, 1)
    behind = net.values.apply(target["values"], net.pair.apply(target["pair"], z, action))[..., 0]
    y = (totals + factors * before * np.asarray(behind).min(0)) / scale
    z = net.state.apply(params["state"], batch.obs["state"])
    values = net.values.apply(params["values"], net.pair.apply(params["pair"], z, batch.action))[..., 0]
    for error in np.abs(np.asarray(values) - y).ravel():
        expected += (0.5 * error**2 if error < 1 else error - 0.5) / ROWS
    assert lengths == {(1, True), (1, False), (2, False), (3, True)}
    assert metrics["loss/critic"] == pytest.approx(expected, rel=1e-4)


def test_values_see_features_that_stand_still_and_change_with_all_targets_once_in_a_period():
    state, (_, update) = started(), compiled()
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))  # noqa: E731
    states = [state]
    for i in range(6):
        states.append(update(states[-1], batch_of(i), jax.random.key(i))[0])
    for i, (before, after) in enumerate(itertools.pairwise(states), 1):
        due = i % 3 == 0
        assert not same(before.model, after.model)
        assert not same(before.params["values"], after.params["values"])
        assert same(before.params["state"], after.params["state"]) != due
        assert same(before.target, after.target) != due
        if due:
            for name in ("state", "pair"):
                assert same(after.params[name], after.model[name])
                assert same(after.target[name], before.params[name])
            assert same(after.target["values"], after.params["values"])
            assert same(after.target["policy"], after.params["policy"])
            np.testing.assert_array_equal(after.sizes, [after.sizes[0], after.sizes[0], before.sizes[1]])
        else:
            np.testing.assert_array_equal(after.sizes[1:], before.sizes[1:])


def test_size_of_rewards_is_a_moving_mean_and_does_not_matter_to_values_and_policy():
    found = []
    for factor in (1.0, 1e3):
        batch, state = batch_of(), started().replace(age=jnp.int32(0))
        chain = batch.chain.replace(reward=factor * batch.chain.reward)
        after, metrics = compiled()[1](state, batch.replace(chain=chain), KEY)
        mean = factor * float(jnp.abs(batch.chain.reward[:, 0]).mean())
        np.testing.assert_allclose(after.sizes, mean, rtol=1e-5)
        found.append((after.params["values"], after.params["policy"], metrics["loss/critic"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
    later = compiled()[1](started(), batch_of(), KEY)[0]
    now = float(jnp.abs(batch_of().chain.reward[:, 0]).mean())
    np.testing.assert_allclose(later.sizes, [0.99 * 1.3 + 0.01 * now, 2.0, 0.5], rtol=1e-5)


def test_rewards_that_are_all_zero_are_divided_by_one():
    batch = batch_of()
    nothing = batch.replace(chain=batch.chain.replace(reward=jnp.zeros_like(batch.chain.reward)))
    after, _ = compiled()[1](started().replace(age=jnp.int32(0)), nothing, KEY)
    np.testing.assert_array_equal(after.sizes, [0, 1, 1])


def test_data_are_of_random_actions_at_first_and_then_of_the_policy_with_noise():
    agent, _ = compiled()
    params = started().params
    many = {"state": jnp.tile(jnp.array([[0.3, -0.2, 0.1]]), (4000, 1))}
    act = quick_jit(lambda params, key: agent.act(params, many, jnp.zeros(0), (), key)[0])
    still = agent.act(params, many, jnp.zeros(0), (), None)[0]
    first, later = (np.asarray(act(params | {"practised": jnp.float32(now)}, KEY)) for now in (0, 1))
    np.testing.assert_allclose(np.quantile(first, [0.25, 0.5, 0.75]), [-0.5, 0.0, 0.5], atol=0.05)
    assert np.abs(still).max() < 0.6
    np.testing.assert_allclose(later.mean(0), still[0], atol=0.02)
    np.testing.assert_allclose(later.std(0), 0.2, atol=0.02)
    state, _ = compiled()[1](started().replace(age=jnp.int32(0)), batch_of(), KEY)
    assert state.params["practised"] == 1  # the tiny configuration has one update of warm-up


def test_policy_learns_to_stay_near_the_middle_from_random_actions():
    config = dataclasses.replace(mrq.Config().tiny(), hidden=32, latent=16, period=25, lr=3e-3, lr_model=3e-3)
    learn_to_stay(lambda spec: mrq.make(dataclasses.replace(config, discount=0.8), spec), updates=600)


def test_more_steps_than_the_model_is_unrolled_for_are_refused():
    with pytest.raises(InputError, match="mrq: steps must be at most unroll, 5, got 6"):
        mrq.Config(steps=6)
