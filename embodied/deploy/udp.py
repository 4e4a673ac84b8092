"""A robot in another process: states and orders as datagrams on the loopback, in real time.

A datagram is `HEAD` (magic, kind, count) and float64 numbers; that of an identity is JSON. The simulator publishes its
state several times per control tick to whoever asked last, and damps itself when no order has come for
`watchdog_ticks`: a policy that dies takes no robot with it.
"""

import contextlib
import json
import select
import socket
import struct
import sys
import time
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import InputError
from .robot import Identity, Order, State
from .simulation import Simulation, load_model

HEAD = struct.Struct("<4sBI")
MAGIC, HELLO, IDENTITY, STATE, TARGET, DAMPING = b"EMB1", 0, 1, 2, 3, 4
LARGEST = 65_507  # bytes of a datagram
PUBLICATIONS = 4  # states per control tick
PATIENCE = 2.0  # seconds that a robot may take to answer


def pack(kind: int, count: int, numbers: np.ndarray) -> bytes:
    """A datagram."""
    return HEAD.pack(MAGIC, kind, count & 0xFFFFFFFF) + np.asarray(numbers, "<f8").tobytes()


def unpack(datagram: bytes) -> tuple[int, int, bytes] | None:
    """(kind, count, what follows) of a datagram, or None for one that is not ours."""
    if len(datagram) < HEAD.size:
        return None
    magic, kind, count = HEAD.unpack_from(datagram)
    return (kind, count, datagram[HEAD.size :]) if magic == MAGIC else None


def numbers_of(payload: bytes, size: int) -> np.ndarray | None:
    """The float64 numbers of a payload, or None where it does not hold `size` of them."""
    return np.frombuffer(payload, "<f8") if len(payload) == 8 * size else None


class UdpRobot:
    """The client's end: a `RobotInterface`. Raises InputError where nobody answers."""

    def __init__(self, address: tuple[str, int]):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(address)
        self._socket.setblocking(False)
        self._count, self._newest = 0, -1
        self._state: State | None = None
        self._identity: Identity | None = None
        deadline = self.now() + PATIENCE
        while self._identity is None or self._state is None:
            if self.now() > deadline:
                raise InputError(f"robot: nobody answers at {address[0]}:{address[1]}; start the simulator first")
            self._send(pack(HELLO, 0, np.zeros(0)))
            self.wait(self.now() + 0.05)

    def identity(self) -> Identity:
        """What the robot says it is."""
        assert self._identity is not None
        return self._identity

    def now(self) -> float:
        """Seconds on this machine's monotonic clock; a state is stamped when it arrives."""
        return time.monotonic()

    def read(self) -> State:
        """The newest state that has arrived."""
        self._receive()
        assert self._state is not None
        return self._state

    def send(self, order: Order) -> None:
        """Nothing; sends the order once."""
        self._count += 1
        self._send(pack(TARGET if order.mode == "target" else DAMPING, self._count, order.target))

    def wait(self, until: float) -> None:
        """Nothing; receives until the clock shows `until`."""
        while (left := until - self.now()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                self._receive()

    def close(self) -> None:
        """Nothing; closes the socket."""
        self._socket.close()

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.send(datagram)
        except (ConnectionRefusedError, BlockingIOError):  # nobody there: the states that stay away tell
            time.sleep(0.001)

    def _receive(self) -> None:
        while True:
            try:
                parts = unpack(self._socket.recv(LARGEST))
            except (BlockingIOError, ConnectionRefusedError):
                return
            if parts is None:
                continue
            kind, count, payload = parts
            if kind == IDENTITY:
                fields = json.loads(payload)
                fields = {name: tuple(one) if isinstance(one, list) else one for name, one in fields.items()}
                self._identity = Identity(**fields)
            elif kind == STATE and count > self._newest and len(payload) % 8 == 0:
                self._newest = count
                self._state = State(self.now(), np.frombuffer(payload, "<f8"))


class Simulator:
    """The robot's end: the bundle's model in real time behind a socket. `address` is where it listens."""

    def __init__(self, bundle: Bundle, port: int = 0, start: np.ndarray | None = None):
        self._contract = bundle.contract
        self._robot = Simulation(bundle.contract, load_model(bundle), start)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self._socket.setblocking(False)
        self.address: tuple[str, int] = self._socket.getsockname()
        self._client: Any = None
        self._newest = self._published = 0
        self._limit = bundle.contract.safety.watchdog_ticks * bundle.contract.timing.control_dt
        self._heard: float | None = None  # when the last order came; None: none since the last damping

    def run(self, seconds: float = float("inf")) -> None:
        """Nothing; simulates in real time, and says on stdout when a policy drives it and when the watchdog acts."""
        timing = self._contract.timing
        every = timing.control_dt / PUBLICATIONS
        began, due = time.monotonic(), 0.0
        while due < seconds:
            now = time.monotonic() - began
            self._watch()
            if now < due:
                wake = due if self._heard is None else min(due, self._heard + self._limit - began)
                select.select([self._socket], [], [], max(0.0, wake - now))
                self._receive()
                continue
            self._robot.wait(due)
            self._publish()
            due += every
            if now - due > 1:  # this process was stopped: time goes on from here
                began += now - due

    def _watch(self) -> None:
        if self._heard is not None and (silent := time.monotonic() - self._heard) >= self._limit:
            self._robot.apply(Order("damping", np.zeros(0)))
            self._heard = None
            print(json.dumps({"event": "damping", "silent_ms": 1000 * silent}), flush=True)

    def _receive(self) -> None:
        while True:
            try:
                datagram, sender = self._socket.recvfrom(LARGEST)
            except (BlockingIOError, ConnectionRefusedError):
                return
            parts = unpack(datagram)
            if parts is None:
                continue
            kind, count, payload = parts
            if kind == HELLO:
                self._client, self._newest = sender, 0
                identity = json.dumps(vars(self._robot.identity())).encode()
                self._socket.sendto(HEAD.pack(MAGIC, IDENTITY, 0) + identity, sender)
                continue
            target = numbers_of(payload, len(self._contract.action.names))
            if sender == self._client and count > self._newest and target is not None:
                if kind == TARGET and self._heard is None:
                    print(json.dumps({"event": "driven"}), flush=True)
                self._newest, self._heard = count, time.monotonic() if kind == TARGET else None
                self._robot.apply(Order("target" if kind == TARGET else "damping", target))

    def _publish(self) -> None:
        if self._client is not None:
            self._published += 1
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                self._socket.sendto(pack(STATE, self._published, self._robot.read().readings), self._client)


def serve(bundle: Bundle, port: int, start: np.ndarray | None = None) -> None:
    """Nothing; runs a simulator until it is interrupted, after one line that says where it listens."""
    simulator = Simulator(bundle, port, start)
    print(json.dumps({"event": "listening", "port": simulator.address[1]}), flush=True)
    try:
        simulator.run()
    except KeyboardInterrupt:
        sys.exit(0)
