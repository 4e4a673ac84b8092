"""The training loop: chunks, resume, what it writes, and how it stops."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from embodied.checkpoint import Checkpointer
from embodied.data import dataset, replay
from embodied.data.dataset import Steps
from embodied.train import INTERRUPTED, Interrupted, NonFiniteError, TrainConfig, init_run, make_chunk, train
from embodied.types import InputError, Spec
from tests.agents.chains import OF_STORED_DATA
from tests.embodied import toys

CONFIG = TrainConfig(updates=100, batch_size=4, chunk=25, checkpoint_seconds=0.0, keep_checkpoints=4, seed=3)
HALF = dataclasses.replace(CONFIG, updates=50)


def learn(directory=None, config=CONFIG, agent=None, source=None, hooks=(), spec=toys.SPEC):
    agent = agent or toys.agent()
    return train(
        agent,
        source or toys.source(config.batch_size, agent.needs),
        spec.example(),
        config,
        directory=directory,
        hooks=hooks,
        quiet=True,
    )


def assert_equal(one, other):
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def rows(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def untimed(found: list[dict]) -> list[dict]:
    """The rows without what depends on the clock."""
    return [{k: v for k, v in row.items() if not k.startswith(("speed/", "time/"))} for row in found]


def restored(directory, config=CONFIG):
    """The run in the latest checkpoint, as a new process would find it."""
    checkpointer = Checkpointer(directory / "checkpoints")
    run = checkpointer.restore(init_run(toys.agent(), toys.source(), toys.SPEC.example(), config.seed + 1))
    checkpointer.close()
    return run


@pytest.fixture(scope="module")
def whole():
    """The uninterrupted run."""
    return learn()


@pytest.fixture(scope="module")
def fast_compile():
    """Compiles without optimisation: here every chunk runs a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("fast_compile")
@pytest.mark.parametrize("name", OF_STORED_DATA)
def test_hundred_updates_equal_fifty_a_restore_and_fifty_more_for_every_agent_of_stored_data(name, tmp_path):
    module, spec = agents.module(name), Spec(obs={"state": (2,)}, action=1)

    def session():
        agent = module.make(module.Config().tiny(), spec)
        agent = agent._replace(init=jax.jit(agent.init))
        return learn(tmp_path, CONFIG, agent, spec=spec)

    straight, straight_rows = session(), rows(tmp_path)
    for step in (75, 100):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    resumed = session()
    assert int(resumed.step) == 100
    assert_equal(resumed, straight)
    assert untimed(rows(tmp_path)) == untimed(straight_rows)


def growing_ring(batch_size: int, seen: list) -> replay.Source:
    """A ring of three episodes that gains one before each chunk, made from parameters, update and key."""
    rows = 4

    def episode(value, key) -> Steps:
        state = value + jax.random.normal(key, (rows, 2))
        return Steps({"state": state}, state[:, :1], state[:, 0], jnp.ones(rows), state[:, :1])

    def refill(ring, params, done, key):
        seen.append(done)
        return replay.add(ring, episode(params["weight"].sum() + done, key), rows)

    first = episode(jnp.float32(0.0), jax.random.key(0))
    return replay.from_ring(replay.add(replay.empty(first, 3), first, rows), rows, batch_size)._replace(refill=refill)


def test_ring_that_grows_while_training_resumes_bit_for_bit(tmp_path):
    seen: list[int] = []
    straight = learn(source=growing_ring(4, seen))
    assert seen == [0, 25, 50, 75]
    assert int(straight.source.written) == 5
    learn(tmp_path, HALF, source=growing_ring(4, seen))
    assert_equal(learn(tmp_path, source=growing_ring(4, seen)), straight)


def test_length_of_a_chunk_does_not_change_what_is_learnt(whole):
    assert_equal(learn(config=dataclasses.replace(CONFIG, chunk=10)), whole)


def test_seed_changes_what_is_learnt(whole):
    other = learn(config=dataclasses.replace(CONFIG, seed=4))
    assert (np.asarray(other.agent.params["weight"]) != np.asarray(whole.agent.params["weight"])).any()


def test_chunk_reports_the_mean_of_each_metric_over_its_updates(tmp_path):
    learn(tmp_path, dataclasses.replace(CONFIG, chunk=1, checkpoint_seconds=1e6))
    single = [row["toy/weight"] for row in rows(tmp_path)]
    learn(tmp_path / "chunked")
    chunked = [row["toy/weight"] for row in rows(tmp_path / "chunked")]
    np.testing.assert_allclose(chunked, np.reshape(single, (4, 25)).mean(1), rtol=1e-5)


def test_chunk_is_traced_once():
    agent, traces = toys.agent(), []

    def update(*arguments):
        traces.append(None)
        return agent.update(*arguments)

    learn(agent=agent._replace(update=update))
    assert len(traces) == 1


def test_data_of_the_source_is_not_donated(whole):
    source = toys.source(4)
    assert_equal(learn(source=source), whole)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(source.data))
    assert_equal(learn(source=source), whole)


def test_chunk_counts_updates_and_takes_its_data_as_an_argument():
    source, other = toys.source(4), dataset.from_dataset(dataset.from_episodes(toys.episodes((12,))), 4)
    chunk = make_chunk(toys.agent(), source, 5)
    outcomes = []
    for data in (source.data, other.data):
        run = init_run(toys.agent(), source, toys.SPEC.example(), 0)
        run, _ = chunk(data, run, jax.random.key(0))
        assert (int(run.step), int(run.agent.count)) == (5, 5)
        outcomes.append(np.asarray(run.agent.params["weight"]))
    assert (outcomes[0] != outcomes[1]).any()


