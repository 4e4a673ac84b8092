"""A policy that can be computed by hand, and clients that know of the server no more than openpi's do."""

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from websockets.sync.client import ClientConnection, connect

from embodied.serve.messages import pack, unpack
from embodied.serve.servable import Question, Result, Servable
from embodied.serve.server import ServeConfig, Server
from embodied.types import InputError

STATE = np.array([1.0, 2.0, 3.0])
ANY_PORT = ServeConfig(port=0)


class Doubler:
    """Actions: twice the state, then the number of earlier requests of this episode, then `width` zeros."""

    batch = 4

    def __init__(self, width: int = 0) -> None:
        self.metadata: Mapping[str, Any] = {"name": "doubler", "control_dt": 0.02}
        self.schema: Mapping[str, tuple[int, ...]] = {"state": (3,)}
        self.extras = ("note",)
        self.padding = np.zeros(width, np.float32)
        self.sizes: list[int] = []  # of the batches
        self.entered, self.may_leave = threading.Semaphore(0), threading.Event()
        self.may_leave.set()

    def start(self) -> int:
        """No requests yet."""
        return 0

    def infer(self, asked: Sequence[Question]) -> list[Result]:
        """The actions [1, 4 + width] of each; waits while `may_leave` is clear, fails where a note says so."""
        self.sizes.append(len(asked))
        self.entered.release()
        assert self.may_leave.wait(10)
        return [self._answer(observation, carry) for observation, carry in asked]

    def _answer(self, observation: Mapping[str, Any], carry: int) -> Result:
        note = observation.get("note")
        if note == "fail":
            raise RuntimeError("a secret of the house")
        if note == "refuse":
            return InputError("note: must be kinder")
        values = np.concatenate([2 * observation["state"], [carry], self.padding])[None]
        return values * (np.nan if note == "nan" else 1), carry + 1


def alone(servable: Servable, observation: Mapping[str, Any], carry: Any) -> tuple[np.ndarray, Any]:
    """What the servable answers to a single question. Raises the InputError that is its answer."""
    [result] = servable.infer([(observation, carry)])
    if isinstance(result, InputError):
        raise result
    return result


class OpenpiClient:
    """What openpi's own client does, written from its description: metadata first, then one answer per message."""

    def __init__(self, host: str, port: int, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self.connection = connect(f"ws://{host}:{port}", compression=None, max_size=None, additional_headers=headers)
        self.metadata = msgpack.unpackb(self.connection.recv(), object_hook=self.decode)

    def infer(self, obs: dict) -> dict:
        """The answer to an observation; a text is an error."""
        self.connection.send(msgpack.packb(obs, default=self.encode))
        answer = self.connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return msgpack.unpackb(answer, object_hook=self.decode)

    @staticmethod
    def encode(value: Any) -> Any:
        """Arrays as maps."""
        if isinstance(value, np.ndarray):
            return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}

    @staticmethod
    def decode(value: dict) -> Any:
        """Maps as arrays."""
        if b"__ndarray__" in value:
            return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
        if b"__npgeneric__" in value:
            return np.dtype(value[b"dtype"]).type(value[b"data"])
        return value


@contextlib.contextmanager
def client_of(server: Server, **options: Any) -> Iterator[ClientConnection]:
    """A bare connection, past the metadata."""
    with connect(f"ws://127.0.0.1:{server.port}", compression=None, max_size=None, **options) as connection:
        connection.recv(5)
        yield connection


def ask(connection: ClientConnection, **observation: Any) -> Any:
    """The first four actions, or the text of an error."""
    connection.send(pack({"state": STATE} | observation))
    answer = connection.recv(5)
    return answer if isinstance(answer, str) else unpack(answer)["actions"][0, :4].tolist()


def get(server: Server, path: str, **headers: str) -> tuple[int, str]:
    """(status, body) of a plain request."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds at some moment of the next five seconds."""
    end = time.monotonic() + 5
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
