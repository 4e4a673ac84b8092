"""Updates per second of the training loop, beside what the same machine's matmul reaches in the same minutes.

    python -m experiments.bench.update [--seconds 120] [--names td_jepa fb-small] [--out results/bench-update.json]

TD-JEPA and FB at the published walker sizes and at those of the small presets, in float32 and with bfloat16 matmul
operands, through the compiled chunk that training runs (`embodied.train.make_chunk`, sampling from `rows` transitions
included). Rates are measured in turn, round by round, and reported as medians, so that a busy neighbour slows all of
them alike; compare ratios, not milliseconds. bfloat16 can only pay where the processor has units for it: see
`cpu_flags` in the result. How long a fresh process takes to its first updates is measured first, one by one.
"""

import dataclasses
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import agents
from embodied.data import dataset
from embodied.nets.mlp import MatmulType
from embodied.train import init_run, make_chunk
from embodied.types import Agent, Source
from experiments.bench.cold import first_updates
from experiments.bench.flops import update_flops, xla_flops
from experiments.bench.synthetic import WALKER, transitions
from experiments.experiment import Experiment
from experiments.presets import PRESETS
from experiments.results import write_result
from experiments.train import agent_name

DECISIONS = 500  # per synthetic episode
TYPES: tuple[MatmulType, ...] = ("float32", "bfloat16")
ROUNDS = 3  # at least
CPU_FLAGS = ("avx512f", "avx512_bf16", "amx_bf16")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Speed of TD-JEPA and FB updates beside the machine's own matmul rate."""

    out: Path = Path("results/bench-update.json")
    seconds: float = 120.0  # of measurement; compilation comes on top
    names: tuple[str, ...] = ("td_jepa", "fb", "td_jepa-small", "fb-small")  # presets without their world
    rows: int = 5_000_000  # transitions that batches are drawn from
    cold: bool = True  # also how long fresh processes take to their first updates


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.update")
    started = time.perf_counter()
    measured = {name: PRESETS[f"walker-{name}"] for name in chosen.names}
    batches = {name: one.train.batch_size for name, one in measured.items()}
    cold = {}
    for name in measured if chosen.cold else ():
        cold[name] = first_updates(f"walker-{name}", batches[name])
        tell(f"cold start of {name} measured")
    metrics, extra = measure(measured, chosen.seconds, chosen.rows)
    for name, seconds in cold.items():
        metrics[name]["cold_seconds"] = seconds
    command = shlex.join(["python", "-m", "experiments.bench.update", *words])
    wall = time.perf_counter() - started
    write_result(
        chosen.out, command, metrics, [0], wall, batch=batches, rows=chosen.rows, cpu_flags=cpu_flags(), **extra
    )
    print("\n".join([*table(metrics), f"wrote {chosen.out}"]))


