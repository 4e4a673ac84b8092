"""What a bundle's runtime survives: killed policies, wild actions, flipped bits.

    python -m experiments.bench.faults BUNDLE [--kills 50] [--actions 1000000] [--out results/bench-faults.json]

A killed policy: how long the simulated robot, in its own process, went without an order before it damped itself.
"""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tyro

from embodied.deploy import bundle as layout
from embodied.deploy.contract import Contract
from embodied.deploy.safety import Proposal, Safety
from embodied.types import InputError
from experiments.results import write_result

PATIENCE = 60.0  # seconds for one policy to start, drive and be noticed missing


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Faults tried on a bundle."""

    bundle: tyro.conf.Positional[Path]
    out: Path = Path("results/bench-faults.json")
    kills: int = 50
    actions: int = 1_000_000
    flips: int = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Tries, prints and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.faults")
    started = time.perf_counter()
    loaded = layout.load(chosen.bundle)
    silent = kill(chosen.bundle, chosen.kills)
    limit = 1000 * loaded.contract.safety.watchdog_ticks * loaded.contract.timing.control_dt
    metrics = {
        "killed": {
            "times": len(silent),
            "watchdog_ms": limit,
            "silent_ms": {"median": float(np.median(silent)), "largest": float(np.max(silent))},
            "within_two_ticks": int((np.array(silent) <= 2000 * loaded.contract.timing.control_dt).sum()),
        },
        "random_actions": random_actions(loaded.contract, chosen.actions),
        "flips": {"tried": chosen.flips, "detected": flips(chosen.bundle, chosen.flips)},
    }
    command = shlex.join(["python", "-m", "experiments.bench.faults", *words])
    write_result(chosen.out, command, metrics, [0], time.perf_counter() - started, robot=loaded.contract.robot.name)
    print(json.dumps(metrics, indent=1))


def kill(bundle: Path, times: int) -> list[float]:
    """Milliseconds without an order until the robot damped itself, for each policy process that was killed."""
    module = [sys.executable, "-m", "embodied.deploy"]
    silent = []
    rng = np.random.default_rng(0)
    with subprocess.Popen([*module, "simulate", str(bundle)], stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout is not None
        port = json.loads(simulator.stdout.readline())["port"]
        for _ in range(times):
            command = [*module, "run", str(bundle), "--robot", f"udp:127.0.0.1:{port}", "--rise", "1"]
            # A simulator that says nothing for so long is ended, and its silence is told.
            watch = threading.Timer(PATIENCE, simulator.kill)
            watch.start()
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as policy:
                _event(simulator.stdout, "driven")
                time.sleep(1 + rng.uniform())
                os.kill(policy.pid, signal.SIGKILL)
            silent.append(_event(simulator.stdout, "damping")["silent_ms"])
            watch.cancel()
        simulator.kill()
    return silent


def _event(lines: TextIO, wanted: str) -> dict[str, Any]:
    """The next event of the simulator of that kind; stops where there is none."""
    for line in lines:
        event = json.loads(line)
        if event["event"] == wanted:
            return event
    raise SystemExit(f"error: the simulator ended before '{wanted}'")


def random_actions(contract: Contract, count: int) -> dict[str, Any]:
    """How far the targets of `count` wild proposals were outside of limits and slew: 0 where all were inside."""
    names = contract.action.names
    low, high = np.array([contract.action.limit[name] for name in names]).T
    slew = np.array([contract.safety.slew.get(name, np.inf) for name in names])
    machine = Safety(contract, np.array([contract.action.offset[name] for name in names]))
    rng, before = np.random.default_rng(0), machine.held
    outside = fast = 0.0
    for _ in range(count // 1000):
        for target in rng.standard_cauchy((1000, len(names))):
            order = machine.order(Proposal(target, True, 0.0))
            outside = max(outside, float(np.max(low - order.target)), float(np.max(order.target - high)))
            fast = max(fast, float(np.max(np.abs(order.target - before) - slew)))
            before = order.target
    return {"tried": count // 1000 * 1000, "outside_limits": max(outside, 0.0), "over_slew": max(fast, 0.0)}


def flips(bundle: Path, count: int) -> int:
    """How many of `count` single flipped bits, each in a copy, were noticed before anything ran."""
    rng, noticed = np.random.default_rng(0), 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(bundle, Path(scratch) / "bundle")
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        for index in range(count):
            path = files[index % len(files)]
            original = path.read_bytes()
            changed = bytearray(original)
            changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
            try:
                layout.load(copy)
            except InputError:
                noticed += 1
            path.write_bytes(original)
    return noticed


if __name__ == "__main__":
    main()
