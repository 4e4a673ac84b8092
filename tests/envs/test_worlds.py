"""The contract of every registered world, in both of its forms."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from embodied.types import InputError

COUNT = 3
KEY = jax.random.key(0)
TABLES = [name for name in envs.WORLDS if name.startswith("tabletop")]
IN_CONTACT = {"quadruped", *TABLES}
COMPILED = {"point_maze", "walker", "tabletop_pick"}  # MJX takes 10 to 60 s for a world; the others are slow
HOST = [pytest.param(name, "host", id=f"{name}-host") for name in envs.WORLDS]
MJX = [
    pytest.param(name, "mjx", id=f"{name}-mjx", marks=[pytest.mark.slow] * (name not in COMPILED))
    for name in envs.WORLDS
]


@functools.cache
def made(name, form):
    return envs.make(name, form)


@pytest.fixture
def env(request):
    return made(*request.param)


def pytest_generate_tests(metafunc):
    if "env" in metafunc.fixturenames:
        rows = MJX if metafunc.function.__name__.startswith("test_mjx") else HOST + MJX
        rows = [pytest.param(row.values, id=row.id, marks=row.marks) for row in rows]
        metafunc.parametrize("env", rows, indirect=True)


def actions(env, seed=0, count=COUNT):
    return np.random.default_rng(seed).uniform(-1, 1, (count, env.spec.action)).astype(np.float32)


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_values_have_the_shapes_that_the_spec_declares(env):
    spec = env.spec
    ts = env.step(env.reset(KEY, COUNT), actions(env))
    assert {name: value.shape for name, value in ts.obs.items()} == {
        name: (COUNT, *shape) for name, shape in spec.obs.items()
    }
    assert all(value.dtype == np.float32 for value in ts.obs.values())
    assert set(ts.quantities) == set(ts.path) == set(spec.quantities)
    for name, declared in spec.quantities.items():
        assert ts.quantities[name].shape == (COUNT, *declared.shape), name
        assert ts.path[name].shape == (COUNT, spec.hold, *declared.shape), name
    assert ts.physics.shape == (COUNT, spec.physics)
    assert ts.discount.shape == ts.last.shape == (COUNT,)
    assert jax.tree.structure(ts) == jax.tree.structure(env.reset_to(ts.physics))


def test_values_stay_finite_for_a_hundred_random_steps(env):
    ts = env.reset(jax.random.key(1), COUNT)
    for seed in range(100):
        ts = env.step(ts, actions(env, seed))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ts))
    assert (np.asarray(ts.discount) == 1).all()
    np.testing.assert_allclose(ts.physics[:, 0], 100 * env.spec.hold * env.spec.control_dt, rtol=1e-5)


def test_stored_physics_give_back_observations_quantities_and_rewards(env):
    before = env.reset(jax.random.key(2), COUNT)
    after = env.step(before, actions(env))
    obs, quantities = env.observe(after.physics)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if env.spec.name == "quadruped" else {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(obs["state"], after.obs["state"], **tolerance)
    for name, task in env.tasks.items():
        stepped = task(before.quantities, actions(env), after.quantities)
        relabelled = task(env.observe(before.physics)[1], actions(env), quantities)
        np.testing.assert_allclose(relabelled, stepped, atol=1e-5, err_msg=name)
        assert list(task.terms(before.quantities, None, after.quantities))[-1] == "reward"


def test_path_ends_in_the_current_quantities(env):
    ts = env.step(env.reset(jax.random.key(3), COUNT), actions(env))
    assert_equal({name: value[:, -1] for name, value in ts.path.items()}, dict(ts.quantities))
    np.testing.assert_allclose(ts.quantities["control"], actions(env), atol=1e-6)


def test_stepping_twice_from_one_timestep_gives_the_same_and_changes_no_argument(env):
    ts, action = env.reset(jax.random.key(4), COUNT), actions(env)
    kept = copy.deepcopy((ts, action))
    first = env.step(ts, action)
    env.step(first, -action)
    assert_equal(env.step(ts, action), first)
    assert_equal((ts, action), kept)


def test_equal_keys_give_equal_starts_and_others_differ(env):
    first, again = (env.reset(jax.random.key(5), COUNT) for _ in range(2))
    assert_equal(first, again)
    assert not np.array_equal(first.physics, env.reset(jax.random.key(6), COUNT).physics)
    assert (np.asarray(first.physics[:, 0]) == 0).all()


def test_last_is_true_exactly_at_the_end_of_an_episode(env):
    spec = env.spec
    physics = np.array(env.reset(jax.random.key(7), COUNT).physics)
    physics[:, 0] = (spec.episode_length - spec.hold * np.array([3, 2, 1])) * spec.control_dt
    ts = env.step(env.reset_to(physics), actions(env))
    assert np.asarray(ts.last).tolist() == [False, False, True]
    assert np.asarray(ts.discount).tolist() == [1.0, 1.0, 1.0]


def test_actions_beyond_their_range_are_clipped(env):
    ts = env.reset(jax.random.key(8), COUNT)
    assert_equal(env.step(ts, 5 * np.ones_like(actions(env))), env.step(ts, np.ones_like(actions(env))))


def test_world_that_becomes_unstable_is_replaced_and_the_others_are_untouched(env):
    ts, action = env.reset(jax.random.key(9), COUNT), actions(env)
    expected = env.step(ts, action)
    physics = np.array(ts.physics)
    physics[1, env.world.qvel] = np.nan
    after = env.step(ts.replace(physics=jnp.asarray(physics) if env.spec.jittable else physics), action)
    assert np.asarray(after.last).tolist() == [False, True, False]
    assert np.asarray(after.discount).tolist() == [1.0, 0.0, 1.0]
    assert np.isfinite(after.physics).all()
    assert after.physics[1, 0] == 0
    assert_equal(*(jax.tree.map(lambda leaf: leaf[np.array([0, 2])], each) for each in (after, expected)))


def test_mjx_reset_and_step_may_be_traced_and_compile_once(env):
    assert env.spec.jittable
    shapes = jax.eval_shape(lambda key: env.step(env.reset(key, COUNT), jnp.ones_like(actions(env))), KEY)
    ts = env.reset(KEY, COUNT)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), ts
    )
    for seed in range(3):
        ts = env.step(ts, actions(env, seed))
    env.step(env.reset_to(ts.physics), actions(env))
    assert env._step._cache_size() == 1


def test_mjx_agrees_with_the_host_form_from_the_same_physics_state(env):
    host = made(env.spec.name, "host")
    # Contacts amplify float32 rounding; the first decision from a start bounds it.
    tolerance = dict.fromkeys(("rtol", "atol"), 2e-2 if env.spec.name in IN_CONTACT else 2e-3)
    starts = env.reset(jax.random.key(10), COUNT)
    ours, theirs = env.step(starts, actions(env)), host.step(host.reset_to(starts.physics), actions(env))
    np.testing.assert_allclose(ours.physics, theirs.physics, **tolerance)
    np.testing.assert_allclose(ours.obs["state"], theirs.obs["state"], **tolerance)
    obs, quantities = host.observe(np.asarray(ours.physics))
    np.testing.assert_allclose(ours.obs["state"], obs["state"], **tolerance)
    for name, value in quantities.items():
        np.testing.assert_allclose(ours.quantities[name], value, **tolerance, err_msg=name)


def test_number_of_threads_does_not_change_a_bit():
    one, three = (envs.make("walker", threads=threads) for threads in (1, 3))
    ts = one.reset(jax.random.key(11), 20)
    assert_equal(three.step(ts, actions(one, count=20)), one.step(ts, actions(one, count=20)))


def test_unstable_world_is_named_in_the_log(caplog):
    env = made("walker", "host")
    ts = env.reset(jax.random.key(12), 2)
    physics = ts.physics.copy()
    physics[1, 5] = np.inf
    env.step(ts.replace(physics=physics), actions(env, count=2))
    [line] = [record.message for record in caplog.records if record.name == "envs.host"]
    assert line.startswith("world 1 of 'walker' became unstable at 0 s, first in entry 5 of the physics vector;")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("wakler",), {}, r"unknown world 'wakler'; did you mean 'walker'\?"),
        (("walker", "hots"), {}, r"unknown form 'hots' of world 'walker'; did you mean 'host'\?"),
        (("walker",), {"hodl": 2}, r"unknown option 'hodl' of world 'walker'; did you mean 'hold'\?"),
        (("walker",), {"start": "refrence"}, r"unknown start 'refrence' of world 'walker'; did you mean 'reference'\?"),
        (("walker",), {"hold": 0}, r"hold must lie in \[1, 1000\] control steps, got 0"),
        (("walker",), {"hold": 3}, r"hold must divide the 1000 control steps of an episode, got 3"),
        (("walker", "mjx"), {"threads": 2}, r"threads belongs to form 'host'"),
    ],
)
def test_bad_names_forms_and_options_are_named_with_the_nearest_choice(arguments, options, message):
    with pytest.raises(InputError, match=message):
        envs.make(*arguments, **options)


@pytest.mark.parametrize("name", envs.WORLDS)
def test_render_gives_an_image_or_names_the_missing_library(name):
    env = envs.make(name, threads=1)
    physics = env.reset(jax.random.key(0), 1).physics[0]
    camera = env.world.model.camera(0).name
    image, message = None, ""
    try:
        image = env.render(physics, camera, 64)
    except RuntimeError as error:
        message = str(error)
    env.close()
    if image is None:
        assert message.startswith("no renderer: install libegl1")
    else:
        assert image.shape == (64, 64, 3)
        assert image.std() > 5
