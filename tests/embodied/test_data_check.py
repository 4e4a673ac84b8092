import os

import numpy as np
import pytest

from embodied.data.check import check
from embodied.data.store import INCOMPLETE, METADATA, Writer, read_metadata, write_episodes
from embodied.types import InputError


def _episode(transitions: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    physics = generator.standard_normal((transitions + 1, 4))
    physics[:, 0] = 0.02 * np.arange(transitions + 1)
    return {
        "state": generator.uniform(-2, 2, (transitions + 1, 3)).astype(np.float32),
        "action": generator.uniform(-1, 1, (transitions, 2)).astype(np.float32),
        "physics": physics,
        "discount": np.ones(transitions, np.float32),
    }


def _exorl(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    action = generator.uniform(-1, 1, (6, 2)).astype(np.float32)
    action[0] = 0
    return {
        "observation": generator.standard_normal((6, 3)).astype(np.float32),
        "action": action,
        "reward": np.zeros((6, 1), np.float32),
        "discount": np.ones((6, 1), np.float32),
        "physics": generator.standard_normal((6, 4)),
    }


def _ogbench() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "observations": generator.standard_normal((9, 3)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (9, 2)).astype(np.float32),
        "terminals": np.array([0, 0, 0, 0, 1, 0, 0, 0, 1], np.float32),
        "qpos": generator.standard_normal((9, 2)),
        "qvel": generator.standard_normal((9, 2)),
    }


def _problems(path) -> list[str]:
    return [str(problem) for problem in check(path).problems]


def test_a_sound_native_dataset_has_its_numbers_and_no_problem(tmp_path):
    episodes = [_episode(10), _episode(12, 1)]
    episodes[1]["state"][4, 1] = -5
    episodes[0]["state"][10, 2] = 7
    write_episodes(tmp_path, "noise", episodes, {})
    report = check(tmp_path)
    assert (report.kind, report.episodes, report.transitions) == ("native", 2, 22)
    assert report.shapes == {"state": (3,), "action": (2,), "physics": (4,), "reward": (), "discount": ()}
    assert report.ranges["state"] == (-5, 7)
    assert report.ranges["discount"] == (1, 1)
    assert (report.problems, report.warnings) == ((), ())
    lines = report.lines()
    assert lines[0] == f"{tmp_path}: native, 2 episodes, 22 transitions"
    assert lines[1].split() == ["state", "[3]", "-5", "to", "7"]
    assert lines[-1] == "0 problems"


def test_native_problems_name_file_episode_field_and_row(tmp_path):
    bad = _episode(10, 1)
    bad["state"][[3, 5], 1] = np.nan
    bad["action"][7, 0] = 1.5
    bad["physics"][6:, 0] += 1
    short = _episode(1, 2)
    write_episodes(tmp_path, "noise", [_episode(10), bad, short], {})
    file = "noise-train.array_record-00000"
    assert _problems(tmp_path) == [
        f"{file}: episode 1: 'action' row 7 lies outside [-1, 1]",
        f"{file}: episode 1: 'physics' row 6 is at 1.12 s after 0.1 s, the usual step is 0.02 s",
        f"{file}: episode 1: 'state' row 3 is not finite (2 such rows)",
        f"{file}: episode 2: 'action' gives an episode of 1 transitions, expected at least 2",
    ]
    assert check(tmp_path).ranges["state"][1] <= 2


def test_a_clock_may_fall_back_where_a_world_terminated_but_nowhere_else(tmp_path):
    for name, discount in (("ended", 0), ("running", 1)):
        episode = _episode(10)
        episode["physics"][10, 0] = 0
        episode["discount"][9] = discount
        write_episodes(tmp_path / name, "noise", [episode], {})
    assert _problems(tmp_path / "ended") == []
    (problem,) = check(tmp_path / "running").problems
    assert (problem.field, problem.row, problem.episode) == ("physics", 10, 0)


def test_an_episode_may_go_on_behind_a_termination_with_a_clock_that_started_again(tmp_path):
    episode = _episode(10)
    episode["physics"][5:, 0] = 0.02 * np.arange(6)
    episode["discount"][4] = 0
    write_episodes(tmp_path / "ended", "noise", [episode], {})
    assert _problems(tmp_path / "ended") == []
    episode["physics"][8:, 0] += 1
    write_episodes(tmp_path / "jumped", "noise", [episode], {})
    (problem,) = check(tmp_path / "jumped").problems
    assert (problem.field, problem.row, problem.episode) == ("physics", 8, 0)


def test_zero_columns_of_states_are_problems_and_of_physics_warnings(tmp_path):
    episodes = [_episode(10), _episode(10, 1)]
    for episode in episodes:
        episode["state"][:, 2] = 0
        episode["physics"][:, 3] = 0
    episodes[0]["action"][:, 1] = 0
    write_episodes(tmp_path, "noise", episodes, {})
    report = check(tmp_path)
    assert [str(p) for p in report.problems] == [f"{tmp_path.name}: 'state' column 2 is zero in every row"]
    assert report.warnings == (f"{tmp_path.name}: 'physics' column 3 is zero in every row",)


def test_a_dataset_without_physics_is_sound(tmp_path):
    episode = _episode(10)
    del episode["physics"]
    write_episodes(tmp_path, "noise", [episode], {})
    report = check(tmp_path)
    assert (report.problems, report.shapes["physics"]) == ((), (0,))
    assert len(report.lines()) == 7


def test_every_damaged_shard_is_reported_and_the_others_are_read(tmp_path):
    with Writer(tmp_path, "noise", {}, shard_bytes=1) as writer:
        for seed in range(5):
            writer.add(_episode(10, seed))
    files = [shard["file"] for shard in read_metadata(tmp_path)["shards"]]
    size = (tmp_path / files[0]).stat().st_size
    os.truncate(tmp_path / files[0], size // 2)
    content = bytearray((tmp_path / files[2]).read_bytes())
    content[size // 2] ^= 4
    (tmp_path / files[2]).write_bytes(content)
    (tmp_path / files[3]).unlink()
    report = check(tmp_path)
    assert report.episodes == 2
    assert [(p.file, p.message.split(" ")[:2]) for p in report.problems] == [
        (files[0], ["has", f"{size // 2}"]),
        (files[2], ["has", "SHA-256"]),
        (files[3], ["is", "missing"]),
    ]


def test_what_a_killed_writer_left_is_a_warning(tmp_path):
    writer = Writer(tmp_path, "noise", {}, shard_bytes=1)
    writer.add(_episode(10))
    writer.add(_episode(10, 1))
    report = check(tmp_path)
    assert (report.episodes, report.problems) == (1, ())
    assert report.warnings == (
        f"{METADATA}: the writer was not closed, later episodes may be missing",
        f"noise-train.array_record-00001{INCOMPLETE}: was never finished and is not read",
    )


def test_damaged_descriptions_are_reported(tmp_path):
    write_episodes(tmp_path, "noise", [_episode(10)], {})
    (tmp_path / "features.json").write_text("{")
    info = tmp_path / "dataset_info.json"
    info.write_text(info.read_text().replace('"1"', '"2"'))
    assert _problems(tmp_path) == [
        f"dataset_info.json: lists other shards than {METADATA}; TFDS would read other episodes",
        "features.json: is damaged (JSONDecodeError); TFDS cannot open the dataset",
    ]
    (tmp_path / METADATA).write_text("{")
    (problem,) = check(tmp_path).problems
    assert problem.file == METADATA
    assert problem.message.startswith("is damaged")


def test_a_sound_exorl_folder_has_no_problem(tmp_path):
    for seed in range(3):
        np.savez(tmp_path / f"episode_{seed:06d}_5.npz", **_exorl(seed))
    report = check(tmp_path)
    assert (report.kind, report.episodes, report.transitions) == ("exorl", 3, 15)
    assert report.shapes["observation"] == (3,)
    assert (report.problems, report.warnings) == ((), ())


def test_exorl_problems_name_file_field_and_row(tmp_path):
    np.savez(tmp_path / "a.npz", **_exorl())
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    arrays = _exorl(1)
    arrays["observation"][4, 2] = np.inf
    arrays["action"][2:4, 1] = -1.25
    np.savez(tmp_path / "c.npz", **arrays)
    np.savez(tmp_path / "d.npz", **_exorl(2) | {"action": np.array([[object()]] * 6)})
    np.savez(tmp_path / "e.npz", **_exorl(3) | {"physics": np.zeros((5, 4))})
    np.savez(tmp_path / "f.npz", **_exorl(4) | {"observation": np.ones((6, 2), np.float32)})
    one = {name: values[:1] for name, values in _exorl(5).items()}
    np.savez(tmp_path / "g.npz", **one)
    np.savez(tmp_path / "h.npz", **_exorl(6) | {"reward": np.zeros((6, 1), "S3")})
    assert _problems(tmp_path) == [
        "b.npz: is not a readable npz file (BadZipFile)",
        "c.npz: 'action' row 2 lies outside [-1, 1] (2 such rows)",
        "c.npz: 'observation' row 4 is not finite",
        "d.npz: 'action' holds Python objects",
        "e.npz: 'physics' has 5 rows, 'observation' has 6",
        "f.npz: 'observation' has rows of shape [2], expected [3] as before",
        "g.npz: 'observation' row 0 gives an episode of 0 transitions, expected at least 2",
        "h.npz: 'reward' has dtype |S3, expected numbers",
    ]


def test_an_exorl_action_in_the_dummy_row_is_a_warning(tmp_path):
    arrays = _exorl()
    arrays["action"][0] = 0.5
    np.savez(tmp_path / "a.npz", **arrays)
    (warning,) = check(tmp_path).warnings
    assert warning.startswith("a.npz: 'action' row 0 is not the zero dummy")


def test_a_sound_ogbench_file_has_no_problem(tmp_path):
    np.savez(tmp_path / "cube.npz", **_ogbench(), button_states=np.ones((9, 2)))
    report = check(tmp_path / "cube.npz")
    assert (report.kind, report.episodes, report.transitions) == ("ogbench", 2, 4 + 3)
    assert report.problems == ()
    assert report.warnings == ()
    assert report.shapes["button_states"] == (2,)


def test_ogbench_problems_name_file_field_and_row(tmp_path):
    arrays = _ogbench()
    arrays["terminals"] = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0], np.float32)
    arrays["actions"][6, 0] = np.nan
    np.savez(tmp_path / "cube.npz", **arrays | {"qvel": np.ones((9, 2, 1))})
    assert _problems(tmp_path / "cube.npz") == [
        "cube.npz: 'actions' row 6 is not finite",
        "cube.npz: 'qvel' has shape [9, 2, 1], expected 2 dimensions",
        "cube.npz: 'terminals' row 5 gives an episode of 0 transitions, expected at least 2",
        "cube.npz: 'terminals' row 6 begins a trajectory without an end",
    ]


def test_missing_fields_are_named(tmp_path):
    arrays = _ogbench()
    del arrays["terminals"]
    np.savez(tmp_path / "cube.npz", **arrays)
    assert _problems(tmp_path / "cube.npz") == ["cube.npz: 'terminals' is missing"]


def test_a_path_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"neither a dataset directory nor \.npz files"):
        check(tmp_path)
