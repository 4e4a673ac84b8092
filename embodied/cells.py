"""Several seeds, or several settings of a few numbers, trained side by side by one compiled program.

    chunk = jit( vmap over cells:  the chunk of `embodied.train`, the agent made with the cell's numbers )

All cells share the source's data, which are neither copied nor batched; keys, batches and parameters are each cell's
own. A cell's numbers are arguments of the program, so that all settings share it too. On an accelerator that a single
run leaves idle between small operations, N cells are meant to take less than N times as long.

A cell computes what a run of its seed alone computes. Whether it does so bit for bit is up to the compiler, which may
sum the products of a batched matrix multiplication in another order.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from embodied.checkpoint import Checkpointer
from embodied.metrics import Logger
from embodied.train import Hook, Record, TrainConfig, fetch, init_run, run_chunks, several_updates
from embodied.types import Agent, Batch, InputError, RandomKey, Run, Source

# What JAX raises where Python must know a number that differs between the cells.
UNKNOWN = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One of several runs that share a program."""

    name: str  # of its folder
    seed: int
    values: Mapping[str, float]  # numbers of the agent's configuration that are its own; the same names in all cells


def train_cells(
    build: Callable[[Mapping[str, Any]], Agent],
    cells: Sequence[Cell],
    source: Source,
    example: Batch,
    config: TrainConfig,
    *,
    directory: Path | None = None,
    hooks: Callable[[Cell], Sequence[Hook]] = lambda cell: (),
    quiet: bool = False,
) -> list[Run]:
    """The run of each cell after `config.updates` updates, in the order of `cells`; `config.seed` is not used.

    `build` makes the agent with some numbers of its configuration replaced, by floats or by traced scalars. Logs, and
    at the end checkpoints, go to the folders of the cells below `directory`; checkpoints of all cells together, from
    which the same call resumes, to `directory` itself. Raises NonFiniteError (naming the cell), Interrupted (after
    saving), and InputError for values that decide more than numbers, several devices, or a source with a refill.
    """
    _check(build, cells, source, config)
    agent = functools.cache(lambda *values: build(dict(values)))  # cells of equal values share one compiled init
    singles = [init_run(agent(*cell.values.items()), source, example, cell.seed) for cell in cells]
    run = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    # Roots and values travel as one argument of the chunk.
    roots = jnp.stack([jax.random.key(cell.seed) for cell in cells])
    values = {name: jnp.float32([cell.values[name] for cell in cells]) for name in cells[0].values}

    def record(resumed: int) -> _Records:
        folders = [directory / cell.name if directory else None for cell in cells]
        loggers = [
            Logger(folder, config.updates, resumed, quiet or i > 0, config.tensorboard)
            for i, folder in enumerate(folders)
        ]
        return _Records(cells, [Record(one, hooks(cell)) for one, cell in zip(loggers, cells, strict=True)])

    chunk = make_cells_chunk(build, source, config.chunk)
    run = run_chunks(chunk, (source.data, (roots, values)), run, config, directory, record)
    finished = [_pick(run, i) for i in range(len(cells))]
    for cell, one in zip(cells, finished, strict=True):
        if directory:
            _save(directory / cell.name, config, one)
    return finished


def make_cells_chunk(build: Callable[[Mapping[str, Any]], Agent], source: Source, updates: int) -> Any:
    """The compiled function (data, runs, (root keys, values)) -> (runs, metrics), with a leading axis of cells on all
    but the data; see `embodied.train.make_chunk`."""

    def chunk(data: PyTree, runs: Run, own: tuple[Any, dict[str, Any]]) -> Any:
        def one(run: Run, own: tuple[RandomKey, dict[str, Any]]) -> Any:
            root, values = own
            try:
                return several_updates(build(values), source, updates)(data, run, root)
            except UNKNOWN:
                raise InputError(
                    f"sweep: {' or '.join(values)} decides what is computed, not only with which numbers; train each "
                    "value in a run of its own"
                ) from None

        return jax.vmap(one)(runs, own)

    return jax.jit(chunk, donate_argnums=1)


class _Records:
    """The logs of all cells; progress shows the first."""

    def __init__(self, cells: Sequence[Cell], records: Sequence[Record]) -> None:
        self.cells, self.records, self.logger = cells, records, records[0].logger

    def write(self, runs: Run, done: int, summary: PyTree, times: dict[str, float], began: float) -> None:
        """Nothing; a row for each cell. Speeds are those of one cell. Raises NonFiniteError before any is written."""
        host = jax.device_get(summary)
        rows = [fetch(jax.tree.map(lambda leaf, i=i: leaf[i], host), cell.name) for i, cell in enumerate(self.cells)]
        for i, (record, row) in enumerate(zip(self.records, rows, strict=True)):
            record.add(_pick(runs, i) if record.hooks else runs, done, row | times, began)

    def close(self) -> None:
        """Nothing; flushes to disk."""
        for record in self.records:
            record.close()


@jax.jit
def _pick(runs: Any, cell: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[cell], runs)


def _save(directory: Path, config: TrainConfig, run: Run) -> None:
    """Leaves a checkpoint from which the cell may go on alone."""
    checkpointer = Checkpointer(directory / "checkpoints", config.keep_checkpoints)
    checkpointer.save(config.updates, run)
    checkpointer.close()


def _check(build: Any, cells: Sequence[Cell], source: Source, config: TrainConfig) -> None:
    devices = config.devices if jax.process_count() == 1 else jax.device_count()
    if devices > 1:
        raise InputError(f"train: devices must be 1 where several runs share a program, got {devices}")
    if source.refill:
        raise InputError("train: several runs share a program where they learn from stored data alone")
    needs = {build(cell.values).needs for cell in cells}
    if len(needs) > 1:
        raise InputError(
            f"sweep: {' or '.join(cells[0].values)} decides which data are read; train each value in a run of its own"
        )
