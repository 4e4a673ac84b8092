"""Worlds of Meta-World against the package's own, step by step."""

import functools

import jax
import numpy as np
import pytest

import envs
from embodied.rewards import Task
from embodied.types import InputError
from envs import metaworld_table
from envs.metaworld_tasks import TASKS, TEN
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

EACH_KIND = ("reach", "door_open", "hammer")  # nothing but sites, a body and two objects


@functools.cache
def made(task):
    return envs.make(f"metaworld_{task}", threads=2)


@pytest.fixture(params=EACH_KIND)
def env(request):
    return made(request.param)


@functools.cache
def expert(task):
    from metaworld.policies import ENV_POLICY_MAP

    return ENV_POLICY_MAP[f"{task.replace('_', '-')}-v3"]()


def begun(task, seed=0):
    """The package's world and ours at one start."""
    own, theirs = made(task), metaworld_table.package(task).env
    own.step(own.reset(jax.random.key(0), 1), np.zeros((1, 4)))  # from now on it leaves the package's world alone
    start = metaworld_table._start(task, np.random.default_rng(seed), 1)
    bare = np.zeros((1, own.world.ctrl.stop))
    bare[:, own.world.qpos], bare[:, own.world.qvel], bare[:, own.world.act] = start
    ours = own.reset_to(bare)
    theirs._set_task_called, theirs.curr_path_length = True, 0
    theirs._prev_obs = theirs._get_curr_obs_combined_no_goal()
    theirs.data.qacc_warmstart[:] = ours.physics[0, own.world.warm]
    return own, ours, theirs


@pytest.mark.filterwarnings("ignore:Constant")
@pytest.mark.parametrize("task", TEN)
def test_expert_sees_and_does_the_same_in_the_packages_world_and_in_ours(task):
    own, ours, theirs = begun(task)
    solved, observation = [], ours.obs["state"][0].astype(np.float64)
    for step in range(90):
        wanted = expert(task).get_action(observation) if step < 80 else [1.0, -1.0, 1.0, -1.0]
        action = np.clip(np.array(wanted, np.float64), -1, 1)
        observation, _, _, _, info = theirs.step(action)
        ours = own.step(ours, action[None])
        np.testing.assert_allclose(ours.obs["state"][0], observation, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(ours.physics[0, own.world.qpos], theirs.data.qpos)
        np.testing.assert_array_equal(ours.physics[0, own.world.qvel], theirs.data.qvel)
        met = own.trials["success"].met(ours.path)
        assert met.tolist() == [[bool(info["success"])]]
        solved.append(met.item())
    assert any(solved) or task == "peg_insert_side"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_sentence_of_its_own_and_a_condition_over_its_quantities(task):
    chore = TASKS[task]
    solved = Task.of("success", chore.solved, metaworld_table._quantities(chore))
    assert [other.instruction for other in TASKS.values()].count(chore.instruction) == 1
    assert not solved.previous


def test_conditions_that_differ_by_axis_are_met_where_they_should_be():
    here = {"object_position": np.array([[0.0, 0.0, 0.3], [0.04, 0.0, 0.3], [0.0, 0.0, 0.35], [0.0, 0.0, 0.33]])}
    here |= {"goal_position": np.zeros((4, 3))}
    met = {
        task: Task.of("", TASKS[task].solved, metaworld_table._quantities(TASKS[task]))(None, None, here).tolist()
        for task in ("basketball", "window_open", "sweep_into", "button_press_topdown")
    }
    assert met == {
        "basketball": [1, 1, 0, 1],  # 8 cm, of which height counts twice, from 0.3 m above
        "window_open": [1, 1, 1, 1],
        "sweep_into": [1, 1, 1, 1],
        "button_press_topdown": [0, 0, 0, 0],
    }


def test_start_depends_on_its_key_alone_and_not_on_the_starts_before(env):
    first = env.reset(jax.random.key(7), 3)
    env.reset(jax.random.key(8), 2)
    np.testing.assert_array_equal(env.reset(jax.random.key(7), 3).physics, first.physics)
    assert (first.physics[:, 0] == 0).all()
    assert len(np.unique(first.physics[:, env.world.act], axis=0)) == 3


def test_task_is_judged_from_fifty_starts_that_resets_never_give(env):
    begin = functools.partial(env.begin, env.tasks["success"])
    whole, other, reset = begin(jax.random.key(0), 50), begin(jax.random.key(1), 50), env.reset(jax.random.key(0), 50)
    rows = [{row.tobytes() for row in ts.physics} for ts in (whole, other, reset)]
    assert len(rows[0]) == 50
    assert rows[0] == rows[1]
    assert not rows[0] & rows[2]
    assert not np.array_equal(whole.physics, other.physics)
    assert not env.trials["success"].met(whole.path).any()
    few = begin(jax.random.key(2), 60).physics
    assert len(np.unique(few, axis=0)) == 50


def test_observation_is_now_and_a_step_before_and_the_goal():
    env = made("push")
    before = env.reset(jax.random.key(0), 2)
    after = env.step(before, np.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    np.testing.assert_array_equal(before.obs["state"][:, :18], before.obs["state"][:, 18:36])
    np.testing.assert_array_equal(after.obs["state"][:, 18:36], before.obs["state"][:, :18])
    np.testing.assert_allclose(after.obs["state"][:, 36:], after.quantities["goal_position"], atol=1e-7)
    moved = after.physics[:, env.world.act][:, :3] - before.physics[:, env.world.act][:, :3]
    np.testing.assert_allclose(moved, [[0.01, 0, 0], [0, 0, 0]], atol=1e-12)


def test_bare_vectors_are_completed_without_being_moved(env):
    ts = env.reset(jax.random.key(1), 3)
    np.testing.assert_array_equal(env.complete(ts.physics[:, : env.world.ctrl.stop]), ts.physics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "mjx"}, "unknown form 'mjx' of world 'metaworld_reach'; it has one form: 'host'"),
        ({"cap": 501}, r"cap must lie in \[1, 500\] control steps, got 501"),
        ({"cap": 100, "hold": 3}, "hold must divide the 100 control steps of an episode, got 3"),
        ({"randomise": "hard"}, "randomise: world 'metaworld_reach' cannot be randomised; choose 'none'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        envs.make("metaworld_reach", **options)
