"""TD-JEPA: published sizes, its fixed point on finite worlds, and who receives which gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import td_jepa
from embodied import losses, nets, prompts
from embodied.nets.encoders import count
from embodied.types import Goal, InputError, Motion, Prior, Reward, Spec
from tests.agents.chains import latent, quick_jit, random_batch, random_state, random_table, successor_measure

DISCOUNT = 0.9
SPEC = Spec(obs={"state": (5,)}, action=2)
CONFIG = dataclasses.replace(td_jepa.Config().tiny(), goal_ratio=1.0, scale_goals=True, lr_psi=3e-4)
ENCODERS = {"phi", "psi"}
PREDICTORS = {"predict_psi", "predict_phi"}


def sizes(obs, action, config=None):
    """The number of parameters of each network at published widths."""
    spec = Spec(obs={"state": (obs,)}, action=action)
    agent = td_jepa.make(config or td_jepa.Config(), spec)
    params = jax.eval_shape(agent.init, jax.random.key(0), spec.example()).params
    return {name: count(group) for name, group in params.items() if name != "covariance"}


def test_walker_model_has_the_published_sizes():
    walker = {"predict_psi": 5_476_452, "predict_phi": 5_054_976, "phi": 6_400, "psi": 85_554, "actor": 2_686_982}
    assert sizes(24, 6) == walker
    assert sum(walker.values()) == 13_310_364


@pytest.mark.parametrize(("obs", "action", "total"), [(17, 6, 13_306_780), (78, 12, 13_368_738), (4, 2, 13_279_640)])
def test_cheetah_quadruped_and_point_mass_models_have_the_published_sizes(obs, action, total):
    assert sum(sizes(obs, action).values()) == total


def test_symmetric_variant_has_one_encoder_and_one_predictor():
    symmetric = sizes(24, 6, td_jepa.Config(symmetric=True, phi_dim=50))
    assert set(symmetric) == {"phi", "predict_psi", "actor"}
    assert symmetric["phi"] == 85_554
    # Its predictor takes 50 features where T_psi takes 50, so both have one size but for the outputs (50, not 256).
    assert symmetric["predict_psi"] == 5_054_976 - 2 * (256 - 50) * (1024 + 1)
    with pytest.raises(InputError, match=r"phi_dim.*z_dim.*256 and 50"):
        td_jepa.Config(symmetric=True)


@pytest.mark.parametrize("full", [False, True])
def test_predictor_iteration_ends_at_the_fixed_point(full):
    """T* = (phi^T D (phi - discount P phi))^-1 phi^T D P psi; with phi = I the exact successor features of psi."""
    table, rng = random_table(3, states=5, actions=1, rows=40), np.random.default_rng(0)
    here, there, weight = table.state, table.next_state, table.joint[:, 0]
    transition = table.transition[:, 0]
    phi = np.eye(5) if full else rng.normal(size=(5, 3))
    psi = rng.normal(size=(5, 2))
    left = (phi * weight[:, None]).T
    fixed = np.linalg.solve(left @ (phi - DISCOUNT * transition @ phi), left @ transition @ psi)
    with jax.enable_x64(True):
        phi_here, phi_there, psi_there = (jnp.asarray(x) for x in (phi[here], phi[there], psi[there]))
        discount = jnp.full(len(here), DISCOUNT)

        def gradient(predictor):
            target = losses.successor_target(psi_there, jnp.stack([phi_there @ predictor] * 2), discount, 0.0)
            prediction = lambda t: losses.latent_prediction_loss(jnp.stack([phi_here @ t] * 2), target)  # noqa: E731
            return jax.grad(prediction)(predictor)

        assert np.abs(gradient(jnp.asarray(fixed))).max() < 1e-12
        iterate = lambda t: jax.lax.fori_loop(0, 20_000, lambda _, t: t - 0.1 * gradient(t), t)  # noqa: E731
        np.testing.assert_allclose(jax.jit(iterate)(jnp.zeros_like(fixed)), fixed, atol=1e-9)
    if full:
        np.testing.assert_allclose(fixed, successor_measure(transition, DISCOUNT) @ psi, rtol=1e-9)
        wish = np.array([1.0, -2.0])
        values = successor_measure(transition, DISCOUNT) @ (psi @ wish)
        np.testing.assert_allclose(phi @ fixed @ wish, values, rtol=1e-9)


def test_value_error_of_any_predictor_is_bounded_by_its_successor_measure_error():
    rng = np.random.default_rng(0)
    measure = successor_measure(random_table(4, states=6, actions=1, rows=30).transition[:, 0], DISCOUNT)
    for _ in range(50):
        phi, psi = (np.linalg.qr(rng.normal(size=(6, width)))[0] for width in (4, 3))
        predictor = rng.normal(size=(4, 3)) * rng.uniform(0, 5)
        reward = rng.normal(size=6)
        reward /= np.linalg.norm(reward)
        wish = prompts.least_squares(*(jnp.asarray(x, jnp.float32) for x in (psi, reward, np.ones(6))), 0.0)
        gap = np.square(measure @ reward - phi @ predictor @ np.asarray(wish)).sum()
        assert gap <= np.square(phi @ predictor @ psi.T - measure).sum() * (1 + 1e-4)


@pytest.fixture(scope="module")
def agent():
    return td_jepa.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(agent):
    return random_state(agent, SPEC)


@pytest.fixture(scope="module")
def update(agent):
    """The compiled update, and the parameters that another actor loss would lead to."""
    other = td_jepa.make(dataclasses.replace(CONFIG, actor_pessimism=3.0), SPEC)
    return quick_jit(lambda *inputs: (*agent.update(*inputs), other.update(*inputs)[0].params))


@pytest.fixture(scope="module")
def updated(update, state):
    return update(state, random_batch(SPEC, 6), jax.random.key(0))


def nonzero(tree):
    """The groups that hold a number other than zero."""
    return {name for name, group in tree.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}


def difference(before, after):
    return {name: jax.tree.map(lambda a, b: a - b, before[name], after[name]) for name in before}


def test_each_loss_reaches_its_own_encoder_and_predictor_and_nothing_else(agent, state):
    """Neither loss reaches the other's encoder, the actor, the covariance, a target network, or anything through z."""
    names = ("loss/predict_psi", "loss/predict_phi")

    def pair(params, target):
        state_here = state.replace(params=params, target=target)
        metrics = agent.update(state_here, random_batch(SPEC, 6), jax.random.key(0))[1]
        return {name: metrics[name] for name in names}

    jacobian = quick_jit(jax.jacrev(pair, argnums=(0, 1)))(state.params, state.target)
    assert nonzero(jacobian["loss/predict_psi"][0]) == {"phi", "predict_psi"}
    assert nonzero(jacobian["loss/predict_phi"][0]) == {"psi", "predict_phi"}
    assert not any(nonzero(jacobian[name][1]) for name in names)


