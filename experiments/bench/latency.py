"""Latency of one decision, one thread, batch 1, at published sizes: of an actor, or of a planner.

    python -m experiments.bench.latency [--agent tdmpc2] [--seconds 20] [--out results/bench-latency.json]

onnxruntime on the exported graph and the jitted JAX `act`. For the actor of TD-JEPA also the same arithmetic in NumPy,
and reading as many bytes as the weights have: a decision reads each weight once, so it cannot be faster. A plan of
TD-MPC2, 6 rounds of 512 sequences of 3 actions, takes 23 G multiply-adds. Measured by turns in one process; compare
ratios. Parity is measured in the same run: the largest difference of an action between JAX and onnxruntime.
"""

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for all, before any of them is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

import jax
import numpy as np
import onnxruntime
import tyro

import agents
from embodied.deploy.contract import Command, Contract
from embodied.export.bundle import deployed
from embodied.export.onnx_graph import to_onnx
from embodied.policy import Buffer, Policy
from embodied.types import Prior, Spec
from envs.contract import contract_of
from experiments.collect import make_env
from experiments.results import write_result

ACTOR, PLANNER = "td_jepa", "tdmpc2"
STATES = {ACTOR: 10_000, PLANNER: 50}  # of the parity check
BURST = 50  # decisions in a row, so that a round is long against the clock


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Latency of a published TD-JEPA actor, or of a TD-MPC2 planner, for the walker."""

    agent: Literal["td_jepa", "tdmpc2"] = "td_jepa"
    out: Path | None = None  # None = results/bench-latency.json, or bench-latency-AGENT.json for the planner
    seconds: float = 20.0
    states: int | None = None  # of the parity check; None = 10,000, for the planner 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.latency")
    started = time.perf_counter()
    policy, contract = published(chosen.agent)
    metrics = measure(policy, contract, chosen.seconds, chosen.states or STATES[chosen.agent])
    command = shlex.join(["python", "-m", "experiments.bench.latency", *words])
    name = "bench-latency" if chosen.agent == ACTOR else f"bench-latency-{chosen.agent}"
    out = chosen.out or Path(f"results/{name}.json")
    write_result(out, command, metrics, [0], time.perf_counter() - started, threads=1, batch=1)
    for name, row in metrics["milliseconds"].items():
        rate = metrics["hertz"][name]
        print(f"{name:<12} p50 {row['p50']:8.3f} ms   p99 {row['p99']:8.3f} ms   {rate:9.1f} decisions/s at the median")
    print("   ".join(f"{name}: {metrics[name]}" for name in ("onnxruntime_over_floor", "parity") if name in metrics))


def published(name: str = ACTOR, config: Any = None) -> tuple[Policy, Contract]:
    """An untrained policy at the published sizes (or of `config`), and its contract."""
    module, env = agents.module(name), make_env("walker", 2, threads=1)
    config = config or module.Config()
    spec = Spec(obs=env.spec.obs, action=env.spec.action)
    params = module.make(config, spec).init(jax.random.key(0), spec.example()).params
    buffer = Buffer({"state": np.zeros((1, *spec.obs["state"]))}, np.zeros((1, env.spec.physics)))
    policy = Policy(name, config, spec, "walker", {"hold": 2}, params, buffer)
    width = len(policy.prompt(Prior()).z)
    return policy, contract_of(env.world, Command(width, width**0.5))


def measure(policy: Policy, contract: Contract, seconds: float, states: int) -> dict[str, Any]:
    """Latencies in ms, decisions per second, the sizes, and the parity over `states` random states.

    Of an actor also how it compares with NumPy and with the floor.
    """
    function = deployed(policy, contract)
    latent = {"z": (1, contract.command.width)} if contract.command.width else {}
    shapes = {"obs": (1, contract.width)} | latent
    model = to_onnx(function, shapes, ("action", "target", "finite"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng, jitted = np.random.default_rng(0), jax.jit(function)
    given = {name: rng.normal(size=(states, *shape)).astype(np.float32) for name, shape in shapes.items()}
    if latent:
        given["z"] *= contract.command.norm / np.linalg.norm(given["z"], axis=-1, keepdims=True)
    infer = lambda i: session.run(["action"], {name: rows[i] for name, rows in given.items()})[0]  # noqa: E731
    in_jax = lambda i: jitted(*(rows[i] for rows in given.values()))[0].block_until_ready()  # noqa: E731
    apart = max(float(np.abs(infer(i) - np.asarray(in_jax(i))).max()) for i in range(states))
    calls: dict[str, Callable[[int], Any]] = {"onnxruntime": infer, "jax": in_jax}
    if policy.agent_name == ACTOR:
        plain, memory = in_numpy(policy), np.ones(_weights(policy) // 4, np.float32)
        calls["numpy"] = lambda i: plain(given["obs"][i], given["z"][i])
        calls["floor"] = lambda i: memory @ memory  # BLAS reads as fast as the memory gives
    found = interleave(calls, seconds, states)
    rows = {name: {f"p{q}": float(np.percentile(times, q)) for q in (50, 99)} for name, times in found.items()}
    metrics: dict[str, Any] = {
        "milliseconds": rows,
        "hertz": {name: 1000 / row["p50"] for name, row in rows.items()},
        "nodes": len(model.graph.node),
        "parity": {"states": states, "largest_difference": apart},
    }
    if policy.agent_name == ACTOR:
        differences = (np.abs(calls["numpy"](i) - infer(i)).max() for i in range(min(states, 100)))
        metrics["parity"]["numpy_largest_difference"] = float(max(differences))
        metrics |= _beside_the_floor(policy, rows)
    return metrics


def _weights(policy: Policy) -> int:
    """Bytes of the weights that the actor reads."""
    return sum(leaf.size * 4 for name in ("phi", "actor") for leaf in jax.tree.leaves(policy.params[name]))


def _beside_the_floor(policy: Policy, rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    floor, weights = rows["floor"]["p50"], _weights(policy)
    return {
        "onnxruntime_over_floor": rows["onnxruntime"]["p50"] / floor,
        "numpy_over_onnxruntime": rows["numpy"]["p50"] / rows["onnxruntime"]["p50"],
        "weight_bytes": weights,
        "floor_gigabytes_per_second": weights / floor / 1e6,
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
