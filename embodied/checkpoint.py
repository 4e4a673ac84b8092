"""Checkpoints of a training run: asynchronous, atomic, and the latest complete one wins (Orbax)."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from embodied.types import InputError, Run

# 64 MiB of slack beside the run itself: directories, metadata and the checkpoint that is about to be deleted.
_SLACK_BYTES = 64 * 2**20


class Checkpointer:
    """Saves and restores `Run`s below one directory; a checkpoint is visible only once it is complete."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        # The handler is named here because a manager of a new process cannot describe what an older one stored without.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(epath.Path(self.directory), options=options, item_handlers=handler)

    def save(self, step: int, run: Run) -> None:
        """Starts writing a checkpoint; an error of the save before is raised here. Raises InputError on a full disk."""
        self._manager.check_for_errors()
        need = sum(leaf.nbytes for leaf in jax.tree.leaves(run)) + _SLACK_BYTES
        free = shutil.disk_usage(self.directory).free
        if free < need:
            raise InputError(
                f"checkpoint: {self.directory} has {free / 2**20:.0f} MiB free, a checkpoint needs "
                f"{need / 2**20:.0f} MiB; free some space, the previous checkpoint is intact"
            )
        self._manager.save(step, args=ocp.args.StandardSave(_without_empty(run)))

    def restore(self, like: Run) -> Run:
        """The latest complete checkpoint with the structure of `like`, or `like` itself where there is none.

        Raises InputError naming the first leaves that differ.
        """
        step = self._manager.latest_step()
        if step is None:
            return like
        stored = self._manager.item_metadata(step)
        filled = _without_empty(like)
        difference = _difference(filled, getattr(stored, "tree", stored))
        if difference:
            raise InputError(
                f"checkpoint: {self.directory / str(step)} does not fit this configuration: {difference}; "
                "use the configuration it was made with, or another directory"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, filled)
        restored = iter(jax.tree.leaves(self._manager.restore(step, args=ocp.args.StandardRestore(abstract))))
        return jax.tree.map(lambda leaf: next(restored) if leaf.size else leaf, like)

    def close(self) -> None:
        """Nothing; waits until the last checkpoint is complete and raises what went wrong with it."""
        self._manager.wait_until_finished()
        self._manager.close()


def _without_empty(run: Run) -> Any:
    """The run with nothing in place of arrays without elements, which Orbax refuses."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else (), run)


def _difference(like: Any, stored: Any) -> str:
    """The first few leaves whose presence or shape differs, or an empty string."""
    ours = {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    theirs = {
        _name(path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(stored, is_leaf=lambda x: hasattr(x, "shape"))
        if hasattr(leaf, "shape")
    }
    notes = [
        f"{name} is {ours.get(name, 'absent')} here and {theirs.get(name, 'absent')} there"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    return "; ".join(notes[:3]) + (f" (and {len(notes) - 3} more)" if len(notes) > 3 else "")


def _name(path: Any) -> str:
    return "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)
