"""Updates per second of the training loop, beside what the same machine's matmul reaches in the same minutes.

    python -m experiments.bench.update [--seconds 120] [--batch 1024] [--small] [--out results/bench-update.json]

TD-JEPA and FB at the published walker sizes, in float32 and with bfloat16 matmul operands, through the compiled chunk
that training runs (`embodied.train.make_chunk`, sampling included). Rates are measured in turn, round by round, and
reported as medians, so that a busy neighbour slows all of them alike; compare ratios, not milliseconds. bfloat16 can
only pay where the processor has units for it: see `cpu_flags` in the result.
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
from agents import fb, td_jepa
from embodied.data import dataset
from embodied.nets.mlp import MatmulType
from embodied.train import init_run, make_chunk
from embodied.types import Agent, Source, Spec
from experiments.presets import PRESETS
from experiments.results import write_result

WALKER = Spec(obs={"state": (24,)}, action=6)
EPISODES, DECISIONS = 200, 500  # 100,000 synthetic transitions
TYPES: tuple[MatmulType, ...] = ("float32", "bfloat16")
ROUNDS = 3  # at least
HEADS = 2  # of every predictor
CPU_FLAGS = ("avx512f", "avx512_bf16", "amx_bf16")

Sizes = list[tuple[int, int]]  # (inputs, outputs) of each layer, per member


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Speed of TD-JEPA and FB updates beside the machine's own matmul rate."""

    out: Path | None = None  # default: results/bench-update.json, or results/bench-update-small.json
    seconds: float = 120.0  # of measurement; compilation comes on top
    batch: int | None = None  # transitions per update; default: the presets' (1024, or 256 with --small)
    small: bool = False  # the presets of hidden width 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.update")
    started = time.perf_counter()
    configs = {name: PRESETS[f"walker-{name}{'-small' * chosen.small}"] for name in ("td_jepa", "fb")}
    batch = chosen.batch or configs["td_jepa"].train.batch_size
    metrics, extra = measure({name: one.agent for name, one in configs.items()}, batch, chosen.seconds)
    out = chosen.out or Path(f"results/bench-update{'-small' * chosen.small}.json")
    command = shlex.join(["python", "-m", "experiments.bench.update", *words])
    wall = time.perf_counter() - started
    write_result(out, command, metrics, [0], wall, batch=batch, cpu_flags=cpu_flags(), **extra)
    print("\n".join([*table(metrics), f"wrote {out}"]))


def measure(configs: Mapping[str, Any], batch: int, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, settings and all rounds): medians over interleaved rounds of matmul and update rates."""
    hidden = configs["td_jepa"].hidden
    shapes = [(batch, hidden, hidden), (batch, hidden, hidden // 2), (1024, 1024, 1024), (2048, 2048, 2048)]
    work = 1e10 if jax.default_backend() == "cpu" else 1e12  # long against the start of a call
    calls = {
        f"matmul/{dtype}/{'x'.join(map(str, shape))}": matmul_rate(shape, dtype, work)
        for shape in dict.fromkeys(shapes)
        for dtype in TYPES
    }
    flops = {name: update_flops(config, WALKER, batch) for name, config in configs.items()}
    machine = max(call() for name, call in calls.items() if "float32" in name)
    # About a second per call on this machine, so that starting it does not count.
    chunks = {name: int(np.clip(round(machine / one), 4, 1000)) for name, one in flops.items()}
    source = dataset.from_dataset(synthetic(EPISODES, DECISIONS), batch)
    for name, config in configs.items():
        for dtype in TYPES:
            agent = agents.module(name).make(dataclasses.replace(config, matmul=dtype), WALKER)
            calls[f"{name}/{dtype}"] = update_rate(agent, source, chunks[name])
    rounds = interleave(calls, seconds)
    metrics = summarise(rounds, flops)
    for name, config in configs.items():
        metrics[name]["xla_gflop_per_update"] = xla_flops(agents.module(name).make(config, WALKER), batch) / 1e9
    precision = str(jax.config.jax_default_matmul_precision)
    return metrics, {"updates_per_call": chunks, "rounds": rounds, "matmul_precision": precision}


def interleave(calls: Mapping[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """What each call returned, round by round, until `seconds` are over; a first round, not kept, compiles."""
    for call in calls.values():
        call()
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(rounds.values()))) < ROUNDS:
        for name, call in calls.items():
            rounds[name].append(call())
    return rounds


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


def synthetic(episodes: int, decisions: int) -> dataset.Dataset:
    """Random transitions of the walker's shapes."""
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.uniform(-1, 1, shape).astype(np.float32)  # noqa: E731
    width = WALKER.obs["state"][0]
    return dataset.from_episodes(
        [
            {
                "state": draw(decisions + 1, width),
                "action": draw(decisions, WALKER.action),
                "physics": np.zeros((decisions + 1, 1), np.float32),
            }
            for _ in range(episodes)
        ]
    )


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
        metrics[name] = {"gflop_per_update": flops / 1e9}
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
    return [*lines, f"bfloat16 / float32: {ratios}"]


