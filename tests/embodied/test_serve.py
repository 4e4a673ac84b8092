"""The server on a loopback port: metadata first, then one answer for every message, in order."""

import asyncio
import contextlib
import logging
import os
import random
import re
import resource
import signal
import sys
import threading

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from embodied.serve.inference import Line, Request, Seat
from embodied.serve.messages import pack, unpack
from embodied.serve.server import ServeConfig, message_limit, running, serve
from embodied.types import InputError
from tests.embodied.served import ANY_PORT, STATE, Doubler, OpenpiClient, ask, client_of, comes_true, get


@pytest.fixture
def server():
    with running(Doubler(), ANY_PORT) as server:
        yield server


def test_openpi_client_gets_metadata_then_actions_and_timing(server):
    client = OpenpiClient("127.0.0.1", server.port)
    limit = 2**16 + 16 * 3  # room for names and extras, and twice three numbers of eight bytes
    told = {"name": "doubler", "control_dt": 0.02, "observation": {"state": [3]}, "message_bytes": limit}
    assert client.metadata == told
    for step in range(3):
        answer = client.infer({"state": STATE})
        np.testing.assert_array_equal(answer["actions"], [[2, 4, 6, step]])
        assert answer["server_timing"].keys() == {"infer_ms", "wait_ms"}
        assert 0 <= answer["server_timing"]["infer_ms"] < 1000
    with pytest.raises(RuntimeError, match="'state' is missing"):
        client.infer({})
    np.testing.assert_array_equal(client.infer({"state": STATE})["actions"], [[2, 4, 6, 3]])
    client.connection.close()


def test_reset_and_a_new_connection_begin_a_new_episode(server):
    with client_of(server) as first, client_of(server) as second:
        assert [ask(first)[3], ask(first)[3], ask(second)[3], ask(first)[3]] == [0, 1, 0, 2]
        assert [ask(first, reset=True)[3], ask(first, reset=np.bool_(False))[3]] == [0, 1]
    with client_of(server) as third:
        assert ask(third)[3] == 0


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({}, "observation: 'state' is missing; expected state"),
        ({"state": STATE, "stat": STATE}, r"observation: unknown name 'stat'; did you mean 'state'\?"),
        ({"state": STATE, "x\ny": 0}, r"observation: unknown name 'x\\ny'"),
        ({"state": STATE[:2]}, r"observation 'state': must have shape \(3,\), got \(2,\)"),
        ({"state": STATE[None]}, r"observation 'state': must have shape \(3,\), got \(1, 3\)"),
        ({"state": [1.0, 2.0, 3.0]}, r"observation 'state': must be an array of shape \(3,\), got list"),
        ({"state": np.array([0, np.nan, 0])}, r"observation 'state': must be finite in float32; entry \[1\] is not"),
        ({"state": np.array([0, 0, 1e300])}, r"observation 'state': must be finite in float32; entry \[2\] is not"),
        ({"state": STATE, "reset": 1}, "observation: 'reset' must be true or false, got int"),
    ],
)
def test_bad_observation_is_answered_with_a_text_that_names_the_field(server, observation, message):
    with client_of(server) as client:
        client.send(pack(observation))
        assert re.fullmatch(message + r".* \[observation error [0-9a-f]{8}\]", client.recv(5))
        assert ask(client) == [2, 4, 6, 0]


def test_any_type_of_number_is_taken(server):
    with client_of(server) as client:
        for kind in ("u1", ">i4", "f2", "<f8", "?"):
            assert ask(client, state=np.array([1, 0, 1]).astype(kind))[:3] == [2, 0, 2]


