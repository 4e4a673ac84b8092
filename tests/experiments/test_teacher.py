"""`embodied train --teacher RUN`: a clone that actors are held to, which stays as it was."""

import dataclasses

import jax
import numpy as np
import pytest

from agents import bc, hilp
from embodied.actor import Imitation
from embodied.policy import load
from embodied.train import TrainConfig
from embodied.types import InputError
from experiments import cli, teacher, together, train
from experiments.experiment import Experiment
from experiments.presets import PRESETS
from experiments.run_report import read_metrics

UPDATES = TrainConfig(updates=2, batch_size=8, chunk=2)
CLONE = Experiment("point_maze", bc.Config(hidden=12, layers=1, steps=3, inputs="standardized"), UPDATES, buffer=32)
HELD = dataclasses.replace(
    PRESETS["point_maze-hilp-small"].agent.tiny(), imitation=Imitation(weight=1.0, hidden=99), inputs="standardized"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data and a finished clone."""
    place = tmp_path_factory.mktemp("teacher")
    small = ("--episodes", "8", "--worlds", "4", "--decisions", "12")
    for seed in ("0", "1"):
        cli.main(["collect", "point_maze-noise", "--out", str(place / f"data{seed}"), "--seed", seed, *small])
    train.run(CLONE, place / "data0", place / "clone", quiet=True)
    return place


def held(place, **changes):
    return dataclasses.replace(
        Experiment("point_maze", HELD, UPDATES, buffer=32, teacher=str(place / "clone")), **changes
    )


@pytest.fixture(scope="module")
def student(place):
    train.run(held(place), place / "data0", place / "student", quiet=True)
    return load(place / "student")


def test_student_keeps_the_flow_of_its_teacher_while_its_actor_learns(place, student):
    clone = load(place / "clone")
    jax.tree.map(np.testing.assert_array_equal, student.params["flow"], clone.params["flow"])
    assert student.config.imitation == Imitation(weight=1.0, hidden=12, layers=1, steps=10, lr=0.0)
    rows = read_metrics(place / "student")
    assert rows
    assert all("loss/flow" not in row for row in rows)
    agent = hilp.make(student.config, student.spec)
    begun = jax.jit(agent.init)(jax.random.key(0), student.spec.example())
    assert "flow" not in begun.optimizer["actor"].inner_states


def test_runs_that_share_a_program_share_the_teacher(place):
    paths = together.run(held(place), (0, 1), (), place / "data0", place / "pair", quiet=True)
    flows = [load(path).params["flow"] for path in paths]
    jax.tree.map(np.testing.assert_array_equal, *flows)
    jax.tree.map(np.testing.assert_array_equal, flows[0], load(place / "clone").params["flow"])


def test_teachers_that_do_not_fit_are_refused(place, student):
    def refused(match, **changes):
        with pytest.raises(InputError, match=match):
            teacher.taught(held(place, **changes))

    refused(r"teacher: needs an agent that is held to its data", agent=PRESETS["point_maze-hilp-small"].agent)
    refused(r"teacher: takes agents that see states, pixels must be 0, got 64", pixels=64)
    refused(r"must be a run of agent 'bc' on states, got 'hilp'", teacher=str(place / "student"))
    refused(r"knows world 'point_maze', not 'walker'", world="walker")
    refused(
        r"agent\.inputs must be the teacher's, 'standardized', got 'raw'",
        agent=dataclasses.replace(HELD, inputs="raw"),
    )
    refused(r"model: no run directory or shipped model 'wlaker'; did you mean 'walker'", teacher="wlaker")
    with pytest.raises(InputError, match=r"was trained on other data \(its mean differs\)"):
        train.run(held(place), place / "data1", place / "other", quiet=True)
