"""Forward-backward: exact representations of finite worlds, and who receives which gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import fb
from embodied import losses, nets, prompts
from embodied.nets.encoders import count
from embodied.types import Goal, Motion, Prior, Reward, Spec
from tests.agents.chains import (
    action_measure,
    latent,
    mean_over_pairs,
    quick_jit,
    random_batch,
    random_state,
    random_table,
    successor_measure,
)

DISCOUNT = 0.9
POLICY = np.array([1, 0, 0, 1])  # the action of each state
SPEC = Spec(obs={"state": (5,)}, action=2)
CONFIG = dataclasses.replace(fb.Config().tiny(), goal_ratio=1.0)


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def exact(table, discount):
    """F [S, A, S] and B [S, S] of a finite world under POLICY."""
    root = np.sqrt(table.weight)
    return action_measure(table, POLICY, discount) / root, np.diag(1 / root)


def population_loss(forward, backward, table, discount, heads=2):
    """The forward-backward loss of tables F and B over the whole distribution, with targets of the same tables."""
    fixed_forward, fixed_backward = jax.lax.stop_gradient((forward, backward))

    def of(pair):
        state, action, after = (jnp.asarray(rows)[pair] for rows in (table.state, table.action, table.next_state))
        target = fixed_forward[after, jnp.asarray(POLICY)[after]] @ fixed_backward[after].T
        chosen = jnp.stack([forward[state, action]] * heads)
        return losses.forward_backward_loss(chosen, backward[after], target, jnp.full(2, discount))[0]

    return mean_over_pairs(of, len(table.state))


def test_walker_model_has_the_published_size():
    agent = fb.make(fb.Config(), spec := Spec(obs={"state": (24,)}, action=6))
    assert count(jax.eval_shape(agent.init, jax.random.key(0), spec.example()).params) == 8_255_388


def test_successor_measure_of_a_ring_has_its_closed_form():
    measure = successor_measure(np.roll(np.eye(5), 1, axis=1), 0.9)
    expected = [1.602159, 2.441943, 2.197749, 1.977974, 1.780176]
    np.testing.assert_allclose(measure[0], expected, atol=1e-6)
    np.testing.assert_allclose(measure[3], np.roll(expected, 3), atol=1e-6)
    np.testing.assert_allclose(measure.sum(1), 1 / (1 - 0.9))


@pytest.mark.usefixtures("double_precision")
def test_exact_representation_has_zero_gradient_and_the_known_loss():
    table = random_table(0)
    forward, backward = exact(table, DISCOUNT)
    np.testing.assert_allclose((backward * table.weight[:, None]).T @ backward, np.eye(4), atol=1e-12)
    loss = jax.jit(lambda f, b: jax.value_and_grad(population_loss, (0, 1))(f, b, table, DISCOUNT))
    value, gradient = loss(forward, backward)
    assert max(np.abs(leaf).max() for leaf in gradient) < 1e-12
    assert all(np.abs(leaf).max() > 1e-3 for leaf in loss(1.1 * forward, backward)[1])
    # Two heads of: 1/2 E[sum P^2 / rho] - E[sum P M / rho], the bootstrapped diagonal and the noise of targets.
    measure = action_measure(table, POLICY, DISCOUNT)
    policy_measure = measure[np.arange(4), POLICY]
    one_step, visits = ((table.transition * x / table.weight).sum(-1) for x in (table.transition, measure))
    spread = table.transition @ policy_measure**2 - (table.transition @ policy_measure) ** 2
    noise = DISCOUNT**2 * (spread / table.weight).sum(-1)
    expected = (table.joint * (one_step / 2 - visits + noise / 2)).sum() + DISCOUNT * np.trace(policy_measure)
    np.testing.assert_allclose(value, 2 * expected, rtol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_correlation_with_the_exact_backward_map_gives_the_action_values_of_any_reward():
    table = random_table(1)
    forward, backward = exact(table, DISCOUNT)
    reward = np.random.default_rng(0).normal(size=4)
    z = prompts.correlate(*map(jnp.asarray, (backward, reward, table.weight)))
    values = action_measure(table, POLICY, DISCOUNT) @ reward
    np.testing.assert_allclose(forward @ z, values, rtol=1e-10)
    np.testing.assert_allclose(
        prompts.least_squares(*map(jnp.asarray, (backward, reward, table.weight)), 0.0), z, rtol=1e-10
    )
    # Another basis, the same values: B -> B A, F -> F A^-T.
    basis = np.random.default_rng(1).normal(size=(4, 4))
    z = prompts.correlate(*map(jnp.asarray, (backward @ basis, reward, table.weight)))
    np.testing.assert_allclose(forward @ np.linalg.inv(basis).T @ z, values, rtol=1e-8)


@pytest.mark.usefixtures("double_precision")
def test_learned_low_rank_representation_approaches_the_singular_value_bound_from_above():
    table, discount, rank = random_table(2), 0.5, 2
    measure = action_measure(table, POLICY, discount) / table.weight
    scale = np.sqrt(table.joint)[..., None], np.sqrt(table.weight)
    singular = np.linalg.svd((scale[0] * measure * scale[1]).reshape(-1, 4), compute_uv=False)
    bound = np.square(singular[rank:]).sum() / 2

    def error(forward, backward):
        return np.square(scale[0] * (np.asarray(forward) @ np.asarray(backward).T - measure) * scale[1]).sum() / 2

    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=(4, 2, rank))), jnp.asarray(rng.normal(size=(4, rank)))
    optimizer = optax.adam(0.02)

    def step(_, carry):
        tables, state = carry
        gradient = jax.grad(lambda t: population_loss(*t, table, discount, heads=1))(tables)
        delta, state = optimizer.update(gradient, state)
        return optax.apply_updates(tables, delta), state

    learned, _ = jax.jit(lambda t: jax.lax.fori_loop(0, 1000, step, (t, optimizer.init(t))))(start)
    assert bound <= error(*learned) < 1.5 * bound < 0.2 * error(*start)


def test_target_measure_is_the_mean_or_the_minimum_of_the_heads_without_gradient():
    rng = np.random.default_rng(0)
    forward, backward = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 5, 3), (5, 3)))
    both = np.asarray(forward @ backward.T)
    np.testing.assert_allclose(losses.target_measure(forward, backward, 0.0), both.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses.target_measure(forward, backward, 0.5), both.min(0), rtol=1e-4, atol=1e-5)
    for pessimism in (0.0, 0.5):
        gradient = jax.grad(lambda f, b, p=pessimism: losses.target_measure(f, b, p).sum(), (0, 1))(forward, backward)
        assert not any(np.any(leaf) for leaf in gradient)


@pytest.fixture(scope="module")
def agent():
    return fb.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(agent):
    return random_state(agent, SPEC)


@pytest.fixture(scope="module")
def update(agent):
    """The compiled update, and the parameters that another actor loss would lead to."""
    other = fb.make(dataclasses.replace(CONFIG, actor_pessimism=3.0), SPEC)
    return quick_jit(lambda *inputs: (*agent.update(*inputs), other.update(*inputs)[0].params))


@pytest.fixture(scope="module")
def updated(update, state):
    return update(state, random_batch(SPEC, 6), jax.random.key(0))


def moved(before, after):
    """The groups of parameters that differ."""
    different = lambda name: jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, before[name], after[name])  # noqa: E731
    return {name for name in before if any(jax.tree.leaves(different(name)))}


def test_no_gradient_flows_through_targets_actor_or_latents(agent, state):
    def loss(params, target):
        return agent.update(state.replace(params=params, target=target), random_batch(SPEC, 6), jax.random.key(0))[1][
            "loss/fb"
        ]

    params, target = quick_jit(jax.grad(loss, argnums=(0, 1)))(state.params, state.target)
    reached = {name for name, group in params.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}
    assert reached == {"encoder", "forward", "backward"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(target))


def test_actor_loss_moves_no_representation(updated):
    after, _, under_another_actor_loss = updated
    assert moved(after.params, under_another_actor_loss) == {"actor"}


def test_update_moves_all_groups_and_the_targets_by_tau(state, updated):
    assert moved(state.params, updated[0].params) == {"encoder", "forward", "backward", "actor"}
    jax.tree.map(
        lambda old, new, online: np.testing.assert_allclose(new, old + CONFIG.tau * (online - old), atol=1e-6),
        state.target,
        updated[0].target,
        {name: updated[0].params[name] for name in state.target},
    )
    parts = {name: float(value) for name, value in updated[1].items()}
    assert parts["loss/fb"] == pytest.approx(parts["loss/fb_offdiag"] + parts["loss/fb_diag"], rel=1e-5)
    assert parts["loss/world"] == pytest.approx(parts["loss/fb"] + parts["loss/orth_backward"], rel=1e-5)


def test_targets_use_the_target_networks_and_end_where_the_world_does(update, state, updated):
    batch = random_batch(SPEC, 6)
    shifted = jax.tree.map(lambda leaf: leaf + 0.3, state.target)
    loss = lambda batch, **change: update(state.replace(**change), batch, jax.random.key(0))[1]["loss/fb"]  # noqa: E731
    assert abs(loss(batch, target=shifted) - updated[1]["loss/fb"]) > 1e-3
    ended = batch.replace(discount=jnp.zeros(6))
    assert loss(ended, target=shifted) == loss(ended)


def test_prompts_read_the_backward_map(agent, state):
    backward = nets.encoders.encoder(CONFIG.backward_hidden, CONFIG.backward_layers, CONFIG.z_dim)
    obs = random_batch(SPEC, 12).obs
    features = np.asarray(jax.jit(backward.apply)(state.params["backward"], obs["state"]))
    reward = np.random.default_rng(3).normal(size=12).astype(np.float32)
    prompt = functools.partial(latent, agent, state.params)
    on_sphere = lambda z: z * 8**0.5 / np.linalg.norm(z, axis=-1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(
        prompt(Reward(obs, jnp.asarray(reward))), on_sphere((reward - reward.mean()) @ features), atol=1e-4
    )
    np.testing.assert_allclose(prompt(Goal({"state": obs["state"][3]})), on_sphere(features[3]), atol=1e-5)
    motion = prompt(Motion(obs))
    np.testing.assert_allclose(motion[1], on_sphere(features[2:10].mean(0)), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(motion, axis=-1), 8**0.5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(prompt(Prior())), 8**0.5, rtol=1e-5)


def test_actor_steps_on_the_forward_map_that_was_just_updated(state):
    def actor_gradient(rate):
        other = fb.make(dataclasses.replace(CONFIG, lr_forward=rate), SPEC)
        return other.update(state, random_batch(SPEC, 6), jax.random.key(0))[1]["grad/actor"]

    still, moved = quick_jit(lambda: (actor_gradient(0.0), actor_gradient(0.1)))()
    assert abs(still - moved) > 1e-3 * still


def test_training_latents_are_goals_and_what_the_batch_brings(agent, state, monkeypatch):
    class StoppedError(Exception):
        pass

    def ask(key, *arguments):
        raise StoppedError(*arguments)

    monkeypatch.setattr(fb.losses, "sample_latents", ask)
    batch = random_batch(SPEC, 6).replace(latent=jnp.ones((6, 8)))
    with pytest.raises(StoppedError) as caught:
        agent.update(state, batch, jax.random.key(0))
    _, goal_ratio, brought, brought_ratio = caught.value.args
    assert (goal_ratio, brought_ratio) == (CONFIG.goal_ratio, CONFIG.latent_ratio)
    np.testing.assert_array_equal(brought, batch.latent)