@pytest.mark.parametrize(("note", "reason"), [("fail", "a secret of the house"), ("nan", "not finite")])
def test_failure_inside_the_policy_is_told_by_number_and_logged_in_full(server, note, reason, caplog):
    with client_of(server) as client, caplog.at_level(logging.ERROR, "embodied.serve"):
        assert ask(client)[3] == 0
        answer = ask(client, note=note)
        assert "the policy failed" in answer
        assert reason not in answer
        assert ask(client)[3] == 1  # a request that failed is not remembered
    identifier = re.search(r"internal error ([0-9a-f]{8})\]$", answer)[1]
    assert [identifier in record.message for record in caplog.records] == [True]
    assert reason in caplog.text


def test_two_thousand_fuzzed_messages_get_one_answer_each_in_bounded_memory(server):
    draw, whole = random.Random(0), pack({"state": STATE, "reset": True})
    with client_of(server) as client:
        assert ask(client)[3] == 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(2000):
            data = bytearray(whole if number % 2 else draw.randbytes(draw.randint(1, 80)))
            for _ in range(3):
                data[draw.randrange(len(data))] = draw.randrange(256)
            client.send(bytes(data))
            client.recv(5)
        client.send("text")
        assert "must be binary, got text" in client.recv(5)
        assert ask(client, reset=True) == [2, 4, 6, 0]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert server.metrics.counts["requests_total", ""] == 2003


def test_oversized_message_closes_its_connection_and_no_other(server):
    frames = (b"\x00" * 60_000 for _ in range(10_000))
    with client_of(server) as other:
        for message in (bytes(server.message_bytes + 1), frames):
            with client_of(server) as client:
                with contextlib.suppress(ConnectionClosed):  # told while it still sends
                    client.send(message)
                with pytest.raises(ConnectionClosedError, match="1009"):
                    client.recv(5)
        assert ask(other) == [2, 4, 6, 0]


def test_message_limit_follows_the_observation_up_to_sixteen_mebibytes():
    doubler = Doubler()
    doubler.schema = {"image": (100, 100, 3), "state": (5,)}
    assert message_limit(doubler) == 2**16 + 16 * 30_005
    doubler.schema = {"film": (1000, 1000, 3)}
    assert message_limit(doubler) == 16 * 2**20


def test_replaced_request_still_gets_one_answer_in_its_turn():
    doubler = Doubler()
    with running(doubler, ANY_PORT) as server, client_of(server) as client:
        doubler.may_leave.clear()
        client.send(pack({"state": STATE}))
        assert doubler.entered.acquire(timeout=5)
        for number in range(4):
            client.send(pack({"state": STATE + number}))
        assert comes_true(lambda: server.metrics.counts["requests_total", ""] == 5)
        doubler.may_leave.set()
        answers = [client.recv(5) for _ in range(5)]
        assert [answer[:15] for answer in answers[1:4]] == ["a newer message"] * 3
        assert [unpack(answers[k])["actions"].tolist() for k in (0, 4)] == [[[2, 4, 6, 0]], [[8, 10, 12, 1]]]
        with pytest.raises(TimeoutError):
            client.recv(0.05)
        assert server.metrics.counts["dropped_total", "replaced"] == 3


def test_late_request_is_answered_at_its_deadline_and_its_actions_go_nowhere():
    doubler = Doubler()
    with running(doubler, ServeConfig(port=0, deadline=0.2)) as server, client_of(server) as client:
        doubler.may_leave.clear()
        assert "no actions within 0.2 s" in ask(client)  # while the policy is still at it
        doubler.entered.acquire()
        assert "no actions within 0.2 s" in ask(client)  # the policy never hears of this one
        doubler.may_leave.set()
        assert ask(client, state=STATE + 1)[:3] == [4, 6, 8]
        assert server.metrics.counts["dropped_total", "deadline"] == 2
        assert doubler.entered.acquire(blocking=False)
        assert not doubler.entered.acquire(blocking=False)


