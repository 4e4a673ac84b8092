"""Who may connect, and that no client, however it behaves, costs the others or leaves anything behind."""

import contextlib
import os
import socket
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from embodied.serve import server as serving
from embodied.serve.access import is_loopback, read_token
from embodied.serve.messages import pack
from embodied.serve.server import ServeConfig, running
from embodied.types import InputError
from tests.embodied.served import ANY_PORT, STATE, Doubler, OpenpiClient, ask, client_of, comes_true, get

TOKEN = "sixteen-or-more-characters"


def token_file(path, content=TOKEN + "\n", mode=0o600):
    path.write_text(content)
    path.chmod(mode)
    return path


def test_stalled_client_does_not_delay_others_and_is_cut_off(monkeypatch):
    monkeypatch.setattr(serving, "STALL_SECONDS", 1.0)
    with running(Doubler(width=50_000), ANY_PORT) as server, client_of(server) as other, socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", server.port))
        with client_of(server, sock=link, max_queue=1) as stalled:
            longest = 0.0
            with contextlib.suppress(ConnectionClosed):
                for _ in range(40):
                    stalled.send(pack({"state": STATE}))
                    begun = time.monotonic()
                    assert ask(other)[:3] == [2, 4, 6]
                    longest = max(longest, time.monotonic() - begun)
            assert longest < 0.5
            assert comes_true(lambda: server.metrics.counts["stalled_total", ""] == 1)
            assert comes_true(lambda: server.metrics.connections == 1)
        assert ask(other)[:3] == [2, 4, 6]


def test_client_that_reads_slowly_is_not_cut_off(monkeypatch):
    monkeypatch.setattr(serving, "STALL_SECONDS", 0.5)
    with running(Doubler(width=50_000), ANY_PORT) as server, client_of(server, max_queue=1) as slow:
        for _ in range(3):
            for _ in range(10):
                slow.send(pack({"state": STATE}))
            time.sleep(0.2)
            for _ in range(10):
                slow.recv(5)
        assert server.metrics.counts["stalled_total", ""] == 0


def test_client_that_floods_is_read_no_faster_than_it_is_answered():
    doubler = Doubler()
    with running(doubler, ServeConfig(port=0, deadline=5.0)) as server, client_of(server) as flood:
        doubler.may_leave.clear()
        flood.send(pack({"state": STATE}))
        assert doubler.entered.acquire(timeout=5)
        for _ in range(499):
            flood.send(pack({"state": STATE}))
        time.sleep(0.2)
        read = server.metrics.counts["requests_total", ""]
        assert serving.UNANSWERED <= read <= serving.UNANSWERED + 2
        doubler.may_leave.set()
        assert sum(isinstance(flood.recv(5), bytes | str) for _ in range(500)) == 500


def test_hundred_connections_that_come_and_go_leave_no_thread_and_no_descriptor():
    def left():
        return threading.active_count(), len(os.listdir("/dev/fd"))

    with running(Doubler(), ANY_PORT) as server:
        with client_of(server) as client:
            ask(client)
        assert comes_true(lambda: server.sockets == 0)
        before = left()
        for number in range(100):
            if number % 4 == 3:  # says nothing, or no more than half a sentence
                with socket.create_connection(("127.0.0.1", server.port)) as link:
                    link.sendall(b"GET / HTTP/1.1\r\nHos" * (number % 8 == 3))
                continue
            with client_of(server) as client:
                if number % 4 == 1:
                    ask(client)
                if number % 4 == 2:
                    client.send(pack({"state": STATE}))
                    client.socket.shutdown(socket.SHUT_RDWR)  # without a farewell
        assert comes_true(lambda: server.sockets == 0)
        # Fewer is right as well: other tests of this process may still have been tidying up before.
        assert comes_true(lambda: all(now <= then for now, then in zip(left(), before, strict=True)))
        assert server.metrics.connections == 0
        assert server.metrics.counts["connections_total", ""] == 76


