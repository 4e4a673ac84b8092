"""Worlds of OGBench against the package's own, step by step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import envs
from embodied.types import InputError
from envs import ogbench_maze, ogbench_table
from envs.controlled import ControlledEnv
from envs.controlled_world import State
from envs.ogbench_arm import PINCH
from tests.envs.test_worlds import (  # noqa: F401
    test_actions_beyond_their_range_are_clipped,
    test_equal_keys_give_equal_starts_and_others_differ,
    test_last_is_true_exactly_at_the_end_of_an_episode,
    test_path_ends_in_the_current_quantities,
    test_stepping_twice_from_one_timestep_gives_the_same_and_changes_no_argument,
    test_stored_physics_give_back_observations_quantities_and_rewards,
    test_values_have_the_shapes_that_the_spec_declares,
    test_values_stay_finite_for_a_hundred_random_steps,
    test_world_that_becomes_unstable_is_replaced_and_the_others_are_untouched,
)

TABLES, MAZES = tuple(ogbench_table.LAYOUTS), tuple(ogbench_maze.MAZES)


@functools.cache
def made(name):
    return envs.make(name, threads=2)


@pytest.fixture(params=TABLES + MAZES)
def env(request):
    return made(request.param)


@pytest.fixture
def table(name):
    return made(name)


@pytest.fixture
def theirs(name):
    return ogbench_table.package_env(name)


def now(env, theirs, action=None):
    """The package's state as a timestep of ours."""
    led = np.zeros(5) if action is None else action
    return env.reset_to(ogbench_table.physics_of(theirs, theirs.compute_ob_info(), led)[None])


def told(env, theirs):
    """Our world, with the commands that the package gave to its actuators last."""
    control = lambda state, action: theirs.data.ctrl[None].copy()  # noqa: E731
    return ControlledEnv(dataclasses.replace(env.world, control=control), threads=1)


def met(theirs):
    """Whether each goal of the package's task is met."""
    successes = theirs._compute_successes()
    return np.hstack([np.ravel(one) for one in (successes if isinstance(successes, tuple) else [successes])])


def agree(ours, env, theirs, observation, task, tolerance):
    np.testing.assert_allclose(ours.obs["state"][0], observation, rtol=0, atol=tolerance)
    assert env.tasks[task](None, None, ours.path)[0, -1] == met(theirs).sum() - met(theirs).size
    assert bool(env.trials[task].met(ours.path).any()) == theirs._success


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_each_step_gives_the_packages_commands_physics_observation_and_success(table, theirs, number):
    # One by one: contacts amplify what rounding leaves in a command, 1e-15, within a step, to 1e-3 and more.
    generator, exact = np.random.default_rng(number), told(table, theirs)
    theirs.reset(seed=number, options={"task_id": number})
    task, before = list(table.tasks)[number - 1], now(table, theirs)
    for _ in range(60 if number == 1 else 20):
        action = generator.uniform(-1, 1, 5) - [0, 0, 0.3, 0, 0]
        action = np.clip(action, -1, 1)
        command = table.world.control(State(table.world, before.physics), action[None])[0]
        observation = theirs.step(action)[0]
        np.testing.assert_allclose(command, theirs.data.ctrl, rtol=0, atol=1e-11)
        ours, before = exact.step(before, action[None]), now(table, theirs, action)
        np.testing.assert_allclose(ours.physics, before.physics, rtol=0, atol=1e-12)
        agree(ours, table, theirs, observation, task, 1e-6)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_two_hundred_steps_on_its_own_observe_what_the_package_observes(number):
    env, theirs, generator = (
        made("cube_single"),
        ogbench_table.package_env("cube_single"),
        np.random.default_rng(10 + number),
    )
    theirs.reset(seed=10 + number, options={"task_id": number})
    task, ours = list(env.tasks)[number - 1], now(env, theirs)
    for _ in range(200):
        action = generator.uniform(-1, 1, 5)
        ours = env.step(ours, action[None])
        agree(ours, env, theirs, theirs.step(action)[0], task, 1e-5)


@pytest.mark.parametrize("name", MAZES)
@pytest.mark.parametrize("number", [1, 5])
def test_ant_walks_two_hundred_steps_as_the_packages_does(name, number):
    env, theirs, generator = made(name), ogbench_maze.package_maze(name), np.random.default_rng(number)
    observation, _ = theirs.reset(seed=number, options={"task_id": number})
    task, data = list(env.tasks)[number - 1], theirs.unwrapped.data
    parts = [[data.time], data.qpos, data.qvel, np.zeros(8), data.qacc_warmstart]
    ours = env.reset_to(np.concatenate(parts)[None])
    for _ in range(200):
        np.testing.assert_allclose(ours.obs["state"][0], observation, rtol=0, atol=1e-5)
        action = generator.uniform(-1, 1, 8)
        ours, (observation, _, _, _, info) = env.step(ours, action[None]), theirs.step(action)
        assert env.trials[task].met(ours.path).tolist() == [[bool(info["success"])]]


