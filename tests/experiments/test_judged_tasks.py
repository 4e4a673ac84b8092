"""Tasks that a world judges itself: their rate of success stands beside the return wherever scores are shown."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from embodied.data.dataset import from_episodes
from embodied.evaluate import Scores
from embodied.promptfile import Request
from embodied.rewards import Task
from embodied.search import Search, starts
from embodied.types import Run, Trial
from experiments import evaluate, prompt, report, train
from experiments.experiment import Online
from experiments.presets import PRESETS
from tests.embodied import toys


@pytest.fixture
def world():
    env = toys.Adder(jittable=False)
    env.tasks = {name: Task.of(name, text, env.spec.quantities) for name, text in (("here", "x"), ("far", "0 - x"))}
    away = lambda key, count: env.reset_to(env.reset(key, count).physics + 100.0)  # noqa: E731
    env.trials = {"here": Trial(away, lambda path: path["x"] > 0), "far": Trial(away, lambda path: path["x"] < 0)}
    return env


@pytest.fixture(scope="module")
def policy():
    return toys.policy()


def test_policies_and_baselines_are_judged_on_every_episode_of_a_task(world, policy):
    columns = {"fb": evaluate.evaluate_tasks(policy, world, 12)} | evaluate.baselines(policy, world, 12)
    assert list(columns) == ["fb", "random actions", "random latent"]
    for column in columns.values():
        assert column["here"].success.all()
        assert not column["far"].success.any()
    assert len(columns["fb"]["here"].success) == 12
    assert len(columns["random latent"]["here"].success) == len(columns["random latent"]["here"].returns)


def test_task_with_starts_of_its_own_and_no_goal_has_its_return_alone(world, policy, capsys):
    world.trials = {name: trial._replace(met=None) for name, trial in world.trials.items()}
    scores = evaluate.run(policy, world, 4, "plain", None)
    assert scores["fb"]["here"]["mean"] >= 100
    assert "success" not in scores["fb"]["here"]
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"maximum {world.spec.episode_length}")


def test_table_and_page_show_the_rate_with_its_interval_and_returns_as_before():
    returns = np.array([1.0, 2.0, 3.0])
    judged, plain = Scores(returns, np.array([True, True, False])), Scores(returns)
    lines = evaluate.table({"fb": {"reach": judged}, "random": {"reach": judged}}).splitlines()
    assert lines[2].endswith("2.0 [   1.0,   3.0]   67 % [ 21,  94]")
    assert len({len(line) for line in lines}) == 1
    assert evaluate.table({"fb": {"walk": plain}}).splitlines() == [
        "task                        fb",
        "------------------------------",
        "walk       2.0 [   1.0,   3.0]",
    ]
    cell = lambda scores: report.score_table({"fb": {"reach": scores.summary()}}).rows[0][1]  # noqa: E731
    assert cell(judged) == ("2.0", "1.0 to 3.0; solved 67 %, 21 to 94")
    assert cell(plain) == ("2.0", "1.0 to 3.0")


EPISODE = {"state": np.zeros((2, 1)), "action": np.zeros((1, 1)), "physics": np.zeros((2, 0))}


def test_evaluation_while_training_logs_the_rate_where_there_is_one(world, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "task_features", lambda policy: None)
    experiment = dataclasses.replace(PRESETS["walker-fb-small"], evaluate_every=10, episodes=2, online=Online())
    monkeypatch.setattr(train, "policy_of", lambda experiment, prepared, run: policy)
    prepared = train.Prepared(world, [], from_episodes([EPISODE]), policy.spec)
    hook = train.evaluation(experiment, prepared, tmp_path)
    run = Run((), (), jnp.int32(20))
    row = hook(run, 20, {"speed/updates_per_second": 2.0})
    assert (row["eval/here/success"], row["eval/far/success"]) == (1.0, 0.0)
    assert row["eval/here/return"] > 0
    world.trials = {}
    assert "eval/here/success" not in hook(run, 20, {"speed/updates_per_second": 2.0})


def test_prompt_of_such_a_task_is_scored_predicted_and_searched_from_its_starts(world, policy):
    prompted = policy.prompt(prompt.promptfile.make_prompt(Request("task", "here", samples=20), policy, world)[0])
    scores, trajectory = prompt.score(prompted, world.tasks["here"], world, 2)
    assert scores.success.all()
    assert trajectory.quantities["x"][:, 0].min() >= 100
    searched = starts(world, Search(episodes=2), world.tasks["far"])
    np.testing.assert_array_equal(searched.physics[:, 0], [100.0, 101.0])
    near, _ = prompt.score(prompted, Task.of("prompt", "x", world.spec.quantities), world, 2)
    assert near.success is None
