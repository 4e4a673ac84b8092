"""Our client: no call outlasts its time, no action outlives its horizon, and a broken connection is made again."""

import base64
import hashlib
import re
import socket
import threading
import time

import numpy as np
import pytest

from embodied.serve import client as clients
from embodied.serve.client import Chunk, Client, ServerError, StaleActionError
from embodied.serve.server import ServeConfig, running
from embodied.types import InputError
from tests.embodied.served import ANY_PORT, STATE, Doubler

TOKEN = "sixteen-or-more-characters"


def address(server):
    return f"ws://127.0.0.1:{server.port}"


def test_row_of_a_chunk_follows_the_age_of_its_observation_and_ends():
    chunk = Chunk(np.array([[1.0], [2.0], [3.0]]), observed=10.0, control_dt=0.5, server_timing={})
    assert [chunk.now(10.0 + age).item() for age in (0.0, 0.49, 0.5, 1.25, 1.49)] == [1, 1, 2, 3, 3]
    for moment in (11.5, 99.0, 9.9):
        with pytest.raises(StaleActionError, match=r"s old, its horizon is 1\.500 s"):
            chunk.now(moment)


def test_client_gets_actions_stamped_with_the_age_of_the_observation():
    with running(Doubler(), ServeConfig(port=0, token=TOKEN)) as server, Client(address(server), TOKEN) as client:
        before = time.monotonic()
        chunk = client.infer({"state": STATE})
        assert before <= chunk.observed <= time.monotonic()
        assert chunk.control_dt == 0.02
        np.testing.assert_array_equal(chunk.now(chunk.observed), [2, 4, 6, 0])
        assert client.metadata["name"] == "doubler"
        old = client.infer({"state": STATE}, observed=before - 1)
        with pytest.raises(StaleActionError):
            old.now()
        assert old.server_timing["infer_ms"] >= 0


def test_refusal_keeps_the_connection_and_its_episode():
    with running(Doubler(), ANY_PORT) as server, Client(address(server)) as client:
        client.infer({"state": STATE})
        with pytest.raises(ServerError, match="'state' is missing"):
            client.infer({})
        assert client.infer({"state": STATE}).actions[0, 3] == 1


def test_call_ends_in_time_and_the_late_answer_is_never_taken_for_another(monkeypatch):
    monkeypatch.setattr(clients, "FIRST_DELAY", 0.0)
    doubler = Doubler()
    with running(doubler, ANY_PORT) as server, Client(address(server), timeout=0.3) as client:
        client.infer({"state": STATE})
        doubler.may_leave.clear()
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no answer from ws://.* within 0\.3 s"):
            client.infer({"state": STATE})
        assert time.monotonic() - begun < 0.3 + 2 * clients.CLOSE_SECONDS
        doubler.may_leave.set()
        time.sleep(0.02)
        np.testing.assert_array_equal(client.infer({"state": 10 * STATE}).actions, [[20, 40, 60, 0]])


def test_broken_connection_is_made_again_after_a_delay_that_doubles(monkeypatch):
    monkeypatch.setattr(clients, "FIRST_DELAY", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"ws://127.0.0.1:{port}") as client:
        for wait in (0.1, 0.2):
            with pytest.raises(ConnectionError, match="cannot connect to"):
                client.infer({"state": STATE})
            begun = time.monotonic()
            with pytest.raises(ConnectionError, match=r"not connected to .*; the next attempt is in 0\.\d s"):
                client.infer({"state": STATE})
            assert time.monotonic() - begun < 0.05
            time.sleep(wait)
        time.sleep(0.2)
        with running(Doubler(), ServeConfig(port=port)):
            assert client.infer({"state": STATE}).actions[0, 3] == 0
        with pytest.raises(ConnectionError, match=r"broke|cannot connect"):
            client.infer({"state": STATE})
        time.sleep(0.11)
        with running(Doubler(), ServeConfig(port=port)):
            assert client.infer({"state": STATE}).actions[0, 3] == 0


def test_call_ends_in_time_where_the_server_stops_reading():
    def greet_and_fall_silent():
        link, _ = listener.accept()
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", link.recv(4096))[1]
        accepted = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = (
            b"HTTP/1.1 101 .\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
            % accepted
        )
        link.sendall(head + b"\x82\x01\x80")  # one frame: an empty map
        silent.append(link)

    silent = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet_and_fall_silent, daemon=True).start()
        with Client(f"ws://127.0.0.1:{listener.getsockname()[1]}", timeout=1.5) as client:
            begun = time.monotonic()
            with pytest.raises((TimeoutError, ConnectionError)):
                client.infer({"image": np.zeros(15 * 2**20, np.uint8)})
            assert time.monotonic() - begun < 5
        silent[0].close()


@pytest.mark.parametrize("actions", [None, 1.0, np.zeros(3), np.full((1, 3), np.nan)])
def test_answer_without_finite_actions_is_never_given_out(actions, monkeypatch):
    with running(Doubler(), ANY_PORT) as server, Client(address(server)) as client:
        monkeypatch.setattr(clients, "unpack", lambda data: {"actions": actions, "control_dt": 0.02})
        with pytest.raises(ConnectionError, match=r"'actions' must be a finite array \[H, A\]"):
            client.infer({"state": STATE})


def test_wrong_token_is_a_connection_error():
    with running(Doubler(), ServeConfig(port=0, token=TOKEN)) as server:
        client = Client(address(server), "wrong")
        with pytest.raises(ConnectionError, match=r"cannot connect to .*401"):
            client.infer({"state": STATE})


def test_server_that_says_no_control_step_needs_one_from_the_caller():
    doubler = Doubler()
    doubler.metadata = {}
    with running(doubler, ANY_PORT) as server:
        with Client(address(server)) as client, pytest.raises(InputError, match=r"control_dt: .* does not say"):
            client.infer({"state": STATE})
        with Client(address(server), control_dt=0.5) as client:
            assert client.infer({"state": STATE}).control_dt == 0.5
