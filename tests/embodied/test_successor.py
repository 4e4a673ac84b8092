"""The shared trunk of successor-feature agents: exact successor features, and who receives which gradient."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import hilp, laplacian
from embodied import losses, successor
from embodied.nets.encoders import count
from embodied.types import Goal, InputError, Motion, Prior, Reward, Spec
from tests.agents.chains import latent, quick_jit, random_batch, random_state, random_table, successor_measure

DISCOUNT = 0.9
SPEC = Spec(obs={"state": (5,)}, action=2)
CONFIG = dataclasses.replace(laplacian.Config().tiny(), goal_ratio=1.0, lr_features=3e-4, lr_successor=2e-4)


def test_walker_model_has_the_size_of_forward_backward_with_features_for_its_backward_map():
    agent = laplacian.make(laplacian.Config(), spec := Spec(obs={"state": (24,)}, action=6))
    params = jax.eval_shape(agent.init, jax.random.key(0), spec.example()).params
    sizes = {name: count(group) for name, group in params.items() if name != "covariance"}
    assert sizes["features"] == 85_554
    assert sum(sizes.values()) == 8_255_388


def test_loss_halves_the_sum_over_heads_of_mean_squared_errors():
    prediction = jnp.array([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]])
    # Squared errors to (0, 0) and (0, 1): 1, 4, 0, 1 in the first head, 0, 0, 9, 1 in the second.
    assert losses.successor_loss(prediction, jnp.array([[0.0, 0.0], [0.0, 1.0]])) == (6 / 4 + 10 / 4) / 2


def test_successor_features_of_one_hot_features_are_the_exact_successor_measure():
    table = random_table(3, states=5, actions=1, rows=40)
    with jax.enable_x64(True):
        there = jnp.eye(5)[table.next_state]
        discount = jnp.full(len(there), DISCOUNT)

        def gradient(psi):
            aim = losses.successor_target(there, psi[:, table.next_state], discount, 0.0)
            return jax.grad(lambda psi: losses.successor_loss(psi[:, table.state], aim))(psi)

        exact = successor_measure(table.transition[:, 0], DISCOUNT)
        assert np.abs(gradient(jnp.stack([exact] * 2))).max() < 1e-12
        iterate = jax.jit(lambda psi: jax.lax.fori_loop(0, 20_000, lambda _, p: p - 10.0 * gradient(p), psi))
        learned = np.asarray(iterate(jnp.stack([jnp.zeros((5, 5)), jnp.ones((5, 5))])))
    np.testing.assert_allclose(learned, np.stack([exact] * 2), atol=1e-9)
    # The value of any reward, and of any features that are linear in these.
    reward = np.random.default_rng(0).normal(size=5)
    np.testing.assert_allclose(learned[0] @ reward, exact @ reward, atol=1e-8)


@pytest.fixture(scope="module")
def agent():
    return laplacian.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(agent):
    return random_state(agent, SPEC)


@pytest.fixture(scope="module")
def update(agent):
    """The compiled update, and the parameters that another actor loss would lead to."""
    other = laplacian.make(dataclasses.replace(CONFIG, actor_pessimism=3.0), SPEC)
    return quick_jit(lambda *inputs: (*agent.update(*inputs), other.update(*inputs)[0].params))


@pytest.fixture(scope="module")
def updated(update, state):
    return update(state, random_batch(SPEC, 6), jax.random.key(0))


def nonzero(tree):
    """The groups that hold a number other than zero."""
    return {name for name, group in tree.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}


def difference(before, after):
    return {name: jax.tree.map(lambda a, b: a - b, before[name], after[name]) for name in before}


def test_each_loss_reaches_its_own_groups_and_neither_targets_nor_latents(agent, state):
    names = ("loss/successor", "loss/features")

    def pair(params, target):
        state_here = state.replace(params=params, target=target)
        metrics = agent.update(state_here, random_batch(SPEC, 6), jax.random.key(0))[1]
        return {name: metrics[name] for name in names}

    jacobian = quick_jit(jax.jacrev(pair, argnums=(0, 1)))(state.params, state.target)
    assert nonzero(jacobian["loss/successor"][0]) == {"encoder", "successor"}
    assert nonzero(jacobian["loss/features"][0]) == {"features"}
    assert not any(nonzero(jacobian[name][1]) for name in names)


def test_actor_loss_moves_neither_features_nor_successor_features(updated):
    after, _, under_another_actor_loss = updated
    assert nonzero(difference(after.params, under_another_actor_loss)) == {"actor"}


def test_update_moves_all_groups_at_their_rates_and_the_targets_by_tau(state, updated):
    after, metrics, _ = updated
    step = difference(state.params, after.params)
    largest = {name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(step[name])) for name in step}
    # The first step of Adam is the learning rate wherever there is a gradient.
    expected = {"encoder": 2e-4, "successor": 2e-4, "features": 3e-4, "actor": 1e-3}
    assert {name: largest[name] for name in expected} == pytest.approx(expected, rel=2e-2)
    assert set(state.target) == {"encoder", "successor"}
    jax.tree.map(
        lambda old, new, online: np.testing.assert_allclose(new, old + CONFIG.tau * (online - old), atol=1e-6),
        state.target,
        after.target,
        {name: after.params[name] for name in state.target},
    )
    part = {name.removeprefix("loss/"): float(value) for name, value in metrics.items()}
    assert part["world"] == pytest.approx(part["successor"] + part["features"], rel=1e-5)


def test_targets_bootstrap_only_where_the_world_goes_on_and_read_online_features(update, state, updated):
    batch = random_batch(SPEC, 6)

    target = jax.tree.map(lambda leaf: leaf + 0.3, state.target)
    features = state.params | {"features": jax.tree.map(lambda leaf: leaf + 0.3, state.params["features"])}
    loss = lambda batch, **change: float(  # noqa: E731
        update(state.replace(**change), batch, jax.random.key(0))[1]["loss/successor"]
    )
    usual = float(updated[1]["loss/successor"])
    assert loss(batch, target=target) != pytest.approx(usual, rel=1e-4)
    assert loss(batch, params=features) != pytest.approx(usual, rel=1e-4)
    ended = batch.replace(discount=jnp.zeros(6))
    assert loss(ended, target=target) == loss(ended)
    assert loss(ended, params=features) != pytest.approx(loss(ended), rel=1e-4)


def test_covariance_is_a_moving_average_over_features_of_current_states(state, updated):
    net = successor.feature_net(CONFIG)
    features = np.asarray(jax.jit(net.apply)(state.params["features"], random_batch(SPEC, 6).obs["state"]))
    expected = 0.995 * np.eye(8) + 0.005 * features.T @ features / 6
    np.testing.assert_allclose(updated[0].params["covariance"], expected, atol=1e-6)


def test_centred_features_are_used_without_their_moving_mean():
    config = hilp.Config().tiny()
    agent = hilp.make(config, SPEC)
    state, batch = random_state(agent, SPEC), random_batch(SPEC, 6)
    state = state.replace(params=state.params | {"mean": jnp.linspace(-1.0, 1.0, 8)})
    after = quick_jit(lambda *inputs: agent.update(*inputs)[0])(state, batch, jax.random.key(0))
    net = successor.feature_net(config, on_sphere=False, members=2)
    features = np.asarray(jax.jit(net.apply)(state.params["features"], batch.obs["state"]))[0]
    mean = np.linspace(-1.0, 1.0, 8)
    np.testing.assert_allclose(after.params["mean"], 0.995 * mean + 0.005 * features.mean(0), atol=1e-6)
    centred = features - mean
    np.testing.assert_allclose(
        after.params["covariance"], 0.995 * np.eye(8) + 0.005 * centred.T @ centred / 6, atol=1e-6
    )
    goal = latent(agent, state.params, Goal({"state": batch.obs["state"][2]}))
    np.testing.assert_allclose(goal, centred[2] * 8**0.5 / np.linalg.norm(centred[2]), atol=1e-4)


def test_prompts_recover_a_reward_that_is_linear_in_the_features_and_divide_goals_by_the_covariance(agent, state):
    root = np.random.default_rng(4).normal(size=(8, 8))
    params = state.params | {"covariance": jnp.asarray(root @ root.T + np.eye(8), jnp.float32)}
    obs = random_batch(SPEC, 60).obs
    net = successor.feature_net(CONFIG)
    features = np.asarray(jax.jit(net.apply)(params["features"], obs["state"]))
    on_sphere = lambda z: z * 8**0.5 / np.linalg.norm(z, axis=-1, keepdims=True)  # noqa: E731
    prompt = functools.partial(latent, agent, params)
    wish = np.random.default_rng(5).normal(size=8).astype(np.float32)
    z = prompt(Reward(obs, jnp.asarray(features @ wish)))
    assert z @ wish / np.linalg.norm(z) / np.linalg.norm(wish) > 0.9999
    np.testing.assert_allclose(z, on_sphere(wish), atol=2e-2)
    solved = np.linalg.solve(np.asarray(params["covariance"]), features.T).T
    np.testing.assert_allclose(prompt(Goal({"state": obs["state"][3]})), on_sphere(solved[3]), atol=1e-3)
    np.testing.assert_allclose(prompt(Motion(obs))[1], on_sphere(solved[2:10].mean(0)), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(prompt(Prior())), 8**0.5, rtol=1e-5)


def test_training_latents_are_scaled_goals_and_what_the_batch_brings(agent, state, monkeypatch):
    class StoppedError(Exception):
        pass

    def ask(key, *arguments):
        raise StoppedError(*arguments)

    monkeypatch.setattr(losses, "sample_latents", ask)
    batch = random_batch(SPEC, 6).replace(latent=jnp.ones((6, 8)))
    scale = np.linspace(1, 8, 8)
    state = state.replace(params=state.params | {"covariance": jnp.diag(jnp.asarray(scale))})
    with pytest.raises(StoppedError) as caught:
        agent.update(state, batch, jax.random.key(0))
    goals, goal_ratio, brought, brought_ratio = caught.value.args
    features = successor.feature_net(CONFIG).apply(state.params["features"], batch.next_obs["state"])
    np.testing.assert_allclose(goals * scale[None], features, rtol=1e-4, atol=1e-5)
    assert (goal_ratio, brought_ratio) == (CONFIG.goal_ratio, CONFIG.latent_ratio)
    np.testing.assert_array_equal(brought, batch.latent)


def test_actor_steps_on_the_successor_features_that_were_just_updated(state):
    def actor_gradient(rate):
        other = laplacian.make(dataclasses.replace(CONFIG, lr_successor=rate), SPEC)
        return other.update(state, random_batch(SPEC, 6), jax.random.key(0))[1]["grad/actor"]

    still, moved = quick_jit(lambda: (actor_gradient(0.0), actor_gradient(0.1)))()
    assert abs(still - moved) > 1e-3 * still


def test_shared_fields_out_of_range_are_refused_in_the_name_of_the_method():
    with pytest.raises(InputError, match=r"hilp: tau must be in \(0, 1\], got 0"):
        hilp.Config(tau=0.0)
    misspelt = types.SimpleNamespace(**{**dataclasses.asdict(CONFIG), "inputs": "standardised"})
    with pytest.raises(InputError, match="laplacian: unknown inputs 'standardised'; did you mean 'standardized'"):
        successor.check("laplacian", misspelt, {})
