"""The commands of the README, one after another on a small maze: each takes what the one before it wrote."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import envs
from embodied.data import store
from embodied.policy import load
from embodied.types import InputError
from experiments import cli, results, ship
from experiments.evaluate import evaluate_tasks
from experiments.models import resolve, shipped
from experiments.train import read_experiment

REWARD = "tolerance(x, 0.05, inf, 0.2) * tolerance(speed, 0, 0.05, 0.1)"
SMALL = [
    *("--agent.z-dim", "8", "--agent.encoder-dim", "12", "--agent.backward-hidden", "16", "--agent.hidden", "16"),
    *("--train.batch-size", "16", "--train.chunk", "10", "--train.checkpoint-seconds", "0", "--buffer", "60"),
]


LITTLE = ("--episodes", "8", "--worlds", "4", "--decisions", "12")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def run(place):
    """Runs a command line whose paths start with @, the test's folder."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield lambda *arguments: cli.main([argument.replace("@", f"{place}/") for argument in arguments])
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def data(run, place):
    run("collect", "point_maze-noise", "--out", "@data", *LITTLE)
    return place / "data"


def train(run, out, updates, *more):
    paths = ("--data", "@data", "--out", f"@{out}")
    run("train", "point_maze-fb-small", *paths, *SMALL, "--train.updates", str(updates), *more)


@pytest.fixture(scope="module")
def trained(run, place, data):
    """A run of two chunks, resumed to four."""
    train(run, "run", 20)
    early = load(place / "run").sha256
    train(run, "run", 40)
    return place / "run", early


@pytest.fixture(scope="module")
def prompted(run, place, trained):
    run("prompt", "@run", "--reward", REWARD, "--out", "@prompt.json", "--episodes", "1")
    return place / "prompt.json"


