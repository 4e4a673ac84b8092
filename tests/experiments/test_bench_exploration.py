"""Data of skills beside data of curiosity: as much of either, and what a comparison makes of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import envs
from agents import multi_critic
from embodied.data import store
from embodied.policy import Buffer, Policy
from embodied.types import InputError, Spec
from experiments.bench import exploration as bench
from experiments.experiment import Collect
from experiments.presets import COLLECT

CONFIG = multi_critic.Config((), weights=(1.0,), discounts=(0.9,), moved=("position",)).tiny()


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1)


@pytest.fixture(scope="module")
def skilled(env):
    spec = Spec(env.spec.obs, env.spec.action, parts=env.spec.parts)
    config = dataclasses.replace(CONFIG, inputs="raw")
    params = multi_critic.make(config, spec).init(jax.random.key(0), spec.example()).params
    physics = np.array(env.reset(jax.random.key(0), 200).physics)
    physics[:, 3:5] = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2))  # some move, as the task wants it
    return Policy("multi_critic", config, spec, "point_maze", {}, params, Buffer(env.observe(physics)[0], physics))


def test_comparison_learns_from_as_many_decisions_of_either_kind(skilled, env, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(COLLECT, "point_maze-rnd", Collect("point_maze", episodes=2, decisions=5, worlds=2))
    trained = []

    def train(preset, data, run, options, updates):
        trained.append((preset, data.name, options, updates))
        return 0

    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "resolve", lambda run: (skilled, env))
    monkeypatch.setattr(bench, "cost", lambda run: {"decisions": 7})
    monkeypatch.setattr(bench, "read_experiment", lambda run: {"made": {"commit": "abc"}})
    words = [
        "--skills",
        "runs/a",
        "runs/b",
        "--world",
        "point_maze",
        "--tasks",
        "loop",
        "--runs",
        str(tmp_path / "runs"),
    ]
    words += ["--episodes", "4", "--updates", "3", "--scored", "2", "--out", str(tmp_path / "found.json")]
    bench.main(words)
    data = [f"point_maze-{kind}-data-{seed}" for seed in (0, 1) for kind in ("skills", "rnd")]
    assert [one[1] for one in trained] == data
    assert {one[0] for one in trained} == {"point_maze-td_jepa-small"}
    assert [one[2][-1] for one in trained] == ["0", "0", "1", "1"]
    made = store.read_metadata(tmp_path / "runs" / data[0])["collector"]
    assert (made["explorer"], made["policy"], made["latent_hold"]) == (
        "skills",
        "runs/a",
        5,
    )  # a skill for each episode
    metrics = json.loads((tmp_path / "found.json").read_text())["metrics"]
    held = [metrics[kind]["data"][0] for kind in ("skills", "rnd")]
    assert [one["decisions"] for one in held] == [20, 20]
    assert min(one["cells"] for one in held) >= 1
    assert metrics["margin"]["mean"] == 0  # the same policy twice
    assert "margin of skills over curiosity: 0.0" in capsys.readouterr().out
    assert set(metrics["skills"]["returns"]) == {"loop"}
    with pytest.raises(InputError, match="has no task 'loup'; did you mean 'loop'"):
        bench.only(env, ["loup"])
    # Data whose writer was stopped are fewer than the others.
    metadata = tmp_path / "runs" / data[0] / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(InputError, match=r"point_maze-skills-data-0 is incomplete"):
        bench.main(words)
