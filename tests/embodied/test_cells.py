"""Several runs in one program: each learns what it would learn alone, and stops, resumes and fails under its name."""

import copy
import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import fb
from embodied.cells import Cell, train_cells
from embodied.data import replay
from embodied.train import Interrupted, NonFiniteError, TrainConfig, train
from embodied.types import InputError, Needs, Spec
from tests.embodied import toys

CONFIG = TrainConfig(updates=100, batch_size=4, chunk=25, checkpoint_seconds=0.0, keep_checkpoints=4)
SEEDS = [Cell(f"seed-{seed}", seed, {}) for seed in (3, 4)]
EXAMPLE = toys.SPEC.example()


def together(directory=None, cells=SEEDS, config=CONFIG, build=lambda values: toys.agent(), **more):
    more = {"source": toys.source(), "example": EXAMPLE, "quiet": True} | more
    return train_cells(build, cells, more.pop("source"), more.pop("example"), config, directory=directory, **more)


def alone(seed, config=CONFIG, directory=None):
    config = dataclasses.replace(config, seed=seed)
    return train(toys.agent(), toys.source(), EXAMPLE, config, directory=directory, quiet=True)


def assert_equal(one, other):
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def rows(directory) -> list[dict]:
    """The log without what depends on the clock."""
    found = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith(("speed/", "time/"))} for row in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted runs, and their folder."""
    directory = tmp_path_factory.mktemp("whole")
    return together(directory), directory


def test_each_seed_learns_and_logs_what_it_does_alone(whole, tmp_path):
    runs, directory = whole
    for cell, run in zip(SEEDS, runs, strict=True):
        assert_equal(run, alone(cell.seed, directory=tmp_path / cell.name))
        assert rows(directory / cell.name) == rows(tmp_path / cell.name)
    assert (np.asarray(runs[0].agent.params["weight"]) != np.asarray(runs[1].agent.params["weight"])).any()


@pytest.fixture
def fast_compile():
    """Compiles without optimisation: here every chunk runs twice."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("fast_compile")
def test_swept_rates_of_a_real_agent_give_the_numbers_of_single_runs():
    spec, config = Spec(obs={"state": (2,)}, action=1), fb.Config().tiny()
    cells = [Cell("a", 0, {"lr_actor": 1e-3, "tau": 0.01}), Cell("b", 1, {"lr_actor": 1e-2, "tau": 0.5})]

    def build(values):
        changed = copy.copy(config)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return fb.make(changed, spec)

    budget = TrainConfig(updates=4, batch_size=4, chunk=2)
    runs = together(cells=cells, config=budget, build=build, example=spec.example())
    agent = fb.make(dataclasses.replace(config, **cells[1].values), spec)
    single = train(agent, toys.source(), spec.example(), dataclasses.replace(budget, seed=1), quiet=True)
    # Batched products may be summed in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), runs[1], single)


@pytest.mark.parametrize("stopped_at", [25, 75])
def test_interrupted_program_resumes_bit_for_bit(stopped_at, whole, tmp_path):
    def stop(run, step, row):
        if step == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        together(tmp_path, hooks=lambda cell: [stop] if cell.seed == 4 else [])
    assert_equal(together(tmp_path), whole[0])
    for cell in SEEDS:
        assert rows(tmp_path / cell.name) == rows(whole[1] / cell.name)


def test_program_that_lost_its_last_checkpoints_drops_the_rows_behind_and_ends_the_same(whole, tmp_path):
    together(tmp_path)
    for step in (75, 100):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    assert_equal(together(tmp_path), whole[0])
    assert rows(tmp_path / "seed-3") == rows(whole[1] / "seed-3")


def test_finished_cell_goes_on_alone_and_a_finished_program_longer(whole, tmp_path):
    longer = dataclasses.replace(CONFIG, updates=150)
    together(tmp_path)
    assert_equal(alone(4, longer, tmp_path / "seed-4"), alone(4, longer))
    assert_equal(together(tmp_path, config=longer)[0], alone(3, longer))
    assert [row["step"] for row in rows(tmp_path / "seed-3")] == [25, 50, 75, 100, 125, 150]


def test_init_and_program_are_traced_once_and_the_data_stay_whole():
    traces, source = [], toys.source()

    def build(values):
        agent = toys.agent()

        def init(key, batch):
            traces.append("init")
            return agent.init(key, batch)

        def update(state, batch, key):
            traces.append(batch.obs["state"].shape)
            return agent.update(state, batch, key)

        return agent._replace(init=init, update=update)

    together(build=build, source=source)
    assert traces == ["init", (4, 2)]
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(source.data))


def test_hooks_see_the_run_of_their_own_cell(whole, tmp_path):
    seen = {}

    def hooks(cell):
        def hook(run, step, row):
            seen[cell.name] = (run, step)
            return {"eval/seed": float(cell.seed)}

        return [hook]

    together(tmp_path, hooks=hooks)
    for cell, run in zip(SEEDS, whole[0], strict=True):
        assert_equal(seen[cell.name][0], run)
        assert seen[cell.name][1] == 100
        assert [row["eval/seed"] for row in rows(tmp_path / cell.name)] == [cell.seed] * 4


def poisoned(values):
    """The toy agent whose metric is NaN in update `moment`."""
    agent = toys.agent()

    def update(state, batch, key):
        after, metrics = agent.update(state, batch, key)
        return after, metrics | {"toy/poison": jnp.where(state.count == values["moment"], jnp.nan, 0.0)}

    return agent._replace(update=update)


def test_non_finite_number_is_reported_with_its_cell_and_no_log_or_checkpoint_holds_it(tmp_path):
    cells = [Cell("well", 0, {"moment": -1.0}), Cell("ill", 0, {"moment": 36.0})]
    with pytest.raises(NonFiniteError, match="'toy/poison' became non-finite at update 37 of ill; no checkpoint holds"):
        together(tmp_path, cells, build=poisoned)
    assert [row["step"] for row in rows(tmp_path / "well")] == [25]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["25"]


def test_value_that_decides_what_is_computed_is_refused_by_name():
    cells = [Cell("a", 0, {"depth": 1.0}), Cell("b", 0, {"depth": 2.0})]
    build = lambda values: toys.agent(fails_at=1 if values["depth"] > 1.5 else 2)  # noqa: E731
    with pytest.raises(InputError, match=r"sweep: depth decides what is computed, .* in a run of its own"):
        together(cells=cells, build=build)


def test_value_that_decides_which_data_are_read_is_refused_by_name():
    cells = [Cell("a", 0, {"future": 0.5}), Cell("b", 0, {"future": 0.9})]
    build = lambda values: toys.agent()._replace(needs=Needs(future=values["future"]))  # noqa: E731
    with pytest.raises(InputError, match="sweep: future decides which data are read"):
        together(cells=cells, build=build)


def test_devices_and_growing_data_are_refused():
    with pytest.raises(InputError, match="devices must be 1 where several runs share a program, got 2"):
        together(config=dataclasses.replace(CONFIG, devices=2))
    ring = replay.empty(jax.tree.map(lambda leaf: jnp.zeros((3, *leaf.shape[1:])), toys.source().data.steps), 2)
    growing = toys.source()._replace(init=lambda key: ring, refill=lambda ring, *_: ring)
    with pytest.raises(InputError, match="learn from stored data alone"):
        together(source=growing)
