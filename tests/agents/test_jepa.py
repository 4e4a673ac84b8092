"""The latent world model: what it learns of a sliding block that it sees, where its plans go, and what keeps still."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import jepa, kinds
from agents.jepa import Config
from embodied.nets.encoders import dynamics
from embodied.planning import Planning
from embodied.types import Batch, Chain, Goal, InputError, Prior, Spec
from tests.agents.chains import quick_jit, random_batch

CELLS = np.linspace(-1.2, 1.2, 13, dtype=np.float32)
SPEC = Spec({"state": (13,)}, 1)  # a row of pixels
STEP, ROWS, LENGTH = 0.15, 128, 4
CONFIG = Config(
    planning=Planning(horizon=3, samples=64, iterations=4, elites=8),
    block=2,
    along=1.0,
    latent=1,  # as many as there are ways to move, so that far is far in latents too
    hidden=32,
    layers=1,
    rollout=2,
    projections=16,
    lr=3e-3,
    inputs="raw",
)


def drawn(x):
    """The picture [..., 13] of a block at x [...]: a blurred bar on a row of pixels."""
    cells = CELLS.reshape((1,) * np.ndim(x) + (-1,))
    return jnp.exp(-jnp.square((jnp.asarray(x, jnp.float32)[..., None] - cells) / 0.25))


def slides(key):
    """Chains of a block that slides by STEP times the action and stops at -1 and 1."""
    key_place, key_action = jax.random.split(key)
    x = jax.random.uniform(key_place, (ROWS,), minval=-1.0, maxval=1.0)
    action = jax.random.uniform(key_action, (ROWS, LENGTH, 1), minval=-1.0, maxval=1.0)
    places = [x]
    for h in range(LENGTH):
        places.append(jnp.clip(places[-1] + STEP * action[:, h, 0], -1, 1))
    seen, ones = {"state": drawn(jnp.stack(places[1:], 1))}, jnp.ones((ROWS, LENGTH))
    chain = Chain(action, seen, jnp.zeros((ROWS, LENGTH)), ones, ones)
    after = {"state": seen["state"][:, 0]}
    return Batch({"state": drawn(x)}, action[:, 0], after, jnp.zeros(ROWS), jnp.ones(ROWS), chain=chain)


def learnt_by(config, updates=800):
    """(agent, parameters after so many updates, metrics of each)."""
    agent = jepa.make(config, SPEC)

    @jax.jit
    def learn(state):
        step = lambda state, key: agent.update(state, slides(key), key)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), updates))

    state, metrics = learn(agent.init(jax.random.key(0), SPEC.example()))
    return agent, state.params, metrics


@pytest.fixture(scope="module")
def learnt():
    return learnt_by(CONFIG)


def test_latents_are_gaussian_and_tell_what_follows(learnt):
    agent, params, metrics = learnt
    features = np.asarray(agent.features(params, slides(jax.random.key(9)).obs))
    assert 0.7 < features.std(0).min() <= features.std(0).max() < 1.3
    assert metrics["loss/gaussian"][-50:].mean() < 0.3 * metrics["loss/gaussian"][0]
    assert metrics["model/relative_error"][-50:].mean() < 0.02


def test_latents_collapse_where_nothing_keeps_them_apart():
    agent, params, _ = learnt_by(dataclasses.replace(CONFIG, gaussian=0.0), 200)
    features = np.asarray(agent.features(params, slides(jax.random.key(9)).obs))
    assert features.std(0).max() < 0.2


def test_scene_in_which_nothing_is_done_stays_as_it_is(learnt):
    agent, params, _ = learnt
    z = agent.features(params, {"state": drawn(np.linspace(-0.9, 0.9, 30))})
    still = dynamics(32, 1, 1, members=0).apply(params["predictor"], z, jnp.zeros((30, 2)))
    assert np.square(still).mean() < 1e-2


def test_block_is_slid_towards_the_goal_and_stays_there(learnt):
    agent, params, _ = learnt
    here, goals = (np.asarray(side).ravel() for side in np.meshgrid([-0.8, -0.3, 0.2, 0.7], [-0.6, 0.1, 0.6]))
    ask = lambda goal: agent.prompt(params, Goal({"state": goal}), jax.random.key(0))  # noqa: E731
    z = jax.vmap(ask)(drawn(goals))
    act = quick_jit(lambda x: agent.act(params, {"state": drawn(x)}, z, (), None)[0])
    x = here
    for decision in range(12):
        action = np.asarray(act(x))[:, 0]
        if not decision:
            assert (action * (goals - here) > 0)[np.abs(goals - here) > 0.2].all()
        x = np.clip(x + STEP * action, -1, 1)
    assert np.abs(x - goals).max() < 0.12


def test_loss_is_the_error_of_predictions_that_go_on_from_predictions_and_ends_with_the_episode():
    spec = Spec({"state": (3,)}, 2)
    config = dataclasses.replace(CONFIG, frozen=True, block=2, rollout=2)
    agent, batch = jepa.make(config, spec), random_batch(spec, 6)
    state = agent.init(jax.random.key(0), batch)
    net = dynamics(32, 1, 3, members=0)
    x, chain = np.asarray(batch.obs["state"]), batch.chain
    after = chain.next_obs["state"]
    # Every other chain ends with its first transition; in row 1 the world ends with the second block.
    chain = dataclasses.replace(chain, discount=jnp.ones((6, 5)).at[1, 3].set(0.0))
    one = x + net.apply(state.params["predictor"], x, chain.action[:, :2].reshape(6, 4))
    two = one + net.apply(state.params["predictor"], one, chain.action[:, 2:4].reshape(6, 4))
    errors = [np.square(one - after[:, 1]).mean(-1)[[1, 3, 5]], np.square(two - after[:, 3]).mean(-1)[[3, 5]]]
    metrics = quick_jit(agent.update)(state, batch.replace(chain=chain), jax.random.key(0))[1]
    assert metrics["loss/prediction"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
    assert metrics["loss/world"] == metrics["loss/prediction"]


def test_frozen_latents_are_the_observations_in_deviations_whatever_is_learnt():
    spec = Spec({"state": (3,)}, 2, mean={"state": (1.0, 0.0, -2.0)}, std={"state": (2.0, 1.0, 0.5)})
    agent = jepa.make(dataclasses.replace(CONFIG, frozen=True, inputs="standardized"), spec)
    batch = random_batch(spec, 6)
    state = agent.init(jax.random.key(0), batch)
    assert set(state.params) == {"predictor"}
    expected = (np.asarray(batch.obs["state"]) - np.float32([1, 0, -2])) / np.float32([2, 1, 0.5])
    after = quick_jit(agent.update)(state, batch, jax.random.key(0))[0]
    for params in (state.params, after.params):
        np.testing.assert_array_equal(agent.features(params, batch.obs), expected)
    assert (state.params["predictor"]["head"]["kernel"] != after.params["predictor"]["head"]["kernel"]).any()
    z = agent.prompt(after.params, Goal({"state": batch.obs["state"][0]}), jax.random.key(0))
    np.testing.assert_allclose(kinds.place(z[None])[0], expected[0], rtol=1e-5)


def test_latent_of_the_prior_is_a_goal_as_likely_as_any(learnt):
    agent, params, _ = learnt
    keys = jax.random.split(jax.random.key(4), 500)
    places = np.asarray(kinds.place(jax.vmap(lambda key: agent.prompt(params, Prior(), key))(keys)))
    np.testing.assert_allclose(places.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(places.std(0), 1, atol=0.15)


def test_model_sees_the_named_parts_of_the_state_and_the_latest_frames_and_nothing_else():
    numbers = {"state": tuple(np.arange(1.0, 5.0).tolist())}
    spec = Spec({"state": (4,)}, 2, numbers, numbers, {"velocity": (0, 2), "position": (2, 4)})
    config = dataclasses.replace(CONFIG, parts=("position",), frozen=True, inputs="standardized")
    state = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    seen = jepa.make(config, spec).features({}, {"state": state})
    np.testing.assert_allclose(seen, (state[:, 2:] - [3, 4]) / [3, 4], rtol=1e-5)
    with pytest.raises(InputError, match="jepa: the state has no part 'positoin'; did you mean 'position'"):
        jepa.make(dataclasses.replace(config, parts=("positoin",)), spec)

    agent = jepa.make(dataclasses.replace(Config().tiny(), frames=1), Spec({"pixels": (32, 32, 9)}, 2))
    images = np.random.default_rng(0).integers(0, 200, (2, 32, 32, 9)).astype(np.uint8)
    params = agent.init(jax.random.key(0), Spec({"pixels": (32, 32, 9)}, 2).example()).params
    older, latest = images.copy(), images.copy()
    older[..., 5] += 50
    latest[..., 6] += 50
    first, same, other = (np.asarray(agent.features(params, {"pixels": one})) for one in (images, older, latest))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any(1).all()


def test_pixels_have_no_frozen_features():
    with pytest.raises(InputError, match="jepa: frozen must be False for pixels"):
        jepa.make(dataclasses.replace(CONFIG, frozen=True), Spec({"pixels": (32, 32, 9)}, 2))
