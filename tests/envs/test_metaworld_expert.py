"""Scripted arms of Meta-World: they solve tasks, fail in five ways, and make data."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import envs
from embodied.data import store
from embodied.rollout import rollout
from embodied.types import InputError
from envs import metaworld_expert
from experiments import collect
from experiments.presets import COLLECT

WORLD, EPISODES, DECISIONS = "metaworld_reach", 4, 80
FEW = dataclasses.replace(COLLECT["metaworld_reach-expert"], episodes=6, worlds=3, decisions=90)


@functools.cache
def made(manner):
    env = envs.make(WORLD, threads=2)
    carry, start = metaworld_expert.mind(EPISODES, DECISIONS, seed=1), env.reset(jax.random.key(0), EPISODES)
    behave = metaworld_expert.behaviour(WORLD, manner)
    path = rollout(env, behave, start, carry, DECISIONS, jax.random.key(1), traced=False)
    return path, np.asarray(env.trials["success"].met(path.path))


def test_expert_solves_the_task_and_stays():
    path, solved = made("expert")
    assert solved.any(1).all()
    assert solved[:, -1].all()
    assert np.abs(path.action).max() == 1


def test_arm_that_stops_did_the_same_until_it_did_nothing():
    path, whole = made("stopped")[0].action, made("expert")[0].action
    stops = np.ceil(metaworld_expert.mind(EPISODES, DECISIONS, seed=1).stop).astype(int)
    for one, other, stop in zip(path, whole, stops, strict=True):
        np.testing.assert_array_equal(one[:stop], other[:stop])
        assert not one[stop:].any()
    assert stops.min() >= 0.05 * DECISIONS


def test_arm_that_is_astray_ends_where_the_goal_is_not():
    path, solved = made("astray")
    away = np.linalg.norm((path.quantities["fingers_position"] - path.quantities["goal_position"])[:, -1, :2], axis=1)
    meant = np.linalg.norm(metaworld_expert.mind(EPISODES, DECISIONS, seed=1).shift, axis=1)
    assert ((meant >= 0.1) & (meant <= 0.2)).all()
    assert np.abs(away - meant).max() < 0.08
    assert not solved.any()


@pytest.mark.parametrize("manner", ["frozen", "random"])
def test_arms_that_know_nothing_solve_nothing(manner):
    path, solved = made(manner)
    assert not solved.any()
    assert (np.ptp(path.action) == 0) == (manner == "frozen")


def test_noise_changes_what_the_arm_does():
    noisy = made("noisy")[0].action
    assert 0.5 < np.abs(noisy - made("expert")[0].action).mean() < 2


def test_collected_episodes_are_successes_that_end_a_little_behind_them(tmp_path):
    collect.run(FEW, tmp_path / "data", quiet=True)
    episodes, metadata = collect.load_data(tmp_path / "data", WORLD)
    env = envs.make(WORLD, threads=2)
    assert len(episodes) == 6
    assert metadata["collector"]["explorer"] == "expert"
    for episode in episodes:
        solved = env.tasks["success"](None, None, env.observe(episode["physics"])[1]) >= 0
        assert solved.argmax() + collect.BEHIND == len(episode["action"]) == len(episode["state"]) - 1
    again = store.read_episodes(collect.run(FEW, tmp_path / "again", quiet=True))
    np.testing.assert_array_equal(again[3]["physics"], episodes[3]["physics"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "walker"}, "collect: no arm of Meta-World acts in world 'walker'; choose one of"),
        ({"decisions": 5}, "collect: the arm solves nothing in 5 decisions; give it more of them"),
    ],
)
def test_worlds_without_an_arm_and_too_little_time_are_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        collect.run(dataclasses.replace(FEW, **changes), tmp_path / "data", quiet=True)
