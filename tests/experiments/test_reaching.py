"""Goals that the data came to: which are drawn, who reaches them, and what a comparison makes of it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import envs
from agents import jepa
from embodied.data import collect, dataset, normalize
from embodied.planning import Planning
from embodied.policy import Buffer, Policy
from embodied.rollout import rollout
from embodied.types import InputError, Spec
from experiments import imagination, reaching
from experiments.bench import goal_planning as bench

GOALS = 6


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1)


@pytest.fixture(scope="module")
def stored(env):
    key, noise = jax.random.key(0), collect.coloured_noise(correlation=20.0)
    made = rollout(env, noise, env.reset(key, 12), collect.noise_carry(2, 12), 30, key)
    return dataset.from_episodes(collect.episodes(made))


@pytest.fixture(scope="module")
def policy(env, stored):
    """A latent world model before its first update, and its states."""
    mean, std = normalize.statistics(stored.steps.obs)
    spec = Spec(env.spec.obs, env.spec.action, mean=mean, std=std)
    config = jepa.Config().tiny()
    params = jepa.make(config, spec).init(jax.random.key(0), spec.example()).params
    return Policy("jepa", config, spec, "point_maze", {}, params, Buffer(stored.steps.obs, stored.steps.physics))


def test_goals_are_what_followed_in_the_same_episode_and_lie_apart(env, stored):
    given = reaching.pairs(env, stored, GOALS)
    physics = np.asarray(stored.steps.physics, np.float64)
    for start, goal in zip(*given, strict=True):
        row = int(np.abs(physics - start).sum(1).argmin())
        np.testing.assert_array_equal(physics[row + reaching.AHEAD], goal)
        assert row // 31 == (row + reaching.AHEAD) // 31  # episodes of 30 decisions have 31 rows
    start, goal = (env.observe(side)[1]["position"] for side in given)
    assert (np.linalg.norm(start - goal, axis=-1) > reaching.CLOSE).all()
    with pytest.raises(InputError, match=r"goals: must be at most \d+, those that are 25 decisions"):
        reaching.pairs(env, stored, 1000)
    with pytest.raises(InputError, match="world: goals of 'walker' have no measure"):
        reaching.pairs(envs.make("walker", threads=1), stored, 1)


def test_planner_in_copies_of_the_simulator_reaches_what_random_actions_and_an_untrained_model_do_not(
    env, stored, policy
):
    given = reaching.pairs(env, stored, GOALS)
    planning = Planning(horizon=4, samples=24, iterations=2, elites=4)
    known = reaching.by_simulator(env, lambda obs: obs["state"][:, :2], given, planning, block=5, along=0.5)
    assert known.sum() >= GOALS - 1
    assert reaching.at_random(env, given).sum() < known.sum()
    assert reaching.by_policy(policy, env, given, budget=10).shape == (GOALS,)


def test_errors_of_imagination_are_none_for_the_truth_and_one_where_nothing_is_known(env, policy):
    found = imagination.imagine(policy, env, episodes=8)
    assert found.physics.shape[:2] == (8, 31)  # 60 decisions in blocks of 2
    assert found.foreseen.shape == (8, 30, policy.config.latent)
    np.testing.assert_allclose(found._replace(foreseen=found.real[:, 1:]).errors[0], 0, atol=1e-6)
    other = found._replace(foreseen=np.roll(found.real[:, 1:], 1, 0))
    np.testing.assert_allclose(other.errors[0], 1, rtol=1e-5)
    assert found.errors[1][0] < found.errors[1][-1]  # states move away from where they begin
    np.testing.assert_array_equal(
        imagination.nearest(policy, imagination._features(policy, {"state": policy.buffer.obs["state"][3:5]})),
        policy.buffer.physics[3:5],
    )


def test_page_about_imagination_has_a_curve_and_a_film_where_there_is_a_renderer(env, policy, monkeypatch, tmp_path):
    shown = []

    def record(env, physics, camera, path, size, fps):
        shown.append(physics)
        return path if len(shown) > 1 else None

    monkeypatch.setattr(imagination.video, "record", record)
    kinds = lambda: [type(block).__name__ for block in imagination.section(policy, env, tmp_path).blocks]  # noqa: E731
    assert kinds() == ["str", "Figure"]
    assert kinds() == ["str", "Figure", "Video"]
    # Four episodes as they happened, and below each what was foreseen from its first state on.
    assert shown[0].shape[:2] == (8, 31)
    np.testing.assert_array_equal(shown[0][:4, 0], shown[0][4:, 0])
    stored = {row.tobytes() for row in np.asarray(policy.buffer.physics, shown[0].dtype)}
    assert all(row.tobytes() in stored for row in shown[0][4:, 1:].reshape(-1, shown[0].shape[-1]))


def test_comparison_trains_both_agents_per_seed_and_pools_the_goals(env, stored, policy, tmp_path, monkeypatch, capsys):
    commands = []

    def train(preset, data, run, options, updates):
        commands.append((preset, run.name, updates, options))
        return 0

    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "resolve", lambda run: (policy, env))
    monkeypatch.setattr(bench, "load_data", lambda data, world: ([], {}))
    monkeypatch.setattr(bench.dataset, "from_episodes", lambda episodes: stored)
    monkeypatch.setattr(bench, "read_experiment", lambda run: {"made": {"commit": "abc"}})
    asked = []

    def reached(policy, env, given):
        asked.append(policy.config.planning)
        return np.arange(len(given.goal)) < 1

    monkeypatch.setattr(reaching, "by_policy", reached)
    monkeypatch.setattr(reaching, "at_random", lambda env, given: np.zeros(len(given.goal), bool))
    out = str(tmp_path / "planning.json")
    bench.main(["point_maze", "--goals", "4", "--seeds", "3", "5", "--updates", "7", "--copies", "0", "--out", out])
    names = ["point_maze-jepa-3", "point_maze-jepa-5", "point_maze-gcbc-3", "point_maze-gcbc-5"]
    assert [name for _, name, _, _ in commands] == names
    assert commands[0] == ("point_maze-jepa-small", names[0], 7, ["--train.seed", "3"])
    shot = asked[1]
    assert (shot.samples, shot.iterations) == (32, 1)  # of 16 in each of 2 rounds
    methods = json.loads((tmp_path / "planning.json").read_text())["metrics"]["methods"]
    assert set(methods) == {"jepa", "random_shooting", "gcbc", "random_actions"}
    assert (methods["jepa"]["goals"], methods["jepa"]["success"]) == (8, 0.25)
    assert 0 < methods["jepa"]["success_low"] < 0.25 < methods["jepa"]["success_high"]
    assert "random_shooting" in capsys.readouterr().out


def test_random_shooting_scores_as_many_sequences_in_one_round(policy):
    planning = bench.shooting(policy).config.planning
    assert planning == dataclasses.replace(policy.config.planning, samples=32, iterations=1)
