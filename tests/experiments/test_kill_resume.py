"""A training process killed at any instant: the same command goes on, and ends where it would have ended."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 5
SCRIPT = """
import sys
from pathlib import Path

import jax
import numpy as np

from agents import td_jepa
from embodied.data import dataset
from embodied.train import TrainConfig, train
from embodied.types import Spec
from tests.embodied import toys

directory, updates, chunk, name = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rng = np.random.default_rng(0)
episodes = [
    {"state": rng.normal(size=(9, 2)), "action": rng.uniform(-1, 1, (8, 1)), "physics": np.zeros((9, 1))}
    for _ in range(4)
]
spec = Spec(obs={"state": (2,)}, action=1)
agent = td_jepa.make(td_jepa.Config().tiny(), spec) if name == "td_jepa" else toys.agent()
agent = agent._replace(init=jax.jit(agent.init))
source = dataset.from_dataset(dataset.from_episodes(episodes), 8)
config = TrainConfig(updates=updates, batch_size=8, chunk=chunk, checkpoint_seconds=0.0)
show = lambda run, step, row: print(step, flush=True)
run = train(agent, source, spec.example(), config, directory=directory, hooks=[show], quiet=True)
np.savez(directory / "final.npz", *jax.tree.leaves(run))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts the training of an agent in a directory, to a number of updates; its standard output gives each chunk."""
    place = tmp_path_factory.mktemp("kill")
    script = place / "script.py"
    script.write_text(SCRIPT)
    # Compilation is most of a short life: it is kept between lives, of Python too, and not optimised.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(place / "python"),
        "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
    }

    def start(agent, directory, updates):
        command = [sys.executable, script, directory, str(updates), str(CHUNK), agent]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def finished(process) -> list[int]:
    """The chunks of a process that is left to end by itself."""
    printed, _ = process.communicate()
    assert process.returncode == 0
    return [int(line) for line in printed.split()]


def killed(process, chunks: int, moment: float) -> list[int]:
    """The chunks of a process that is killed `moment` seconds after that many of them."""
    steps = [int(process.stdout.readline()) for _ in range(chunks)]
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
    printed, _ = process.communicate()
    return steps + [int(line) for line in printed.split() if line.strip()]


def leaves(directory) -> list[np.ndarray]:
    with np.load(directory / "final.npz") as file:
        return [file[name] for name in file.files]


def steps_of(directory) -> list[int]:
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def survive(start, agent: str, place, kills: int, chunks: int) -> None:
    updates = chunks * CHUNK
    everything = list(range(CHUNK, updates + 1, CHUNK))
    assert finished(start(agent, place / "whole", updates)) == everything
    instants = random.Random(0)
    last = 0
    for _ in range(kills):
        # At most three chunks a life, so that no life reaches the end.
        seen = killed(start(agent, place / "run", updates), instants.randint(1, 2), instants.uniform(0.0, 0.05))
        # A life begins behind the last complete checkpoint: at most the chunk whose save was running is lost, and
        # the one that followed while it was.
        assert last - 2 * CHUNK <= seen[0] - CHUNK <= last
        assert seen == list(range(seen[0], seen[-1] + 1, CHUNK))
        last = seen[-1]
    seen = finished(start(agent, place / "run", updates))
    assert last - 2 * CHUNK <= seen[0] - CHUNK <= last
    assert seen[-1] == updates
    assert steps_of(place / "run") == steps_of(place / "whole") == everything
    for killed_leaf, whole_leaf in zip(leaves(place / "run"), leaves(place / "whole"), strict=True):
        np.testing.assert_array_equal(killed_leaf, whole_leaf)


def test_run_killed_three_times_ends_bit_for_bit_like_one_that_was_not(start, tmp_path):
    survive(start, "toy", tmp_path, kills=3, chunks=20)


@pytest.mark.slow
def test_run_killed_twenty_times_ends_bit_for_bit_like_one_that_was_not(start, tmp_path):
    survive(start, "td_jepa", tmp_path, kills=20, chunks=100)
