"""The stepping bench compares ways that do the same."""

import json

import jax
import numpy as np
import pytest

import envs
from experiments.bench import steps


@pytest.mark.parametrize("world", ["point_maze", "tabletop_push"])
def test_loop_and_threads_end_in_the_same_states(world):
    env = envs.make(world, threads=1)
    start = env.reset(jax.random.key(0), 2)
    action = np.random.default_rng(0).uniform(-1, 1, (3, 2, env.spec.action))
    end = steps.looped(env, start, action)
    assert np.abs(end - start.physics[:, env.world.qpos.start : env.world.qvel.stop]).max() > 1e-3
    np.testing.assert_allclose(end, steps.together(env, start, action), atol=steps.EQUAL)


def test_rates_of_every_way_are_written(tmp_path):
    out = tmp_path / "steps.json"
    options = ["--worlds", "2", "--decisions", "2", "--rounds", "1", "--threads", "1", "--out", str(out)]
    steps.main(["--world", "point_maze", *options])
    metrics = json.loads(out.read_text())["metrics"]
    assert set(metrics["over_loop"]) == {"loop", "threads_1", "bare_1"}
    assert metrics["over_loop"]["loop"] == 1
    assert all(rate > 0 for rate in metrics["steps_per_second"].values())