def test_actor_loss_moves_no_representation(updated):
    after, _, under_another_actor_loss = updated
    assert nonzero(difference(after.params, under_another_actor_loss)) == {"actor"}


def test_update_moves_all_groups_and_the_targets_by_tau(state, updated):
    after, metrics, _ = updated
    assert nonzero(difference(state.params, after.params)) == ENCODERS | PREDICTORS | {"actor", "covariance"}
    assert set(state.target) == ENCODERS | PREDICTORS  # no target actor
    jax.tree.map(
        lambda old, new, online: np.testing.assert_allclose(new, old + CONFIG.tau * (online - old), atol=1e-6),
        state.target,
        after.target,
        {name: after.params[name] for name in state.target},
    )
    part = {name.removeprefix("loss/"): float(value) for name, value in metrics.items()}
    total = part["predict_psi"] + part["predict_phi"]
    total += CONFIG.c_phi * part["orth_phi"] + CONFIG.c_psi * part["orth_psi"]
    assert part["world"] == pytest.approx(total, rel=1e-5)


def test_each_group_has_its_own_learning_rate(state, updated):
    step = difference(state.params, updated[0].params)
    largest = {name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(step[name])) for name in step}
    # The first step of Adam is the learning rate wherever there is a gradient.
    expected = {"phi": 1e-4, "psi": 3e-4, "predict_psi": 1e-4, "predict_phi": 1e-4, "actor": 1e-3}
    assert {name: largest[name] for name in expected} == pytest.approx(expected, rel=2e-2)


def test_covariance_is_a_moving_average_over_features_of_current_states(state, updated):
    psi = nets.encoders.encoder(CONFIG.psi_hidden, CONFIG.psi_layers, CONFIG.z_dim)
    features = np.asarray(jax.jit(psi.apply)(state.params["psi"], random_batch(SPEC, 6).obs["state"]))
    expected = 0.995 * np.eye(8) + 0.005 * features.T @ features / 6
    np.testing.assert_allclose(updated[0].params["covariance"], expected, atol=1e-6)


