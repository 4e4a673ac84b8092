"""TD-MPC2: losses and targets as plain loops, ends of episodes, and what plans begin with and are drawn from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import tdmpc2
from embodied.planning import Planning
from embodied.types import InputError, Needs, Spec
from embodied.values import Bins, expected, two_hot
from tests.agents.chains import for_agent, learn_to_stay, quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (3,)}, action=2)
ROWS, KEY = 8, jax.random.key(7)
CONFIG = dataclasses.replace(tdmpc2.Config().tiny(), unroll=3, discount=0.9, decay=0.6)
BINS = Bins(CONFIG.bins, CONFIG.limit, "symlog")
HERE = {"state": jnp.array([[0.3, -0.2, 0.1], [1.0, 0.5, -0.4]])}
Z = jnp.zeros(0)


@functools.cache
def compiled(config=CONFIG):
    agent = tdmpc2.make(config, SPEC)
    return agent, quick_jit(agent.update), quick_jit(agent.act)


def started(config=CONFIG):
    """A state with Gaussian networks that acts by itself, and target values that are others."""
    state = random_state(compiled(config)[0], SPEC)
    params = state.params | {"practised": jnp.float32(1)}
    return state.replace(
        params=params, target=jax.tree.map(lambda leaf: leaf + 0.1, state.target), scale=jnp.float32(2)
    )


def batch_of(seed=0):
    """Chains of which every other one ends by time after one decision; the second terminates after two."""
    batch = for_agent(random_batch(SPEC, ROWS, seed), compiled()[0], SPEC)
    chain = batch.chain
    chain = chain.replace(discount=chain.discount.at[1, 1].set(0.0), inside=chain.inside.at[1, 2].set(0.0))
    return batch.replace(chain=chain)


def policy(net, params, z):
    """(mean, deviation) before squashing, written out."""
    mean, raw = np.split(np.asarray(net.policy.apply(params, z)), 2, -1)
    return mean, np.exp(-10.0 + 6.0 * (np.tanh(raw) + 1.0))


def values(net, params, z, action):
    """What each member says [K, N]."""
    return np.asarray(expected(BINS, net.value.apply(params, jnp.concatenate([z, action], -1))))


def cross_entropy(logits, weights):
    return -(weights * (logits - np.log(np.exp(logits).sum()))).sum()


@pytest.fixture(scope="module")
def updated():
    state, batch = started(), batch_of()
    return state, batch, *compiled()[1](state, batch, KEY)


def targets(net, state, batch):
    """y [3, ROWS], with the update's own draws."""
    key_action, key_two = jax.random.split(jax.random.split(KEY)[0])
    seen = jnp.swapaxes(batch.chain.next_obs["state"], 0, 1).reshape(-1, 3)
    z = net.encoder.apply(state.params["encoder"], seen)
    mean, std = policy(net, state.params["policy"], z)
    action = np.tanh(mean + std * np.asarray(jax.random.normal(key_action, mean.shape)))
    two = np.asarray(jax.random.permutation(key_two, CONFIG.members))[:2]
    assert len(set(two)) == 2
    worth = values(net, state.target["value"], z, action)[two].min(0).reshape(3, ROWS)
    return batch.chain.reward[..., 0].T + 0.9 * batch.chain.discount.T * worth