def measure(measured: Mapping[str, Experiment], seconds: float, rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, settings and all rounds): medians over interleaved rounds of matmul, sampling and update rates."""
    batches = {name: one.train.batch_size for name, one in measured.items()}
    hidden, batch = max(one.agent.hidden for one in measured.values()), max(batches.values())
    shapes = [(batch, hidden, hidden), (batch, hidden, hidden // 2), (1024, 1024, 1024), (2048, 2048, 2048)]
    work = 1e10 if jax.default_backend() == "cpu" else 1e12  # long against the start of a call
    calls = {
        f"matmul/{dtype}/{'x'.join(map(str, shape))}": matmul_rate(shape, dtype, work)
        for shape in dict.fromkeys(shapes)
        for dtype in TYPES
    }
    flops = {name: update_flops(one.agent, WALKER, batches[name]) for name, one in measured.items()}
    machine = max(call() for name, call in calls.items() if "float32" in name)
    # About a second per call on this machine, so that starting it does not count.
    chunks = {name: int(np.clip(round(machine / one), 4, 1000)) for name, one in flops.items()}
    stored = jax.tree.map(jnp.asarray, transitions(-(-rows // DECISIONS), DECISIONS))
    for name, one in measured.items():
        source = dataset.from_dataset(stored, batches[name])
        calls[f"sampling/{name}"] = sampling_rate(source, 1000)
        for dtype in TYPES:
            agent = agents.module(agent_name(one)).make(dataclasses.replace(one.agent, matmul=dtype), WALKER)
            calls[f"{name}/{dtype}"] = update_rate(agent, source, chunks[name])
    rounds = interleave(calls, seconds)
    metrics = summarise(rounds, flops)
    for name, one in measured.items():
        agent = agents.module(agent_name(one)).make(one.agent, WALKER)
        metrics[name]["xla_gflop_per_update"] = xla_flops(agent, WALKER, batches[name]) / 1e9
    precision = str(jax.config.jax_default_matmul_precision)
    return metrics, {"updates_per_call": chunks, "rounds": rounds, "matmul_precision": precision}


def interleave(calls: Mapping[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """What each call returned, round by round, until `seconds` are over; a first round, not kept, compiles."""
    for name, call in calls.items():
        call()
        tell(f"{name} compiled")
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(rounds.values()))) < ROUNDS:
        for name, call in calls.items():
            rounds[name].append(call())
    return rounds


def tell(line: str) -> None:
    """One line about how far the measurement is."""
    print(line, file=sys.stderr, flush=True)


def matmul_rate(shape: tuple[int, int, int], dtype: MatmulType, work: float) -> Callable[[], float]:
    """A call that gives FLOP/s of [M, K] x [K, N] products of `dtype` with float32 results, over `work` FLOP."""
    rows, inner, columns = shape
    flop = 2 * rows * inner * columns
    repeats = max(1, round(work / flop))
    key_left, key_right = jax.random.split(jax.random.key(0))
    left = jax.random.normal(key_left, (rows, inner)).astype(dtype)
    right = jax.random.normal(key_right, (repeats, inner, columns)).astype(dtype)

    @jax.jit
    def products(left: jax.Array, right: jax.Array) -> jax.Array:
        return jax.lax.map(lambda one: jnp.matmul(left, one, preferred_element_type=jnp.float32), right)

    def call() -> float:
        started = time.perf_counter()
        jax.block_until_ready(products(left, right))
        return repeats * flop / (time.perf_counter() - started)

    call()
    return call


def update_rate(agent: Agent, source: Source, updates: int) -> Callable[[], float]:
    """A call that trains for `updates` updates, as `embodied train` does, and gives updates/s."""
    run = init_run(agent, source, WALKER.example(), seed=0)
    chunk, root = make_chunk(agent, source, updates), jax.random.key(0)

    def call() -> float:
        nonlocal run
        started = time.perf_counter()
        run, _ = jax.block_until_ready(chunk(source.data, run, root))
        return updates / (time.perf_counter() - started)

    return call


def sampling_rate(source: Source, batches: int) -> Callable[[], float]:
    """A call that draws `batches` batches in a scan, as the training chunk does, and gives batches/s."""

    @jax.jit
    def draw(data: Any, root: jax.Array) -> jax.Array:
        def one(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            _, batch = source.next(data, (), jax.random.fold_in(root, i))
            # Every value is used, so that none of the reading is left out.
            return total + sum(leaf.sum() for leaf in jax.tree.leaves(batch)), None

        return jax.lax.scan(one, jnp.float32(0), jnp.arange(batches))[0]

    def call() -> float:
        started = time.perf_counter()
        jax.block_until_ready(draw(source.data, jax.random.key(0)))
        return batches / (time.perf_counter() - started)

    return call


def summarise(rounds: Mapping[str, Sequence[float]], flop: Mapping[str, int]) -> dict[str, Any]:
    """The metrics of the result file; GFLOP/s everywhere, shares relative to the best float32 matmul."""
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    metrics: dict[str, Any] = {"matmul": {}}
    for dtype in TYPES:
        prefix = f"matmul/{dtype}/"
        rates = {name.removeprefix(prefix): rate / 1e9 for name, rate in medians.items() if name.startswith(prefix)}
        metrics["matmul"][dtype] = {**rates, "best": max(rates.values())}
    best = {dtype: metrics["matmul"][dtype]["best"] for dtype in TYPES}
    metrics["matmul"]["bfloat16_over_float32"] = best["bfloat16"] / best["float32"]
    for name, flops in flop.items():
        pairs = zip(rounds[f"{name}/float32"], rounds[f"sampling/{name}"], strict=True)
        share = statistics.median(updates / batches for updates, batches in pairs)
        metrics[name] = {"gflop_per_update": flops / 1e9, "sampling_share": share}
        for dtype in TYPES:
            rate = medians[f"{name}/{dtype}"]
            metrics[name][dtype] = {
                "updates_per_second": rate,
                "gflop_per_second": rate * flops / 1e9,
                "of_float32_matmul": rate * flops / 1e9 / best["float32"],
            }
        pairs = zip(rounds[f"{name}/bfloat16"], rounds[f"{name}/float32"], strict=True)
        metrics[name]["bfloat16_over_float32"] = statistics.median(low / full for low, full in pairs)
    return metrics


def table(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics as lines of text."""
    lines = [f"{'':18} {'updates/s':>10} {'GFLOP/s':>10} {'of float32 matmul':>18}"]
    for dtype in TYPES:
        best = metrics["matmul"][dtype]["best"]
        share = best / metrics["matmul"]["float32"]["best"]
        lines.append(f"{'matmul ' + dtype:18} {'':>10} {best:10,.0f} {share:18.0%}")
    for name in [name for name in metrics if name != "matmul"]:
        for dtype in TYPES:
            one = metrics[name][dtype]
            lines.append(
                f"{name + ' ' + dtype:18} {one['updates_per_second']:10.2f} {one['gflop_per_second']:10,.0f} "
                f"{one['of_float32_matmul']:18.0%}"
            )
    ratios = ", ".join(f"{name} {one['bfloat16_over_float32']:.2f}" for name, one in metrics.items())
    shares = ", ".join(f"{name} {one['sampling_share']:.2%}" for name, one in metrics.items() if name != "matmul")
    first = ", ".join(
        f"{name} {one['cold_seconds']['total']:.1f} s" for name, one in metrics.items() if "cold_seconds" in one
    )
    lines += [f"bfloat16 / float32: {ratios}", f"sampling, of an update: {shares}"]
    return lines + ([f"first updates without a cache: {first}"] if first else [])


def cpu_flags() -> dict[str, bool] | None:
    """Which matrix extensions the processor declares; None where the system does not say."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    found = set(path.read_text(encoding="utf-8").split())
    return {flag: flag in found for flag in CPU_FLAGS}


if __name__ == "__main__":
    main()
