"""Random goals: which are reached, by a policy that goes straight there, and what a comparison makes of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import kinds, multi_critic
from embodied.policy import Buffer, Policy
from embodied.types import Agent, Spec
from experiments import goals
from experiments.bench import goals as bench
from experiments.evaluate import run as evaluate_run

CONFIG = dataclasses.replace(
    multi_critic.Config((), told="goal", weights=(1.0,), discounts=(0.9,), moved=("position",)).tiny(), inputs="raw"
)


class Straight(Policy):
    """Goes where it is told, whatever is in between, but learned nothing."""

    @property
    def agent(self) -> Agent:
        made = super().agent

        def act(params, obs, z, carry, key):
            position, velocity = jnp.split(obs["state"], 2, -1)
            return jnp.clip(
                20 * (kinds.place(jnp.broadcast_to(z, (len(position), 3))) - position) - velocity, -1, 1
            ), ()

        return made._replace(act=act)


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1)


@pytest.fixture(scope="module")
def straight(env):
    spec = Spec(env.spec.obs, env.spec.action, parts=env.spec.parts)
    params = multi_critic.make(CONFIG, spec).init(jax.random.key(0), spec.example()).params
    physics = np.array(env.reset(jax.random.key(0), 500).physics)
    physics[:, 3:5] = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 2))  # some move, as some tasks want it
    buffer = Buffer(env.observe(physics)[0], physics)
    return Straight("multi_critic", CONFIG, spec, "point_maze", {}, params, buffer)


def test_shares_of_goals_count_the_start_the_closest_moment_and_the_end():
    distance = np.array([[0.2, 0.01, 0.3], [0.2, 0.1, 0.05], [0.04, 0.3, 0.3], [0.4, 0.3, 0.2]])
    found = goals.measures(distance)
    assert (found["within_start"], found["within_closest"], found["within_end"]) == (0.25, 0.75, 0.25)
    assert (found["success"], found["goals"]) == (0.25, 4)
    assert 0 < found["success_low"] < 0.25 < found["success_high"] < 1
    assert found["median_start"] == pytest.approx(0.2)
    assert found["median_end"] == pytest.approx(0.25)
    assert " 25 % [" in goals.line("rule", found)


def test_policy_that_goes_there_reaches_goals_that_random_actions_do_not(straight, env, tmp_path, capsys):
    there, random = goals.go(straight, env, 24), goals.go_at_random(straight, env, 24)
    assert there.shape == random.shape == (24, env.spec.decisions + 1)
    np.testing.assert_array_equal(there[:, 0], random[:, 0])  # the same goals from the same starts
    reached, missed = goals.measures(there), goals.measures(random)
    assert reached["success"] > missed["success"] + 0.3
    again = goals.go(straight, env, 24)
    np.testing.assert_array_equal(again, there)
    evaluate_run(straight, env, 1, "plain", tmp_path / "scores.json")
    assert set(json.loads((tmp_path / "scores.json").read_text())["goals"]) == {"multi_critic", "random actions"}
    assert "random goals reached" in capsys.readouterr().out


def test_comparison_trains_each_seed_once_in_order_and_pools_the_goals(straight, env, tmp_path, monkeypatch, capsys):
    commands = []

    def train(preset, data, run, options, updates):
        commands.append((run.name, preset, updates, options))
        return 0

    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "resolve", lambda run: (straight, env))
    monkeypatch.setattr(bench, "cost", lambda run: {"decisions": 1})
    monkeypatch.setattr(bench, "read_experiment", lambda run: {"made": {"commit": "abc"}})
    words = ["point_maze", "--runs", "runs", "--seeds", "3", "4", "--goals", "5", "--out", str(tmp_path / "goals.json")]
    bench.main([*words, "--skill-updates", "7", "--upper-updates", "2"])
    names = [f"{name}-{seed}" for seed in (3, 4) for name in ("skills", "upper_policy", "planner", "flat_policy")]
    assert [command[0] for command in commands] == names
    flat, upper = commands[3], commands[1]
    assert (flat[2], upper[2]) == (9, 2)
    assert "--skills" in upper[3]
    assert upper[3][upper[3].index("--skills") + 1] == "runs/skills-3"
    # 50 decisions of skills in 64 worlds, twice, are 100 rollouts of the planner in one world.
    planner = commands[2][3]
    assert planner[planner.index("--online.decisions") + 1] == "10"
    assert planner[planner.index("--online.worlds") + 1] == "1"
    metrics = json.loads((tmp_path / "goals.json").read_text())["metrics"]
    assert set(metrics["methods"]) == {"rule", "upper_policy", "planner", "flat_policy", "random_actions"}
    assert metrics["methods"]["rule"]["goals"] == 10
    assert [one["goals"] for one in metrics["seeds"]["rule"]] == [5, 5]
    assert "upper_policy" in capsys.readouterr().out