def update_flops(config: td_jepa.Config | fb.Config, spec: Spec, batch: int) -> int:
    """Operations of one update's matrix products, counted from the layer sizes (TD-JEPA: two-encoder form)."""
    inputs = spec.obs["state"][0] + (config.inputs == "standardized")
    if isinstance(config, fb.Config):
        return 2 * batch * _fb(config, inputs, spec.action, batch)
    if config.symmetric:
        raise ValueError("only the two-encoder form of TD-JEPA is counted")
    return 2 * batch * _td_jepa(config, inputs, spec.action)


def _td_jepa(config: td_jepa.Config, inputs: int, action: int) -> int:
    """Multiply-adds per transition."""
    z, width = config.z_dim, config.phi_dim
    phi = _encoder(inputs, config.phi_hidden, config.phi_layers, width)
    psi = _encoder(inputs, config.psi_hidden, config.psi_layers, z)
    predict_psi = _forward_map(width, z, action, config.hidden, config.layers, z)
    predict_phi = _forward_map(z, z, action, config.hidden, config.layers, width)
    actor = _actor(width, z, action, config.hidden, config.layers)
    predictors = HEADS * (_size(predict_psi) + _size(predict_phi))
    targets = _size(psi) + _size(actor) + _size(phi) + _size(psi) + predictors  # goals use the online psi
    world = _learn_encoder(phi) + _learn_encoder(psi) + 3 * predictors
    acting = _size(phi) + _learn_actor(actor, predict_psi)
    # Orthonormality is a Gram matrix and two products for its gradient; then the covariance of psi.
    return targets + world + acting + 3 * (width**2 + z**2) + z**2


def _fb(config: fb.Config, inputs: int, action: int, batch: int) -> int:
    """Multiply-adds per transition."""
    z, width = config.z_dim, config.encoder_dim
    encoder = _encoder(inputs, config.encoder_hidden, config.encoder_layers, width)
    backward = _encoder(inputs, config.backward_hidden, config.backward_layers, z)
    forward = _forward_map(width, z, action, config.hidden, config.layers, z)
    actor = _actor(width, z, action, config.hidden, config.layers)
    targets = _size(backward) + _size(actor) + _size(encoder) + _size(backward) + HEADS * _size(forward)
    world = _learn_encoder(encoder) + _learn_encoder(backward) + 3 * HEADS * _size(forward)
    acting = _size(encoder) + _learn_actor(actor, forward)
    measure = batch * z * (1 + 3 * HEADS)  # the target, then each head with its two gradients
    return targets + world + acting + 3 * z**2 + measure


def _encoder(inputs: int, hidden: int, layers: int, out: int) -> Sizes:
    return [(inputs, hidden), *[(hidden, hidden)] * (layers - 1), (hidden, out)] if layers else [(inputs, out)]


def _forward_map(obs: int, z: int, action: int, hidden: int, layers: int, out: int) -> Sizes:
    return [*_embeddings(obs + action, obs + z, hidden), *[(hidden, hidden)] * layers, (hidden, out)]


def _actor(obs: int, z: int, action: int, hidden: int, layers: int) -> Sizes:
    return [*_embeddings(obs, obs + z, hidden), *[(hidden, hidden)] * layers, (hidden, action)]


def _embeddings(first: int, second: int, hidden: int) -> Sizes:
    return [(first, hidden), (hidden, hidden // 2), (second, hidden), (hidden, hidden // 2)]


def _size(layers: Sizes) -> int:
    return sum(inputs * outputs for inputs, outputs in layers)


def _learn_encoder(layers: Sizes) -> int:
    """Forward and weight gradients of all layers, input gradients of all but the first."""
    return 2 * _size(layers) + _size(layers[1:])


def _learn_actor(actor: Sizes, value: Sizes) -> int:
    """The actor's own three passes, and through the heads of the value: forward, then back to the action alone."""
    first = [actor[0], actor[2]]  # their inputs take no gradient
    latent_branch = value[2:4]  # the embedding of (state, latent) does not see the action
    return 3 * _size(actor) - _size(first) + HEADS * (2 * _size(value) - _size(latent_branch))


def xla_flops(agent: Agent, batch: int) -> float:
    """Operations of one update as XLA counts them before optimisation, element-wise ones included."""
    example = WALKER.example(batch)
    state = jax.eval_shape(agent.init, jax.random.key(0), example)
    return float(jax.jit(agent.update).lower(state, example, jax.random.key(0)).cost_analysis()["flops"])


def cpu_flags() -> dict[str, bool] | None:
    """Which matrix extensions the processor declares; None where the system does not say."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    found = set(path.read_text(encoding="utf-8").split())
    return {flag: flag in found for flag in CPU_FLAGS}


if __name__ == "__main__":
    main()
