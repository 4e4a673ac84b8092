"""The planner: in a linear world it learns what actions do, goes where it is told, and explores where it shall."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import kinds, planner
from agents.planner import Config
from embodied.planning import Planning
from embodied.types import Goal, InputError, Motion, Prior, Spec
from tests.agents.chains import quick_jit, random_batch

SPEC = Spec({"state": (5,)}, 2, parts={"hand": (0, 2), "object": (2, 5)})
ROWS, WORLDS, DECISIONS = 64, 20, 12
# A hand that goes where it is told, an object that is dragged along far less, and a number that never changes.
EFFECT = np.array([[0.2, 0.0, 0.0, 0.02, 0.0], [0.0, 0.2, 0.01, 0.01, 0.0]], np.float32)
CONFIG = Config(
    planning=Planning(horizon=3, samples=64, iterations=3, elites=8),
    moved=("object",),
    members=3,
    hidden=16,
    layers=0,
    lr=2e-2,
    inputs="raw",
)


def batch_of(rows, seed=0):
    """Transitions of the linear world, anywhere."""
    batch = random_batch(SPEC, rows, seed)
    return batch.replace(next_obs={"state": batch.obs["state"] + batch.action @ EFFECT}, future=None, chain=None)


@pytest.fixture(scope="module")
def learnt():
    """The agent, its state at first and after 400 updates."""
    agent = planner.make(CONFIG, SPEC)
    first = agent.init(jax.random.key(0), SPEC.example())

    @quick_jit
    def learn(state):
        step = lambda state, key: agent.update(state, jax.tree.map(lambda leaf: leaf[rows(key)], data), key)  # noqa: E731
        rows = lambda key: jax.random.randint(key, (ROWS,), 0, 1000)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 400))

    data = batch_of(1000)
    state, metrics = learn(first)
    return agent, first, state, metrics


@pytest.fixture(scope="module")
def act(learnt):
    """(obs [E, 5], z, key or None) -> actions, by the parameters that it has learnt."""
    agent, _, state, _ = learnt
    quiet = quick_jit(lambda obs, z: agent.act(state.params, {"state": obs}, z, (), None)[0])
    loud = quick_jit(lambda obs, z, key: agent.act(state.params, {"state": obs}, z, (), key)[0])
    return lambda obs, z, key=None: np.asarray(quiet(obs, z) if key is None else loud(obs, z, key))


def test_model_says_what_actions_do_in_columns_that_change_much_and_little(learnt):
    _, _, state, metrics = learnt
    batch = batch_of(100, seed=5)
    x = jnp.tile(batch.obs["state"][None], (CONFIG.members, 1, 1))
    guess = planner.ahead(planner.networks(CONFIG, SPEC), state.params, x, batch.action)
    wrong = np.abs(np.asarray(guess - batch.next_obs["state"][None])).max((0, 1))
    assert (wrong[:4] < 0.05 * np.abs(EFFECT).max(0)[:4]).all()
    assert wrong[4] < 1e-3
    # The mean of what is left, in units of the changes' own deviation; the still column has none.
    assert metrics["loss/world"][-1] < 0.01 < metrics["loss/world"][0]


def test_planner_reaches_goals_and_random_actions_do_not(learnt, act):
    agent, _, state, _ = learnt
    rng = np.random.default_rng(3)
    # Where the object can be dragged to in half of the time.
    wish = rng.uniform(-0.5, 0.5, (WORLDS, 2)).astype(np.float32) @ EFFECT * DECISIONS
    z = np.stack([agent.prompt(state.params, Goal({"state": goal}), jax.random.key(0)) for goal in wish])
    planned = rolled = np.zeros((WORLDS, 5), np.float32)
    for _ in range(DECISIONS):
        planned = planned + act(planned, z) @ EFFECT
        rolled = rolled + rng.uniform(-1, 1, (WORLDS, 2)).astype(np.float32) @ EFFECT
    apart = lambda x: np.linalg.norm((x - wish)[:, 2:], axis=-1)  # noqa: E731
    assert np.median(apart(planned)) < 0.005
    assert np.median(apart(rolled)) > 5 * np.median(apart(planned))


def test_latent_of_the_prior_is_a_direction_to_go_in(learnt, act):
    agent, _, state, _ = learnt
    prior = jax.vmap(lambda key: agent.prompt(state.params, Prior(), key))(jax.random.split(jax.random.key(4), WORLDS))
    prior = prior.at[:, 2].set(0.0)  # what never changes
    moved = act(np.zeros((WORLDS, 5), np.float32), prior) @ EFFECT[:, 2:]
    # Corners are the best of all actions, because the score is linear.
    corners = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)]) @ EFFECT[:, 2:]
    best = (corners @ np.asarray(prior)[:, :3].T).max(0)
    assert ((moved * np.asarray(prior)[:, :3]).sum(-1) > 0.8 * best).all()


def test_share_of_random_actions_is_what_the_configuration_says(act):
    z = jnp.tile(kinds.latent_of(jnp.full((1, 3), 100.0)), (1000, 1))
    here = np.zeros((1000, 5), np.float32)
    planned = act(here[:1], z[:1])[0]
    assert planned.min() > 0.9  # all go there as far as they can
    near = (act(here, z, jax.random.key(2)) > 0.9).all(-1)
    assert CONFIG.random == 0.5
    assert near.mean() == pytest.approx(0.5, abs=0.06)


def test_members_begin_apart_and_see_rows_with_weights_of_their_own(learnt):
    agent, first, _, metrics = learnt
    kernel = first.params["model"]["head"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    same = jax.tree.map(
        lambda leaf: jnp.tile(leaf[:1], (CONFIG.members, *[1] * (leaf.ndim - 1))), first.params["model"]
    )
    first = first.replace(params=first.params | {"model": same})
    rows = batch_of(ROWS)
    gradient = agent.update(first, rows, jax.random.key(1))[0].optimizer[0].mu["head"]["kernel"]
    assert np.abs(gradient[0] - gradient[1]).max() > 1e-3
    assert metrics["model/disagreement"][-1] < metrics["model/disagreement"][0]  # the world is the same for all


def test_nothing_is_learnt_from_what_follows_a_termination(learnt):
    agent, first, _, _ = learnt
    ended, whole = jnp.ones(ROWS).at[::2].set(0.0), batch_of(ROWS)
    elsewhere = {"state": whole.next_obs["state"].at[::2].set(99.0)}
    after = [
        agent.update(first, whole.replace(discount=ended, next_obs=seen), jax.random.key(0))[0]
        for seen in (whole.next_obs, elsewhere)
    ]
    jax.tree.map(np.testing.assert_array_equal, *(state.params for state in after))
    assert np.abs(after[0].params["model"]["head"]["kernel"] - first.params["model"]["head"]["kernel"]).max() > 1e-3


def test_score_is_minus_the_distance_to_a_place_and_grows_along_a_direction():
    there = jnp.array([[[3.0, 4.0], [0.0, 1.0]]])
    place = kinds.latent_of(jnp.array([[0.0, 0.0]]))[0]
    np.testing.assert_allclose(planner.closeness(there, place), [[-5.0, -1.0]], rtol=1e-5)
    direction = jnp.array([0.0, np.sqrt(3.0), 0.0])
    np.testing.assert_allclose(planner.closeness(there, direction), [[4.0, 1.0]], rtol=1e-5)


def test_goals_and_motions_are_places_of_what_is_moved(learnt):
    agent, _, state, _ = learnt
    motion = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    z = agent.prompt(state.params, Motion({"state": motion}), jax.random.key(0))
    np.testing.assert_allclose(kinds.place(z), motion[:, 2:], rtol=1e-4)
    assert (z[:, -1] > kinds.LEAST).all()
    one = agent.prompt(state.params, Goal({"state": motion[2]}), jax.random.key(0))
    np.testing.assert_allclose(one, z[2], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moved": ("objct",)}, "planner: the state has no part 'objct'; did you mean 'object'"),
        ({"random": 1.5}, r"planner: random must be in \[0, 1\], got 1.5"),
        ({"planning": Planning(horizon=0)}, r"planner: planning: horizon must be in \[1, inf\), got 0"),
    ],
)
def test_configuration_that_fits_nothing_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        planner.make(dataclasses.replace(CONFIG, **changes), SPEC)
