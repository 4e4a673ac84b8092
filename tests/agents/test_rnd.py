"""Random network distillation: the familiar becomes dull, the new does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import rnd
from embodied.nets.encoders import encoder
from embodied.types import Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (4,)}, action=2)
CONFIG = dataclasses.replace(rnd.Config().tiny(), lr=3e-3, momentum=0.99)


@pytest.fixture(scope="module")
def trained():
    """(first state, last state, metrics of each update) of 200 updates on one batch."""
    agent = rnd.make(CONFIG, SPEC)
    batch = random_batch(SPEC, 16)

    def step(state, key):
        return agent.update(state, batch, key)

    start = random_state(agent, SPEC)
    keys = jax.random.split(jax.random.key(0), 200)
    return start, *quick_jit(lambda state: jax.lax.scan(step, state, keys))(start)


def distillation_error(state, obs):
    """How badly the predictor matches the random network, per row, on normalised observations."""
    network = encoder(CONFIG.hidden, 2, CONFIG.features, on_sphere=False)
    x = (obs["state"] - state.moments["mean"][None]) / jnp.sqrt(state.moments["variance"] + 1e-6)[None]
    x = jnp.clip(x, -5, 5)
    return np.square(network.apply(state.predictor, x) - network.apply(state.random, x)).mean(-1)


def test_reward_falls_on_repeated_data(trained):
    reward, loss = (np.asarray(trained[2][name]) for name in ("rnd/reward", "loss/distillation"))
    assert reward[-1] < 0.5 * reward[:20].mean()
    assert loss[-1] < 0.1 * loss[0]


def test_explorer_learns_from_its_own_reward_and_not_from_that_of_the_batch(trained):
    agent, batch = rnd.make(CONFIG, SPEC), random_batch(SPEC, 16)
    state = trained[0]
    update = quick_jit(lambda batch: agent.update(state, batch, jax.random.key(0))[0].params)
    jax.tree.map(np.testing.assert_array_equal, update(batch), update(batch.replace(reward=batch.reward + 100.0)))


def test_reward_stays_higher_where_data_is_new(trained):
    _, state, _ = trained
    familiar = distillation_error(state, random_batch(SPEC, 16).obs | random_batch(SPEC, 16).next_obs)
    new = distillation_error(state, random_batch(SPEC, 16, seed=9).next_obs)
    assert new.mean() > 3 * familiar.mean()


def test_random_network_never_learns_and_moments_follow_the_data(trained):
    start, state, _ = trained
    jax.tree.map(np.testing.assert_array_equal, start.random, state.random)
    seen = np.asarray(random_batch(SPEC, 16).next_obs["state"])
    np.testing.assert_allclose(state.moments["mean"], seen.mean(0) * (1 - 0.99**200), rtol=1e-3, atol=1e-4)
    assert np.abs(np.asarray(state.moments["variance"]) / seen.var(0) - 1).max() < 0.5


def test_acting_normalises_observations_with_the_running_moments(trained):
    _, state, _ = trained
    agent = rnd.make(CONFIG, SPEC)
    identity = {"mean": jnp.zeros(4), "variance": jnp.ones(4) - 1e-6, "error": jnp.float32(1)}
    obs = random_batch(SPEC, 3, seed=4).obs["state"]
    raw = state.moments["mean"][None] + obs * jnp.sqrt(state.moments["variance"] + 1e-6)[None]
    act = lambda moments, x: agent.act(state.params | {"moments": moments}, {"state": x}, jnp.zeros(0), (), None)[0]  # noqa: E731
    np.testing.assert_allclose(act(state.moments, raw), act(identity, obs), atol=1e-4)
