"""`embodied train --seeds ... --sweep ...`: which runs that is, what they leave, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from embodied.policy import load
from embodied.types import InputError
from experiments import cli, together
from experiments.presets import PRESETS
from experiments.run_report import read_metrics
from experiments.train import read_experiment

PRESET = PRESETS["point_maze-fb-small"]
SMALL = [
    *("--agent.z-dim", "8", "--agent.encoder-dim", "12", "--agent.backward-hidden", "16", "--agent.hidden", "16"),
    *("--train.batch-size", "16", "--train.chunk", "10", "--train.checkpoint-seconds", "0", "--buffer", "96"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("data") / "maze"
    small = ("--episodes", "8", "--worlds", "4", "--decisions", "12")
    cli.main(["collect", "point_maze-noise", "--out", str(place), *small])
    return place


def train(data, out, *more):
    jax.config.update("jax_disable_most_optimizations", True)
    cli.main(["train", "point_maze-fb-small", "--data", str(data), "--out", str(out), *SMALL, *more])
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A program of two seeds and two rates, resumed to its end."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    chosen = ["--seeds", "3", "5", "--sweep", "agent.lr_actor=0.0001,0.001"]
    train(data, out, *chosen, "--train.updates", "10")
    train(data, out, *chosen, "--train.updates", "20")
    return out


NAMES = [f"lr_actor-{rate}_seed-{seed}" for rate in (0.0001, 0.001) for seed in (3, 5)]


def test_every_combination_leaves_a_run_directory_of_its_own(trained, data):
    assert json.loads((trained / "cells.json").read_text()) == NAMES
    hashes = set()
    for name in NAMES:
        record, policy = read_experiment(trained / name), load(trained / name)
        rate, seed = record["experiment"]["agent"]["lr_actor"], record["experiment"]["train"]["seed"]
        assert name == f"lr_actor-{rate}_seed-{seed}"
        assert policy.config.lr_actor == rate
        assert record["data"] == str(data)
        rows = read_metrics(trained / name)
        assert [row["step"] for row in rows] == [10, 20]
        assert all(np.isfinite(value) for row in rows for value in row.values())
        hashes.add(policy.sha256)
    assert len(hashes) == 4


def test_run_of_a_program_is_scored_as_a_single_run(trained, capsys):
    cli.main(["evaluate", str(trained / NAMES[2]), "--episodes", "1"])
    assert "random latent" in capsys.readouterr().out


@pytest.mark.slow
def test_run_of_a_program_equals_a_single_run_within_rounding(trained, data, tmp_path):
    train(data, tmp_path / "alone", "--agent.lr-actor", "0.001", "--train.seed", "3", "--train.updates", "20")
    ours, alone = load(trained / NAMES[2]), load(tmp_path / "alone")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours.params, alone.params)
    np.testing.assert_array_equal(ours.buffer.physics, alone.buffer.physics)


def test_other_runs_are_refused_in_the_same_directory(trained, data, capsys):
    for chosen, message in (
        (["--seeds", "3"], f"holds the runs {NAMES[0]}, "),
        (["--seeds", "3", "5", "--sweep", "agent.lr_actor=0.0001,0.001", "--agent.tau", "0.5"], "agent.tau was 0.01"),
    ):
        with pytest.raises(SystemExit) as caught:
            train(data, trained, *chosen, "--train.updates", "20")
        assert caught.value.code == cli.BAD_INPUT
        assert message in capsys.readouterr().err


def test_directory_of_a_single_run_is_refused(trained, data, capsys):
    with pytest.raises(SystemExit):
        train(data, trained / NAMES[0], "--seeds", "1", "2", "--train.updates", "20")
    assert "holds a single run; choose another directory" in capsys.readouterr().err


def test_seeds_alone_name_their_folders_and_a_sweep_takes_the_seed_of_the_experiment():
    assert [cell.name for cell in together.cells_of(PRESET, (0, 1), ())] == ["seed-0", "seed-1"]
    cells = together.cells_of(PRESET, (), ("agent.tau=0.1", "agent.discount=0.9,0.95"))
    assert [cell.name for cell in cells] == ["tau-0.1_discount-0.9_seed-0", "tau-0.1_discount-0.95_seed-0"]
    assert cells[1].values == {"tau": 0.1, "discount": 0.95}


@pytest.mark.parametrize(
    ("seeds", "sweep", "message"),
    [
        ((1, 1), (), "seeds: must name each once, got 1 twice"),
        ((), ("agent.tau=0.1,0.10",), r"sweep: agent\.tau: must name each once, got 0\.1 twice"),
        ((), ("agent.tau=0.1", "agent.tau=0.2"), "sweep: must name each once, got tau twice"),
        ((), ("tau=0.1",), r"sweep: must be of the form agent\.FIELD=NUMBER,NUMBER,\.\.\., got 'tau=0\.1'"),
        ((), ("agent.tau=a",), "sweep: must be of the form"),
        ((), ("agent.tua=0.1",), "sweep: the agent has no number 'tua' with a fraction; did you mean 'tau'"),
        ((), ("agent.hidden=64",), "sweep: the agent has no number 'hidden' with a fraction"),
        ((), ("agent.tau=0.1,7",), r"fb: tau must be in \(0, 1\], got 7"),
        ((-1,), (), "train: seed must be in"),
    ],
)
def test_bad_seeds_and_sweeps_are_refused_naming_the_value(seeds, sweep, message, tmp_path):
    with pytest.raises(InputError, match=message):
        together.run(PRESET, seeds, sweep, tmp_path, tmp_path / "out")


def test_runs_that_make_their_own_data_are_refused(tmp_path):
    walker = PRESETS["walker-fb-small"]
    with pytest.raises(InputError, match=r"online\.worlds: must be 0 where several runs share a program, got 50"):
        together.run(walker, (0, 1), (), tmp_path, tmp_path / "out")


def test_cell_is_the_experiment_with_its_seed_and_numbers():
    (cell,) = together.cells_of(PRESET, (7,), ("agent.tau=0.5",))
    one = together.with_cell(PRESET, cell)
    assert (one.train.seed, one.agent.tau) == (7, 0.5)
    assert dataclasses.replace(one, agent=PRESET.agent, train=PRESET.train) == PRESET
