"""The relabelling measurement: three ways to the same rewards, and what it makes of their times."""

import json

import numpy as np
import pytest
from dm_control import suite

from experiments.bench import relabel
from experiments.collect import make_env


@pytest.fixture(scope="module")
def walker():
    env = make_env("walker", None, threads=1)
    return env, relabel.collected(env, 30, seed=0)


@pytest.mark.parametrize("task", ["stand", "walk", "run"])
def test_three_ways_give_equal_rewards_that_differ_between_states(walker, task):
    env, stored = walker
    assert stored.shape == (30, env.spec.physics)
    assert stored.dtype == np.float32
    expected = relabel.at_once(env, task, stored)
    np.testing.assert_allclose(relabel.one_by_one(env, task, stored), expected, atol=1e-12)
    np.testing.assert_allclose(relabel.by_dm_control(suite.load("walker", task), stored), expected, atol=1e-12)
    assert np.ptp(expected) > 0.01


def test_times_of_a_sample_are_scaled_and_ratios_are_medians_over_rounds(walker, monkeypatch):
    env, stored = walker
    seconds = {"at once": [1.0, 2.0, 4.0], "one by one": [2.0, 2.0, 2.0], "dm_control": [1.0, 1.0, 6.0]}
    monkeypatch.setattr(relabel, "interleave", lambda calls, rounds: {name: seconds[name] for name in calls})
    found = relabel.measure(env, "walk", stored, sample=10, rounds=3)
    assert (found["states"], found["sampled"]) == (30, 10)
    assert found["seconds"] == {"at once": 2.0, "one by one": 6.0, "dm_control": 3.0}
    assert found["over_at_once"] == {"one by one": 3.0, "dm_control": 3.0}
    assert max(found["largest_difference"].values()) < 1e-12


def test_rewards_that_differ_are_an_error(walker, monkeypatch):
    env, stored = walker
    monkeypatch.setattr(relabel, "one_by_one", lambda env, task, stored: np.zeros(len(stored)))
    with pytest.raises(ValueError, match="rewards differ"):
        relabel.measure(env, "walk", stored, sample=5, rounds=1)


def test_rounds_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    assert {name: len(times) for name, times in relabel.interleave(calls, 2).items()} == {"a": 2, "b": 2}
    assert order == ["a", "b", "a", "b"]


def test_result_file_tells_text_states_and_ratios(tmp_path, capsys):
    relabel.main(["--states", "40", "--sample", "5", "--rounds", "1", "--out", f"{tmp_path}/bench.json"])
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["metrics"]["states"] == 40
    assert record["metrics"]["over_at_once"]["one by one"] > 0
    assert "torso_velocity_x" in record["text"]
    assert "wrote" in capsys.readouterr().out
