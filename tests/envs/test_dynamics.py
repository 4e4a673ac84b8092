"""What an episode's parameters do: the same in both forms, and the same as a model compiled with them."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from embodied.types import InputError
from envs import dynamics
from envs.compiled import compile_model
from envs.forms import build
from envs.randomise import Randomisation
from tests.envs.sleds import ALL, actions, made, sled, starts, under, walk

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["mass", "friction", "damping", "gain"])
def test_scaled_parameter_equals_a_model_compiled_from_scaled_numbers(name):
    parameters, nominal = under(starts(), **{name: 1.7}), under(starts())
    scaled = walk(made(), parameters)
    np.testing.assert_allclose(scaled, walk(sled(**{name: 1.7}), starts()), rtol=0, atol=1e-9)
    assert np.abs(scaled - walk(made(), nominal)).max() > 1e-3


def test_offset_of_the_base_equals_a_model_compiled_with_it_where_nothing_touches():
    flying = starts(height=1.0)
    offset = walk(made(), under(flying, com_x=0.02, com_y=-0.01, com_z=0.03))
    np.testing.assert_allclose(offset, walk(sled(com="0.02 -0.01 0.03"), flying), rtol=0, atol=1e-9)
    assert np.abs(offset - walk(made(), under(flying))).max() > 1e-3


@pytest.mark.parametrize("name", ["walker", "cheetah", "quadruped"])
def test_scaled_constants_are_those_that_mujoco_derives(name):
    world = envs.make(name, threads=1, randomise="standard").world
    [model] = dynamics.Copies(world).of(np.array([[0.6, 1.3, 0, 0, 0, 0.8, 1.5, 0, 1]]))
    derived = copy.copy(model)
    mujoco.mj_setConst(derived, mujoco.MjData(derived))
    before = dynamics.read_fields(world.model)
    for field, value in dynamics.read_fields(derived).items():
        np.testing.assert_allclose(dynamics.read_fields(model)[field], value, rtol=1e-9, err_msg=field)
    np.testing.assert_allclose(model.body_mass, 1.3 * before["body_mass"])
    np.testing.assert_allclose(model.geom_friction, [0.6, 1, 1] * before["geom_friction"])
    assert model.ntexdata < 100 < world.model.ntexdata


def test_both_forms_obey_all_parameters_alike():
    host, mjx = made(), made("mjx")
    ts = mjx.reset(KEY, 6)
    assert len(np.unique(ts.physics[:, -1])) == 6
    moving = np.concatenate([starts(6), np.asarray(ts.physics[:, 11:], np.float64)], axis=1)
    moving[:, 0] = 0.02 * np.arange(6)
    pushes = dynamics.pushed(host.world, moving, np) != moving
    assert 0 < pushes.any(axis=1).sum() < 6
    ours, theirs = (env.step(env.reset_to(moving), actions(6)) for env in (mjx, host))
    np.testing.assert_allclose(ours.physics, theirs.physics, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(ours.obs["state"], theirs.obs["state"], rtol=2e-3, atol=2e-3)
    for env, after in ((mjx, ours), (host, theirs)):
        np.testing.assert_allclose(env.observe(after.physics)[0]["state"], after.obs["state"], atol=1e-5)
        np.testing.assert_allclose(env.read(after.physics)[1]["x"], after.quantities["x"], atol=1e-6)
    plain = sled().step(sled().reset_to(moving), actions(6))
    assert np.abs(plain.physics[:, 1:5] - theirs.physics[:, 1:5]).max() > 4e-3


@pytest.mark.parametrize(("latency", "steps"), [(0.0, 0), (0.125, 1), (0.27, 2), (1.0, 8), (1.9, 8)])
def test_command_of_the_decision_before_goes_on_during_the_latency(latency, steps):
    physics = under(starts(), latency=latency)
    physics[:, 9:11] = [[0.5, -0.5]]
    world = made().world
    expected = []
    for row, action in zip(physics, actions(), strict=True):
        data = mujoco.MjData(world.model)
        mujoco.mj_setState(world.model, data, row[:9], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        for step in range(8):
            data.ctrl[:] = row[9:11] if step < steps else action
            data.qacc_warmstart[:] = 0
            mujoco.mj_step(world.model, data)
        expected.append(np.concatenate([data.qpos, data.qvel]))
    ts = made().step(made().reset_to(physics), actions())
    np.testing.assert_allclose(ts.physics[:, 1:9], expected, atol=1e-6)
    np.testing.assert_array_equal(ts.physics[:, 9:11], actions())
    assert dynamics.late(made().world, physics, np).tolist() == [steps] * 4


def test_pushes_come_at_their_intervals_and_change_linear_velocities_of_the_base():
    world = made().world
    rows = under(np.tile(starts(1), (50, 1)), seed=7.0)  # the decisions of one episode
    rows[:, 0] = 0.04 * np.arange(50)
    change = dynamics.pushed(world, rows, np) - rows
    [moments] = np.nonzero(change.any(axis=1))
    assert change[:, [*range(5), *range(7, 20)]].any() == 0
    assert (np.abs(change[moments, 5:7]) > 0).all()
    assert 0.2 < np.abs(change).max() < 0.5
    # Intervals of 2 to 6 control steps, in decisions of two.
    assert {*np.diff(moments)} == {1, 2, 3}
    np.testing.assert_allclose(jax.jit(lambda x: dynamics.pushed(world, x, jnp))(rows), rows + change, atol=1e-6)
    other, quiet = rows.copy(), rows.copy()
    other[:, -1], quiet[:, -1] = 8.0, 0.0
    assert not np.array_equal(dynamics.pushed(world, other, np) - other, change)
    np.testing.assert_array_equal(dynamics.pushed(world, quiet, np), quiet)


def test_more_worlds_than_models_are_kept_make_no_difference(monkeypatch):
    few, many = sled(ALL), made()
    expected = many.step(many.reset(KEY, 10), actions(10))
    monkeypatch.setattr(dynamics, "LIMIT", 3)
    for _ in range(2):
        after = few.step(few.reset(KEY, 10), actions(10))
        jax.tree.map(np.testing.assert_array_equal, after, expected)
    assert len(few._copies._made) == 3


def test_world_that_becomes_unstable_begins_an_episode_with_parameters_of_its_own():
    for form in ("host", "mjx"):
        env = made(form)
        ts = env.reset(KEY, 6)
        physics = np.array(ts.physics)
        physics[1, 5] = np.nan
        after = env.step(ts.replace(physics=jnp.asarray(physics) if form == "mjx" else physics), actions(6))
        assert np.asarray(after.last).tolist() == [False, True, False, False, False, False]
        kept = np.asarray(after.physics)[:, 11:] == np.asarray(ts.physics)[:, 11:]
        assert kept.all(axis=1).tolist() == [True, False, True, True, True, True]
        assert after.physics[1, -1] >= 1


@pytest.mark.parametrize(
    ("body", "ranges", "message"),
    [
        (
            '<freejoint/><geom size="0.1"/>',
            Randomisation(centre_of_mass=0.02),
            "centre_of_mass must be 0 in world 'sled', whose base is compiled with a diagonal mass matrix, got 0.02",
        ),
        (
            '<joint name="knee"/><geom size="0.1" pos="0 0 1"/>',
            Randomisation(gain=(0.9, 1.1)),
            r"gain must be \(1, 1\) in world 'sled', whose actuator 'thigh' is neither a motor nor a servo",
        ),
    ],
)
def test_ranges_that_a_model_cannot_take_are_refused(body, ranges, message):
    muscle = '<actuator><muscle name="thigh" joint="knee" lengthrange="0 1"/></actuator>' * ("knee" in body)
    source = compile_model(f"<mujoco><worldbody><body>{body}</body></worldbody>{muscle}</mujoco>", {}, {})
    world = dataclasses.replace(made().world, source=source, observation=())
    with pytest.raises(InputError, match=message):
        build(world, "host", 1, ranges)
