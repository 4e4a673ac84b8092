"""Checkpoints: complete or not there, and readable complaints where one does not fit."""

import collections
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.checkpoint import Checkpointer
from embodied.types import InputError, Run


def run_of(value: float, width: int = 3, **more) -> Run:
    agent = {"params": {"kernel": jnp.full((2, width), value), "bias": jnp.full(width, value)}, **more}
    return Run(agent=agent, source=jnp.arange(2) * int(value), step=jnp.int32(value))


def saved(directory, *steps: int, keep: int = 2) -> None:
    checkpointer = Checkpointer(directory, keep)
    for step in steps:
        checkpointer.save(step, run_of(step))
    checkpointer.close()


def restore(directory, like: Run) -> Run:
    checkpointer = Checkpointer(directory)
    try:
        return checkpointer.restore(like)
    finally:
        checkpointer.close()


def assert_equal(one: Run, other: Run) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_restore_without_a_checkpoint_returns_what_it_was_given(tmp_path):
    like = run_of(1)
    assert restore(tmp_path, like) is like


def test_latest_checkpoint_comes_back_bit_for_bit_and_older_ones_go(tmp_path):
    saved(tmp_path, 10, 20, 30)
    assert_equal(restore(tmp_path, run_of(0)), run_of(30))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["20", "30"]


def test_number_of_kept_checkpoints_is_what_was_asked_for(tmp_path):
    saved(tmp_path, 10, 20, keep=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["20"]


def test_tuples_empty_subtrees_and_all_types_survive(tmp_path):
    more = {"moments": (jnp.float32(0.1), jnp.bfloat16(1.5)), "nothing": (), "flags": jnp.array([True, False])}
    more["no_rows"] = jnp.zeros((0, 3))
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, run_of(1, **more))
    checkpointer.close()
    like = jax.tree.map(jnp.zeros_like, run_of(1, **more))
    assert_equal(restore(tmp_path, like), run_of(1, **more))


def test_unfinished_checkpoint_of_a_killed_process_is_ignored(tmp_path):
    saved(tmp_path, 10)
    (leftover,) = tmp_path.glob("10")
    unfinished = tmp_path / "20.orbax-checkpoint-tmp"
    shutil.copytree(leftover, unfinished)
    (unfinished / "default" / "manifest.ocdbt").write_bytes(b"half")
    (tmp_path / "30.orbax-checkpoint-tmp-1700000000").mkdir()
    assert_equal(restore(tmp_path, run_of(0)), run_of(10))
    saved(tmp_path, 20)
    assert_equal(restore(tmp_path, run_of(0)), run_of(20))


def test_checkpoint_of_other_shapes_is_refused_naming_the_leaves(tmp_path):
    saved(tmp_path, 10)
    with pytest.raises(InputError) as caught:
        restore(tmp_path, run_of(1, width=5))
    message = str(caught.value)
    assert "agent/params/bias is (5,) here and (3,) there" in message
    assert "agent/params/kernel is (2, 5) here and (2, 3) there" in message
    assert "step" not in message.partition("configuration:")[2].partition("; use")[0]
    assert "\n" not in message


def test_checkpoint_with_other_leaves_is_refused_naming_them(tmp_path):
    saved(tmp_path, 10)
    with pytest.raises(InputError, match=r"agent/extra is \(4,\) here and absent there"):
        restore(tmp_path, run_of(1, extra=jnp.zeros(4)))
    many = {f"leaf_{i}": jnp.zeros(()) for i in range(5)}
    with pytest.raises(InputError, match=r"\(and 2 more\)"):
        restore(tmp_path, run_of(1, **many))


def test_full_disk_is_reported_before_writing_and_the_previous_checkpoint_stays(tmp_path, monkeypatch):
    saved(tmp_path, 10)
    disk = collections.namedtuple("disk", "total used free")
    checkpointer = Checkpointer(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(10**9, 10**9, 2**20))
    with pytest.raises(InputError, match=r"has 1 MiB free, a checkpoint needs 64 MiB; free some space"):
        checkpointer.save(20, run_of(20))
    monkeypatch.undo()
    checkpointer.close()
    assert_equal(restore(tmp_path, run_of(0)), run_of(10))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["10"]
