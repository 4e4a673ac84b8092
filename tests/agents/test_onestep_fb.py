"""One-step forward-backward: the exact measure of the data's policy is its stationary point; losses as plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import onestep_fb
from embodied import losses, nets, prompts
from embodied.types import Needs, Reward, Spec
from tests.agents.chains import latent, mean_over_pairs, quick_jit, random_batch, random_state, random_table

DISCOUNT = 0.9
SPEC = Spec(obs={"state": (5,)}, action=2)
CONFIG = onestep_fb.Config().tiny()


def behaviour_measure(table, discount):
    """The normalised measure [S, A, S] of the policy that took the table's actions, from the next state on."""
    policy = table.joint / table.joint.sum(1, keepdims=True)
    on_policy = (policy[..., None] * table.transition).sum(1)
    after = np.linalg.inv(np.eye(len(on_policy)) - discount * on_policy)
    return (1 - discount) * table.transition @ after


def population_loss(forward, backward, table, discount):
    """The loss over all pairs of (s, a, s', a'), a' weighted as the data's policy takes it, with fixed targets."""
    policy = jnp.asarray(table.joint / table.joint.sum(1, keepdims=True))
    fixed_forward, fixed_backward = jax.lax.stop_gradient((forward, backward))
    # Linear in a', so that its mean over the next actions stands for a draw of them.
    expected_forward = (policy[..., None] * fixed_forward).sum(1)

    def of(pair):
        state, action, after = (jnp.asarray(rows)[pair] for rows in (table.state, table.action, table.next_state))
        target = expected_forward[after] @ fixed_backward[after].T
        ones = jnp.ones(2)
        return losses.density_ratio_loss(
            jnp.stack([forward[state, action]] * 2), backward[after], target, discount, ones, ones
        )

    return mean_over_pairs(of, len(table.state))


def test_exact_measure_of_the_behaviour_policy_is_the_stationary_point():
    table = random_table(0)
    measure = behaviour_measure(table, DISCOUNT)
    np.testing.assert_allclose(measure.sum(-1), 1.0)
    root = np.sqrt(table.weight)
    with jax.enable_x64(True):
        forward, backward = jnp.asarray(measure / root), jnp.asarray(np.diag(1 / root))
        gradient = jax.jit(jax.grad(lambda f, b: population_loss(f, b, table, DISCOUNT), (0, 1)))
        assert max(np.abs(leaf).max() for leaf in gradient(forward, backward)) < 1e-12
        assert all(np.abs(leaf).max() > 1e-4 for leaf in gradient(1.1 * forward, backward))
        # The mean reward per decision of any reward, from its correlation with B.
        reward = np.random.default_rng(0).normal(size=4)
        z = prompts.correlate(backward, jnp.asarray(reward), jnp.asarray(table.weight))
        np.testing.assert_allclose(forward @ z, measure @ reward, rtol=1e-10)


def test_loss_equals_a_loop_over_all_pairs():
    rng = np.random.default_rng(1)
    forward, backward, target = rng.normal(size=(2, 6, 3)), rng.normal(size=(6, 3)), rng.normal(size=(6, 6))
    going, weight = np.array([1, 1, 0, 1, 1, 1.0]), np.array([1, 0, 1, 1, 0, 1.0])
    expected = 0.0
    for k in range(2):
        for i in range(6):
            for j in range(6):
                product = sum(forward[k, i, c] * backward[j, c] for c in range(3))
                if i == j:
                    expected -= weight[i] * (1 - 0.8) * product / 4
                else:
                    expected += weight[i] * (product - 0.8 * going[i] * target[i, j]) ** 2 / (2 * 5 * 4)
    inputs = (jnp.asarray(value, jnp.float32) for value in (forward, backward, target))
    loss = losses.density_ratio_loss(*inputs, 0.8, jnp.asarray(going, jnp.float32), jnp.asarray(weight, jnp.float32))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def agent():
    return onestep_fb.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(agent):
    made = random_state(agent, SPEC)
    return made.replace(target=jax.tree.map(lambda leaf: leaf + 0.1, made.target))


