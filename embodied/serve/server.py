"""The policy server: WebSockets in the message form of openpi, with /healthz and /metrics on the same port.

    with running(servable, ServeConfig(port=0)) as server:
        Client(f"ws://127.0.0.1:{server.port}").infer({"state": state})

A connection is told the metadata first. Then every message gets exactly one answer, in the order in which the messages
came: a map with "actions" [H, A] and "server_timing", or a text that says what was wrong. Each connection has a task
that reads and one that writes, so a client that does not read delays nobody; when its answers have not left for
`STALL_SECONDS`, it is cut off. A client that sends on without reading is no longer read after `UNANSWERED` messages.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from websockets.asyncio import server as websockets
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as Handshake
from websockets.http11 import Response

from embodied.ranges import check_ranges
from embodied.serve.access import is_loopback, permits
from embodied.serve.inference import LOG, Inference, Refusal, Request, Seat, refusal, settle
from embodied.serve.messages import MAX_BYTES, pack
from embodied.serve.metrics import Metrics
from embodied.serve.servable import Servable
from embodied.types import InputError

RANGES = {"[0, 65535]": ("port",), "[1, 4096]": ("connections",), "(0, 60]": ("deadline",)}
UNANSWERED = 16  # messages of one client; no more are read before one is answered
STALL_SECONDS = 2.0  # that answers may wait for a client to read them
SEND_BYTES = 2**14  # of answers that a client has not read: this much in the server, some more in the system
OPEN_SECONDS = 5.0  # that a connection may take to begin
CLOSE_SECONDS = 1.0  # that a connection may take to end
SPARE_SOCKETS = 32  # beside those of the clients: for /healthz, /metrics, and connections that begin
SWITCH_SECONDS = 0.0005  # that one of the two threads may keep the other from running
OVERHEAD_BYTES = 2**16  # of a message, beside the numbers of its observation

# What strangers do to a port (scans, broken handshakes) is no news.
_QUIET = logging.getLogger("embodied.serve.wire")
_QUIET.setLevel(logging.CRITICAL)


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Where a server listens, and what it grants."""

    host: str = "127.0.0.1"  # any other than this machine's own needs a token
    port: int = 8000  # 0 = any that is free
    token: str | None = None  # that clients must send as "Authorization: Api-Key TOKEN"
    connections: int = 64  # at the same time
    deadline: float = 1.0  # seconds from a request's arrival to its answer, later it is an error

    def __post_init__(self) -> None:
        check_ranges("serve", self, RANGES)
        if self.token is None and not is_loopback(self.host):
            raise InputError(
                f"host: '{self.host}' can be reached from other machines, which needs a token; "
                "give --token-file FILE, or listen on 127.0.0.1"
            )


