"""Training on two devices of one process is training on one, to rounding; jobs of processes: tests/experiments."""

import jax
import numpy as np
import pytest

from agents import fb, td_jepa
from embodied import parallel
from embodied.checkpoint import Checkpointer
from embodied.data import dataset
from embodied.train import TrainConfig, init_run, make_chunk, train
from embodied.types import InputError, Spec

SPEC = Spec(obs={"state": (2,)}, action=1)


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    draw = lambda: {"state": rng.normal(size=(9, 2)), "action": rng.uniform(-1, 1, (8, 1)), "physics": np.ones((9, 1))}  # noqa: E731
    return dataset.from_dataset(dataset.from_episodes([draw() for _ in range(4)]), 8)


@pytest.mark.parametrize("module", [fb, pytest.param(td_jepa, marks=pytest.mark.slow)])
def test_two_devices_learn_what_one_learns(module, source):
    agent = module.make(module.Config().tiny(), SPEC)
    one, two = (
        train(agent, source, SPEC.example(), TrainConfig(updates=4, batch_size=8, chunk=2, devices=count), quiet=True)
        for count in (1, 2)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one.agent.params, two.agent.params)
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(two))


def test_each_device_computes_its_share_and_exchanges_the_rest(source):
    agent, mesh = fb.make(fb.Config().tiny(), SPEC), parallel.mesh(2, 8)
    run = parallel.spread(init_run(agent, source, SPEC.example(), 0), mesh)
    data = parallel.spread(source.data, mesh)
    lowered = make_chunk(agent, source, 2, mesh).lower(data, run, jax.random.key(0))
    text = lowered.compile().as_text()
    assert "all-reduce" in text
    rows = {line.split("f32[")[1].split("]")[0] for line in text.splitlines() if " dot(" in line and "f32[" in line}
    assert any(shape.startswith("4,") for shape in rows)  # half of a batch of 8


def test_run_begun_on_one_device_goes_on_with_two(source, tmp_path):
    agent = fb.make(fb.Config().tiny(), SPEC)
    config = lambda updates, devices: TrainConfig(updates, 8, 2, 0.0, devices=devices)  # noqa: E731
    train(agent, source, SPEC.example(), config(2, 1), directory=tmp_path, quiet=True)
    more = train(agent, source, SPEC.example(), config(4, 2), directory=tmp_path, quiet=True)
    whole = train(agent, source, SPEC.example(), config(4, 1), quiet=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole.agent.params, more.agent.params)
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    assert int(checkpointer.restore(init_run(agent, source, SPEC.example(), 0)).step) == 4
    checkpointer.close()


def test_values_are_spread_to_every_device_and_taken_back_from_one():
    mesh, tree = parallel.mesh(2, 2), {"a": np.arange(3.0), "key": jax.random.key(1)}
    everywhere = parallel.spread(tree, mesh)
    assert all(leaf.sharding.is_fully_replicated and len(leaf.devices()) == 2 for leaf in everywhere.values())
    assert parallel.spread(everywhere, mesh)["a"] is everywhere["a"]
    back = parallel.local(everywhere, mesh)
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert len(back["a"].devices()) == 1
    assert parallel.spread(tree, None) is tree
    assert parallel.agree(True)
    assert not parallel.agree(False)


@pytest.mark.parametrize(
    ("count", "batch_size", "message"),
    [
        (3, 6, r"train: devices must be in \[1, 2\], those that JAX has here, got 3"),
        (2, 7, "batch_size must be a multiple of the devices that share it, 2, got 7; nearest are 6 and 8"),
    ],
)
def test_devices_that_cannot_share_are_named(count, batch_size, message):
    with pytest.raises(InputError, match=message):
        parallel.mesh(count, batch_size)


def test_process_without_a_job_is_told_what_to_set(monkeypatch):
    def alone(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", alone)
    with pytest.raises(InputError, match=r"does not know its job .* set JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        parallel.join()
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(InputError, match="JAX_PROCESS_ID must be a whole number, got 'first'"):
        parallel.join()
