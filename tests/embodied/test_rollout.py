"""Acting in worlds: episodes worked out by hand, the scan against the host loop, and noise as behaviour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.data import collect
from embodied.rollout import agent_behaviour, rollout
from tests.embodied import toys
from tests.embodied.toys import Adder


def counting(obs, carry, key):
    """0.5, then 1, then 1.5, ... in every world."""
    carry = carry + 0.5
    return jnp.full((obs["state"].shape[0], 1), carry), carry


def act(jittable: bool):
    env = Adder(jittable)
    key = jax.random.key(0)
    return rollout(env, counting, env.reset(key, 2), jnp.float32(0.0), 3, key)


@pytest.mark.parametrize("jittable", [False, True])
def test_trajectory_holds_what_happened_in_order(jittable):
    trajectory = act(jittable)
    np.testing.assert_allclose(trajectory.action[..., 0], [[0.5, 1.0, 1.5]] * 2)
    np.testing.assert_allclose(trajectory.physics[..., 0], [[0, 1, 3, 6], [1, 2, 4, 7]])
    np.testing.assert_allclose(trajectory.obs["state"][..., 0], trajectory.physics[..., 0])
    np.testing.assert_allclose(trajectory.quantities["x"], trajectory.physics[..., 0])
    np.testing.assert_allclose(trajectory.discount, np.ones((2, 3)))


@pytest.mark.parametrize("jittable", [False, True])
def test_path_holds_every_control_step_of_every_decision(jittable):
    trajectory = act(jittable)
    x = [[0.5, 1.0, 2.0, 3.0, 4.5, 6.0], [1.5, 2.0, 3.0, 4.0, 5.5, 7.0]]
    np.testing.assert_allclose(trajectory.path["x"], x)
    np.testing.assert_allclose(trajectory.path["pair"], np.stack([x, x], -1))


@pytest.mark.parametrize("jittable", [False, True])
def test_the_same_rollout_is_traced_once(jittable):
    env, key, traces = Adder(jittable), jax.random.key(0), []

    def behave(obs, carry, key):
        traces.append(obs["state"].shape[0])
        return counting(obs, carry, key)

    first = rollout(env, behave, env.reset(key, 2), jnp.float32(0.0), 3, key)
    once = len(traces)
    again = rollout(env, behave, env.reset(key, 2), jnp.float32(0.0), 3, key)
    assert len(traces) == once
    jax.tree.map(np.testing.assert_array_equal, first, again)
    # Another world is another program, even with the same numbers.
    rollout(Adder(jittable), behave, env.reset(key, 2), jnp.float32(0.0), 3, key)
    assert (len(traces) > once) == jittable


def test_an_agent_has_one_behaviour_that_explores_and_one_that_does_not():
    agent = toys.agent()
    assert agent_behaviour(agent, explore=False) is agent_behaviour(agent, explore=False)
    assert agent_behaviour(agent, explore=False) is not agent_behaviour(agent, explore=True)


def test_scan_and_host_loop_draw_the_same_noise():
    behave, key = collect.coloured_noise(3.0), jax.random.key(5)
    one, other = (
        rollout(env, behave, env.reset(key, 4), collect.noise_carry(1, 4), 6, key)
        for env in (Adder(True), Adder(False))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_behaviour_of_an_agent_passes_parameters_and_latent_along():
    behave = agent_behaviour(toys.agent(), explore=False)
    carry = ({"weight": jnp.array([1.0, 0.0])}, jnp.zeros(0), ())
    action, after = behave({"state": jnp.array([[0.5, 1.0]])}, carry, jax.random.key(0))
    np.testing.assert_allclose(action, [[np.tanh(0.5)]], rtol=1e-6)
    assert after is not None
    np.testing.assert_array_equal(after[0]["weight"], [1.0, 0.0])


def test_coloured_noise_is_stationary_with_the_correlation_it_is_given():
    behave, worlds, steps = collect.coloured_noise(4.0, scale=0.2), 2000, 6

    def one(carry, key):
        action, carry = behave({}, carry, key)
        return carry, action[:, 0]

    keys = jax.random.split(jax.random.key(0), steps)
    _, noise = jax.lax.scan(one, collect.noise_carry(1, worlds), keys)
    np.testing.assert_allclose(np.std(noise, axis=1), 0.2, rtol=0.08)
    for lag in (1, 3):
        correlation = np.mean(noise[0] * noise[lag]) / 0.04
        np.testing.assert_allclose(correlation, np.exp(-lag / 4.0), atol=0.08)
    assert np.abs(behave({}, (jnp.full((1, 1), 50.0), jnp.ones(1, bool)), keys[0])[0]).max() == 1.0


def test_trajectories_become_episodes_and_ring_rows_with_the_same_content():
    trajectory = act(jittable=True)
    episode = collect.episodes(trajectory)[1]
    np.testing.assert_allclose(episode["physics"][:, 0], [1, 2, 4, 7])
    np.testing.assert_allclose(episode["state"], [[1, 1], [2, 1], [4, 1], [7, 1]])
    np.testing.assert_allclose(episode["action"][:, 0], [0.5, 1.0, 1.5])
    np.testing.assert_allclose(episode["discount"], [1, 1, 1])
    steps = collect.as_steps(trajectory)
    np.testing.assert_allclose(steps.physics[:, 0], [0, 1, 3, 6, 1, 2, 4, 7])
    np.testing.assert_allclose(steps.obs["state"][4:], episode["state"])
    # The last row begins no transition; its action fills the room.
    np.testing.assert_allclose(steps.action[:, 0], [0.5, 1.0, 1.5, 1.5] * 2)
    assert not steps.reward.any()
