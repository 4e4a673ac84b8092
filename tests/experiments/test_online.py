"""Where rollouts of a learning model and episodes of a collection start, and what they hold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from embodied.data import dataset
from embodied.data.collect import episodes
from embodied.train import TrainConfig
from embodied.types import InputError, Spec
from experiments import collect, train
from experiments.experiment import Online
from experiments.online import _mix, make_source, random_rewards
from experiments.presets import COLLECT, PRESETS

DECISIONS = 6
WORLDS = 4


@pytest.fixture(scope="module")
def stored():
    env = collect.make_env("point_maze", None)
    preset = dataclasses.replace(COLLECT["point_maze-noise"], episodes=8, decisions=DECISIONS, worlds=8)
    [trajectory] = collect._noise(preset, [env])
    return env, episodes(trajectory)


def made(stored, experiment=PRESETS["point_maze-fb-small"], **options):
    """(experiment, agent, params, source) of an online run in the maze."""
    env, first = stored
    online = Online(worlds=WORLDS, decisions=DECISIONS, latent_hold=3, capacity=20, **options)
    experiment = dataclasses.replace(
        experiment, agent=experiment.agent.tiny(), online=online, train=TrainConfig(batch_size=4)
    )
    spec = Spec(obs=env.spec.obs, action=env.spec.action, mean={"state": (0.0,) * 4}, std={"state": (1.0,) * 4})
    agent = agents.module(train.agent_name(experiment)).make(experiment.agent, spec)
    source = make_source(experiment, agent, spec, env, dataset.from_episodes(first), first)
    return experiment, agent, agent.init(jax.random.key(1), spec.example()).params, source


def refilled(stored, restarts, experiment=PRESETS["point_maze-fb-small"]):
    """The ring before a refill and the episodes [E, T + 1, ...] that the refill added."""
    _, _, params, source = made(stored, experiment, restarts=restarts)
    before = source.init(jax.random.key(0))
    after = source.refill(jax.tree.map(jnp.copy, before), params, 0, jax.random.key(2))
    rows = DECISIONS + 1
    added = jax.tree.map(lambda leaf: np.asarray(leaf[8 * rows : (8 + WORLDS) * rows]), after.ring.steps)
    return before.ring, jax.tree.map(lambda leaf: leaf.reshape(WORLDS, rows, *leaf.shape[1:]), added)


@pytest.mark.parametrize(("restarts", "expected"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_share_of_rollouts_goes_on_from_stored_states(stored, restarts, expected):
    before, added = refilled(stored, restarts)
    known = {row.tobytes() for row in np.asarray(before.steps.obs["state"])}
    again = [episode[0].tobytes() in known for episode in added.obs["state"]]
    assert sum(again) == expected


def test_rollouts_differ_from_each_other_and_keep_their_physics(stored):
    env, _ = stored
    _, added = refilled(stored, 0.5)
    assert len(np.unique(added.obs["state"][:, -1], axis=0)) == WORLDS
    obs, _ = env.observe(added.physics[:, 1])
    np.testing.assert_allclose(obs["state"], added.obs["state"][:, 1], atol=1e-4)


def test_rollouts_of_a_single_task_learner_pay_its_reward(stored):
    env, _ = stored
    task = next(iter(env.tasks))
    _, added = refilled(stored, 0.5, dataclasses.replace(PRESETS["walker-td3-small"], world="point_maze", task=task))
    _, quantities = env.observe(added.physics.reshape(-1, added.physics.shape[-1]))
    expected = env.tasks[task](quantities, None, quantities).reshape(WORLDS, -1)[:, 1:]
    np.testing.assert_allclose(added.reward[:, :-1], expected, atol=1e-3)


def test_collection_takes_its_kinds_of_start_in_turn():
    worlds = [collect.make_env("walker", 2, start=start) for start in ("suite", "reference")]
    preset = dataclasses.replace(COLLECT["walker-noise"], episodes=32, decisions=1, worlds=8)
    upright = [t.quantities["torso_upright"][:, 0].min() for t in collect._noise(preset, worlds)]
    assert [one > 0.8 for one in upright] == [False, True, False, True]


def test_a_kind_of_start_that_the_world_lacks_is_refused(tmp_path):
    preset = dataclasses.replace(COLLECT["walker-noise"], starts=("suite", "refrence"))
    with pytest.raises(InputError, match=r"unknown start 'refrence' of world 'walker'; did you mean 'reference'\?"):
        collect.run(preset, tmp_path / "data", quiet=True)


def test_random_rewards_are_products_of_two_tolerances_inside_the_observed_range():
    generator = np.random.default_rng(0)
    quantities = {"a": generator.uniform(2, 3, 4000), "b": generator.normal(size=4000), "c": np.zeros(4000)}
    rewards = random_rewards(quantities, ("a", "b"), 50, np.random.default_rng(1))
    assert rewards.shape == (50, 4000)
    assert rewards.max() <= 1
    best = rewards.argmax(1)
    assert rewards.max(1).min() > 0.5  # each asks for something that was seen
    assert np.ptp(quantities["a"][best]) > 0.8  # and together they ask for all of it
    assert (random_rewards(quantities, ("a", "b"), 50, np.random.default_rng(1)) == rewards).all()


def test_a_random_reward_falls_to_a_tenth_a_quarter_of_the_range_away():
    quantities = {"a": np.linspace(2, 3, 4001)}
    [alone] = random_rewards(quantities, ("a",), 1, np.random.default_rng(2))
    steps = 1000 if alone.argmax() < 2000 else -1000
    np.testing.assert_allclose(alone[alone.argmax() + steps], 0.1, atol=0.01)


def test_batches_bring_the_latents_that_the_model_gives_to_random_rewards(stored):
    experiment, _, params, source = made(stored, quantities=("x", "y"))
    state = source.init(jax.random.key(0))
    norms = np.linalg.norm(state.latents, axis=1)
    np.testing.assert_allclose(norms, np.sqrt(experiment.agent.z_dim), rtol=1e-5)
    after = source.refill(jax.tree.map(jnp.copy, state), params, 0, jax.random.key(2))
    assert np.abs(after.latents - state.latents).max(1).min() > 0.1
    _, batch = source.next((), after, jax.random.key(3))
    known = {row.tobytes() for row in np.asarray(after.latents)}
    assert all(row.tobytes() in known for row in np.asarray(batch.latent))
    again = source.refill(jax.tree.map(jnp.copy, state), params, 0, jax.random.key(2))
    np.testing.assert_array_equal(again.latents, after.latents)


def test_without_quantities_batches_bring_no_latents(stored):
    _, _, _, source = made(stored)
    _, batch = source.next((), source.init(jax.random.key(0)), jax.random.key(1))
    assert batch.latent is None


def test_the_share_of_rollouts_that_answer_a_random_reward():
    z, latents = jnp.zeros((50, 4, 3)), jnp.ones((7, 3))
    for share in (0.0, 0.3, 1.0):
        mixed = np.asarray(_mix(z, latents, share, jax.random.key(0)))
        np.testing.assert_allclose(mixed[..., 0].mean(), share, atol=0.08)
        assert (mixed == mixed[..., :1]).all()


def test_a_quantity_that_the_world_lacks_is_refused(stored):
    with pytest.raises(
        InputError, match=r"online.quantities: world 'point_maze' has no scalar quantity 'sped'; did you mean"
    ):
        made(stored, quantities=("sped",))


@pytest.mark.parametrize("field", ["restarts", "prompted"])
def test_a_share_outside_zero_and_one_is_refused(stored, field):
    with pytest.raises(InputError, match=rf"online: {field} must be in \[0, 1\], got 1.5"):
        made(stored, **{field: 1.5})
