import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embodied.data import store
from embodied.data.dataset import from_episodes
from embodied.data.store import Writer, read_episodes, read_metadata, state_digest, write_episodes
from embodied.types import InputError

ROOT = Path(__file__).parents[2]


def _episode(transitions: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "state": generator.standard_normal((transitions + 1, 3)).astype(np.float32),
        "action": generator.uniform(-1, 1, (transitions, 2)).astype(np.float32),
        "physics": generator.standard_normal((transitions + 1, 5)),
        "reward": generator.standard_normal(transitions).astype(np.float32),
        "discount": np.ones(transitions, np.float32),
    }


def _stored(directory: Path, count: int = 6) -> list[dict[str, np.ndarray]]:
    """Episodes of 20, 21, ... transitions, two in each shard."""
    episodes = [_episode(20 + i, i) for i in range(count)]
    with Writer(directory, "noise", {"world": "point_maze", "hold": 10, "seed": 7}, shard_bytes=5000) as writer:
        for episode in episodes:
            writer.add(episode)
    assert [shard["episodes"] for shard in read_metadata(directory)["shards"]] == [2] * (count // 2)
    return episodes


def _shard(directory: Path, index: int) -> Path:
    return directory / read_metadata(directory)["shards"][index]["file"]


def test_stored_episodes_come_back_bit_for_bit(tmp_path):
    episodes = [_episode(20), _episode(7, 1)]
    episodes[0]["state"][0] = [1e-45, -0.0, np.nextafter(np.float32(1), np.float32(2))]
    episodes[1]["physics"][3] = [np.pi, 5e-324, -0.0, np.inf, np.nan]
    write_episodes(tmp_path / "data", "noise", iter(episodes), {})
    for stored, episode in zip(read_episodes(tmp_path / "data"), episodes, strict=True):
        assert stored.keys() == episode.keys()
        for name, values in episode.items():
            assert stored[name].dtype == values.dtype
            assert stored[name].shape == values.shape
            assert stored[name].tobytes() == values.tobytes(), name


def test_absent_fields_come_back_as_empty_physics_zero_reward_and_full_discount(tmp_path):
    episode = _episode(4)
    write_episodes(tmp_path, "noise", [{"state": episode["state"], "action": episode["action"]}], {})
    (stored,) = read_episodes(tmp_path)
    assert stored["physics"].shape == (5, 0)
    np.testing.assert_array_equal(stored["reward"], np.zeros(4, np.float32))
    np.testing.assert_array_equal(stored["discount"], np.ones(4, np.float32))
    assert from_episodes([stored]).starts.tolist() == [0, 1, 2, 3]


def test_a_range_of_episodes_crosses_shards(tmp_path):
    episodes = _stored(tmp_path)
    stored = read_episodes(tmp_path, 1, 4)
    assert [len(episode["action"]) for episode in stored] == [21, 22, 23]
    np.testing.assert_array_equal(stored[2]["physics"], episodes[3]["physics"])
    assert len(read_episodes(tmp_path, start=4)) == 2
    with pytest.raises(InputError, match="no episodes 4 to 7; choose within 0 to 6"):
        read_episodes(tmp_path, 4, 7)


def test_metadata_says_what_was_collected_and_hashes_every_shard(tmp_path):
    _stored(tmp_path)
    metadata = read_metadata(tmp_path)
    assert (metadata["world"], metadata["hold"], metadata["seed"]) == ("point_maze", 10, 7)
    assert (metadata["name"], metadata["complete"]) == ("noise", True)
    assert (metadata["episodes"], metadata["transitions"]) == (6, 20 + 21 + 22 + 23 + 24 + 25)
    assert metadata["shapes"] == {"state": [3], "action": [2], "physics": [5]}
    assert metadata["versions"]["numpy"] == np.__version__
    for shard in metadata["shards"]:
        content = (tmp_path / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["bytes"] == len(content)


def test_tfds_opens_the_dataset_and_finds_rlds_steps(tmp_path):
    import tensorflow_datasets as tfds

    episodes = _stored(tmp_path)
    write_episodes(tmp_path / "ended", "ended", [_episode(3) | {"discount": np.array([1, 1, 0])}], {"seed": 1})
    builder = tfds.builder_from_directory(str(tmp_path))
    source = builder.as_data_source("train")
    assert builder.info.splits["train"].num_examples == len(source) == 6
    assert builder.info.metadata["world"] == "point_maze"
    for example, episode in zip(source, episodes, strict=True):
        steps = list(example["steps"])
        assert [step["is_first"] for step in steps] == [True] + [False] * (len(steps) - 1)
        assert [step["is_last"] for step in steps] == [False] * (len(steps) - 1) + [True]
        assert not any(step["is_terminal"] for step in steps)
        for name in ("state", "physics"):
            values = np.stack([step["observation"][name] for step in steps])
            assert values.dtype == episode[name].dtype
            np.testing.assert_array_equal(values, episode[name])
        for name in ("action", "reward", "discount"):
            np.testing.assert_array_equal(np.stack([step[name] for step in steps[:-1]]), episode[name])
        assert not steps[-1]["action"].any()
        assert steps[-1]["reward"] == 0
    ended = list(tfds.builder_from_directory(str(tmp_path / "ended")).as_data_source("train")[0]["steps"])
    assert [bool(step["is_terminal"]) for step in ended] == [False, False, False, True]
    assert [float(step["discount"]) for step in ended] == [1, 1, 0, 0]


def test_tfds_opens_a_dataset_without_physics(tmp_path):
    import tensorflow_datasets as tfds

    episode = _episode(3)
    write_episodes(tmp_path, "noise", [{"state": episode["state"], "action": episode["action"]}], {})
    (example,) = tfds.builder_from_directory(str(tmp_path)).as_data_source("train")
    assert [step["observation"]["physics"].shape for step in example["steps"]] == [(0,)] * 4


def test_a_killed_collection_leaves_whole_shards_and_no_half_one(tmp_path):
    script = (
        "import os, signal, sys, pathlib, numpy as np\n"
        "from embodied.data.store import Writer\n"
        "writer = Writer(pathlib.Path(sys.argv[1]), 'noise', {}, shard_bytes=1)\n"
        "for i in range(5):\n"
        "    physics = np.ones((31, 5))\n"
        "    writer.add({'state': np.full((31, 3), i), 'action': np.zeros((30, 2)), 'physics': physics})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", script, tmp_path], env=environment, cwd=ROOT, check=False)
    assert result.returncode == -9
    half = f"noise-train.array_record-00004{store.INCOMPLETE}"
    assert sorted(p.name for p in tmp_path.glob("*record*")) == sorted(
        [*(f"noise-train.array_record-0000{i}" for i in range(4)), half]
    )
    assert [episode["state"][0, 0] for episode in read_episodes(tmp_path)] == [0, 1, 2, 3]
    assert read_metadata(tmp_path)["complete"] is False


def test_an_error_while_collecting_keeps_the_episodes_added_before(tmp_path):
    def collect():
        yield _episode(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_episodes(tmp_path, "noise", collect(), {})
    assert len(read_episodes(tmp_path)) == 1
    assert read_metadata(tmp_path)["complete"] is False


def test_a_writer_that_never_finished_a_shard_leaves_no_dataset(tmp_path):
    writer = Writer(tmp_path, "noise", {})
    writer.add(_episode(5))
    with pytest.raises(InputError, match="no dataset is there"):
        read_episodes(tmp_path)
    del writer
    write_episodes(tmp_path, "noise", [_episode(3)], {})
    assert [len(episode["action"]) for episode in read_episodes(tmp_path)] == [3]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_shard_is_refused_before_anything_is_read(tmp_path, part):
    _stored(tmp_path)
    shard = _shard(tmp_path, 2)
    size = shard.stat().st_size
    os.truncate(shard, int(part * size))
    message = f"{shard} has {int(part * size)} bytes, expected {size}; copy it again"
    with pytest.raises(InputError, match=f"^dataset: {message}$"):
        read_episodes(tmp_path, 0, 1)


def test_every_flipped_byte_is_found(tmp_path):
    _stored(tmp_path, 2)
    shard = _shard(tmp_path, 0)
    content = shard.read_bytes()
    for position in [*range(0, len(content), 1999), len(content) - 1]:
        changed = bytearray(content)
        changed[position] ^= 1
        shard.write_bytes(changed)
        with pytest.raises(InputError, match=f"{shard} has SHA-256 .* expected .*; copy it again"):
            read_episodes(tmp_path)
    shard.write_bytes(content)
    assert len(read_episodes(tmp_path)) == 2


def test_a_missing_shard_is_refused(tmp_path):
    _stored(tmp_path)
    shard = _shard(tmp_path, 1)
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard} is missing"):
        read_episodes(tmp_path)


def test_damaged_metadata_is_refused(tmp_path):
    _stored(tmp_path)
    file = tmp_path / store.METADATA
    content = file.read_text()
    for damaged in (
        content[: len(content) // 2],
        "",
        "[]",
        content.replace('"episodes": 2', '"episodes": 3', 1),
    ):
        file.write_text(damaged)
        with pytest.raises(InputError, match=f"^dataset: {file} is damaged .*; copy it again$"):
            read_episodes(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=f"{file} is lost"):
        read_metadata(tmp_path)


def test_records_that_do_not_have_the_listed_shapes_are_refused(tmp_path):
    _stored(tmp_path, 2)
    file = tmp_path / store.METADATA
    file.write_text(file.read_text().replace('"state": [\n   3', '"state": [\n   4'))
    with pytest.raises(InputError, match=f"{_shard(tmp_path, 0)} record 0 is not an episode"):
        read_episodes(tmp_path)


def test_the_digest_depends_on_the_episodes_only(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_episodes(tmp_path / name, "noise", [_episode(6, seed)], {"collector": name})
    digests = [state_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert len(bytes.fromhex(digests[0])) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((5, 2))}, r"'state' has shape \[21, 3\], expected \[6, columns\]"),
        ({"physics": np.zeros((20, 5))}, r"'physics' has shape \[20, 5\], expected \[21, columns\]"),
        ({"reward": np.zeros((20, 1))}, r"'reward' has shape \[20, 1\], expected \[20\]"),
        ({"state": np.zeros((21, 4))}, r"'state' has 4 columns, expected 3 as before"),
        ({"rewards": np.zeros(20)}, r"unknown field 'rewards'; did you mean 'reward'\?"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, change, message):
    writer = Writer(tmp_path, "noise", {})
    writer.add(_episode(20))
    with pytest.raises(InputError, match=message):
        writer.add(_episode(20) | change)
    writer.close()
    assert len(read_episodes(tmp_path)) == 1


def test_a_writer_refuses_bad_names_taken_directories_and_its_own_metadata(tmp_path):
    _stored(tmp_path, 2)
    with pytest.raises(InputError, match="already holds a dataset"):
        Writer(tmp_path, "noise", {})
    with pytest.raises(InputError, match="try 'point_maze'"):
        Writer(tmp_path / "new", "point-maze", {})
    with pytest.raises(InputError, match="'episodes' is filled in by the writer"):
        Writer(tmp_path / "new", "noise", {"episodes": 3})
    with pytest.raises(InputError, match="would be empty"):
        write_episodes(tmp_path / "new", "noise", [], {})


def test_a_full_disk_is_reported_and_finished_shards_stay(tmp_path, monkeypatch):
    writer = Writer(tmp_path, "noise", {}, shard_bytes=1)
    writer.add(_episode(20))
    writer.add(_episode(20, 1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*-00001: .*No space left.*; finished shards are intact"):
        writer.close()
    assert len(read_episodes(tmp_path)) == 1
