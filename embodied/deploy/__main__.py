"""`python -m embodied.deploy COMMAND BUNDLE`: run, verify or simulate a bundle, without JAX."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bundle import STARTS, Bundle, load
from .errors import InputError
from .robot import RobotInterface
from .runtime import Runtime, Tick
from .verify import verify

BAD_INPUT, STOPPED, FAILED = 2, 4, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 where golden vectors disagree, 2 for bad input, 4 where the runtime stopped by itself."""
    parser = argparse.ArgumentParser(prog="embodied deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="close the loop around the bundle's robot")
    run.add_argument("--prompt", help="name of a prompt in the bundle; the first one otherwise")
    run.add_argument("--switch", help="prompt to switch to half way")
    run.add_argument("--seconds", type=float, default=60.0, help="on the robot's clock")
    run.add_argument(
        "--rise", type=float, default=0.0, help="seconds from where the joints are to the pose of action 0"
    )
    run.add_argument("--robot", default="mujoco", help="mujoco, or udp:HOST:PORT of a simulator in another process")
    run.add_argument("--start", type=int, default=0, help="which start state of the bundle (mujoco only)")
    check = commands.add_parser("verify", help="check every byte and replay the golden vectors")
    simulate = commands.add_parser("simulate", help="the bundle's robot in real time, behind a UDP port")
    simulate.add_argument("--port", type=int, default=0)
    for each in (run, check, simulate):
        each.add_argument("bundle", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        bundle = load(chosen.bundle)
        match chosen.command:
            case "verify":
                return _verify(bundle)
            case "simulate":
                from .udp import serve

                serve(bundle, chosen.port, _start(bundle, 0))
                return 0
        return _run(bundle, chosen)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _verify(bundle: Bundle) -> int:
    verdict = verify(bundle)
    print(f"{len(bundle.content)} files match their checksums")
    print(f"{verdict.steps} golden steps: {verdict.unequal} observations differ in a bit")
    print(f"largest difference of an action {verdict.action_error:.1e}, of a target {verdict.target_error:.1e}")
    print("verified" if verdict.passed else "NOT verified")
    return 0 if verdict.passed else FAILED


def _run(bundle: Bundle, chosen: argparse.Namespace) -> int:
    prompt = chosen.prompt or next(iter(bundle.prompts), "")
    runtime = Runtime(bundle, _robot(bundle, chosen.robot, chosen.start), prompt)
    ticks: list[Tick] = []
    half = round(chosen.seconds / bundle.contract.timing.control_dt) // 2

    def each(tick: Tick) -> None:
        ticks.append(tick)
        if chosen.switch and len(ticks) == half:
            runtime.switch(chosen.switch)

    if chosen.switch:
        bundle.prompt(chosen.switch)  # a wrong name is told before the robot moves
    began = time.perf_counter()
    reason = runtime.rise(chosen.rise) or runtime.run(chosen.seconds, each)
    took = 1000 * np.array([tick.seconds for tick in ticks] or [0.0])
    print(f"prompt '{prompt}': {len(ticks)} ticks in {time.perf_counter() - began:.1f} s")
    print(f"inference p50 {np.percentile(took, 50):.3f} ms, p99 {np.percentile(took, 99):.3f} ms")
    print(f"stopped: {reason}" if reason else "ended in time")
    return STOPPED if reason else 0


def _robot(bundle: Bundle, address: str, start: int) -> RobotInterface:
    from .simulation import Simulation, load_model
    from .udp import UdpRobot

    kind, _, rest = address.partition(":")
    if kind == "mujoco":
        return Simulation(bundle.contract, load_model(bundle), _start(bundle, start))
    host, _, port = rest.rpartition(":")
    if kind != "udp" or not host or not port.isdecimal():
        raise InputError(f"robot: '{address}' is neither mujoco nor udp:HOST:PORT")
    return UdpRobot((host, int(port)))


def _start(bundle: Bundle, index: int) -> np.ndarray:
    states = bundle.arrays(STARTS)["physics"]
    if not 0 <= index < len(states):
        raise InputError(f"start: must lie in [0, {len(states)}), got {index}")
    return states[index]


if __name__ == "__main__":
    sys.exit(main())
