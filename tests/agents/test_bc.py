"""Behaviour cloning by a flow: its loss by hand, and two habits of one state."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import bc
from embodied.nets.encoders import count, flow_field
from embodied.types import Goal, InputError, Prior, Spec
from tests.agents.chains import quick_jit, random_batch

SPEC = Spec(obs={"state": (3,)}, action=2)


def test_flow_has_the_published_size_of_the_teacher():
    shapes = jax.eval_shape(bc.make(bc.Config(), Spec({"state": (29,)}, 8)).init, jax.random.key(0), example(29))
    assert count(shapes.params["flow"]) == 812_040  # TD-JEPA on OGBench, arXiv 2510.00739, appendix


def example(width):
    return Spec({"state": (width,)}, 8).example()


def test_loss_is_the_distance_of_velocities_from_noise_to_action():
    config = bc.Config().tiny()
    agent, batch, key = bc.make(config, SPEC), random_batch(SPEC, 6), jax.random.key(4)
    state = agent.init(jax.random.key(0), batch)
    metrics = quick_jit(agent.update)(state, batch, key)[1]
    key_noise, key_time = jax.random.split(key)
    noise, time = jax.random.normal(key_noise, (6, 2)), jax.random.uniform(key_time, (6, 1))
    field = flow_field(config.hidden, config.layers, 2)
    between = (1 - time) * noise + time * batch.action
    velocity = field.apply(state.params["flow"], batch.obs["state"], between, time)
    expected = np.square(velocity - (batch.action - noise)).mean()
    np.testing.assert_allclose(metrics["loss/flow"], expected, rtol=1e-5)


def test_clone_of_two_habits_does_one_or_the_other_and_nothing_between():
    """In one state half of the actions are -0.8 and half 0.8: their mean, 0, is what no demonstrator does."""
    spec = Spec(obs={"state": (1,)}, action=1)
    agent = bc.make(bc.Config(hidden=32, layers=2, steps=10, lr=3e-3), spec)
    batch = spec.example(128)
    batch = batch.replace(action=jnp.where(jnp.arange(128) % 2, 0.8, -0.8)[:, None])

    def several(state, key):
        return jax.lax.scan(lambda state, key: agent.update(state, batch, key), state, jax.random.split(key, 600))[0]

    state = jax.jit(several)(agent.init(jax.random.key(0), batch), jax.random.key(1))
    z = agent.prompt(state.params, Prior(), jax.random.key(2))
    obs = {"state": jnp.zeros((400, 1))}
    drawn = np.asarray(agent.act(state.params, obs, z, (), jax.random.key(3))[0])[:, 0]
    assert (np.abs(np.abs(drawn) - 0.8) < 0.2).mean() > 0.85
    assert 0.35 < (drawn > 0).mean() < 0.65
    still = agent.act(state.params, obs, z, (), None)[0]
    np.testing.assert_array_equal(still, agent.act(state.params, obs, z, (), None)[0])
    assert agent.drawn


def test_clone_needs_no_privileged_observations():
    spec = Spec(obs={"state": (3,), "privileged": (4,)}, action=2)
    agent = bc.make(bc.Config().tiny(), spec)
    shapes = jax.eval_shape(agent.init, jax.random.key(0), spec.example()).params
    widths = {leaf.shape[0] for leaf in jax.tree.leaves(shapes["flow"]) if leaf.ndim == 2}
    assert widths == {3 + 2 + 1, 16}  # the state, the action on its way and the time; the hidden layer


def test_other_prompts_and_values_out_of_range_are_refused():
    agent = bc.make(bc.Config().tiny(), SPEC)
    with pytest.raises(TypeError, match="bc takes only Prior prompts"):
        agent.prompt({}, Goal({"state": jnp.zeros(3)}), jax.random.key(0))
    for field in ("hidden", "layers", "steps"):
        with pytest.raises(InputError, match=rf"bc: {field} must be in \[1, inf\), got 0"):
            dataclasses.replace(bc.Config(), **{field: 0})