def test_hooks_see_every_chunk_and_add_to_its_row(tmp_path):
    seen = []

    def hook(run, step, row):
        seen.append((step, int(run.step), row["toy/poison"]))
        return {"eval/answer": 42.0 + step} if step == 50 else None

    learn(tmp_path, hooks=[hook])
    assert seen == [(step, step, 0.0) for step in (25, 50, 75, 100)]
    assert [row.get("eval/answer") for row in rows(tmp_path)] == [None, 92.0, None, None]


def test_crash_between_checkpoints_leaves_no_metrics_row_double_or_missing(tmp_path, whole):
    def crash(run, step, row):
        if step == 90:
            raise KeyError("crash")

    config = dataclasses.replace(CONFIG, chunk=10)
    with pytest.raises(KeyError, match="crash"):
        learn(tmp_path, config, hooks=[crash])
    assert [row["step"] for row in rows(tmp_path)] == list(range(10, 90, 10))
    for step in (60, 70, 80):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    assert_equal(learn(tmp_path, config), whole)
    assert [row["step"] for row in rows(tmp_path)] == list(range(10, 101, 10))
    learn(tmp_path / "straight", config)
    resumed, straight = ([row["toy/weight"] for row in rows(d)] for d in (tmp_path, tmp_path / "straight"))
    assert resumed == straight


def test_finished_run_is_returned_again_without_an_update(tmp_path, whole):
    learn(tmp_path)
    before = rows(tmp_path)
    assert_equal(learn(tmp_path), whole)
    assert rows(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_saves_after_the_running_chunk_and_says_that_the_run_may_resume(number, tmp_path, whole):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop(run, step, row):
        if step == 75:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        learn(tmp_path, hooks=[stop])
    assert caught.value.code == INTERRUPTED == 75
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert int(restored(tmp_path).step) == 75
    assert_equal(learn(tmp_path), whole)
    assert [row["step"] for row in rows(tmp_path)] == [25, 50, 75, 100]


def test_second_stop_signal_stops_at_once_and_the_run_still_resumes(tmp_path, whole, capsys):
    def stop(run, step, row):
        if step == 50:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, hooks=[stop])
    assert "once more to stop at once" in capsys.readouterr().err
    assert_equal(learn(tmp_path), whole)


@pytest.mark.parametrize("fails_at", [36, 61], ids=["before a checkpoint", "right behind one"])
def test_non_finite_metric_stops_with_its_name_and_update_and_keeps_the_checkpoint(fails_at, tmp_path):
    with pytest.raises(NonFiniteError, match=f"'toy/poison' became non-finite at update {fails_at + 1};"):
        learn(tmp_path, agent=toys.agent(fails_at=fails_at))
    kept = fails_at // 25 * 25
    assert [row["step"] for row in rows(tmp_path)] == list(range(25, kept + 1, 25))
    expected = learn(config=dataclasses.replace(CONFIG, updates=kept))
    assert_equal(restored(tmp_path), expected)


def test_learning_rate_far_too_high_is_reported_as_non_finite():
    module, spec = agents.module("td3"), Spec(obs={"state": (2,)}, action=1)
    agent = module.make(dataclasses.replace(module.Config().tiny(), lr=1e30), spec)
    with pytest.raises(NonFiniteError, match=r"metric '\w+/\w+' became non-finite at update \d+; .*[Ll]ower the"):
        learn(config=HALF, agent=agent._replace(init=jax.jit(agent.init)), spec=spec)


def test_first_bad_update_is_named_where_several_metrics_turn_bad():
    agent = toys.agent(fails_at=30)

    def update(state, batch, key):
        state, metrics = agent.update(state, batch, key)
        return state, metrics | {"a/later": jnp.where(state.count > 40, jnp.inf, 0.0)}

    with pytest.raises(NonFiniteError, match="'toy/poison' became non-finite at update 31;"):
        learn(agent=agent._replace(update=update))


def test_budget_that_is_no_multiple_of_the_chunk_is_refused_naming_both():
    with pytest.raises(InputError, match=r"updates \(100\) must be a multiple of chunk \(30\)"):
        dataclasses.replace(CONFIG, chunk=30)


@pytest.mark.parametrize(
    ("field", "value"),
    [("chunk", 0), ("updates", -100), ("batch_size", 1), ("keep_checkpoints", 0), ("checkpoint_seconds", -1.0)],
)
def test_budget_out_of_range_is_refused_naming_field_and_interval(field, value):
    with pytest.raises(InputError, match=rf"train: {field} must be in \[\d, inf\), got {value}"):
        dataclasses.replace(CONFIG, **{field: value})


def test_checkpoints_are_made_by_the_clock_and_at_the_end(tmp_path):
    learn(tmp_path / "rarely", dataclasses.replace(CONFIG, checkpoint_seconds=1e6))
    learn(tmp_path / "always")
    kept = lambda place: sorted(int(path.name) for path in (tmp_path / place / "checkpoints").iterdir())  # noqa: E731
    assert kept("rarely") == [100]
    assert kept("always") == [25, 50, 75, 100]


def test_parameters_spoilt_by_the_last_update_of_a_chunk_are_never_saved(tmp_path):
    agent = toys.agent()

    def update(state, batch, key):
        after, metrics = agent.update(state, batch, key)
        spoilt = jax.tree.map(lambda leaf: jnp.where(state.count == 49, jnp.nan, leaf), after.params)
        return after.replace(params=spoilt), metrics

    with pytest.raises(NonFiniteError, match="'health/parameter_norm' became non-finite at update 50;"):
        learn(tmp_path, agent=agent._replace(update=update))
    assert int(restored(tmp_path).step) == 25