def test_targets_are_next_features_and_bootstrap_only_where_the_world_goes_on(update, state, updated):
    batch = random_batch(SPEC, 6)

    def loss(batch, *shifted, params=state.params):
        target = {n: jax.tree.map(lambda x, n=n: x + 0.3 * (n in shifted), g) for n, g in state.target.items()}
        return float(
            update(state.replace(params=params, target=target), batch, jax.random.key(0))[1]["loss/predict_psi"]
        )

    other_actor = state.params | {"actor": jax.tree.map(lambda leaf: -leaf, state.params["actor"])}
    usual = float(updated[1]["loss/predict_psi"])
    for name in ("phi", "psi", "predict_psi"):
        assert loss(batch, name) != pytest.approx(usual, rel=1e-4)
    assert loss(batch, params=other_actor) != pytest.approx(usual, rel=1e-4)
    assert loss(batch, "predict_phi") == usual
    ended = batch.replace(discount=jnp.zeros(6))
    assert loss(ended, "phi", "predict_psi", "predict_phi") == loss(ended) == loss(ended, params=other_actor)
    assert loss(ended, "psi") != pytest.approx(loss(ended), rel=1e-4)


def test_prompts_read_the_task_encoder_and_its_covariance(agent, state):
    psi = nets.encoders.encoder(CONFIG.psi_hidden, CONFIG.psi_layers, CONFIG.z_dim)
    root = np.random.default_rng(4).normal(size=(8, 8))
    params = state.params | {"covariance": jnp.asarray(root @ root.T + np.eye(8), jnp.float32)}
    obs = random_batch(SPEC, 60).obs
    features = np.asarray(jax.jit(psi.apply)(params["psi"], obs["state"]))
    on_sphere = lambda z: z * 8**0.5 / np.linalg.norm(z, axis=-1, keepdims=True)  # noqa: E731
    prompt = functools.partial(latent, agent, params)
    wish = np.random.default_rng(5).normal(size=8).astype(np.float32)
    np.testing.assert_allclose(prompt(Reward(obs, jnp.asarray(features @ wish))), on_sphere(wish), atol=2e-2)
    solved = np.linalg.solve(np.asarray(params["covariance"]), features.T).T
    np.testing.assert_allclose(prompt(Goal({"state": obs["state"][3]})), on_sphere(solved[3]), atol=1e-3)
    motion = prompt(Motion(obs))
    np.testing.assert_allclose(motion[1], on_sphere(solved[2:10].mean(0)), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(prompt(Prior())), 8**0.5, rtol=1e-5)


class StoppedError(Exception):
    """Carries what an update asks `losses.sample_latents` for, and ends it there."""


def asked(monkeypatch, agent, state, batch):
    def ask(key, *arguments):
        raise StoppedError(*arguments)

    monkeypatch.setattr(losses, "sample_latents", ask)
    with pytest.raises(StoppedError) as caught:
        agent.update(state, batch, jax.random.key(0))
    return caught.value.args


def test_training_goals_are_scaled_by_the_inverse_covariance(agent, state, monkeypatch):
    plain = td_jepa.make(dataclasses.replace(CONFIG, scale_goals=False), SPEC)
    scale = np.linspace(1, 8, 8)
    state, batch = (
        state.replace(params=state.params | {"covariance": jnp.diag(jnp.asarray(scale))}),
        random_batch(SPEC, 6),
    )
    scaled, unscaled = (asked(monkeypatch, one, state, batch)[0] for one in (agent, plain))
    np.testing.assert_allclose(scaled * scale[None], unscaled, rtol=1e-4)


def test_training_latents_are_goals_and_what_the_batch_brings(agent, state, monkeypatch):
    batch = random_batch(SPEC, 6).replace(latent=jnp.ones((6, 8)))
    _, goal_ratio, brought, brought_ratio = asked(monkeypatch, agent, state, batch)
    assert (goal_ratio, brought_ratio) == (CONFIG.goal_ratio, CONFIG.latent_ratio)
    np.testing.assert_array_equal(brought, batch.latent)


def test_actor_steps_on_the_predictor_that_was_just_updated(state):
    def actor_gradient(rate):
        other = td_jepa.make(dataclasses.replace(CONFIG, lr_predictor=rate), SPEC)
        return other.update(state, random_batch(SPEC, 6), jax.random.key(0))[1]["grad/actor"]

    still, moved = quick_jit(lambda: (actor_gradient(0.0), actor_gradient(0.1)))()
    assert abs(still - moved) > 1e-3 * still


def test_symmetric_update_learns_its_one_encoder_and_predictor():
    agent = td_jepa.make(td_jepa.Config(symmetric=True, phi_dim=50).tiny(), SPEC)
    state = random_state(agent, SPEC)
    after = quick_jit(lambda *x: agent.update(*x)[0])(state, random_batch(SPEC, 6), jax.random.key(0))
    assert nonzero(difference(state.params, after.params)) == {"phi", "predict_psi", "actor", "covariance"}
    assert set(after.target) == {"phi", "predict_psi"}
