"""One thread that answers requests in turn, all that wait in one call; at most one request per client waits.

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
from collections.abc import Sequence
from typing import Any

import numpy as np

from embodied.serve.messages import MessageError, pack, unpack
from embodied.serve.servable import Question, Result, Servable, read_observation
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

    def take(self, count: int) -> list[tuple[Seat, Request]]:
        """The next seats, at most `count`, with their requests, once there is one; none when the line is closed."""
        taken: list[tuple[Seat, Request]] = []
        with self._changed:
            while self._open and not taken:
                if not self._seats:
                    self._changed.wait()
                while self._seats and len(taken) < count:
                    seat = self._seats.popleft()
                    request, seat.waiting = seat.waiting, None
                    if request is not None:
                        taken.append((seat, request))
        return taken

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
        while turns := self.line.take(self._servable.batch):
            now = time.monotonic()  # the clients of what has expired have been told
            answers = answers_of(self._servable, [turn for turn in turns if now < turn[1].expires])
            try:
                self._loop.call_soon_threadsafe(settle_all, answers)
            except RuntimeError:  # the loop is closed: the server has stopped waiting for this thread
                return


def answers_of(servable: Servable, turns: Sequence[tuple[Seat, Request]]) -> list[tuple[Request, Answer]]:
    """Each request with its packed actions, or with why there are none; seats remember the carry only with actions."""
    begun, now = time.perf_counter(), time.monotonic()
    read = [(seat, request, question_of(servable, seat, request)) for seat, request in turns]
    answers: list[tuple[Request, Answer]] = [
        (request, asked) for _, request, asked in read if isinstance(asked, Refusal)
    ]
    understood = [(seat, request, asked) for seat, request, asked in read if not isinstance(asked, Refusal)]
    results = inferred(servable, [asked for _, _, asked in understood])
    infer_ms = 1e3 * (time.perf_counter() - begun)
    for (seat, request, _), result in zip(understood, results, strict=True):
        if isinstance(result, Refusal):
            answers.append((request, result))
            continue
        actions, seat.carry = result
        seat.started = True
        timing = {"infer_ms": infer_ms, "wait_ms": 1e3 * (now - request.arrived)}
        answers.append((request, pack({"actions": actions, "server_timing": timing})))
    return answers


def question_of(servable: Servable, seat: Seat, request: Request) -> Question | Refusal:
    """What a request asks the servable, or why it cannot."""
    try:
        if isinstance(request.data, str):
            raise MessageError("message: must be binary, got text")
        observation, reset = read_observation(unpack(request.data), servable)
    except InputError as error:
        return refusal("message" if isinstance(error, MessageError) else "observation", str(error))
    return observation, servable.start() if reset or not seat.started else seat.carry


def inferred(servable: Servable, asked: Sequence[Question]) -> list[tuple[np.ndarray, Any] | Refusal]:
    """Finite actions [H, A] and the next carry for each question, or why there are none.

    Where the policy fails on several questions at once, each is asked again by itself: one client's must not spoil the
    answers of others.
    """
    try:
        return [_checked(result) for result in (servable.infer(asked) if asked else [])]
    except Exception as error:  # whatever a policy raises must not end the thread that all clients share
        if len(asked) == 1:
            return [_failed(error)]
    return [answer for question in asked for answer in inferred(servable, [question])]


def _checked(result: Result) -> tuple[np.ndarray, Any] | Refusal:
    if isinstance(result, InputError):
        return refusal("observation", str(result))
    actions = np.asarray(result[0])
    if not np.isfinite(actions).all():
        return _failed(FloatingPointError("the policy gave an action that is not finite"))
    return actions, result[1]


def _failed(error: Exception) -> Refusal:
    """A refusal that keeps to itself what the log tells of the error."""
    refused = refusal("internal", "the policy failed; the log of the server tells more")
    LOG.error("%s", refused.text, exc_info=error)
    return refused


def refusal(kind: str, text: str) -> Refusal:
    """A refusal whose text ends with an identifier that the log shows too."""
    refused = Refusal(kind, f"{text} [{kind} error {secrets.token_hex(4)}]")
    LOG.info("%s", refused.text)
    return refused


def settle_all(answers: Sequence[tuple[Request, Answer]]) -> None:
    """Nothing; answers requests. Called on the event loop."""
    for request, answer in answers:
        settle(request, answer)


def settle(request: Request, answer: Answer) -> None:
    """Nothing; answers a request that has no answer yet. Called on the event loop."""
    if not request.answer.done():
        request.answer.set_result(answer)
