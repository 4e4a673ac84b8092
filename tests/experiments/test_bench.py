"""The speed measurement counts operations as the traced program does and reports medians of interleaved rounds."""

import dataclasses
import json
import math
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import agents
from agents import fb, td_jepa
from embodied.data import dataset
from embodied.types import Agent, Prior, Spec
from experiments.bench import cold, update
from experiments.bench.flops import update_flops, xla_flops
from experiments.bench.synthetic import WALKER, transitions
from experiments.presets import PRESETS


def _traced_flops(agent, spec, batch):
    """Operations of every matrix product in the program that JAX traces for one update."""
    example = spec.example(batch)
    state = jax.eval_shape(agent.init, jax.random.key(0), example)
    return _products(jax.make_jaxpr(agent.update)(state, example, jax.random.key(0)).jaxpr)


def _products(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        holds_program = lambda value: hasattr(value, "eqns") or hasattr(value, "jaxpr")  # noqa: E731
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=holds_program):
            inner_program = getattr(value, "jaxpr", value)
            if hasattr(inner_program, "eqns"):
                total += _products(inner_program)
    return total


def test_published_updates_take_the_known_number_of_operations():
    # 127.5 and 85.4 GFLOP were counted in the reference's PyTorch update at the same sizes.
    assert update_flops(td_jepa.Config(), WALKER, 1024) / 1e9 == pytest.approx(127.5, rel=0.01)
    assert update_flops(fb.Config(), WALKER, 1024) / 1e9 == pytest.approx(85.4, rel=0.01)


@pytest.mark.parametrize("preset", ["walker-td_jepa", "walker-fb", "walker-td_jepa-small", "walker-fb-small"])
def test_counted_operations_are_those_of_the_traced_program(preset):
    config, batch = PRESETS[preset].agent, PRESETS[preset].train.batch_size
    agent = agents.module(preset.split("-")[1]).make(config, WALKER)
    assert update_flops(config, WALKER, batch) == _traced_flops(agent, WALKER, batch)


def test_counting_follows_depth_and_the_sizes_of_another_world():
    spec = Spec(obs={"state": (7,)}, action=3)
    for module, config in (
        (td_jepa, td_jepa.Config(phi_layers=2, psi_layers=1, layers=2).tiny()),
        (fb, fb.Config(encoder_layers=3, backward_layers=0, layers=3, inputs="standardized").tiny()),
    ):
        assert update_flops(config, spec, 12) == _traced_flops(module.make(config, spec), spec, 12)


def test_xla_counts_at_least_the_matrix_products():
    counted = update_flops(fb.Config(), WALKER, 1024)
    assert 1.0 < xla_flops(fb.make(fb.Config(), WALKER), WALKER, 1024) / counted < 1.05


def test_rounds_take_turns_and_the_first_one_is_not_kept():
    order, count = [], iter(range(100))

    def call(name):
        def run():
            order.append(name)
            return float(next(count))

        return run

    rounds = update.interleave({"a": call("a"), "b": call("b")}, seconds=0.0)
    assert order == ["a", "b"] * (update.ROUNDS + 1)
    assert rounds == {"a": [2.0, 4.0, 6.0], "b": [3.0, 5.0, 7.0]}


def test_summary_takes_medians_and_the_best_size_of_matmul():
    rounds = {
        "matmul/float32/8x8x8": [1e9, 2e9, 90e9],
        "matmul/float32/9x9x9": [4e9, 4e9, 4e9],
        "matmul/bfloat16/8x8x8": [8e9, 8e9, 8e9],
        "fb/float32": [2.0, 1.0, 3.0],
        "fb/bfloat16": [4.0, 3.0, 3.0],
        "sampling/fb": [100.0, 200.0, 100.0],
    }
    found = update.summarise(rounds, {"fb": 10**9})
    assert found["matmul"]["float32"] == {"8x8x8": 2.0, "9x9x9": 4.0, "best": 4.0}
    assert found["matmul"]["bfloat16_over_float32"] == 2.0
    assert found["fb"]["gflop_per_update"] == 1.0
    assert found["fb"]["float32"] == {
        "updates_per_second": 2.0,
        "gflop_per_second": 2.0,
        "of_float32_matmul": 0.5,
    }
    assert found["fb"]["bfloat16_over_float32"] == 2.0  # the median of 2, 3 and 1
    assert found["fb"]["sampling_share"] == 0.02  # the median of 2 %, 0.5 % and 3 %
    lines = update.table(found)
    assert lines[3].split() == ["fb", "float32", "2.00", "2", "50%"]
    assert lines[-2:] == ["bfloat16 / float32: matmul 2.00, fb 2.00", "sampling, of an update: fb 2.00%"]
    found["fb"]["cold_seconds"] = {"total": 5.25}
    assert update.table(found)[-1] == "first updates without a cache: fb 5.2 s"


