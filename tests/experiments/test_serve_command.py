"""`embodied serve` loads prompts by name and says where it listens; its page and its bench tell what is so."""

import asyncio
import importlib
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from embodied import promptfile
from embodied.policy import Prompted
from embodied.promptfile import Request
from embodied.serve import client, messages, policy, server
from embodied.serve.client import Client
from embodied.serve.server import running
from embodied.types import InputError
from experiments import cli
from experiments.bench import caller
from experiments.bench import serve as bench
from experiments.commands import serve as command
from tests.embodied import toys
from tests.embodied.served import ANY_PORT, Doubler

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def toy():
    return toys.policy()


@pytest.fixture
def files(toy, tmp_path, monkeypatch):
    """Two prompt files of the toy policy, which every model name stands for."""
    monkeypatch.setattr(command, "resolve", lambda name: (toy, toys.Adder(jittable=False)))
    made = []
    for row, name in enumerate(("stay", "go")):
        z = np.eye(toy.config.z_dim, dtype=np.float32)[row] * np.sqrt(toy.config.z_dim, dtype=np.float32)
        made.append(tmp_path / f"{name}.json")
        promptfile.save(made[-1], Request("row", row=row), Prompted(toy, z), {})
    return made


def test_command_serves_prompts_by_name_until_it_is_told_to_stop(files, monkeypatch, capsys):
    seen = []

    def ask(server):
        with Client(f"ws://127.0.0.1:{server.port}", timeout=5.0) as client:
            wishes = ({}, {"prompt": "stay"}, {"prompt": "go"})
            seen.extend(client.infer({"state": np.ones(2)} | wish).actions.tolist() for wish in wishes)
            seen.append(client.metadata["prompts"])
        os.kill(os.getpid(), signal.SIGTERM)

    announce = command.announce
    monkeypatch.setattr(
        command, "announce", lambda server: (announce(server), threading.Thread(target=ask, args=[server]).start())
    )
    monkeypatch.setattr(command.gc, "freeze", lambda: None)  # which would outlast this test
    cli.main(["serve", "toy", "--prompt", str(files[0]), "--prompt", str(files[1]), "--port", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("adder, fb on ws://127.0.0.1:")
    assert lines[1:] == ["prompts: stay, go", "stopped"]
    assert seen[0] == seen[1] != seen[2]
    assert seen[3] == ["stay", "go"]


def test_two_files_of_one_name_are_refused(files, tmp_path):
    with pytest.raises(InputError, match="two files are called 'stay', by which clients ask for them"):
        command.load("toy", (*files, tmp_path / "other" / "stay.json"))


def test_address_for_others_is_announced_with_a_way_to_tls(files, capsys):
    servable = command.load("toy", ())
    shown = server.Server(servable, server.ServeConfig("::", token="x" * 16))
    shown.port = 8000
    command.announce(shown)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("adder, fb on ws://[::]:8000 ")
    assert second == "prompts: none; a client must send a latent z"
    assert "put TLS in front, for example: caddy reverse-proxy --from NAME --to 127.0.0.1:8000" in third


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "host: '0.0.0.0' can be reached from other machines, which needs a token"),
        (["--token-file", "no/such"], "token file: no/such cannot be read"),
        (["--port", "70000"], "serve: port must be in [0, 65535], got 70000"),
        (["--connections", "0"], "serve: connections must be in [1, 4096], got 0"),
    ],
)
def test_bad_option_is_one_line_before_anything_is_loaded(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "no/such/model", *options])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("package", ["websockets", "msgpack"])
def test_missing_package_is_one_line_that_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "embodied.serve")
    with pytest.raises(InputError, match=rf"serve: .*{package}.*; run: pip install \"embodied-stack\[serve\]\""):
        importlib.import_module("embodied.serve")


