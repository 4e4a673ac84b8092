"""The command that checks, describes and imports datasets."""

import re

import numpy as np
import pytest

import envs
from embodied.data import store
from embodied.types import InputError
from experiments.commands import data

ROWS = 6


def _write_exorl(folder, world="point_maze", episodes=2):
    """ExoRL files of states that the world itself visited, one control step per row; returns the physics."""
    env = envs.make(world, hold=1, threads=1)
    model, generator = env.world.model, np.random.default_rng(0)
    folder.mkdir()
    kept = []
    for index in range(episodes):
        physics = np.zeros((ROWS, env.spec.physics))
        physics[:, 0] = env.spec.control_dt * np.arange(ROWS)
        physics[:, 1 : 1 + model.nq + model.nv] = generator.uniform(0.01, 0.2, (ROWS, model.nq + model.nv))
        action = generator.uniform(-1, 1, (ROWS, env.spec.action)).astype(np.float32)
        action[0] = 0
        physics[1:, env.world.ctrl] = env.world.command(action[1:].astype(np.float64), np)
        np.savez(
            folder / f"episode_{index:06d}_{ROWS - 1}.npz",
            observation=env.observe(physics)[0]["state"],
            action=action,
            reward=np.zeros((ROWS, 1), np.float32),
            discount=np.ones((ROWS, 1), np.float32),
            physics=physics[:, 1 : 1 + model.nq + model.nv],
        )
        kept.append(physics)
    return kept


def test_imported_exorl_states_are_whole_physics_vectors_of_the_world(tmp_path):
    expected = _write_exorl(tmp_path / "exorl")
    data.main(["import", "exorl", f"{tmp_path}/exorl", "--world", "point_maze", "--out", f"{tmp_path}/out"])
    episodes = store.read_episodes(tmp_path / "out")
    assert len(episodes) == 2
    for episode, physics in zip(episodes, expected, strict=True):
        np.testing.assert_allclose(episode["physics"], physics, atol=1e-7)
    env = envs.make("point_maze", hold=1, threads=1)
    np.testing.assert_array_equal(env.observe(episodes[0]["physics"])[0]["state"], episodes[0]["state"])
    metadata = store.read_metadata(tmp_path / "out")
    assert metadata["world"] == "point_maze"
    assert metadata["options"] == {"hold": 1}


def test_limit_bounds_the_number_of_imported_episodes(tmp_path, capsys):
    _write_exorl(tmp_path / "exorl", episodes=3)
    arguments = ["import", "exorl", f"{tmp_path}/exorl", "--world", "point_maze", "--out", f"{tmp_path}/out"]
    data.main([*arguments, "--limit", "1"])
    assert store.read_metadata(tmp_path / "out")["episodes"] == 1
    assert f"check it:  embodied data check {tmp_path}/out" in capsys.readouterr().out


def test_data_of_another_world_is_refused_with_both_widths(tmp_path):
    _write_exorl(tmp_path / "exorl")
    with pytest.raises(InputError, match="'state' has 4 columns, world 'walker' has 24"):
        data.main(["import", "exorl", f"{tmp_path}/exorl", "--world", "walker", "--out", f"{tmp_path}/out"])
    assert not store.is_store(tmp_path / "out")


def test_ogbench_world_that_is_not_ours_keeps_its_physics_and_is_announced(tmp_path, capsys):
    terminals = np.array([0, 0, 1, 0, 0, 1], np.float32)
    arrays = {
        "observations": np.arange(1.0, 13).reshape(6, 2).astype(np.float32),
        "actions": np.full((6, 1), 0.5, np.float32),
        "terminals": terminals,
        "qpos": np.arange(18.0).reshape(6, 3),
        "qvel": np.ones((6, 1)),
    }
    np.savez(tmp_path / "cube.npz", **arrays)
    data.main(["import", "ogbench", f"{tmp_path}/cube.npz", "--world", "cube-single", "--out", f"{tmp_path}/out"])
    first, _ = store.read_episodes(tmp_path / "out")
    np.testing.assert_array_equal(first["physics"], np.hstack([arrays["qpos"], arrays["qvel"]])[:3])
    assert store.read_metadata(tmp_path / "out")["name"] == "cube_single_ogbench"
    assert "'cube-single' is not one of ours" in capsys.readouterr().err


def test_missing_physics_is_announced_and_imported_as_empty(tmp_path, capsys):
    arrays = {
        "observations": np.ones((3, 4), np.float32),
        "actions": np.full((3, 2), 0.5, np.float32),
        "terminals": np.array([0, 0, 1], np.float32),
    }
    np.savez(tmp_path / "maze.npz", **arrays)
    data.main(["import", "ogbench", f"{tmp_path}/maze.npz", "--world", "point_maze", "--out", f"{tmp_path}/out"])
    assert store.read_episodes(tmp_path / "out")[0]["physics"].shape == (3, 0)
    assert "holds no physics" in capsys.readouterr().err


def test_sound_dataset_passes_and_a_broken_one_exits_with_one(tmp_path, capsys):
    _write_exorl(tmp_path / "exorl")
    data.main(["check", f"{tmp_path}/exorl"])
    assert capsys.readouterr().out.splitlines()[-1] == "0 problems"
    file = next((tmp_path / "exorl").glob("*.npz"))
    arrays = dict(np.load(file))
    arrays["action"][3] = 7
    np.savez(file, **arrays)
    with pytest.raises(SystemExit) as stop:
        data.main(["check", f"{tmp_path}/exorl"])
    assert stop.value.code == 1
    assert "'action' row 3 lies outside [-1, 1]" in capsys.readouterr().out


def test_info_tells_what_a_dataset_says_of_itself(tmp_path, capsys):
    episode = {"state": np.ones((4, 2), np.float32), "action": np.zeros((3, 1), np.float32)}
    store.write_episodes(tmp_path / "out", "tiny", [episode] * 2, {"world": "walker", "seed": 5})
    data.main(["info", f"{tmp_path}/out"])
    found = dict(re.split(r"\s+", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["world"] == "walker"
    assert found["seed"] == "5"
    assert found["transitions"] == "6"
    assert found["columns"] == "state 2, action 1, physics 0"
    assert found["sha256"] == store.state_digest(tmp_path / "out")


def test_unknown_action_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'check'"):
        data.main(["chek"])
    with pytest.raises(InputError, match="choose one of: check, info, import"):
        data.main([])
