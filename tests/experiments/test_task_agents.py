"""Agents that learn one task of a world from rollouts of their own: trained, resumed, scored and exported."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import envs
from agents import mrq, tdmpc2
from embodied.deploy import bundle
from embodied.policy import load
from embodied.train import TrainConfig
from embodied.types import InputError, Prior
from experiments import train
from experiments.cli import main
from experiments.evaluate import evaluate_tasks
from experiments.experiment import Experiment, Online
from experiments.listing import presets

CONFIGS = {"mrq": mrq.Config(task="loop").tiny(), "tdmpc2": tdmpc2.Config(task="loop").tiny()}


def experiment(name, updates=6):
    budget = TrainConfig(updates, 16, 2, checkpoint_seconds=0.0, keep_checkpoints=3)
    return Experiment("point_maze", CONFIGS[name], budget, online=Online(3, 20, capacity=8), buffer=30)


@pytest.fixture(scope="module", params=CONFIGS)
def runs(request, tmp_path_factory):
    """A run as a whole, and one that was interrupted."""
    out = tmp_path_factory.mktemp(request.param)
    train.run(experiment(request.param), None, out / "whole", quiet=True)
    for updates in (4, 6):
        train.run(experiment(request.param, updates), None, out / "parts", quiet=True)
    return out


def test_interrupted_run_ends_bit_for_bit_as_one_that_was_not(runs):
    one, other = (load(runs / name) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    np.testing.assert_array_equal(one.buffer.physics, other.buffer.physics)
    rows = [json.loads(line) for line in (runs / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(np.isfinite(row["loss/world"]) for row in rows)
    assert one.params["practised"] == 1


def test_policy_is_scored_on_every_task_and_exported_under_the_name_of_its_own(runs):
    policy, env = load(runs / "whole"), envs.make("point_maze", threads=1)
    assert policy.agent.prompts == (Prior,)
    scores = evaluate_tasks(policy, env, episodes=2)
    assert scores.keys() == env.tasks.keys()
    assert all(np.isfinite(one.returns).all() for one in scores.values())
    main(["export", str(runs / "whole"), "--out", str(runs / "bundle"), "--episodes", "1"])
    assert bundle.load(runs / "bundle").prompts == ("loop",)


def test_task_that_the_world_lacks_is_refused_with_the_nearest(tmp_path):
    wrong = dataclasses.replace(experiment("mrq"), agent=mrq.Config(task="lop").tiny())
    with pytest.raises(InputError, match="world 'point_maze' has no task 'lop'; did you mean 'loop'"):
        train.run(wrong, None, tmp_path, quiet=True)


def test_presets_learn_from_their_own_rollouts():
    lines = presets(["walker"])
    for name in ("walker-mrq-small", "walker-tdmpc2-small", "walker-mrq", "walker-tdmpc2"):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith("own rollouts")