def test_model_and_values_learn_along_imagined_latents_until_the_episode_ends(updated):
    state, batch, _, metrics = updated
    net, params, y = tdmpc2.networks(CONFIG, SPEC), state.params, targets(tdmpc2.networks(CONFIG, SPEC), *updated[:2])
    z, total, critic = net.encoder.apply(params["encoder"], batch.obs["state"]), 0.0, 0.0
    for t in range(3):
        both = jnp.concatenate([z, batch.chain.action[:, t]], -1)
        outcome = np.asarray(net.outcome.apply(params["outcome"], both))
        logits = np.asarray(net.value.apply(params["value"], both))
        z = net.dynamics.apply(params["dynamics"], both)
        aim = net.encoder.apply(params["encoder"], batch.chain.next_obs["state"][:, t])
        apart = np.square(np.asarray(z) - np.asarray(aim)).mean(-1)
        reward, worth = (np.asarray(two_hot(BINS, one)) for one in (batch.chain.reward[:, t, 0], y[t]))
        for i in range(ROWS):
            going, goes = 1 / (1 + np.exp(-outcome[i, -1])), float(batch.chain.discount[i, t])
            value = np.mean([cross_entropy(one[i], worth[i]) for one in logits])
            share = float(batch.chain.inside[i, t]) * 0.6**t / 3 / ROWS
            total += share * (20 * apart[i] + 0.1 * cross_entropy(outcome[i, :-1], reward[i]) + 0.1 * value)
            total -= share * 0.1 * (goes * np.log(going) + (1 - goes) * np.log(1 - going))
            critic += share * value
    assert metrics["loss/critic"] == pytest.approx(critic, rel=1e-4)
    assert metrics["loss/world"] == pytest.approx(total, rel=1e-4)


def test_policy_learns_from_two_values_of_latents_before_an_end_in_units_of_their_range(updated):
    state, batch, after, metrics = updated
    net, params = tdmpc2.networks(CONFIG, SPEC), state.params
    latents = [net.encoder.apply(params["encoder"], batch.obs["state"])]
    for t in range(3):
        both = jnp.concatenate([latents[-1], batch.chain.action[:, t]], -1)
        latents.append(net.dynamics.apply(params["dynamics"], both))
    z = jnp.concatenate(latents)
    key_action, key_two = jax.random.split(jax.random.split(KEY)[1])
    mean, std = policy(net, params["policy"], z)
    action = np.tanh(mean + std * np.asarray(jax.random.normal(key_action, mean.shape)))
    two = np.asarray(jax.random.permutation(key_two, CONFIG.members))[:2]
    worth = values(net, after.params["value"], z, action)[two].mean(0).reshape(4, ROWS)
    low, high = np.quantile(worth[0], [0.05, 0.95])
    scale = 0.99 * 2 + 0.01 * max(1, high - low)
    assert after.scale == pytest.approx(scale, rel=1e-5)
    entropy = (np.log(std) + 0.5 * np.log(2 * np.pi * np.e)).sum(-1).reshape(4, ROWS)
    alive = np.ones((4, ROWS))
    alive[2:, ::2] = 0  # the second decision is none of theirs, so what it leads to is not either
    alive[2:, 1] = 0  # terminated
    each = alive * (worth / scale + 1e-4 * 2 * entropy)
    expected_loss = -(0.6 ** np.arange(4)[:, None] * each).mean(1).sum() / 4
    assert metrics["loss/actor"] == pytest.approx(expected_loss, rel=1e-4)


def test_nothing_is_learnt_from_what_follows_an_end(updated):
    state, batch, after, _ = updated
    chain, outside = batch.chain, batch.chain.inside == 0
    wrong = chain.replace(
        action=jnp.where(outside[..., None], 0.7, chain.action),
        next_obs={"state": jnp.where(outside[..., None], 5.0, chain.next_obs["state"])},
        reward=jnp.where(outside[..., None], 99.0, chain.reward),
        discount=jnp.where(outside, 0.0, chain.discount),
    )
    other, _ = compiled()[1](state, batch.replace(chain=wrong), KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, other.params)


