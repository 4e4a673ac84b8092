"""Result files carry what a reader needs to make the number again."""

import datetime
import json
import platform
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.results import commit, write_result


def _checkout(folder):
    """A git repository with one committed source file and one committed result."""
    (folder / "results").mkdir()
    (folder / "code.py").write_text("x = 1\n")
    (folder / "results" / "old.json").write_text("{}\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", folder, *arguments], check=True)
    return subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_written_record_is_the_returned_one_and_tells_how_it_was_made(tmp_path):
    path = tmp_path / "new" / "maze.json"
    record = write_result(path, "embodied demo", {"success": 0.9}, [0, 1], 12.5, world="point_maze")
    assert json.loads(path.read_text()) == record
    assert record["command"] == "embodied demo"
    assert record["metrics"] == {"success": 0.9}
    assert record["seeds"] == [0, 1]
    assert record["wall_seconds"] == 12.5
    assert record["world"] == "point_maze"
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["numpy"] == np.__version__
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["memory_gib"] > 0
    assert record["hardware"]["accelerators"] == []
    assert datetime.datetime.fromisoformat(record["date"]).utcoffset() == datetime.timedelta(0)


def test_keys_are_sorted_so_that_a_second_run_differs_only_in_its_values(tmp_path):
    write_result(tmp_path / "r.json", "c", {"z": 1, "a": 2}, [0], 1.0)
    text = (tmp_path / "r.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert text.index('"a"') < text.index('"z"')


def test_arrays_and_array_scalars_become_plain_numbers(tmp_path):
    metrics = {"mean": np.float32(0.5), "curve": np.array([1, 2]), "loss": jnp.float32(0.25)}
    record = write_result(tmp_path / "r.json", "c", metrics, [0], 1.0)
    assert record["metrics"] == {"mean": 0.5, "curve": [1, 2], "loss": 0.25}


def test_not_a_number_leaves_the_old_file_untouched(tmp_path):
    path = tmp_path / "r.json"
    write_result(path, "c", {"loss": 1.0}, [0], 1.0)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_result(path, "c", {"loss": float("nan")}, [0], 1.0)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_an_extra_field_cannot_replace_a_measured_one(tmp_path):
    with pytest.raises(TypeError, match="commit"):
        write_result(tmp_path / "r.json", "c", {"loss": 1.0}, [0], 1.0, commit="abc")


def test_commit_is_clean_while_only_results_differ_and_dirty_once_code_does(tmp_path):
    head = _checkout(tmp_path)
    (tmp_path / "results" / "old.json").write_text('{"new": 1}\n')
    (tmp_path / "results" / "more.json").write_text("{}\n")
    assert commit(tmp_path) == head
    (tmp_path / "code.py").write_text("x = 2\n")
    assert commit(tmp_path) == f"{head}-dirty"


def test_commit_is_unknown_outside_a_checkout(tmp_path):
    _checkout(tmp_path)
    (tmp_path / "installed").mkdir()
    assert commit(tmp_path / "installed") == "unknown"


def test_files_beside_the_code_make_it_dirty_where_they_are_python(tmp_path):
    head = _checkout(tmp_path)
    (tmp_path / "prompt.json").write_text("{}\n")
    assert commit(tmp_path) == head
    (tmp_path / "more.py").write_text("x = 1\n")
    assert commit(tmp_path) == f"{head}-dirty"
