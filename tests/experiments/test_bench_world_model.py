"""Learning curves beside published ones: which cells are trained, what frames count, and what plans add."""

import json

import jax
import numpy as np
import pytest

import agents
from embodied.evaluate import Scores
from embodied.policy import Buffer, Policy
from embodied.types import InputError, Spec
from experiments.bench import world_model as bench
from experiments.collect import make_env
from experiments.commands import bench as command
from experiments.presets import PRESETS

HOLD, DECISIONS = 2, 1000  # of a rollout, all worlds together, in the presets


@pytest.fixture(scope="module")
def env():
    return make_env("cartpole", HOLD)


@pytest.fixture(scope="module")
def policies(env):
    """Name -> an agent before its first update."""
    start = env.reset(jax.random.key(0), 5)
    made = {}
    for name in bench.AGENTS:
        module, spec = agents.module(name), Spec(env.spec.obs, env.spec.action)
        config = module.Config(task="swingup").tiny()
        params = module.make(config, spec).init(jax.random.key(0), spec.example()).params
        buffer = Buffer({"state": np.asarray(start.obs["state"])}, np.asarray(start.physics))
        made[name] = Policy(name, config, spec, "cartpole", {"hold": HOLD}, params, buffer)
    return made


def test_comparison_scores_all_seeds_with_and_without_plans_at_the_frames_that_were_learnt_from(
    env, policies, tmp_path, monkeypatch, capsys
):
    trained = []

    def train(preset, data, run, options, updates):
        trained.append((preset, run.name, updates, options))
        run.mkdir(parents=True)
        seed = int(run.name[-1])
        rows = [{"step": step, "time/seconds": 10.0} for step in (1000, 2000, 3000, 4000)]
        for row in rows[1::2]:
            row["eval/swingup/return"] = row["step"] / 10 + seed
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        online, sizes = PRESETS[preset].online, PRESETS[preset].train
        record = {
            "online": {"worlds": online.worlds, "decisions": online.decisions},
            "train": {"chunk": sizes.chunk},
            "hold": PRESETS[preset].hold,
        }
        (run / "experiment.json").write_text(json.dumps({"experiment": record, "made": {"commit": "abc"}}))
        return 0

    def evaluate_tasks(policy, env, episodes):
        assert list(env.tasks) == ["swingup"]
        planning = getattr(policy.config, "planning", None)
        return {"swingup": Scores(np.full(episodes, 500.0 if planning is None else 800.0 + 10 * planning.horizon))}

    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "resolve", lambda run: (policies["mrq" if "mrq" in run else "tdmpc2"], env))
    monkeypatch.setattr(bench, "evaluate_tasks", evaluate_tasks)
    out = tmp_path / "learning.json"
    words = ["--updates", "4000", "--points", "2", "--seeds", "0", "3", "--runs", f"{tmp_path}/runs"]
    command.main(["world-model", *words, "--out", f"{out}"])
    assert [one[1] for one in trained] == [
        f"cartpole-{agent}-small-{seed}" for agent in ("mrq", "tdmpc2") for seed in (0, 3)
    ]
    assert trained[1][2:] == (
        4000,
        ["--train.seed", "3", "--evaluate-every", "2000", "--episodes", "3"],
    )
    found = json.loads(out.read_text())["metrics"]
    curve = found["curves"]["tdmpc2"][1]
    assert curve["decisions"] == [2 * DECISIONS, 4 * DECISIONS]
    assert curve["frames"] == [2 * DECISIONS * HOLD, 4 * DECISIONS * HOLD]
    assert curve["returns"] == [203.0, 403.0]
    assert curve["frames_per_second"] == 4 * DECISIONS * HOLD / 40.0
    horizon = policies["tdmpc2"].config.planning.horizon
    means = {name: row["iqm"] for name, row in found["scores"].items()}
    assert means == {"mrq": 500.0, "tdmpc2": 800.0 + 10 * horizon, "tdmpc2_without_plans": 800.0}
    assert len(found["imagination"]["tdmpc2"]["foreseen"]) == 60
    printed = capsys.readouterr().out
    assert "at 8,000 frames, 200 frames/s" in printed
    assert "published tdmpc2        839 at 100,000" in printed
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert out.with_name("learning-tdmpc2-imagination.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--world", "cartpol"], "no preset learns a task of world 'cartpol'; did you mean 'cartpole'"),
        (["--agents", "mrk"], "unknown agent 'mrk'; did you mean 'mrq'"),
        (["--points", "0"], r"points must be in \[1, inf\), got 0"),
        (["--seeds"], "seeds and agents must name at least one each"),
    ],
)
def test_unknown_names_and_empty_comparisons_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        command.main(["world-model", *words])
