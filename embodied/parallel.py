"""Data parallelism on JAX's own mesh: every device holds the whole run, each computes its share of every batch.

The training chunk stays one program. Batches are marked as split along their first axis, and XLA inserts what must be
exchanged, so a loss that compares all pairs of a batch is the same on any number of devices. In a job of several
processes the mesh spans them all; each holds the data, simulates for itself, and writes nothing unless it is the first.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from embodied.types import InputError

AXIS = "batch"
VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")  # beside JAX's own JAX_COORDINATOR_ADDRESS


def join() -> None:
    """Nothing; makes this process part of its job.

    Slurm, Open MPI, Kubernetes and TPU slices are recognised by JAX; elsewhere JAX_COORDINATOR_ADDRESS (host:port of
    the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it. Raises InputError where neither does.
    """
    numbers: list[int | None] = []
    for name in VARIABLES:
        text = os.environ.get(name)
        if text is not None and not text.isdecimal():
            raise InputError(f"distributed: {name} must be a whole number, got '{text}'")
        numbers.append(None if text is None else int(text))
    try:
        jax.distributed.initialize(num_processes=numbers[0], process_id=numbers[1])
    except ValueError as error:
        raise InputError(
            f"distributed: this process does not know its job ({error}); start it under Slurm, Open MPI, Kubernetes or "
            "on a TPU slice, or set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def is_first() -> bool:
    """Whether this process writes files; true where there is only one."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """Whether the flag is up in any process; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def wait(name: str) -> None:
    """Nothing; returns once all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def mesh(count: int, batch_size: int) -> Mesh | None:
    """A mesh over `count` devices of this machine, or over all of a job; None for a single one, which needs none.

    Raises InputError for more devices than there are, and for a batch that cannot be split evenly.
    """
    devices = jax.devices()
    if jax.process_count() == 1:
        if count > len(devices):
            raise InputError(f"train: devices must be in [1, {len(devices)}], those that JAX has here, got {count}")
        devices = devices[:count]
    if batch_size % len(devices):
        below = batch_size // len(devices) * len(devices)
        raise InputError(
            f"train: batch_size must be a multiple of the devices that share it, {len(devices)}, got {batch_size}; "
            f"nearest are {below} and {below + len(devices)}"
        )
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(batch: PyTree, mesh: Mesh | None) -> PyTree:
    """The batch with its first axis divided among the devices; for use inside of a compiled function."""
    if mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def spread(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree with each leaf whole on every device, from values that each process has for itself."""
    if mesh is None:
        return tree
    everywhere = replicated(mesh)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(everywhere, leaf.ndim):
            return leaf
        shards = [jax.device_put(leaf, device) for device in mesh.local_devices]
        return jax.make_array_from_single_device_arrays(np.shape(leaf), everywhere, shards)

    return jax.tree.map(place, tree)


def local(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree as this process has it on its first device: the inverse of `spread`, without a copy."""
    return tree if mesh is None else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
