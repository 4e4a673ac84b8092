"""Two processes on one machine train as one does, and go on after either is killed."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (sys.executable, "-c", "from experiments.cli import main; main()", "train", "point_maze-fb-small")
TINY = (
    *("--agent.hidden", "16", "--agent.z-dim", "8", "--agent.encoder-dim", "12", "--agent.backward-hidden", "16"),
    *("--train.batch-size", "8", "--train.chunk", "2", "--train.checkpoint-seconds", "0", "--buffer", "50"),
)
COLLECT = ("collect", "point_maze-noise", "--episodes", "4", "--worlds", "4", "--decisions", "20")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("distributed")
    command = [*TRAIN[:3], *COLLECT, "--out", str(place / "data")]
    subprocess.run(command, env=environment(place), check=True, capture_output=True)
    return place


def environment(place, **more):
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    own = {"JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), **more}
    return os.environ | own | {"JAX_COMPILATION_CACHE_DIR": str(place / "cache")}


def start(place, out, updates, processes):
    """Processes that train into `out` together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [*TRAIN, *TINY, "--data", str(place / "data"), "--out", str(out), "--train.updates", str(updates)]
    job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    started = []
    for index in range(processes):
        settings = environment(place, **job, JAX_PROCESS_ID=str(index)) if processes > 1 else environment(place)
        options = ["--distributed"] if processes > 1 else []
        started.append(subprocess.Popen([*command, *options], env=settings, stderr=subprocess.PIPE, text=True))
    return started


def end(processes):
    for process in processes:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said


def losses(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss/world"] for row in rows}


@pytest.fixture(scope="module")
def alone(place):
    """Update -> loss of one process."""
    end(start(place, place / "one", 12, 1))
    return losses(place / "one")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(place, alone):
    assert list(alone) == [2, 4, 6, 8, 10, 12]
    end(start(place, place / "two", 12, 2))
    together = losses(place / "two")
    np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-5)
    assert (place / "two" / "policy" / "params.npz").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_job_goes_on_after_one_process_was_killed_while_both_saved(place, alone, victim):
    out = place / f"killed-{victim}"
    pair = start(place, out, 4000, 2)
    while not (out / "metrics.jsonl").exists() or len(losses(out)) < 3:
        assert all(process.poll() is None for process in pair)
        time.sleep(0.05)
    for process in (pair[victim], pair[1 - victim]):
        process.kill()
        process.communicate()
    reached = max(losses(out)) + 4
    end(start(place, out, reached, 2))
    again = losses(out)
    assert list(again) == list(range(2, reached + 1, 2))
    np.testing.assert_allclose([again[step] for step in (2, 4, 6)], [alone[step] for step in (2, 4, 6)], rtol=1e-5)
