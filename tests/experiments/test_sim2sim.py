"""A bundle in plain MuJoCo: nominal returns are those of the training world, and conditions change the robot."""

import json

import jax
import mujoco
import numpy as np
import pytest

import envs
from embodied.deploy import bundle
from embodied.types import InputError
from envs.randomise import COLUMNS, NOMINAL
from experiments import export, sim2sim
from experiments.commands import sim2sim as command
from tests.experiments.test_export import tiny


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A bundle of an untrained policy for the maze, whose tasks it was scored on over all start states."""
    env = envs.make("point_maze", threads=1, hold=10)
    policy = tiny("fb", env)
    prompts = {name: one for name, one in export.choose_prompts(policy, env, ()).items() if name in ("loop", "square")}
    folder = tmp_path_factory.mktemp("bundle") / "maze"
    export.run(policy, env, prompts, folder, episodes=sim2sim_starts())
    return bundle.load(folder)


def sim2sim_starts() -> int:
    return export.STARTS


def test_nominal_returns_are_those_of_the_training_world(packed):
    results = sim2sim.run(packed, ["loop"], ["nominal"], sim2sim_starts())
    trained = packed.manifest["evaluation"]["prompts"]["loop"]
    found = results["loop"]["nominal"]
    assert found.stopped == ()
    assert found.scores.summary()["mean"] == pytest.approx(trained["mean"], rel=0.02)
    assert found.physics.shape == (1001, 7)
    body = sim2sim.summary(packed, results)
    assert body["loop"]["nominal"]["within_training"]


def test_late_orders_and_other_physics_change_what_happens(packed):
    results = sim2sim.run(packed, ["loop"], tuple(sim2sim.CONDITIONS), 2)["loop"]
    nominal = results["nominal"].physics
    for name in ("jitter", "late", "noise", "randomised", "all", "pushed", "hard"):
        assert np.abs(results[name].physics - nominal).max() > 1e-3, name
    # The first order takes effect a decision later.
    assert np.abs(results["late"].physics[10, 5:7]).max() == 0
    assert np.abs(nominal[10, 5:7]).max() > 0


def test_pushes_are_those_of_the_training_world(packed):
    """Where nobody acts, a pushed bundle goes where the randomised world's own pushes lead."""
    env = sim2sim.world_of(packed, "standard")
    start = np.array(env.reset(jax.random.key(0), 1).physics)
    nominal = dict(zip(COLUMNS, NOMINAL, strict=True))
    start[0, env.world.dynamics] = [nominal[c] if c != "seed" else start[0, -1] for c in COLUMNS]
    robot = mujoco.MjData(env.world.model)
    mujoco.mj_setState(env.world.model, robot, start[0, : env.world.ctrl.start], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    ts, kicked = env.reset_to(start), 0
    for _ in range(40):  # 8 s: three pushes or more
        before = robot.qvel.copy()
        sim2sim.pushed(env.world, start[0], robot)
        kicked += bool(np.any(robot.qvel != before))
        mujoco.mj_step(env.world.model, robot, env.spec.hold * env.world.substeps)
        ts = env.step(ts, np.zeros((1, 2)))
        np.testing.assert_allclose(ts.physics[0, env.world.qvel], robot.qvel, atol=1e-6)
    assert 2 <= kicked <= 8


def test_command_prints_writes_and_names_mistakes(packed, tmp_path, capsys):
    folder, out = str(packed.directory), tmp_path / "sim.json"
    command.main([folder, "--prompt", "loop", "--condition", "nominal", "late", "--episodes", "2", "--out", str(out)])
    assert "in training" in capsys.readouterr().out
    assert set(json.loads(out.read_text())["metrics"]["loop"]) == {"in_training", "nominal", "late"}
    short = ["--condition", "nominal", "--episodes", "2", "--seconds", "3", "--out", str(out)]
    command.main([folder, "--prompt", "loop", *short])
    assert json.loads(out.read_text())["metrics"]["loop"]["nominal"]["mean"] > 0
    for arguments, message in [
        (["--condition", "nominall"], "did you mean 'nominal'"),
        (["--prompt", "lop"], "did you mean 'loop'"),
        (["--episodes", "101"], r"must be in \[1, 100\]"),
        (["--seconds", "nan"], "seconds: must be a control step or more, 0.2, got nan"),
    ]:
        with pytest.raises(InputError, match=message):
            command.main([folder, *arguments])


def test_goals_have_no_reward_to_score(packed, monkeypatch):
    monkeypatch.setattr(bundle.Bundle, "provenance", lambda self, name: {"request": {"kind": "row", "text": ""}})
    env = sim2sim.world_of(packed)
    assert not sim2sim.is_reward(packed, "loop")
    with pytest.raises(InputError, match="'loop' is a goal"):
        sim2sim.task_of(packed, env, "loop")