@pytest.fixture(scope="module")
def ratio(agent, state):
    """The compiled loss of the measure, as a function of (params, target, batch)."""

    def of(params, target, batch):
        return agent.update(state.replace(params=params, target=target), batch, jax.random.key(0))[1]["loss/ratio"]

    return quick_jit(lambda *inputs: (of(*inputs), jax.grad(of, argnums=(0, 1))(*inputs)))


def test_update_bootstraps_with_the_next_action_of_the_data(agent, state, ratio):
    """Chains of every other row end with their first transition: they have no next action, and count nothing."""
    assert agent.needs == Needs(chain=2)
    batch = random_batch(SPEC, 6)
    encoder = nets.encoders.encoder
    read_forward = encoder(CONFIG.hidden, CONFIG.layers, 8, on_sphere=False, members=2)
    read_backward = encoder(CONFIG.backward_hidden, CONFIG.backward_layers, 8)
    pair = lambda obs, action: jnp.concatenate([obs["state"], action], -1)  # noqa: E731
    forward = read_forward.apply(state.params["forward"], pair(batch.obs, batch.action))
    backward = read_backward.apply(state.params["backward"], batch.next_obs["state"])
    slow = read_forward.apply(state.target["forward"], pair(batch.next_obs, batch.chain.action[:, 1])).mean(0)
    measure = slow @ read_backward.apply(state.target["backward"], batch.next_obs["state"]).T
    weight = jnp.array([0.0, 1.0] * 3)
    expected = losses.density_ratio_loss(forward, backward, measure, CONFIG.discount, jnp.ones(6), weight)
    np.testing.assert_allclose(ratio(state.params, state.target, batch)[0], expected, rtol=1e-4)


def test_rows_without_a_next_action_count_only_where_the_world_ended(state, ratio):
    batch = random_batch(SPEC, 6)
    loss = lambda batch: float(ratio(state.params, state.target, batch)[0])  # noqa: E731
    other = batch.replace(action=batch.action.at[0].set(0.5))  # row 0 has no next action
    assert loss(other) == pytest.approx(loss(batch), rel=1e-5)
    ended = batch.replace(discount=batch.discount.at[0].set(0.0))
    assert loss(ended.replace(action=other.action)) != pytest.approx(loss(ended), rel=1e-4)


def test_measure_reaches_forward_and_backward_map_and_nothing_else(state, ratio):
    params, target = ratio(state.params, state.target, random_batch(SPEC, 6))[1]
    reached = {name for name, group in params.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}
    assert reached == {"forward", "backward"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(target))


def test_actor_loss_moves_the_actor_alone(agent, state):
    other = onestep_fb.make(dataclasses.replace(CONFIG, actor_pessimism=3.0), SPEC)
    both = quick_jit(lambda *inputs: [one.update(*inputs)[0].params for one in (agent, other)])
    first, second = both(state, random_batch(SPEC, 6), jax.random.key(0))
    differs = lambda name: any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), first[name], second[name])))  # noqa: E731
    assert {name for name in first if differs(name)} == {"actor"}


def test_reward_prompt_is_the_correlation_with_the_backward_map(agent, state):
    backward = nets.encoders.encoder(CONFIG.backward_hidden, CONFIG.backward_layers, 8)
    obs = random_batch(SPEC, 12).obs
    features = np.asarray(backward.apply(state.params["backward"], obs["state"]))
    reward = np.random.default_rng(3).normal(size=12).astype(np.float32)
    z = latent(agent, state.params, Reward(obs, jnp.asarray(reward)))
    expected = (reward - reward.mean()) @ features
    np.testing.assert_allclose(z, expected * 8**0.5 / np.linalg.norm(expected), atol=1e-4)
