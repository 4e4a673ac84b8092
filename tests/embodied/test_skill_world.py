"""A world of skills does what the policy does when it is told the same, for as long as it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import multi_critic
from embodied.rollout import rollout, still_behaviour
from embodied.skill_world import SkillWorld
from embodied.types import InputError, Spec
from tests.embodied import toys

CONFIG = multi_critic.Config(("loop",), weights=(1.0, 1.0), discounts=(0.9, 0.9), moved=("position",)).tiny()
HELD = 5


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1)


@pytest.fixture(scope="module")
def skilled(env):
    """(agent, parameters whose actor moves by more than nothing)."""
    spec = Spec(env.spec.obs, env.spec.action, {"state": (0.0,) * 4}, {"state": (0.1,) * 4}, env.spec.parts)
    agent = multi_critic.make(CONFIG, spec)
    params = jax.jit(agent.init)(jax.random.key(0), spec.example()).params
    return agent, params | {"actor": jax.tree.map(lambda leaf: 10 * leaf, params["actor"])}


@pytest.fixture(scope="module")
def world(env, skilled):
    return SkillWorld(env, *skilled, width=2, decisions=HELD)


def test_decision_is_what_the_policy_does_when_it_is_told_so(env, skilled, world):
    agent, params = skilled
    action = np.array([[0.5, 0.5], [-1.0, 0.2], [0.0, 0.3]])
    z = world.latents(action)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), z.shape[-1] ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(world.latents(action / 7), z, rtol=1e-5)
    start = env.reset(jax.random.key(0), 3)
    plain = rollout(env, still_behaviour(agent), start, (params, z, ()), HELD, jax.random.key(1))
    after = world.step(world.reset(jax.random.key(0), 3), action)
    np.testing.assert_array_equal(after.physics, plain.physics[:, -1])
    np.testing.assert_array_equal(after.path["position"], plain.path["position"])
    assert np.abs(after.physics[:, 1:3] - start.physics[:, 1:3]).max() > 0.003


def test_spec_and_rollouts_are_those_of_a_slower_world_with_other_actions(env, world):
    assert (world.spec.action, world.spec.hold) == (2, HELD * env.spec.hold)
    assert world.spec.decisions * HELD == env.spec.decisions
    start = world.reset(jax.random.key(0), 2)
    assert start.path["x"].shape == (2, world.spec.hold)
    behave = lambda obs, carry, key: (jnp.ones((2, 2)), carry)  # noqa: E731
    whole = rollout(world, behave, start, (), 3, jax.random.key(0))
    assert whole.path["x"].shape == (2, 3 * world.spec.hold)
    np.testing.assert_allclose(whole.path["x"][:, world.spec.hold - 1 :: world.spec.hold], whole.quantities["x"][:, 1:])
    assert set(world.tasks) == set(env.tasks)


def test_both_forms_take_the_same_steps():
    agent = toys.agent()._replace(act=lambda params, obs, z, carry, key: (0.1 * z[:, :1], carry))
    agent = agent._replace(prompt=lambda params, prompt, key: jnp.zeros(1))
    found = []
    for jittable in (False, True):
        world = SkillWorld(toys.Adder(jittable), agent, {}, width=1, decisions=2)
        step = jax.jit(world.step) if jittable else world.step
        ts = step(world.reset(jax.random.key(0), 2), np.array([[1.0], [-3.0]], np.float32))
        # Twice x + 0.1, x + 0.2 to the right, and to the left.
        np.testing.assert_allclose(ts.path["x"], [[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]], rtol=1e-5)
        found.append(ts)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), *found)


def test_world_that_ends_on_the_way_says_so():
    agent = toys.agent()._replace(act=lambda params, obs, z, carry, key: (z[:, :1], carry))
    agent = agent._replace(prompt=lambda params, prompt, key: jnp.zeros(1))
    world = SkillWorld(toys.Adder(False, limit=3.5), agent, {}, width=1, decisions=2)
    ts = world.step(world.reset(jax.random.key(0), 2), np.ones((2, 1), np.float32))
    np.testing.assert_array_equal(ts.discount, [0, 0])  # one at the last moment, one before
    np.testing.assert_array_equal(ts.last, [True, True])
    ts = world.step(world.reset(jax.random.key(0), 2), -np.ones((2, 1), np.float32))
    np.testing.assert_array_equal(ts.discount, [1, 1])


@pytest.mark.parametrize(
    ("width", "decisions", "message"),
    [(9, 5, r"width must be in \[1, 5\]"), (0, 5, "width"), (2, 7, "decisions must divide the 100 decisions")],
)
def test_what_does_not_fit_is_refused(env, skilled, width, decisions, message):
    with pytest.raises(InputError, match=f"skill_world: .*{message}"):
        SkillWorld(env, *skilled, width=width, decisions=decisions)