@pytest.mark.parametrize("name", ["scene", "puzzle_3x3"])
def test_button_that_is_pushed_flips_the_same_switches(name):
    env, theirs = made(name), ogbench_table.package_env(name)
    theirs.reset(seed=0, options={"task_id": 1})
    exact, before, top = told(env, theirs), now(env, theirs), theirs.data.site("btntop_0").xpos.copy()
    task, first = next(iter(env.tasks)), before.physics[0, env.world.act]
    for step in range(60):
        goal = top + np.array([0, 0, 0.1 if step < 25 else -0.05])
        towards = np.clip((goal - before.quantities["fingers_position"][0]) / 0.05, -1, 1)
        action = np.array([*towards, 0, 1])
        observation = theirs.step(action)[0]
        ours, before = exact.step(before, action[None]), now(env, theirs, action)
        np.testing.assert_allclose(ours.physics, before.physics, rtol=0, atol=1e-12)
        agree(ours, env, theirs, observation, task, 1e-6)
    flipped = {"scene": [0], "puzzle_3x3": [0, 1, 3]}[name]
    assert np.flatnonzero(before.physics[0, env.world.act] != first).tolist() == flipped


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_painted_as_by_the_package_with_lights_that_follow_the_switches(name):
    env = made(name)
    physics = np.array(env.reset(jax.random.key(0), 2).physics)
    physics[:, env.world.act] = [[0.0], [1.0]]
    seen = [env.world.draw(State(env.world, one), True)[0].geom_rgba.copy() for one in physics]
    model, data = env.world.draw(State(env.world, physics[1]), True)
    np.testing.assert_array_equal(data.qpos, physics[1, env.world.qpos])
    assert model.camera(env.eye).name == "front_pixels"
    assert model.material("ur5e/linkgray").rgba[3] < 0.2  # the arm hides nothing
    plain, _ = env.world.draw(State(env.world, physics[1]), False)
    assert plain.material("ur5e/linkgray").rgba[3] == 1.0
    changed = np.flatnonzero((seen[0] != seen[1]).any(1))
    assert bool(len(changed)) == (env.world.own is not None)
    np.testing.assert_array_equal(plain.geom_rgba[changed], seen[1][changed])
    marks = [i for i in range(model.ngeom) if model.geom(i).name.startswith("target")]
    assert (model.geom_rgba[marks, 3] == 0).all()
    assert (plain.geom_rgba[marks, 3] == 0).all()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_tasks_are_judged_from_start_states_like_the_packages(env, number):
    name, task, maze = env.spec.name, list(env.tasks)[number - 1], env.spec.name in MAZES
    begun = env.begin(env.tasks[task], jax.random.key(0), 30)
    same = envs.make(name, start=task, threads=1).reset(jax.random.key(0), 30)
    np.testing.assert_array_equal(begun.physics, same.physics)
    theirs, states = (ogbench_maze.package_maze if maze else ogbench_table.package_env)(name), []
    np.random.seed(0)  # noqa: NPY002  # the package's mazes draw from it
    for seed in range(30):
        theirs.reset(seed=seed, options={"task_id": number})
        data, switches = theirs.unwrapped.data, () if maze else theirs.compute_ob_info().get("button_states", ())
        # Several angles of the arm bring the fingers to one place, which is compared instead.
        places = data.qpos if maze else [*data.site(PINCH).xpos, *data.qpos[6:]]
        states.append(np.concatenate([places, switches]))
    states, ours = np.array(states), begun.physics[:, np.r_[env.world.qpos, env.world.act]]
    ours = ours if maze else np.concatenate([begun.quantities["fingers_position"], ours[:, 6:]], axis=1)
    width = 0.4 * np.ptp(states, axis=0) + 1e-3
    assert (np.abs(ours.mean(0) - states.mean(0)) < width).all()
    assert (ours.min(0) > states.min(0) - width).all()
    assert (ours.max(0) < states.max(0) + width).all()


@pytest.mark.parametrize("number", [1, 5])
def test_episodes_begin_where_tasks_and_goals_are(env, number):
    task = list(env.tasks)[number - 1]
    begin = envs.make(env.spec.name, start=task, threads=1).reset(jax.random.key(0), 4)
    end = envs.make(env.spec.name, start=f"{task}-goal", threads=1).reset(jax.random.key(0), 4)
    solved = [env.tasks[task](None, None, ts.quantities) == 0 for ts in (begin, end)]
    assert [bool(each.any()) for each in solved] == [False, True]
    assert solved[1].all()
    assert not np.array_equal(begin.obs["state"][0], begin.obs["state"][1])


def test_bare_vectors_are_completed_without_being_moved(env):
    ts = env.reset(jax.random.key(1), 3)
    bare = ts.physics[:, : env.world.ctrl.stop]
    np.testing.assert_array_equal(env.complete(bare), ts.physics)
    with pytest.raises(InputError, match=r"physics: a vector of world '\w+' has \d+ or \d+ numbers, got 5"):
        env.complete(bare[:, :5])


def test_number_of_threads_does_not_change_a_bit():
    one, three = (envs.make("cube_single", threads=threads) for threads in (1, 3))
    ts, action = one.reset(jax.random.key(2), 7), np.random.default_rng(0).uniform(-1, 1, (7, 5))
    np.testing.assert_array_equal(three.step(ts, action).physics, one.step(ts, action).physics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "mjx"}, r"unknown form 'mjx' of world 'scene'; it has one form: 'host'"),
        ({"start": "task1_opne"}, r"start: unknown start 'task1_opne' of world 'scene'; did you mean 'task1_open'\?"),
        ({"randomise": "hard"}, r"randomise: world 'scene' cannot be randomised; choose 'none'"),
        ({"hold": 4}, r"hold must divide the 750 control steps of an episode, got 4"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        envs.make("scene", **options)