def test_update_rate_trains_through_the_real_chunk():
    class Counter(NamedTuple):
        params: Any

    def learn(state, batch, key):
        return Counter(state.params + batch.action.shape[0]), {"loss/one": state.params}

    unused = lambda *_: ()  # noqa: E731
    agent = Agent(lambda key, batch: Counter(jnp.float32(0)), learn, unused, unused, unused, (Prior,))
    source = dataset.from_dataset(transitions(episodes=2, decisions=5), 4)
    call = update.update_rate(agent, source, updates=2)
    assert call() > 0
    assert call() > 0  # the run that the first call donated is not used again


@pytest.mark.parametrize("dtype", update.TYPES)
def test_matmul_rate_is_operations_over_time(dtype, monkeypatch):
    call = update.matmul_rate((8, 16, 32), dtype, work=1e5)
    clock = iter([10.0, 10.5])
    monkeypatch.setattr(update.time, "perf_counter", lambda: next(clock))
    repeats = round(1e5 / (2 * 8 * 16 * 32))
    assert call() == repeats * 2 * 8 * 16 * 32 / 0.5


def test_sampling_rate_reads_whole_batches_of_the_source(monkeypatch):
    drawn = []
    source = dataset.from_dataset(transitions(episodes=2, decisions=5), 4)

    def following(data, state, key):
        state, batch = source.next(data, state, key)
        drawn.append(sum(leaf.size for leaf in jax.tree.leaves(batch)))
        return state, batch

    call = update.sampling_rate(source._replace(next=following), 3)
    assert call() > 0
    assert drawn == [4 * (24 + 6 + 24 + 1 + 1)]  # traced once: state, action, next state, reward, discount
    clock = iter([10.0, 10.5])
    monkeypatch.setattr(update.time, "perf_counter", lambda: next(clock))
    assert call() == 3 / 0.5


def test_cold_start_counts_each_part_and_leaves_the_imports_out(monkeypatch):
    preset = PRESETS["walker-fb-small"]
    monkeypatch.setitem(PRESETS, "walker-fb-small", dataclasses.replace(preset, agent=preset.agent.tiny()))
    seconds = cold.main("walker-fb-small", 4)
    assert list(seconds) == ["imports", "init", "compile", "updates", "total"]
    assert min(seconds.values()) > 0
    assert seconds["total"] == pytest.approx(seconds["init"] + seconds["compile"] + seconds["updates"])


def test_cold_start_runs_in_a_process_without_a_compilation_cache(monkeypatch):
    seen = {}

    def run(command, env, **more):
        seen.update(command=command, cache=env["JAX_ENABLE_COMPILATION_CACHE"])
        return types.SimpleNamespace(stdout='warning\n{"total": 4.0}\n')

    monkeypatch.setattr(cold.subprocess, "run", run)
    assert cold.first_updates("walker-fb", 1024) == {"total": 4.0}
    assert seen["command"][1:] == ["-m", "experiments.bench.cold", "walker-fb", "1024"]
    assert seen["cache"] == "false"


def test_result_file_names_command_processor_flags_and_rounds(tmp_path, monkeypatch, capsys):
    kinds = ("matmul", "fb-small", "sampling")
    rounds = {f"{kind}/{dtype}": [1.0] for kind in kinds for dtype in update.TYPES} | {"sampling/fb-small": [9.0]}
    seen = {}

    def measure(measured, seconds, rows):
        seen.update(measured=measured, seconds=seconds, rows=rows)
        named = {f"{k}/8x8x8" if k.startswith("matmul") else k: v for k, v in rounds.items()}
        return update.summarise(named, {"fb-small": 10}), {"rounds": named}

    monkeypatch.setattr(update, "measure", measure)
    monkeypatch.setattr(update, "first_updates", lambda preset, batch: {"total": 4.0, "batch": batch})
    update.main(["--names", "fb-small", "--seconds", "3", "--rows", "70", "--out", f"{tmp_path}/bench.json"])
    assert (seen["seconds"], seen["rows"]) == (3.0, 70)
    assert seen["measured"] == {"fb-small": PRESETS["walker-fb-small"]}
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["command"].startswith("python -m experiments.bench.update --names fb-small --seconds 3")
    assert (record["batch"], record["rows"]) == ({"fb-small": 256}, 70)
    assert record["metrics"]["fb-small"]["float32"]["updates_per_second"] == 1.0
    assert record["metrics"]["fb-small"]["cold_seconds"] == {"total": 4.0, "batch": 256}
    assert set(record["cpu_flags"]) == {"avx512f", "avx512_bf16", "amx_bf16"}
    assert "wrote" in capsys.readouterr().out


def test_published_presets_are_what_is_measured():
    for name, config in (("td_jepa", td_jepa.Config()), ("fb", fb.Config())):
        assert PRESETS[f"walker-{name}"].agent == config
        assert PRESETS[f"walker-{name}"].train.batch_size == 1024
