"""TD3: critic targets by hand, and the delayed actor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import td3
from embodied.nets.encoders import encoder
from embodied.types import Goal, InputError, Prior, Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (4,)}, action=2)
CONFIG = dataclasses.replace(td3.Config().tiny(), noise=0.0)
ACTOR = jax.jit(encoder(CONFIG.hidden, CONFIG.layers, 2, on_sphere=False).apply)
CRITIC = jax.jit(encoder(CONFIG.hidden, CONFIG.layers, 1, on_sphere=False, members=2).apply)


@pytest.fixture(scope="module")
def agent():
    return td3.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(agent):
    online = random_state(agent, SPEC)
    return online.replace(target=random_state(agent, SPEC, seed=1).params)


@pytest.fixture(scope="module")
def update(agent):
    return quick_jit(agent.update)


def values(params, obs, action):
    """Both critics' values [2, B]."""
    return np.asarray(CRITIC(params, jnp.concatenate([obs["state"], action], -1)))[..., 0]


def test_critic_target_bootstraps_the_smaller_target_value_unless_the_world_ended(state, update):
    batch = random_batch(SPEC, 8)
    batch = batch.replace(discount=jnp.array([1.0, 0.0] * 4))
    next_action = jnp.tanh(ACTOR(state.target["actor"], batch.next_obs["state"]))
    bootstrap = values(state.target["critic"], batch.next_obs, next_action).min(0)
    target = np.asarray(batch.reward) + CONFIG.discount * np.array([1, 0] * 4) * bootstrap
    value = values(state.params["critic"], batch.obs, batch.action)
    metrics = update(state, batch, jax.random.key(0))[1]
    np.testing.assert_allclose(metrics["loss/critic"], np.square(value - target).mean(1).sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["critic/value"], value.mean(), rtol=1e-4)


def test_target_of_ended_transitions_is_the_reward_alone(state, update):
    batch = random_batch(SPEC, 8).replace(discount=jnp.zeros(8))
    value = values(state.params["critic"], batch.obs, batch.action)
    expected = np.square(value - np.asarray(batch.reward)).mean(1).sum()
    np.testing.assert_allclose(update(state, batch, jax.random.key(0))[1]["loss/critic"], expected, rtol=1e-4)


def test_actor_moves_at_every_second_update_and_critic_at_each(state, update):
    changed = lambda a, b: any(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.any(x != y)), a, b)))  # noqa: E731
    moves = []
    for i in range(4):
        after, _ = update(state, random_batch(SPEC, 8, seed=i), jax.random.key(i))
        groups = [(after.params, state.params), (after.optimizer, state.optimizer)]
        moves.append([changed(new[name], old[name]) for name in ("actor", "critic") for new, old in groups])
        state = after
    # Actor, its optimiser, critic, its optimiser.
    assert moves == [[True] * 4, [False, False, True, True]] * 2


def test_first_actor_step_raises_the_value_of_its_actions(state, update):
    batch = random_batch(SPEC, 8)
    after, metrics = update(state, batch, jax.random.key(0))
    mean_value = lambda actor: values(  # noqa: E731
        after.params["critic"], batch.obs, jnp.tanh(ACTOR(actor, batch.obs["state"]))
    ).mean()
    np.testing.assert_allclose(metrics["actor/value"], mean_value(state.params["actor"]), rtol=1e-3)
    assert mean_value(after.params["actor"]) > mean_value(state.params["actor"])


def test_targets_move_by_tau(state, update):
    after, _ = update(state, random_batch(SPEC, 8), jax.random.key(0))
    jax.tree.map(
        lambda old, new, online: np.testing.assert_allclose(new, old + CONFIG.tau * (online - old), atol=1e-6),
        state.target,
        after.target,
        after.params,
    )


def test_only_prior_prompts_and_sensible_settings_are_taken(agent, state):
    assert agent.prompt(state.params, Prior(), jax.random.key(0)).shape == (0,)
    with pytest.raises(TypeError, match="td3 takes only Prior prompts"):
        agent.prompt(state.params, Goal({"state": jnp.zeros(4)}), jax.random.key(0))
    with pytest.raises(InputError, match="actor_every"):
        td3.Config(actor_every=0)
