"""Goal-conditioned cloning: its loss by hand, and the action that leads to the goal where each goal has one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import gcbc, kinds
from agents.gcbc import Config
from embodied.nets.encoders import actor
from embodied.types import Goal, Motion, Reward, Spec
from tests.agents.chains import quick_jit, random_batch

SPEC = Spec({"state": (2,)}, 2)


def test_loss_is_the_distance_of_the_action_from_that_of_the_data_told_a_later_state():
    config = dataclasses.replace(Config().tiny(), inputs="raw")
    agent, batch = gcbc.make(config, SPEC), random_batch(SPEC, 6)
    state = agent.init(jax.random.key(0), batch)
    goal = np.concatenate([batch.future["state"], np.ones((6, 1))], -1)
    z = goal / np.linalg.norm(goal, axis=-1, keepdims=True) * np.sqrt(3)
    net = actor(config.hidden, config.layers, 2)
    expected = np.square(net.apply(state.params["actor"], batch.obs["state"], z) - batch.action).sum(-1).mean()
    assert quick_jit(agent.update)(state, batch, jax.random.key(0))[1]["loss/world"] == pytest.approx(
        expected, rel=1e-5
    )


def test_clone_does_what_leads_to_the_goal():
    """A point goes where the action says, so that the action is the goal less the point."""
    agent = gcbc.make(Config(hidden=32, layers=1, lr=3e-3, inputs="raw"), SPEC)

    def update(state, key):
        here, action = jax.random.uniform(key, (2, 128, 2), minval=-0.9, maxval=0.9)
        batch = SPEC.example(128).replace(obs={"state": here}, action=action, future={"state": here + action})
        return agent.update(state, batch, key)

    several = jax.jit(lambda state: jax.lax.scan(update, state, jax.random.split(jax.random.key(1), 1500))[0])
    params = several(agent.init(jax.random.key(0), SPEC.example())).params
    goals, here = np.random.default_rng(0).uniform(-0.45, 0.45, (2, 50, 2)).astype(np.float32)
    z = agent.prompt(params, Motion({"state": goals}), jax.random.key(0))
    np.testing.assert_allclose(kinds.place(z), goals, atol=1e-5)
    one = agent.prompt(params, Goal({"state": goals[3]}), jax.random.key(0))
    np.testing.assert_allclose(one, z[3], rtol=1e-5)
    action = np.asarray(agent.act(params, {"state": here}, z, (), None)[0])
    assert np.abs(action - (goals - here)).max() < 0.2
    assert np.abs(action - (goals - here)).mean() < 0.05


def test_rewards_are_refused():
    with pytest.raises(TypeError, match="gcbc takes Goal, Motion or Prior prompts, got Reward"):
        gcbc.make(Config().tiny(), SPEC).prompt(
            {}, Reward({"state": jnp.zeros((2, 2))}, jnp.ones(2)), jax.random.key(0)
        )
