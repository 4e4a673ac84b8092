"""The training loop: one compiled chunk of K updates, hooks and checkpoints between chunks.

    chunk = jit( scan over K:  source.next -> agent.update ),    key of update i = fold_in(root, i)

The chunk donates the run and takes the source's data as an argument. Because keys depend on the update number alone,
N updates equal N/2 updates, a checkpoint, a restore and N/2 more, bit for bit on one machine.
"""

import contextlib
import dataclasses
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from embodied import parallel
from embodied.checkpoint import Checkpointer
from embodied.metrics import Logger
from embodied.ranges import check_ranges
from embodied.types import Agent, Batch, InputError, RandomKey, Run, Source, SourceState

# Compiling what runs once takes longer than running it, unless little is optimised.
RUNS_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
INTERRUPTED = 75  # exit code after SIGTERM or SIGINT: saved, may be resumed (EX_TEMPFAIL of sysexits.h)

Hook = Callable[[Run, int, dict[str, float]], dict[str, float] | None]  # (run, step, row) -> more numbers to log


class NonFiniteError(RuntimeError):
    """Training met a non-finite number; the message names update and metric."""


class Interrupted(SystemExit):
    """Training was told to stop; the run is saved. Carries the exit code."""


RANGES = {
    "[0, inf)": ("updates", "checkpoint_seconds"),
    "[1, inf)": ("chunk", "devices", "keep_checkpoints"),
    "[2, inf)": ("batch_size",),  # orthonormality compares pairs
    "[0, 4294967296)": ("seed",),
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The budget of a run and when it reports."""

    updates: int = 100_000  # gradient updates in all; a multiple of chunk
    batch_size: int = 1024  # transitions per update; at least 2
    chunk: int = 500  # updates per compiled call; at least 1
    checkpoint_seconds: float = 30.0  # a chunk that ends this long after the last checkpoint is saved; 0 = every chunk
    keep_checkpoints: int = 2  # the latest ones, at least 1
    devices: int = 1  # of this machine that share each batch; a job of several processes uses all of theirs
    tensorboard: bool = False  # also write event files (extra "tensorboard")
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges("train", self, RANGES)
        if self.updates % self.chunk:
            raise InputError(f"train: updates ({self.updates}) must be a multiple of chunk ({self.chunk})")


def make_chunk(
    agent: Agent, source: Source, updates: int, mesh: Mesh | None = None
) -> Callable[[PyTree, Run, RandomKey], Any]:
    """The compiled function (data, run, root key) -> (run, metrics [name] -> (mean, first bad update or -1)).

    With a mesh, its devices share each batch; all else is whole on each of them.
    """
    chunk = several_updates(agent, source, updates, mesh)
    if mesh is None:
        return jax.jit(chunk, donate_argnums=1)
    whole = parallel.replicated(mesh)
    return jax.jit(chunk, donate_argnums=1, in_shardings=whole, out_shardings=whole)


def several_updates(
    agent: Agent, source: Source, updates: int, mesh: Mesh | None = None
) -> Callable[[PyTree, Run, RandomKey], Any]:
    """What `make_chunk` compiles."""

    def chunk(data: PyTree, run: Run, root: RandomKey) -> tuple[Run, dict[str, tuple[Array, Array]]]:
        def one(run: Run, _: None) -> tuple[Run, Any]:
            key_source, key_update = jax.random.split(jax.random.fold_in(root, run.step))
            source_state, batch = source.next(data, run.source, key_source)
            agent_state, metrics = agent.update(run.agent, parallel.split(batch, mesh), key_update)
            return Run(agent=agent_state, source=source_state, step=run.step + 1), metrics

        start = run.step
        run, metrics = jax.lax.scan(one, run, None, length=updates)

        def summarise(values: Array) -> tuple[Array, Array]:
            bad = ~jnp.isfinite(values)
            first = jnp.where(bad.any(), start + jnp.argmax(bad), -1)
            return values.mean(), first

        summary = {name: summarise(values) for name, values in metrics.items()}
        # Metrics are computed before the last step is taken: the parameters themselves show what it did.
        norm = _parameter_norm(run)
        return run, summary | {"health/parameter_norm": (norm, jnp.where(jnp.isfinite(norm), -1, run.step - 1))}

    return chunk


def init_run(agent: Agent, source: Source, example: Batch, seed: int) -> Run:
    """The state before the first update."""
    key_agent, key_source = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**31 - 1))
    init = jax.jit(agent.init, compiler_options=RUNS_ONCE)
    return Run(agent=init(key_agent, example), source=source.init(key_source), step=jnp.int32(0))


def train(
    agent: Agent,
    source: Source,
    example: Batch,
    config: TrainConfig,
    *,
    directory: Path | None = None,
    hooks: Sequence[Hook] = (),
    quiet: bool = False,
) -> Run:
    """The run after `config.updates` updates; continues from the latest checkpoint in `directory` where there is one.

    In a job of several processes each makes the same call; their devices share the work, and the first writes metrics.
    Raises NonFiniteError (naming update and metric) and Interrupted (after saving). Hooks run after each chunk; what
    they return is logged with the chunk's row.
    """
    mesh = parallel.mesh(config.devices, config.batch_size)
    run = parallel.spread(init_run(agent, source, example, config.seed), mesh)
    data, root = (parallel.spread(tree, mesh) for tree in (source.data, jax.random.key(config.seed)))
    refill = functools.partial(_refilled, source.refill, config.seed, mesh) if source.refill else None
    written = directory if parallel.is_first() else None

    def record(resumed: int) -> Record:
        quietly = quiet or not parallel.is_first()
        return Record(Logger(written, config.updates, resumed, quietly, config.tensorboard), hooks)

    chunk = make_chunk(agent, source, config.chunk, mesh)
    return run_chunks(chunk, (data, root), run, config, directory, record, refill)


class Record:
    """The log of one run: reads what a chunk returned, asks the hooks, and writes a row."""

    def __init__(self, logger: Logger, hooks: Sequence[Hook]) -> None:
        self.logger, self.hooks = logger, hooks

    def write(self, run: Run, done: int, summary: PyTree, times: dict[str, float], began: float) -> None:
        """Nothing; one more row, whose chunk began then. Raises NonFiniteError."""
        self.add(run, done, fetch(summary) | times, began)

    def add(self, run: Run, done: int, row: dict[str, float], began: float) -> None:
        """Nothing; the row with what the hooks add."""
        for hook in self.hooks:
            row |= hook(run, done, row) or {}
        row["time/seconds"] = time.perf_counter() - began  # of this chunk with its refill and hooks
        self.logger.write(done, row)

    def close(self) -> None:
        """Nothing; flushes to disk."""
        self.logger.close()


def run_chunks(
    chunk: Any,
    given: tuple[PyTree, Any],
    run: Run,
    config: TrainConfig,
    directory: Path | None,
    record_from: Callable[[int], Any],
    refill: Callable[[Run, int], Run] | None = None,
) -> Run:
    """The run after `config.updates` updates, from its latest checkpoint in `directory` on where there is one.

    `given` are the first and last argument of `chunk`: data, and what the keys come from. `record_from` makes the
    `Record` of a run that goes on from an update.
    """
    with contextlib.ExitStack() as stack:
        checkpointer = Checkpointer(directory / "checkpoints", config.keep_checkpoints) if directory else None
        if checkpointer:
            stack.callback(checkpointer.close)
            run = checkpointer.restore(run)
        done = int(np.ravel(run.step)[0])  # of several runs that share a program, any
        record = record_from(done)
        stack.callback(record.close)
        stop = stack.enter_context(_StopSignal())
        return _loop(chunk, given, run, done, config, checkpointer, record, stop, refill)


def _loop(
    chunk: Any,
    given: tuple[PyTree, Any],
    run: Run,
    done: int,
    config: TrainConfig,
    checkpointer: Checkpointer | None,
    record: Any,
    stop: "_StopSignal",
    refill: Callable[[Run, int], Run] | None,
) -> Run:
    (data, root), compiled, saved = given, None, time.perf_counter()
    while done < config.updates:
        compiled = compiled or _compile(chunk, data, run, root, record.logger)
        began = time.perf_counter()
        if refill:
            run = refill(run, done)
        started = time.perf_counter()
        with jax.transfer_guard_device_to_host("disallow"):
            run, summary = compiled(data, run, root)
        _wait(summary)
        done += config.chunk
        times = {"speed/updates_per_second": config.chunk / (time.perf_counter() - started)}
        if refill:
            times["time/refill"] = started - began
        record.write(run, done, summary, times, began)
        stopped = parallel.agree(stop.requested)
        due = time.perf_counter() - saved >= config.checkpoint_seconds or done == config.updates or stopped
        if checkpointer and parallel.agree(due):
            checkpointer.save(done, run)
            saved = time.perf_counter()
        if stopped and done < config.updates:
            record.logger.note(f"stopped at update {done:,}" + ("; the same command resumes" if checkpointer else ""))
            raise Interrupted(INTERRUPTED)
    return run


def _parameter_norm(run: Any) -> Array:
    return optax.tree.norm(run.agent.params)


def _refilled(refill: Callable[..., SourceState], seed: int, mesh: Mesh | None, run: Any, done: int) -> Any:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**31 - 2), done)
    source, params = parallel.local((run.source, run.agent.params), mesh)
    return run.replace(source=parallel.spread(refill(source, params, done, key), mesh))


def _compile(chunk: Any, data: PyTree, run: Run, root: Any, logger: Logger) -> Any:
    started = time.perf_counter()
    compiled = chunk.lower(data, run, root).compile()
    logger.note(f"compiled the training chunk in {time.perf_counter() - started:.1f} s")
    logger.start()
    return compiled


def _wait(summary: PyTree) -> None:
    # Waiting inside of JAX would keep signals from being heard for as long as a chunk takes.
    while not all(leaf.is_ready() for leaf in jax.tree.leaves(summary)):
        time.sleep(0.002)


def fetch(summary: dict[str, tuple[Any, Any]], of: str = "") -> dict[str, float]:
    """The means of a chunk's metrics on the host, `of` a run that is named so.

    Raises NonFiniteError naming the first bad update, its metric, and the run.
    """
    host = jax.device_get(summary)
    for name, (_, first_bad) in sorted(host.items(), key=lambda item: int(item[1][1]) % 2**31):
        if first_bad >= 0:
            raise NonFiniteError(
                f"metric '{name}' became non-finite at update {int(first_bad) + 1}{of and f' of {of}'}; no checkpoint "
                "holds it. "
                "Lower the learning rates or raise the orthonormality coefficients"
            )
    return {name: float(np.asarray(mean)) for name, (mean, _) in host.items()}


class _StopSignal:
    """Turns SIGTERM and SIGINT into a request that the loop honours after the running chunk; the second one aborts."""

    def __enter__(self) -> "_StopSignal":
        self.requested = False
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("  stopping after the running chunk of updates; once more to stop at once", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
