"""A client of the policy server that costs little beside it: a control loop that sends at fixed times, never later."""

import asyncio
import dataclasses

from websockets.client import ClientProtocol
from websockets.uri import WebSocketURI

PATIENCE = 5.0  # seconds until a message without an answer counts as lost
TEXT, BINARY, PING, PONG = 1, 2, 9, 10  # kinds of frames


@dataclasses.dataclass
class Samples:
    """What clients saw."""

    latency: list[float] = dataclasses.field(default_factory=list)  # seconds
    late: list[float] = dataclasses.field(default_factory=list)  # seconds
    lost: int = 0  # messages without an answer, or with an error
    missed: int = 0  # turns that came before the last answer


class Caller(asyncio.Protocol):
    """One client on a bare socket.

    Turns come at fixed times. One that comes before the last answer is missed, as a robot would have to do without an
    action; nothing is sent later than due to make up for it.
    """

    def __init__(self, target: WebSocketURI, message: bytes, samples: Samples) -> None:
        self._target, self._message, self._samples = target, masked(BINARY, message), samples
        self._loop = asyncio.get_running_loop()
        self.welcomed, self.ended = self._loop.create_future(), self._loop.create_future()
        self._open, self._unread = False, b""
        self._left = 0  # turns
        self._sent: float | None = None  # when the message without an answer left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(ClientProtocol(self._target).connect().serialize())

    def begin(self, first: float, period: float, turns: int) -> None:
        """Nothing; the first turn comes at `first` on the loop's clock."""
        self._due, self._period, self._left = first, period, turns
        self._loop.call_at(first, self._turn)

    def _turn(self) -> None:
        if self.ended.done():
            return
        now = self._loop.time()
        if self._sent is None and self._left:
            self._samples.late.append(now - self._due)
            self._sent = now
            self._transport.write(self._message)
        elif self._sent is None or now - self._sent > PATIENCE:
            self._end()
            return
        else:
            self._samples.missed += bool(self._left)
        self._left = max(0, self._left - 1)
        self._due += self._period
        self._loop.call_at(self._due, self._turn)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._open:
            head, found, rest = self._unread.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self._transport.close()
                return
            self._open, self._unread = True, rest
        while (frame := read_frame(self._unread)) is not None:
            kind, content, self._unread = frame
            if kind == PING:
                self._transport.write(masked(PONG, content))
            elif kind not in (TEXT, BINARY):
                self._transport.close()
            elif not self.welcomed.done():
                self.welcomed.set_result(None)
            elif self._sent is not None:
                self._samples.latency.append(self._loop.time() - self._sent)
                self._samples.lost += kind == TEXT
                self._sent = None

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(RuntimeError("the server refused a client"))
        self._end()

    def _end(self) -> None:
        if self.ended.done():
            return
        # The message without an answer, and those that a broken connection cannot send any more.
        self._samples.lost += (self._sent is not None) + self._left
        self.ended.set_result(None)
        self._transport.close()


def masked(kind: int, content: bytes) -> bytes:
    """A WebSocket frame of a client (RFC 6455, section 5.2), under the mask that changes nothing."""
    size = len(content)
    head = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
    return bytes([0x80 | kind]) + head + bytes(4) + content


def read_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """(kind, content, what follows) of the frame of a server that `data` begins with; None while it is incomplete."""
    if len(data) < 2:
        return None
    begin, size = 2, data[1]
    if size >= 126:
        begin = 4 if size == 126 else 10
        size = int.from_bytes(data[2:begin])
    if len(data) < begin + size:
        return None
    return data[0] & 0x0F, data[begin : begin + size], data[begin + size :]