class Server:
    """A server that listens between `async with` and its end."""

    port: int  # that it listens on

    def __init__(self, servable: Servable, config: ServeConfig) -> None:
        self.servable, self.config = servable, config
        self.metrics = Metrics()
        self.sockets = 0
        self.message_bytes = message_limit(servable)
        shapes = {name: list(shape) for name, shape in servable.schema.items()}
        self._welcome = pack({**servable.metadata, "observation": shapes, "message_bytes": self.message_bytes})

    async def __aenter__(self) -> "Server":
        config = self.config
        self._inference = Inference(self.servable)
        try:
            self._listener = await websockets.serve(
                self._attend,
                config.host,
                config.port,
                process_request=self._admit,
                create_connection=functools.partial(_Connection, self),
                compression=None,
                max_size=self.message_bytes,
                max_queue=1,
                write_limit=SEND_BYTES,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                server_header=None,
                logger=_QUIET,
            )
        except OSError as error:
            self._inference.stop()
            raise InputError(
                f"port: {config.host}:{config.port} cannot be listened on ({error.strerror}); choose another"
            ) from None
        self.port = next(iter(self._listener.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._listener.wait_closed()
        await asyncio.to_thread(self._inference.stop)

    def _admit(self, connection: "_Connection", handshake: Handshake) -> Response | None:
        """The answer to a plain request, or to a connection that is refused; None lets it begin."""
        path = handshake.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(200, "OK\n")
        if not permits(self.config.token, handshake.headers.get_all("Authorization")):
            return self._refuse(connection, "token", 401, "send 'Authorization: Api-Key TOKEN'\n")
        if "Origin" in handshake.headers:
            return self._refuse(connection, "origin", 403, "pages in a browser may not connect\n")
        if path == "/metrics":
            return _plain(connection.respond(200, self.metrics.text()))
        if path != "/":
            return self._refuse(connection, "path", 404, "there are /, /healthz and /metrics\n")
        if self.metrics.connections >= self.config.connections:
            return self._refuse(connection, "full", 503, f"all {self.config.connections} connections are taken\n")
        connection.admitted = True
        self.metrics.connections += 1
        self.metrics.count("connections_total")
        return None

    def _refuse(self, connection: "_Connection", reason: str, status: int, text: str) -> Response:
        self.metrics.count("refused_total", reason)
        return connection.respond(status, text)

    async def _attend(self, connection: websockets.ServerConnection) -> None:
        """Nothing; serves one client until its connection is closed, by whomever."""
        seat = Seat()
        unanswered: asyncio.Queue[Request] = asyncio.Queue(UNANSWERED)
        try:
            await connection.send(self._welcome)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(connection, seat, unanswered))
                tasks.create_task(self._write(connection, unanswered))
        except* ConnectionClosed:
            pass
        except* Exception:
            LOG.exception("a connection failed")
        finally:
            self._inference.line.put(seat, None)

    async def _read(
        self, connection: websockets.ServerConnection, seat: Seat, unanswered: asyncio.Queue[Request]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await connection.recv()
            now = time.monotonic()
            request = Request(data, now, now + self.config.deadline, loop.create_future())
            self.metrics.count("requests_total")
            replaced = self._inference.line.put(seat, request)
            if replaced is not None:
                settle(replaced, refusal("replaced", "a newer message came before this one was looked at"))
            await unanswered.put(request)

    async def _write(self, connection: websockets.ServerConnection, unanswered: asyncio.Queue[Request]) -> None:
        while True:
            request = await unanswered.get()
            try:
                async with asyncio.timeout_at(request.expires):  # the loop's clock is time.monotonic
                    answer = await request.answer
            except TimeoutError:
                answer = refusal("deadline", f"no actions within {self.config.deadline:g} s")
            if isinstance(answer, Refusal):
                counter = "dropped_total" if answer.kind in ("replaced", "deadline") else "errors_total"
                self.metrics.count(counter, answer.kind)
                await connection.send(answer.text)
            else:
                self.metrics.answered(time.monotonic() - request.arrived)
                await connection.send(answer)


class _Connection(websockets.ServerConnection):
    """A connection that is counted, and cut off when its client does not read."""

    def __init__(self, owner: Server, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.owner, self.admitted = owner, False
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.owner.sockets += 1
        if self.owner.sockets > self.owner.config.connections + SPARE_SOCKETS:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.owner.sockets -= 1
        self.owner.metrics.connections -= self.admitted
        if self._stall is not None:
            self._stall.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self._cut_off)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def _cut_off(self) -> None:
        self.owner.metrics.count("stalled_total")
        self.transport.abort()


def message_limit(servable: Servable) -> int:
    """Bytes that a message may have: twice the observation in float64, and room for names and extras."""
    numbers = sum(math.prod(shape) for shape in servable.schema.values())
    return min(MAX_BYTES, OVERHEAD_BYTES + 16 * numbers)


def _plain(response: Response) -> Response:
    kind = "text/plain; version=0.0.4; charset=utf-8"  # of Prometheus' text format
    kept = [(name, value) for name, value in response.headers.raw_items() if name != "Content-Type"]
    return dataclasses.replace(response, headers=Headers([*kept, ("Content-Type", kind)]))


def serve(servable: Servable, config: ServeConfig, announce: Callable[[Server], None]) -> None:
    """Nothing; serves until SIGINT or SIGTERM. `announce` is called once the server listens. Main thread only."""

    async def until_signalled() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with Server(servable, config) as server:
            announce(server)
            await stop.wait()

    before = sys.getswitchinterval()
    # The event loop has answers to send while the other thread works; with Python's 5 ms they would wait that long.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        asyncio.run(until_signalled())
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def running(servable: Servable, config: ServeConfig) -> Iterator[Server]:
    """A server in a thread of its own, for as long as the context lasts."""
    started: concurrent.futures.Future[tuple[Server, Callable[[], None]]] = concurrent.futures.Future()

    async def until_left() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with Server(servable, config) as server:
            started.set_result((server, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(until_left())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="embodied-serve", daemon=True)
    thread.start()
    server, stop = started.result()
    try:
        yield server
    finally:
        stop()
        thread.join()