def test_limits_on_the_page_are_those_of_the_code():
    page = " ".join((ROOT / "docs/serving.md").read_text(encoding="utf-8").split())
    for sentence in (
        f"without actions after {server.ServeConfig().deadline:g} second is",
        f"does not read its answers for {server.STALL_SECONDS:g} seconds is cut off",
        f"one with {server.UNANSWERED} messages unanswered is not read",
        f"At most {server.ServeConfig().connections} connections.",
        f"at most {server.OVERHEAD_BYTES:,} bytes and 16 for each number of the observation",
        f"{messages.MAX_BYTES // 2**20} MiB at most; at most {messages.MAX_VALUES} values, nested {messages.MAX_DEPTH}",
        f"length sqrt(D) within {100 * policy.LENGTH_TOLERANCE:g} %",
        f"after {client.FIRST_DELAY:g} s, then twice as long each time, up to {client.LONGEST_DELAY:g} s",
    ):
        assert sentence in page


def test_bench_counts_answers_and_what_is_lost():
    with running(Doubler(), ANY_PORT) as served:
        address = f"ws://127.0.0.1:{served.port}"
        message = asyncio.run(bench.example(address))
        samples = asyncio.run(bench.load(address, message, clients=3, rate=50.0, seconds=0.2))
        assert (len(samples.latency), len(samples.late), samples.lost) == (30, 30, 0)
        assert min(samples.latency) > 0
        refused = asyncio.run(bench.load(address, messages.pack({}), clients=2, rate=50.0, seconds=0.1))
        assert refused.lost == 10
        assert bench.counter(address, "requests_total") == 40
        assert bench.counter(address, "stalled_total") == 0


def test_bench_sums_up_in_milliseconds():
    samples = caller.Samples(latency=[0.001] * 98 + [0.002, 0.004], late=[0.0] * 100, lost=3)
    row = bench.summarise(samples)
    assert (row["answers"], row["lost"], row["p50_ms"], row["max_ms"], row["late_p99_ms"]) == (100, 3, 1, 4, 0)
    assert 2 < row["p99_ms"] < 2.1
    held = {"before": 1.0, "between": 1.0, "after": 1.5}
    metrics = {"alone": row, "beside_stalled": row, "stalled_adds_to_p99_ms": 0.0, "stalled_cut_off": 2}
    assert "100      3        0     1.00     2.02      4.0" in bench.table(metrics | {"server_memory_mib": held})[1]


def test_bench_counts_turns_that_come_before_the_last_answer_as_missed():
    doubler = Doubler()
    with running(doubler, server.ServeConfig(port=0, deadline=5.0)) as served:
        address = f"ws://127.0.0.1:{served.port}"
        message = asyncio.run(bench.example(address))
        doubler.may_leave.clear()
        threading.Timer(0.5, doubler.may_leave.set).start()
        samples = asyncio.run(bench.load(address, message, clients=1, rate=50.0, seconds=0.8))
    assert len(samples.latency) + samples.missed == 40
    assert 15 <= samples.missed <= 39
    assert max(samples.latency) > 0.3
    assert samples.lost == 0


def test_frames_are_read_whole_with_what_follows_them():
    for size, head in ((0, "00"), (125, "7d"), (126, "7e007e"), (70_000, "7f0000000000011170")):
        content = bytes(range(250)) * (size // 250) + bytes(size % 250)
        frame = bytes([0x80 | caller.BINARY]) + bytes.fromhex(head) + content
        assert caller.read_frame(frame + b"more") == (caller.BINARY, content, b"more")
        assert caller.read_frame(frame[:-1]) is None
    # RFC 6455, section 5.7: "Hello" from a client; ours has the mask 0.
    assert caller.masked(caller.TEXT, b"Hello") == bytes([0x81, 0x85, 0, 0, 0, 0]) + b"Hello"


def test_bench_has_one_client_that_never_reads_and_is_cut_off_again_and_again(monkeypatch):
    monkeypatch.setattr(server, "STALL_SECONDS", 0.2)
    with running(Doubler(width=4_000), ANY_PORT) as served:
        address = f"ws://127.0.0.1:{served.port}"
        message = asyncio.run(bench.example(address))
        samples = asyncio.run(bench.beside_stalled(address, message, clients=3, rate=50.0, seconds=2.0))
        assert (len(samples.latency) + samples.missed, samples.lost) == (200, 0)
        assert bench.counter(address, "stalled_total") >= 2