def test_clients_take_turns_and_a_newer_request_keeps_the_turn_of_the_older():
    line, eager, patient, new = Line(), Seat(), Seat(), Seat()
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        first, second, third, fourth = (Request(bytes([i]), 0.0, 1.0, loop.create_future()) for i in range(4))
    assert line.put(eager, first) is None
    assert line.put(patient, second) is None
    assert line.put(eager, third) is first
    assert line.take(1) == [(eager, third)]
    assert line.put(eager, fourth) is None
    assert line.take(1) == [(patient, second)]
    line.put(eager, None)
    line.put(patient, first)
    line.put(new, second)
    assert line.take(3) == [(patient, first), (new, second)]
    line.close()
    assert line.take(1) == []


def test_requests_that_wait_are_answered_in_one_call_each_for_itself():
    doubler = Doubler()
    with running(doubler, ANY_PORT) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(server)) for _ in range(6)]
        doubler.may_leave.clear()
        clients[0].send(pack({"state": STATE}))
        assert doubler.entered.acquire(timeout=5)
        notes = ["", "refuse", "nan", "", ""]
        for number, (client, note) in enumerate(zip(clients[1:], notes, strict=True)):
            client.send(pack({"state": STATE + number, "note": note}))
            assert comes_true(lambda: server.metrics.counts["requests_total", ""] == number + 2)  # noqa: B023
        doubler.may_leave.set()
        answers = [client.recv(5) for client in clients]
        assert doubler.sizes == [1, 4, 1]
        for row, number in ((1, 0), (4, 3), (5, 4)):
            np.testing.assert_array_equal(unpack(answers[row])["actions"][0, :3], 2 * (STATE + number))
        assert "note: must be kinder" in answers[2]
        assert "the policy failed" in answers[3]
        # Of a batch on which the policy fails, whoever is not to blame gets actions, and nobody is counted twice.
        doubler.may_leave.clear()
        clients[0].send(pack({"state": STATE}))
        assert comes_true(lambda: len(doubler.sizes) == 4)
        for client, note in zip(clients[1:4], ["", "fail", ""], strict=True):
            client.send(pack({"state": STATE, "note": note}))
        assert comes_true(lambda: server.metrics.counts["requests_total", ""] == 10)
        doubler.may_leave.set()
        texts = [client.recv(5) for client in clients[:4]]
        assert [unpack(texts[row])["actions"][0, 3] for row in (0, 1, 3)] == [1, 1, 0]
        assert "the policy failed" in texts[2]
        assert doubler.sizes[3:] == [1, 3, 1, 1, 1]


def test_health_and_metrics_are_answered_on_the_same_port(server):
    assert get(server, "/healthz") == (200, "OK\n")
    with client_of(server) as client:
        ask(client)
        ask(client, stat=1)
        status, text = get(server, "/metrics")
    lines = text.splitlines()
    assert status == 200
    assert "embodied_serve_connections 1" in lines
    assert "embodied_serve_requests_total 2" in lines
    assert "embodied_serve_answers_total 1" in lines
    assert 'embodied_serve_errors_total{kind="observation"} 1' in lines
    assert 'embodied_serve_dropped_total{reason="deadline"} 0' in lines
    assert 'embodied_serve_latency_seconds_bucket{le="+Inf"} 1' in lines
    assert "embodied_serve_latency_seconds_count 1" in lines
    assert get(server, "/etc/passwd")[0] == 404


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_server_and_tells_its_clients(number):
    ended, threads = [], threading.active_count()

    def announce(server):
        def leave():
            with client_of(server) as client:
                os.kill(os.getpid(), number)
                try:
                    client.recv(5)
                except ConnectionClosed as error:
                    ended.append(error.rcvd.code)

        threading.Thread(target=leave, daemon=True).start()

    interval = sys.getswitchinterval()
    serve(Doubler(), ANY_PORT, announce)
    assert sys.getswitchinterval() == interval
    assert comes_true(lambda: ended == [1001])
    assert comes_true(lambda: threading.active_count() <= threads)


def test_port_that_is_taken_is_bad_input(server):
    with pytest.raises(InputError, match=rf"port: 127\.0\.0\.1:{server.port} cannot be listened on"):
        serve(Doubler(), ServeConfig(port=server.port), lambda server: None)
