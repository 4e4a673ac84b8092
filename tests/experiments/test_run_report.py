"""The page about a training run: what is on it, and how it refuses what is no run."""

import json

import jax
import numpy as np
import pytest

import envs
from agents import td_jepa
from embodied.evaluate import Scores
from embodied.policy import Buffer, Policy
from embodied.rollout import Trajectory
from embodied.types import InputError, Spec
from experiments import evaluate, run_report, video
from experiments.commands import report as command
from tests.experiments.test_report import PIXEL, Page


@pytest.fixture(scope="module")
def policy():
    env = envs.make("point_maze", threads=1)
    spec = Spec(obs=env.spec.obs, action=env.spec.action, mean={"state": (0.0,) * 4}, std={"state": (0.2,) * 4})
    config = td_jepa.Config(inputs="standardized").tiny()
    start = env.reset(jax.random.key(0), 40)
    params = jax.jit(td_jepa.make(config, spec).init)(jax.random.key(1), spec.example()).params
    buffer = Buffer({"state": start.obs["state"]}, start.physics)
    return Policy("td_jepa", config, spec, "point_maze", {"hold": env.spec.hold}, params, buffer)


@pytest.fixture
def run(tmp_path, policy, monkeypatch):
    """A run directory, with evaluation replaced by fixed scores."""
    policy.save(tmp_path / "policy")
    rows = [{"step": 100 * i, "loss/world": 1.0 / i, "speed/updates_per_second": 50.0} for i in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record = {"experiment": {"world": "point_maze", "train": {"seed": 7}}, "made": {"commit": "abc"}}
    (tmp_path / "experiment.json").write_text(json.dumps(record))
    scores = {"loop": Scores(np.array([41.25, 41.25]))}
    path = {"position": np.random.default_rng(0).uniform(-0.3, 0.3, (2, 50, 2))}
    paths = {"loop": Trajectory(None, None, np.zeros((2, 6, policy.spec.obs["state"][0] + 3)), None, path, None)}
    monkeypatch.setattr(run_report, "act_tasks", lambda policy, env, episodes: (scores, paths))
    monkeypatch.setattr(run_report, "baselines", lambda policy, env, episodes: {"random actions": scores})
    return tmp_path


def test_task_features_are_those_of_the_encoder(policy):
    from embodied import nets
    from embodied.data.normalize import observation_inputs

    encoder = nets.encoders.encoder(policy.config.psi_hidden, policy.config.psi_layers, policy.config.z_dim)
    standardize = observation_inputs("standardized", policy.spec, ("state",))
    inputs = standardize(jax.tree.map(jax.numpy.asarray, policy.buffer.obs))
    expected = encoder.apply(policy.params["psi"], inputs)
    np.testing.assert_allclose(evaluate.task_features(policy), expected, atol=2e-4)


def test_report_command_writes_scores_curves_and_health(run, capsys):
    (run / "top.json").write_text(json.dumps({"TD3": {"loop": {"iqm": 77.5}}, "random": {"loop": {"iqm": 1.0}}}))
    command.main([str(run), "--episodes", "2", "--topline", str(run / "top.json")])
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    page = Page((run / "report.html").read_text())
    assert len(page.all("img")) == 4
    assert {"TD3", "77.5", "random actions", "Latent health", "6 s", "300"} <= set(page.text)
    assert {"41.2 ", "41.2 to 41.2"} <= set(page.text)
    assert "random" not in page.text
    assert any("train.seed: 7" in text for text in page.text)


def test_bad_input_is_named_in_one_line(run):
    (run / "top.json").write_text("[1]")
    with pytest.raises(InputError, match=r"topline: .*policy -> task"):
        run_report.read_topline(run / "top.json")
    with pytest.raises(InputError, match="episodes: must be at least 1"):
        command.main([str(run), "--episodes", "0"])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"run: .*metrics\.jsonl is missing"):
        command.main([str(run)])


def test_bodies_are_shown_in_pictures_or_a_line_says_why_not(run, tmp_path, monkeypatch):
    env = envs.make("walker", threads=1, hold=20)
    physics = env.reset(jax.random.key(0), 1).physics[:, None].repeat(30, 1)
    trajectories = {task: Trajectory(None, None, physics, None, None, None) for task in ("stand", "walk")}
    scores = {task: Scores(np.array([12.0])) for task in trajectories}
    asked = []
    monkeypatch.setattr(video, "film_strip", lambda env, physics, camera: asked.append(len(physics)) or PIXEL)
    monkeypatch.setattr(video, "record", lambda env, physics, camera, path: None)
    section = run_report.motion(env, scores, trajectories, tmp_path)
    assert asked == [20, 20]  # ten seconds of decisions that last half a second
    assert [block.caption for block in section.blocks[1::2]] == [
        f"{task}: return 12 over the whole episode" for task in trajectories
    ]
    monkeypatch.setattr(video, "film_strip", lambda env, physics, camera: None)
    (line,) = run_report.motion(env, scores, trajectories, tmp_path).blocks
    assert line.startswith("No pictures: no renderer: install ")
