"""The latency of a decision: of an actor beside NumPy and the floor, of a planner, and that both runtimes agree."""

import dataclasses

import pytest

from agents import td_jepa, tdmpc2
from experiments.bench import latency

SMALL = {
    "td_jepa": dataclasses.replace(td_jepa.Config().tiny(), inputs="raw", phi_layers=0),
    "tdmpc2": tdmpc2.Config().tiny(),
}


@pytest.mark.parametrize("name", SMALL)
def test_latencies_of_all_runtimes_are_measured_on_the_same_states(name, monkeypatch):
    monkeypatch.setattr(latency, "BURST", 3)
    metrics = latency.measure(*latency.published(name, SMALL[name]), seconds=0.01, states=4)
    runtimes = {"onnxruntime", "jax"} | ({"numpy", "floor"} if name == "td_jepa" else set())
    assert metrics["milliseconds"].keys() == metrics["hertz"].keys() == runtimes
    for runtime, row in metrics["milliseconds"].items():
        assert 0 < row["p50"] <= row["p99"]
        assert metrics["hertz"][runtime] == pytest.approx(1000 / row["p50"])
    assert metrics["parity"]["largest_difference"] < 1e-5
    assert ("onnxruntime_over_floor" in metrics) == (name == "td_jepa")