def test_connections_beyond_the_limit_are_refused_until_one_ends():
    with running(Doubler(), ServeConfig(port=0, connections=2)) as server:
        with client_of(server) as first:
            with client_of(server), pytest.raises(InvalidStatus, match="503"), client_of(server):
                pass
            assert get(server, "/healthz") == (200, "OK\n")
            assert comes_true(lambda: server.metrics.connections == 1)
            with client_of(server) as third:
                assert [ask(first)[3], ask(third)[3]] == [0, 0]
        assert server.metrics.counts["refused_total", "full"] == 1


def test_sockets_that_never_begin_are_bounded_and_closed_in_time(monkeypatch):
    monkeypatch.setattr(serving, "SPARE_SOCKETS", 3)
    monkeypatch.setattr(serving, "OPEN_SECONDS", 0.5)
    with running(Doubler(), ServeConfig(port=0, connections=1)) as server:
        links = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(6)]
        assert comes_true(lambda: server.sockets == 4)
        assert comes_true(lambda: server.sockets == 0)
        for link in links:
            with contextlib.suppress(ConnectionResetError):
                assert link.recv(1) == b""
            link.close()
        with client_of(server) as client:
            assert ask(client) == [2, 4, 6, 0]


def test_only_the_token_lets_in_and_health_needs_none():
    with running(Doubler(), ServeConfig(port=0, token=TOKEN)) as server:
        client = OpenpiClient("127.0.0.1", server.port, TOKEN)
        assert client.infer({"state": STATE})["actions"].shape == (1, 4)
        client.connection.close()
        for key in (None, TOKEN[:-1], TOKEN + "x", "é" * 16):
            with pytest.raises(InvalidStatus, match="401"):
                OpenpiClient("127.0.0.1", server.port, key)
        assert get(server, "/healthz") == (200, "OK\n")
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 401
        assert get(server, "/metrics", Authorization=f"Api-Key {TOKEN}")[0] == 200
        assert server.metrics.counts["refused_total", "token"] == 6


def test_page_in_a_browser_may_not_connect():
    with running(Doubler(), ANY_PORT) as server:
        for origin in ("https://example.org", "http://127.0.0.1", "null"):
            with pytest.raises(InvalidStatus, match="403"), client_of(server, origin=origin):
                pass
            assert get(server, "/metrics", Origin=origin)[0] == 403
        assert server.metrics.counts["refused_total", "origin"] == 6
        assert server.metrics.counts["connections_total", ""] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_addresses_of_this_machine_need_no_token(host):
    assert is_loopback(host)
    assert ServeConfig(host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "localhost.example.org", "robot"])
def test_address_that_others_reach_needs_a_token(host):
    assert not is_loopback(host)
    with pytest.raises(InputError, match=f"host: '{host}' can be reached from other machines"):
        ServeConfig(host)
    assert ServeConfig(host, token=TOKEN).host == host


def test_token_is_the_word_in_a_file_that_only_its_owner_may_use(tmp_path):
    assert read_token(token_file(tmp_path / "token")) == TOKEN
    assert read_token(token_file(tmp_path / "read-only", mode=0o400)) == TOKEN
    for mode in (0o644, 0o640, 0o602, 0o660):
        with pytest.raises(InputError, match=rf"has mode {mode:04o}, so others may use it; run: chmod 600"):
            read_token(token_file(tmp_path / "open", mode=mode))


@pytest.mark.parametrize("content", ["", "short\n", "two words in one file", "ö" * 20, "a\x00" * 10, "x" * 20 + "\ny"])
def test_file_without_one_long_word_is_no_token(tmp_path, content):
    with pytest.raises(InputError, match="must hold one word of at least 16 ASCII characters"):
        read_token(token_file(tmp_path / "token", content))


def test_missing_token_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"token file: .*/none cannot be read \(No such file"):
        read_token(tmp_path / "none")
    with pytest.raises(InputError, match="Is a directory"):
        read_token(tmp_path)