def refused(capsys, run, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_collected_data_says_where_it_comes_from(data):
    metadata = json.loads((data / "metadata.json").read_text())
    assert (metadata["episodes"], metadata["transitions"], metadata["complete"]) == (8, 96, True)
    assert (metadata["world"], metadata["options"], metadata["collector"]["decisions"]) == (
        "point_maze",
        {"hold": 10},
        12,
    )


def test_training_resumes_where_it_stopped_and_leaves_a_policy(trained):
    directory, early = trained
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    policy = load(directory)
    assert policy.sha256 != early
    assert (policy.world, policy.options, len(policy.buffer.physics)) == ("point_maze", {"hold": 10}, 60)


def test_longer_run_of_another_experiment_is_refused_in_the_same_directory(run, trained, capsys):
    with pytest.raises(SystemExit) as caught:
        train(run, "run", 40, "--agent.discount", "0.5")
    assert caught.value.code == 2
    assert "holds another experiment (agent.discount was 0.97, is 0.5)" in capsys.readouterr().err


def test_run_begun_before_a_field_existed_goes_on_with_its_default(run, place, trained, capsys):
    path = trained[0] / "experiment.json"
    content = path.read_text()
    older = json.loads(content)
    del older["experiment"]["pixels"], older["experiment"]["agent"]["imitation"]
    path.write_text(json.dumps(older))
    train(run, "run", 40)
    path.write_text(json.dumps(older))
    with pytest.raises(SystemExit):
        train(run, "run", 40, "--agent.imitation.weight", "2")
    path.write_text(content)
    assert "holds another experiment (agent.imitation.weight was 0.0, is 2.0)" in capsys.readouterr().err


def test_run_is_not_continued_on_other_data(run, place, trained, capsys):
    run("collect", "point_maze-noise", "--out", "@other", *LITTLE, "--seed", "1")
    with pytest.raises(SystemExit) as caught:
        train(run, "run", 40, "--data", f"{place}/other")
    assert caught.value.code == 2
    assert "was trained on other data" in capsys.readouterr().err


def test_commit_that_began_a_run_stays_and_later_ones_are_listed(run, place, trained, monkeypatch):
    began = read_experiment(trained[0])["made"]["commit"]
    monkeypatch.setattr(results, "commit", lambda: "later")
    for _ in range(2):
        train(run, "run", 40, "--episodes", "3")
    record = read_experiment(trained[0])
    assert (record["made"]["commit"], record["continued_with"]) == (began, ["later"])


def test_start_that_fails_takes_no_directory(run, place, data, capsys):
    with pytest.raises(SystemExit):
        train(run, "fresh", 10, "--online.worlds", "2", "--online.decisions", "5")
    train(run, "fresh", 10)
    assert "online.decisions: must equal the length of the stored episodes (12), got 5" in capsys.readouterr().err
    assert load(place / "fresh").world == "point_maze"


def test_damaged_record_of_a_run_is_named(tmp_path):
    (tmp_path / "experiment.json").write_text('{"experiment": {')
    with pytest.raises(InputError, match=r"experiment\.json is damaged"):
        read_experiment(tmp_path)


def test_state_of_the_buffer_is_approached_and_its_distance_told(run, trained, capsys):
    run("prompt", "@run", "--row", "3", "--episodes", "2", "--out", "@row.json")
    run("prompt", "@run", "--row", "3", "--episodes", "2", "--out", "@row.json")
    printed = capsys.readouterr().out
    start, closest = (float(printed.split(f" {word}")[0].split()[-1]) for word in ("at the start", "at its closest"))
    assert 0.0 <= closest <= start
    assert "replaced" in printed


def test_state_of_a_dataset_becomes_a_goal(run, place, trained, data, capsys):
    run("prompt", "@run", "--row", "14", "--data", "@data", "--episodes", "1", "--out", "@far.json")
    request = json.loads((place / "far.json").read_text())["request"]
    second = store.read_episodes(data)[1]["physics"][1]  # the first episode has 13 states
    assert request["kind"] == "state"
    np.testing.assert_array_equal(request["state"], second)
    run("prompt", "check", "@far.json", "@run")
    capsys.readouterr()
    assert "row: must be in [0, 104)" in refused(capsys, run, "prompt", "@run", "--row", "104", "--data", "@data")
    assert "data: goes with --row, got --task" in refused(
        capsys, run, "prompt", "@run", "--task", "loop", "--data", "@data"
    )


def test_model_is_not_shipped_without_what_its_prompts_need(trained):
    policy, env = resolve(str(trained[0]))
    ship.check_answers(policy, env)
    params = {name: group for name, group in policy.params.items() if name != "forward"}
    with pytest.raises(InputError, match="without: prompting needs the parameter group 'forward'"):
        ship.check_answers(dataclasses.replace(policy, params=params), env)


@pytest.mark.parametrize("name", shipped())
def test_shipped_model_answers_a_text_that_stands_nowhere_else(name, run, capsys):
    text = "tolerance(torso_height, 0.9, 1.3, 0.4) * tolerance(right_knee_velocity, -1, 1, 2.5)"
    run("prompt", name, "--reward", text, "--episodes", "1", "--out", f"@{name}.json")
    run("prompt", "check", f"@{name}.json", name)
    printed = capsys.readouterr().out
    assert "predicted return" in printed
    assert "follows bit for bit" in printed


def test_evaluation_prints_every_task_beside_random_policies(run, place, trained, capsys):
    run("evaluate", "@run", "--episodes", "1", "--out", "@scores.json")
    printed = capsys.readouterr().out
    scores = json.loads((place / "scores.json").read_text())
    assert set(scores) == {"fb", "random actions", "random latent"}
    for task, row in scores["fb"].items():
        assert task in printed
        assert 0.0 <= row["low"] <= row["iqm"] <= row["high"] <= 1000.0 or task.endswith("_long")


def test_policy_is_not_scored_where_decisions_are_longer(trained):
    policy, _ = resolve(str(trained[0]))
    with pytest.raises(InputError, match="the world's hold must be the policy's, 10, got 5"):
        evaluate_tasks(policy, envs.make("point_maze", hold=5), 1)


def test_comparison_scores_a_finished_cell_as_it_was_trained(run, place, trained, capsys):
    cells = place / "cells"
    cells.mkdir()
    (cells / "point_maze-fb-small-0").symlink_to(trained[0])
    chosen = ("--worlds", "point_maze", "--methods", "fb", "--updates", "40", "--episodes", "2", "--baselines")
    run("bench", "zero-shot", *chosen, "--runs", "@cells", "--out", "@table.json")
    record = json.loads((place / "table.json").read_text())
    scores = record["metrics"]["rows"]["point_maze"]
    assert set(scores) == {"fb", "random_actions", "random_latent_fb"}
    policy, env = resolve(str(trained[0]))
    for task, one in evaluate_tasks(policy, env, 2).items():
        assert scores["fb"]["tasks"][task]["seed_means"] == [pytest.approx(float(one.returns.mean()))]
    assert scores["fb"]["published"] == {"mean": 513.0, "standard_error": 20.0}
    assert set(record["trained_with_commits"]) == {"point_maze-fb-small-0"}
    assert "513.0 ± 20.0" in capsys.readouterr().out


def test_fresh_reward_text_becomes_a_prompt_that_may_be_checked(run, prompted, capsys):
    body = json.loads(prompted.read_text())
    assert body["request"]["text"] == REWARD
    assert np.linalg.norm(body["z"]) == pytest.approx(8**0.5, rel=1e-4)
    assert 0.0 <= body["scores"]["evaluated_return"]["iqm"] <= 1000.0
    assert np.isfinite(body["scores"]["predicted_return"])
    run("prompt", "check", "@prompt.json", "@run")
    assert "follows bit for bit" in capsys.readouterr().out


def test_prompt_file_is_scored_on_its_own_reward(run, prompted, capsys):
    run("evaluate", "@run", "--prompt", "@prompt.json", "--episodes", "1")
    iqm = json.loads(prompted.read_text())["scores"]["evaluated_return"]["iqm"]
    assert f"{iqm:8.1f}" in capsys.readouterr().out


def test_goal_given_as_quantities_becomes_a_prompt(run, place, trained):
    run("prompt", "@run", "--goal", "x=0.1, y=-0.1", "--out", "@goal.json", "--episodes", "0")
    assert json.loads((place / "goal.json").read_text())["request"]["goal"] == {"x": 0.1, "y": -0.1}
    run("prompt", "check", "@goal.json", "@run")


def test_tampered_prompt_is_refused_in_one_line(run, place, prompted, capsys):
    body = json.loads(prompted.read_text())
    body["z"][0] += 1e-3
    (place / "tampered.json").write_text(json.dumps(body))
    line = refused(capsys, run, "prompt", "check", "@tampered.json", "@run")
    assert "the latent does not follow from its request" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward", "tolerance(spead, 0, 1)"], "did you mean 'speed'"),
        (["--reward", "x * 0"], "is constant (0) over"),
        (["--goal", "xx=0.1"], "goal: unknown quantity 'xx'; did you mean 'x'"),
        (["--task", "lop"], "world 'point_maze' has no task 'lop'; did you mean 'loop'"),
        (["--row", "60"], "row: must be in [0, 60)"),
        (["--reward", "x", "--samples", "0"], "samples: must be in [1, 60]"),
        (["--reward", "x", "--episodes", "-1"], "episodes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_prompt_that_cannot_be_met_is_refused_in_one_line(arguments, message, run, trained, capsys):
    capsys.readouterr()
    line = refused(capsys, run, "prompt", "@run", *arguments, "--out", "@refused.json")
    assert line.startswith("error: ")
    assert message in line


def test_state_that_is_not_finite_is_refused_in_one_line(run, place, trained, capsys, monkeypatch):
    monkeypatch.chdir(place)  # MuJoCo writes its log of warnings where it runs
    (place / "state.json").write_text(json.dumps([float("nan")] * 7))
    capsys.readouterr()
    line = refused(capsys, run, "prompt", "@run", "--state", "@state.json", "--out", "@refused.json")
    assert "non-finite" in line


def test_existing_dataset_is_not_overwritten(run, data, capsys):
    capsys.readouterr()
    small = ("--episodes", "4", "--worlds", "4", "--decisions", "3")
    line = refused(capsys, run, "collect", "point_maze-noise", "--out", "@data", *small)
    assert str(data) in line