def test_target_values_follow_slowly_and_members_begin_apart_and_say_zero(updated):
    state, _, after, _ = updated
    moved = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new, state.target["value"], after.params["value"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.target["value"], moved)
    assert compiled()[0].needs == Needs(chain=3, channels=("walk",), replay=True)
    first = quick_jit(compiled()[0].init)(jax.random.key(0), SPEC.example())
    kernel = first.params["value"]["hidden_0"]["kernel"]
    assert min(float(jnp.abs(kernel[i] - kernel[j]).max()) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    net, z = tdmpc2.networks(CONFIG, SPEC), jnp.ones((4, CONFIG.latent))
    np.testing.assert_allclose(values(net, first.params["value"], z, jnp.ones((4, 2))), 0, atol=1e-5)
    assert first.params["practised"] == 0


def with_planning(**changes):
    return dataclasses.replace(CONFIG, planning=dataclasses.replace(CONFIG.planning, **changes))


def test_without_a_horizon_the_policy_acts():
    config = with_planning(horizon=0)
    agent, _, act = compiled(config)
    params, net = started(config).params, tdmpc2.networks(config, SPEC)
    mean, std = policy(net, params["policy"], net.encoder.apply(params["encoder"], HERE["state"]))
    still, carry = act(params, HERE, Z, agent.carry(2), None)
    np.testing.assert_allclose(still, np.tanh(mean), rtol=1e-5)
    assert carry.shape == (2, 0, 2)
    drawn, _ = act(params, HERE, Z, agent.carry(2), KEY)
    noise = jax.random.normal(jax.random.split(KEY, 3)[1], mean.shape)
    np.testing.assert_allclose(drawn, np.tanh(mean + std * np.asarray(noise)), rtol=1e-5)


def test_search_begins_where_the_last_one_ended_only_while_it_explores():
    """A search that hardly looks around stays where it began; sequences of the policy would move it."""
    config = dataclasses.replace(with_planning(spread=1e-4, floor=1e-4), proposals=0)
    _, _, act = compiled(config)
    params, carry = started(config).params, jnp.array([[[0.1, 0.2], [0.3, -0.4]], [[0.5, 0.6], [-0.7, 0.8]]])
    action, after = act(params, HERE, Z, carry, KEY)
    np.testing.assert_allclose(after[:, 0], carry[:, 1], atol=2e-3)
    np.testing.assert_allclose(after[:, 1], 0.0, atol=2e-3)
    np.testing.assert_allclose(action, carry[:, 1], atol=2e-3)
    still, kept = act(params, HERE, Z, carry, None)
    np.testing.assert_allclose(still, 0.0, atol=2e-3)
    np.testing.assert_array_equal(kept, carry)


def test_exploring_draws_elites_and_adds_noise_of_their_deviation():
    config = dataclasses.replace(with_planning(spread=1e-4, floor=0.3), proposals=0)
    agent, _, act = compiled(config)
    params, many = started(config).params, {"state": jnp.tile(HERE["state"][:1], (500, 1))}
    action, _ = act(params, many, Z, agent.carry(500), KEY)
    # Four elites of the last round, more likely the better they are, and noise on top; rounds spread by the floor.
    noise = 0.3 * jax.random.normal(jax.random.split(KEY, 3)[2], action.shape)
    inside = (np.abs(np.asarray(action)) < 1).all(-1)
    drawn = np.round(np.asarray(action - noise)[inside], 4)
    often = np.sort(np.unique(drawn, axis=0, return_counts=True)[1])[::-1]
    assert len(often) <= 16
    assert often[0] < 0.99 * often.sum() < often[:4].sum() + 0.1 * often.sum()
    still, _ = act(params, many, Z, agent.carry(500), None)
    assert np.ptp(np.asarray(still), 0).max() < 1e-5
    first, _ = act(params | {"practised": jnp.float32(0)}, many, Z, agent.carry(500), KEY)
    np.testing.assert_allclose(np.quantile(np.asarray(first), [0.25, 0.5, 0.75]), [-0.5, 0.0, 0.5], atol=0.1)


def test_plans_learn_to_stay_near_the_middle_from_random_actions():
    planning = Planning("mppi", horizon=2, samples=48, iterations=3, elites=8, spread=1.0)
    small = dataclasses.replace(tdmpc2.Config().tiny(), planning=planning, hidden=32, latent=32, group=8)
    small = dataclasses.replace(small, bins=41, limit=3.0, discount=0.8, lr=3e-3, lr_encoder=1e-3)
    learn_to_stay(lambda spec: tdmpc2.make(small, spec), updates=500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": 20}, "tdmpc2: latent must be a multiple of group, 8, got 20"),
        ({"proposals": 511}, "tdmpc2: planning.samples must be at least 513, got 512"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tdmpc2.Config(**changes)
