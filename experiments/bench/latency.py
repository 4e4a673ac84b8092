"""Latency of one decision, one thread, batch 1, at the published actor size, beside NumPy and beside the floor.

    python -m experiments.bench.latency [--seconds 20] [--out results/bench-latency.json]

onnxruntime on the exported graph, the same arithmetic in NumPy, the jitted JAX `act`, and reading as many bytes as
the weights have: a decision reads each weight once, so it cannot be faster. Measured by turns in one process; compare
ratios. Parity is measured in the same run: the largest difference of an action between JAX and onnxruntime.
"""

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all, before any of them is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

import jax
import numpy as np
import onnxruntime
import tyro

from agents import td_jepa
from embodied.deploy.contract import Command, Contract
from embodied.export.bundle import deployed
from embodied.export.onnx_graph import to_onnx
from embodied.policy import Buffer, Policy
from embodied.types import Spec
from envs.contract import contract_of
from experiments.collect import make_env
from experiments.results import write_result

STATES = 10_000  # of the parity check
BURST = 50  # decisions in a row, so that a round is long against the clock


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Latency of the published TD-JEPA actor for the walker."""

    out: Path = Path("results/bench-latency.json")
    seconds: float = 20.0
    states: int = STATES  # of the parity check


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.latency")
    started = time.perf_counter()
    policy, contract = published()
    metrics = measure(policy, contract, chosen.seconds, chosen.states)
    command = shlex.join(["python", "-m", "experiments.bench.latency", *words])
    write_result(chosen.out, command, metrics, [0], time.perf_counter() - started, threads=1, batch=1)
    for name, row in metrics["milliseconds"].items():
        print(f"{name:<12} p50 {row['p50']:7.3f} ms   p99 {row['p99']:7.3f} ms")
    print(f"onnxruntime p50 is {metrics['onnxruntime_over_floor']:.2f} of the floor; {metrics['parity']}")


def published(config: Any = None) -> tuple[Policy, Contract]:
    """An untrained policy at the published sizes (or of `config`), and its contract."""
    config = config or td_jepa.Config()
    env = make_env("walker", 2, threads=1)
    spec = Spec(obs=env.spec.obs, action=env.spec.action)
    params = td_jepa.make(config, spec).init(jax.random.key(0), spec.example()).params
    buffer = Buffer({"state": np.zeros((1, *spec.obs["state"]))}, np.zeros((1, env.spec.physics)))
    policy = Policy("td_jepa", config, spec, "walker", {"hold": 2}, params, buffer)
    return policy, contract_of(env.world, Command(config.z_dim, config.z_dim**0.5))


def measure(policy: Policy, contract: Contract, seconds: float, states: int) -> dict[str, Any]:
    """Latencies in ms, their ratios, the sizes, and the parity over `states` random states."""
    function = deployed(policy, contract)
    shapes = {"obs": (1, contract.width), "z": (1, contract.command.width)}
    model = to_onnx(function, shapes, ("action", "target", "finite"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    used = {name: policy.params[name] for name in ("phi", "actor")}
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(used))
    jitted, plain = jax.jit(function), in_numpy(policy)
    obs, z = (np.random.default_rng(0).normal(size=(states, *shape)).astype(np.float32) for shape in shapes.values())
    z *= contract.command.norm / np.linalg.norm(z, axis=-1, keepdims=True)
    infer = lambda i: session.run(["action"], {"obs": obs[i], "z": z[i]})[0]  # noqa: E731
    apart = max(float(np.abs(infer(i) - np.asarray(jitted(obs[i], z[i])[0])).max()) for i in range(states))
    apart_numpy = max(float(np.abs(plain(obs[i], z[i]) - infer(i)).max()) for i in range(min(states, 100)))
    memory = np.ones(weights // 4, np.float32)
    calls: dict[str, Callable[[int], Any]] = {
        "onnxruntime": infer,
        "numpy": lambda i: plain(obs[i], z[i]),
        "jax": lambda i: jitted(obs[i], z[i])[0].block_until_ready(),
        "floor": lambda i: memory @ memory,  # BLAS reads as fast as the memory gives
    }
    found = interleave(calls, seconds, states)
    rows = {name: {f"p{q}": float(np.percentile(times, q)) for q in (50, 99)} for name, times in found.items()}
    floor = rows["floor"]["p50"]
    return {
        "milliseconds": rows,
        "onnxruntime_over_floor": rows["onnxruntime"]["p50"] / floor,
        "numpy_over_onnxruntime": rows["numpy"]["p50"] / rows["onnxruntime"]["p50"],
        "weight_bytes": weights,
        "floor_gigabytes_per_second": weights / floor / 1e6,
        "nodes": len(model.graph.node),
        "parity": {"states": states, "largest_difference": apart, "numpy_largest_difference": apart_numpy},
    }


def interleave(calls: Mapping[str, Callable[[int], Any]], seconds: float, states: int) -> dict[str, list[float]]:
    """Milliseconds of every single call, in bursts by turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    index = 0
    while time.perf_counter() < end:
        for name, call in calls.items():
            for _ in range(BURST):
                index = (index + 1) % states
                start = time.perf_counter()
                call(index)
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def in_numpy(policy: Policy) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The actor's arithmetic in NumPy, for raw inputs and a linear phi."""
    params = jax.tree.map(np.asarray, policy.params)
    phi, actor = params["phi"], params["actor"]

    def dense(layer: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    def embed(layer: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
        x = dense(layer["in"], x)
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * layer["norm"]["scale"] + layer["norm"]["bias"]
        return np.maximum(dense(layer["out"], np.tanh(x)), 0)

    def act(obs: np.ndarray, z: np.ndarray) -> np.ndarray:
        x = dense(phi["head"], obs)
        x = x * np.float32(np.sqrt(x.shape[-1])) / np.linalg.norm(x)
        x = np.concatenate([embed(actor["obs"], x), embed(actor["obs_z"], np.concatenate([x, z], -1))], -1)
        for i in range(policy.config.layers):
            x = np.maximum(dense(actor[f"hidden_{i}"], x), 0)
        return np.tanh(dense(actor["head"], x))

    return act


if __name__ == "__main__":
    main()
