"""One thread that answers requests, one at a time and in turn; at most one request per client waits.

A newer request of a client takes the place of its waiting one, which keeps its turn: who sends more often neither
gains nor loses. The message is read in this thread too, so that whoever sends rubbish spends only its own turns.
"""

import asyncio
import collections
import dataclasses
import logging
import secrets
import threading
import time
from typing import Any

import numpy as np

from embodied.serve.messages import MessageError, pack, unpack
from embodied.serve.servable import Servable, read_observation
from embodied.types import InputError

LOG = logging.getLogger("embodied.serve")
STOP_SECONDS = 5.0  # that a last inference may take when the server stops


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An answer that says why there are no actions."""

    kind: str  # row of `metrics.ERRORS` or `metrics.DROPPED`
    text: str


Answer = bytes | Refusal


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A message and the place of its answer."""

    data: bytes | str
    arrived: float  # time.monotonic()
    expires: float
    answer: asyncio.Future[Answer]


@dataclasses.dataclass(eq=False)
class Seat:
    """What the thread knows of one client."""

    waiting: Request | None = None  # guarded by the line
    carry: Any = None  # of the servable, once it has started
    started: bool = False


class Line:
    """Seats in the order of their turns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seats: collections.deque[Seat] = collections.deque()
        self._open = True

    def put(self, seat: Seat, request: Request | None) -> Request | None:
        """The request that this one replaces, if one was waiting; None as a request only takes that one out."""
        with self._changed:
            replaced, seat.waiting = seat.waiting, request
            if replaced is None and request is not None:
                self._seats.append(seat)
                self._changed.notify()
        return replaced

    def take(self) -> tuple[Seat, Request] | None:
        """The next seat and its request, once there is one; None when the line is closed."""
        with self._changed:
            while self._open:
                if not self._seats:
                    self._changed.wait()
                    continue
                seat = self._seats.popleft()
                request, seat.waiting = seat.waiting, None
                if request is not None:
                    return seat, request
        return None

    def close(self) -> None:
        """Nothing; whoever takes is told to go."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


class Inference:
    """The thread. Answers arrive in the futures of their requests, on the event loop that made it."""

    def __init__(self, servable: Servable) -> None:
        self.line = Line()
        self._servable = servable
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="embodied-serve-inference", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nothing; ends the thread after the answer it is at."""
        self.line.close()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while (turn := self.line.take()) is not None:
            seat, request = turn
            if time.monotonic() >= request.expires:
                continue  # its client has been told
            answer = answer_of(self._servable, seat, request)
            try:
                self._loop.call_soon_threadsafe(settle, request, answer)
            except RuntimeError:  # the loop is closed: the server has stopped waiting for this thread
                return


def answer_of(servable: Servable, seat: Seat, request: Request) -> Answer:
    """The packed actions for a request, or why there are none; remembers the carry in the seat only with actions."""
    begun = time.perf_counter()
    waited = time.monotonic() - request.arrived
    try:
        if isinstance(request.data, str):
            raise MessageError("message: must be binary, got text")
        observation, reset = read_observation(unpack(request.data), servable)
        carry = servable.start() if reset or not seat.started else seat.carry
        actions, carry = servable.infer(observation, carry)
        actions = np.asarray(actions)
        if not np.isfinite(actions).all():
            raise FloatingPointError("the policy gave an action that is not finite")
        timing = {"infer_ms": 1e3 * (time.perf_counter() - begun), "wait_ms": 1e3 * waited}
        answer = pack({"actions": actions, "server_timing": timing})
    except InputError as error:
        return refusal("message" if isinstance(error, MessageError) else "observation", str(error))
    except Exception:  # whatever a policy raises must not end the thread that all clients share
        refused = refusal("internal", "the policy failed; the log of the server tells more")
        LOG.exception("%s", refused.text)
        return refused
    seat.carry, seat.started = carry, True
    return answer


def refusal(kind: str, text: str) -> Refusal:
    """A refusal whose text ends with an identifier that the log shows too."""
    refused = Refusal(kind, f"{text} [{kind} error {secrets.token_hex(4)}]")
    LOG.info("%s", refused.text)
    return refused


def settle(request: Request, answer: Answer) -> None:
    """Nothing; answers a request that has no answer yet. Called on the event loop."""
    if not request.answer.done():
        request.answer.set_result(answer)
