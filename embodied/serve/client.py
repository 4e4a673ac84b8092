"""A client for a control loop: it never waits longer than told, and never applies an action past its time.

    with Client("ws://127.0.0.1:8000", timeout=0.1) as client:
        chunk = client.infer({"state": state})
        motors(chunk.now())  # raises StaleActionError rather than give an old action

Row k of a chunk is for the k-th control step after its observation was taken; after the last row there is none.
"""

import contextlib
import dataclasses
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from embodied.serve.messages import MAX_BYTES, MessageError, pack, unpack
from embodied.types import InputError

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between attempts to connect, doubled after each
CLOSE_SECONDS = 0.1  # that ending a connection may take


class ServerError(RuntimeError):
    """The server's text about a request that it did not answer with actions."""


class StaleActionError(RuntimeError):
    """A chunk has no action for this moment any more."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Actions for the control steps that follow an observation."""

    actions: np.ndarray  # [H, A]
    observed: float  # time.monotonic() when the observation was taken
    control_dt: float  # seconds per row
    server_timing: Mapping[str, float]  # milliseconds

    def now(self, moment: float | None = None) -> np.ndarray:
        """The action for a moment, this one unless told. Raises StaleActionError behind the last row."""
        age = (time.monotonic() if moment is None else moment) - self.observed
        row = math.floor(age / self.control_dt)
        if not 0 <= row < len(self.actions):
            horizon = len(self.actions) * self.control_dt
            raise StaleActionError(f"action: its observation is {age:.3f} s old, its horizon is {horizon:.3f} s")
        return self.actions[row]


class Client:
    """A connection to a policy server, made when it is first needed and again after it broke.

    After a break the next attempt waits 0.1 s, then twice as long each time, up to 5 s; a call in between raises
    ConnectionError at once, so a control loop keeps its pace. A new connection begins a new episode.
    """

    def __init__(
        self, address: str, token: str | None = None, timeout: float = 1.0, control_dt: float | None = None
    ) -> None:
        self.address, self.timeout = address, timeout  # seconds that a call may take
        self.metadata: Mapping[str, Any] = {}  # what the server last said of itself
        self._headers = {"Authorization": f"Api-Key {token}"} if token else None
        self._control_dt = control_dt  # where the server does not say
        self._connection: ClientConnection | None = None
        self._open = contextlib.ExitStack()  # what `close` must end
        self._delay, self._attempt_at = FIRST_DELAY, 0.0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def infer(self, observation: Mapping[str, Any], observed: float | None = None) -> Chunk:
        """The actions for an observation that was taken at `observed` (time.monotonic(); now unless told).

        Raises TimeoutError where no answer comes within `timeout` seconds, ConnectionError without a connection that
        works, and ServerError where the server refuses; only the last keeps the connection.
        """
        begun = time.monotonic()
        deadline = begun + self.timeout
        message = pack(observation)
        connection = self._connect(deadline)
        try:
            connection.send(message)
            answer = connection.recv(max(0.0, deadline - time.monotonic()))
            if isinstance(answer, str):
                raise ServerError(answer)
            content = unpack(answer)
            actions = content.get("actions")
            if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not np.isfinite(actions).all():
                raise MessageError("answer: 'actions' must be a finite array [H, A]")
        except TimeoutError:
            self._break()  # its answer, if it still comes, must not pass for the next one
            raise TimeoutError(f"no answer from {self.address} within {self.timeout:g} s") from None
        except (WebSocketException, OSError, InputError) as error:
            self._break()
            raise ConnectionError(f"the connection to {self.address} broke ({error})") from error
        taken = begun if observed is None else observed
        return Chunk(actions, taken, self._step_seconds(), content.get("server_timing", {}))

    def close(self) -> None:
        """Nothing; ends the connection."""
        self._connection = None
        self._open.close()

    def _connect(self, deadline: float) -> ClientConnection:
        if self._connection is not None:
            return self._connection
        wait = self._attempt_at - time.monotonic()
        if wait > 0:
            raise ConnectionError(f"not connected to {self.address}; the next attempt is in {wait:.1f} s")
        try:
            opening = connect(
                self.address,
                compression=None,
                max_size=MAX_BYTES,
                additional_headers=self._headers,
                open_timeout=max(0.001, deadline - time.monotonic()),
                close_timeout=CLOSE_SECONDS,
            )
            connection = self._open.enter_context(opening)
            # Only receiving has a timeout of its own; a full socket would hold up sending for good.
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(self.timeout))
            welcome = connection.recv(max(0.0, deadline - time.monotonic()))
            if isinstance(welcome, str):
                raise ServerError(welcome)
            self.metadata = unpack(welcome)
        except (WebSocketException, OSError, InputError, ServerError) as error:
            self._break()
            raise ConnectionError(f"cannot connect to {self.address} ({error or type(error).__name__})") from error
        self._connection, self._delay = connection, FIRST_DELAY
        return connection

    def _break(self) -> None:
        """Nothing; drops the connection and puts the next attempt off."""
        self.close()
        self._attempt_at = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY)

    def _step_seconds(self) -> float:
        seconds = self._control_dt or self.metadata.get("control_dt")
        if not seconds:
            raise InputError(
                f"control_dt: {self.address} does not say how long a row of actions holds; pass control_dt"
            )
        return float(seconds)


def _timeval(seconds: float) -> bytes:
    """A duration as the system's `struct timeval`."""
    whole = int(seconds)
    return struct.pack("ll", whole, int(1e6 * (seconds - whole)))
