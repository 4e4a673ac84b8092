"""Latency of the policy server under many clients, with and without one that does not read.

    python -m experiments.bench.serve [--model walker] [--clients 64] [--rate 50] [--seconds 180]

The server is `embodied serve` in a process of its own, on loopback. Latency runs from the sending of a message to its
answer, as the client sees it. A turn that comes before the last answer is missed, and counted, so the time that a slow
server takes away does not hide; `late` is how far behind its turn a message was sent, which is the bench's own. In the
second phase one of the clients sends at the same rate and reads nothing; whenever the server cuts it off it comes
again. Both processes share the cores of one machine.
"""

import asyncio
import contextlib
import dataclasses
import math
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from embodied.serve.messages import pack, unpack
from experiments.bench.caller import BINARY, PATIENCE, Caller, Samples, masked
from experiments.results import write_result

START_SECONDS = 60.0  # that a process may take to import and connect
SERVER = (sys.executable, "-c", "from experiments.cli import main; main()", "serve")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Latency of `embodied serve` under load."""

    model: str = "walker"  # shipped model or run directory
    clients: int = 64
    rate: float = 50.0  # messages per second and client
    seconds: float = 180.0  # of each of the two phases
    out: Path = Path("results/bench-serve.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the result file."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.serve")
    started = time.perf_counter()
    metrics = measure(chosen)
    command = shlex.join(["python", "-m", "experiments.bench.serve", *words])
    settings = {name: getattr(chosen, name) for name in ("model", "clients", "rate", "seconds")}
    write_result(chosen.out, command, metrics, [0], time.perf_counter() - started, **settings)
    print("\n".join([*table(metrics), f"wrote {chosen.out}"]))


def measure(chosen: Arguments) -> dict[str, Any]:
    """The metrics of both phases."""
    with server(chosen.model) as (process, address):
        message = asyncio.run(example(address))
        asyncio.run(load(address, message, chosen.clients, chosen.rate, min(2.0, chosen.seconds)))  # warms up
        before = memory(process.pid)
        alone = summarise(asyncio.run(load(address, message, chosen.clients, chosen.rate, chosen.seconds)))
        between = memory(process.pid)
        crowd = beside_stalled(address, message, chosen.clients, chosen.rate, chosen.seconds)
        beside = summarise(asyncio.run(crowd))
        after = memory(process.pid)
        cut_off = counter(address, "stalled_total")
    return {
        "alone": alone,
        "beside_stalled": beside,
        "stalled_adds_to_p99_ms": beside["p99_ms"] - alone["p99_ms"],
        "stalled_cut_off": cut_off,
        "server_memory_mib": {"before": before, "between": between, "after": after},
    }


@contextlib.contextmanager
def server(model: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(process, address) of a server on a free port; it must end well when told to."""
    command = [*SERVER, model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            address = next((word for word in first.split() if word.startswith("ws://")), "")
            if not address:
                raise RuntimeError("the server did not start")
            yield process, address
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    if process.returncode:
        raise RuntimeError(f"the server ended with exit code {process.returncode}")


async def example(address: str) -> bytes:
    """A message for the policy behind `address`: an observation of zeros, and a latent where it takes one."""
    async with connect(address, compression=None) as connection:
        about = unpack(await connection.recv(decode=False))
    message: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in about["observation"].items()}
    if width := about.get("latent"):
        draw = np.random.default_rng(0).standard_normal(width)
        message["z"] = (draw * math.sqrt(width) / np.linalg.norm(draw)).astype(np.float32)
    return pack(message)


async def load(address: str, message: bytes, clients: int, rate: float, seconds: float) -> Samples:
    """What all clients together saw; their turns are spread evenly over a period."""
    samples, loop = Samples(), asyncio.get_running_loop()
    target = parse_uri(address)
    callers = [Caller(target, message, samples) for _ in range(clients)]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, target.host, target.port)  # type: ignore[misc]
    async with asyncio.timeout(START_SECONDS):
        await asyncio.gather(*(caller.welcomed for caller in callers))
    first = loop.time() + 0.1
    for index, caller in enumerate(callers):
        caller.begin(first + index / (clients * rate), 1 / rate, round(rate * seconds))
    await asyncio.gather(*(caller.ended for caller in callers))
    return samples


async def beside_stalled(address: str, message: bytes, clients: int, rate: float, seconds: float) -> Samples:
    """What all clients but one together saw, while that one sends and never reads."""
    stalled = asyncio.create_task(stall(address, message, rate))
    await asyncio.sleep(min(1.0, seconds))
    try:
        return await load(address, message, clients - 1, rate, seconds)
    finally:
        stalled.cancel()


async def stall(address: str, message: bytes, rate: float) -> None:
    """Nothing, ever; sends without reading, on a new connection whenever the last one broke."""
    target, loop = parse_uri(address), asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), socket.socket() as link:
            link.setblocking(False)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else megabytes would be read for it
            await loop.sock_connect(link, (target.host, target.port))
            await loop.sock_sendall(link, ClientProtocol(target).connect().serialize())
            while True:
                await asyncio.sleep(1 / rate)
                await loop.sock_sendall(link, masked(BINARY, message))
        await asyncio.sleep(1 / rate)


def summarise(samples: Samples) -> dict[str, Any]:
    """Percentiles in milliseconds, and counts."""
    if not samples.latency:
        raise RuntimeError("no message was answered")
    milliseconds = 1e3 * np.asarray(samples.latency)
    return {
        "answers": len(samples.latency),
        "lost": samples.lost,
        "missed": samples.missed,
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "max_ms": float(milliseconds.max()),
        "late_p99_ms": float(1e3 * np.percentile(samples.late, 99)),
    }


def memory(process: int) -> float | None:
    """Resident memory of a process in MiB; None where the system does not say."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    rows = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return round(int(rows["VmRSS"].split()[0]) / 1024, 1)


def counter(address: str, name: str) -> int:
    """A counter without labels from the server's metrics."""
    with urllib.request.urlopen(address.replace("ws://", "http://") + "/metrics", timeout=PATIENCE) as page:
        lines = page.read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"embodied_serve_{name} "))


def table(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics as lines of text."""
    lines = [
        f"{'':16} {'answers':>9} {'lost':>6} {'missed':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'late ms':>8}"
    ]
    for name in ("alone", "beside_stalled"):
        row = metrics[name]
        counts = f"{row['answers']:9,} {row['lost']:6} {row['missed']:8,}"
        times = f"{row['p50_ms']:8.2f} {row['p99_ms']:8.2f} {row['max_ms']:8.1f} {row['late_p99_ms']:8.2f}"
        lines.append(f"{name:16} {counts} {times}")
    held = metrics["server_memory_mib"]
    lines.append(f"a stalled client adds {metrics['stalled_adds_to_p99_ms']:.2f} ms to the p99 of the others")
    lines.append(f"it was cut off {metrics['stalled_cut_off']} times; memory of the server in MiB: {held}")
    return lines


if __name__ == "__main__":
    main()
