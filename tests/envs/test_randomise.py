"""Parameters of an episode are data: drawn by a hash, exact, seen by no one where a world is not randomised."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from embodied.types import InputError
from envs.randomise import COLUMNS, LEVELS, SEEDS, Randomisation, draw, uniforms
from tests.envs.sleds import NOISE, actions, made, sled, under

KEY = jax.random.key(0)


def test_hash_gives_the_same_bits_in_numpy_and_jax():
    seed, step = np.array([0.0, 1.0, 12345.0, SEEDS - 1.0]), np.array([0.0, 7.0, 999.0, 100000.0])
    ours = uniforms(seed, step, 3, 50, np)
    theirs = jax.jit(lambda seed, step: uniforms(seed, step, 3, 50, jnp))(jnp.asarray(seed), jnp.asarray(step))
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)
    assert (ours * 2**24 % 1 == 0).all()
    assert not np.isin(ours, uniforms(seed, step, 2, 50, np)).any()


def test_hashed_numbers_are_uniform_and_uncorrelated():
    seed = np.repeat(np.arange(1.0, 101.0), 100)
    step = np.tile(np.arange(100.0), 100)
    cube = uniforms(seed, step, 0, 100, np).astype(np.float64).reshape(100, 100, 100)
    assert 0.0 <= cube.min() < 1e-5
    assert 1 - 1e-5 < cube.max() < 1.0
    # A million draws: standard errors 3e-4 of the mean, 1e-3 of a correlation, 95 of a count.
    assert abs(cube.mean() - 1 / 2) < 1.5e-3
    assert abs(cube.var() - 1 / 12) < 5e-4
    assert np.abs(np.histogram(cube, 100, (0, 1))[0] - 10_000).max() < 480
    for axis in range(3):
        for lag in (1, 2, 16):
            before, after = np.moveaxis(cube, axis, 0)[:-lag], np.moveaxis(cube, axis, 0)[lag:]
            assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 5e-3
    means = cube.mean(axis=(1, 2))  # of each seed: standard error 2.9e-3
    assert np.abs(means - 1 / 2).max() < 0.0145


def test_parameters_are_uniform_in_their_ranges_and_exact_in_float32():
    values = draw(LEVELS["standard"], np.arange(1, 20_001), np)
    columns = dict(zip(COLUMNS, values.T, strict=True))
    for name, (low, high) in {"friction": (0.5, 1.25), "mass": (0.95, 1.05), "com_y": (-0.02, 0.02)}.items():
        assert low <= columns[name].min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < columns[name].max() <= high
        np.testing.assert_allclose(columns[name].mean(), (low + high) / 2, atol=0.01 * (high - low))
    assert np.abs(np.corrcoef(values[:, :8].T) - np.eye(8)).max() < 0.04
    np.testing.assert_array_equal(columns["seed"], np.arange(1, 20_001))
    np.testing.assert_allclose(draw(LEVELS["standard"], jnp.arange(1, 20_001), jnp), values, atol=1e-6)
    ts = made().reset(KEY, 5)
    np.testing.assert_array_equal(ts.physics[:, 11:], ts.physics[:, 11:].astype(np.float32))


@pytest.mark.parametrize("name", envs.WORLDS)
def test_world_without_randomisation_has_no_columns_and_takes_vectors_of_one_that_has(name):
    plain, shaken = envs.make(name, threads=1), envs.make(name, threads=1, randomise="standard")
    bare = plain.world.model.nq + plain.world.model.nv + plain.world.model.na + plain.spec.action + 1
    length = bare + plain.world.memory.stop - plain.world.memory.start
    assert (plain.spec.physics, shaken.spec.physics) == (length, length + len(COLUMNS))
    ours, theirs = plain.reset(KEY, 2), shaken.reset(KEY, 2)
    if not plain.world.settle:
        np.testing.assert_array_equal(theirs.physics[:, :bare], ours.physics[:, :bare])
    jax.tree.map(np.testing.assert_array_equal, plain.reset_to(under(ours.physics, mass=2.0, seed=5)), ours)
    action = np.full((2, plain.spec.action), 0.3, np.float32)
    nominal, usual = shaken.step(shaken.reset_to(ours.physics), action), plain.step(ours, action)
    np.testing.assert_allclose(nominal.physics, under(usual.physics), atol=1e-12)
    np.testing.assert_allclose(nominal.obs["state"], usual.obs["state"], atol=1e-6)


def test_noise_is_seen_by_the_actor_alone():
    env = made()
    ts = env.step(env.reset(KEY, 300), actions(300))
    clean, quantities = env.read(ts.physics)
    error = ts.obs["state"] - clean
    assert (np.abs(error) <= np.array(NOISE) + 1e-6).all()
    np.testing.assert_allclose(error.std(axis=0), np.array(NOISE) / 3**0.5, rtol=0.1)
    assert np.abs(np.corrcoef(error.T) - np.eye(8)).max() < 0.25
    np.testing.assert_array_equal(quantities["x"], ts.physics[:, 1])
    np.testing.assert_array_equal(ts.quantities["speed"], ts.physics[:, 5])
    np.testing.assert_array_equal(env.observe(ts.physics)[0]["state"], ts.obs["state"])
    np.testing.assert_allclose(env.observe(ts.physics[:, :11])[0]["state"], clean, atol=1e-6)
    later = ts.physics.copy()
    later[:, 0] += 0.02
    assert (env.observe(later)[0]["state"] != ts.obs["state"]).all()


def test_worlds_go_on_from_stored_float32_vectors_as_they_would_have():
    env = made()
    ts = env.step(env.reset(KEY, 4), actions())
    again = env.step(env.reset_to(ts.physics.astype(np.float32)), actions(seed=1))
    ahead = env.step(ts, actions(seed=1))
    np.testing.assert_array_equal(again.physics[:, 11:], ahead.physics[:, 11:])
    np.testing.assert_allclose(again.physics, ahead.physics, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"friction": (0.5, 0.4)}, r"randomise: friction must be \(low, high\) with low <= high, got \(0.5, 0.4\)"),
        ({"mass": (0.0, 1.0)}, r"randomise: mass must be in \(0, inf\), got 0.0"),
        ({"latency": (0.0, float("nan"))}, r"randomise: latency must be in \[0, 1\], got nan"),
        ({"noise": -1.0}, r"randomise: noise must be in \[0, inf\), got -1.0"),
    ],
)
def test_impossible_ranges_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Randomisation(**options)


def test_unknown_levels_and_vectors_of_another_world_are_refused():
    with pytest.raises(InputError, match="randomise: unknown level 'standart'; did you mean 'standard'"):
        envs.make("point_maze", randomise="standart")
    for env in (made(), sled()):
        with pytest.raises(InputError, match=r"a vector of world 'sled' has 11 or 20 numbers, got 12"):
            env.reset_to(np.zeros((2, 12)))


def test_table_of_levels_on_the_page_is_the_one_of_the_code():
    page = Path(__file__).resolve().parents[2].joinpath("docs/randomisation.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", page, re.MULTILINE)
    levels = [dataclasses.asdict(LEVELS[name]) for name in ("standard", "hard")]
    assert shown == [(field, *(str(level[field]) for level in levels)) for field in levels[0]]
    listed = re.search(r"physics vector: (.*?)\.", page, re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == COLUMNS
