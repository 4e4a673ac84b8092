"""The bench of progress: episodes that fail as they should, measures of encoders that know and that do not."""

import functools
import json

import numpy as np
import pytest

from embodied.types import InputError
from envs.controlled import ControlledEnv
from experiments.bench import progress
from experiments.bench.episodes import FRAME, Episodes, backwards, play, rows

LENGTH, COUNT = 20, 6
FEW = ["--references", "3", "--judged", "3", "--failures", "2", "--learned", "2", "--decisions", "60", "--every", "6"]
LITTLE = ["--updates", "4", "--batch-size", "8", "--tasks", "reach", "--encoders", "pixel", "state", "fb"]


@functools.cache
def reach(manner):
    return play("metaworld_reach", manner, count=3, decisions=60, seed=0)


def walks(slope, seed, solved_at=None):
    """Episodes whose first number walks from 0 with a slope, a little noise beside it."""
    noise = np.random.default_rng(seed).normal(size=(COUNT, LENGTH + 1, 39)) * 0.01
    noise[..., 0] += slope * np.arange(LENGTH + 1)
    solved = np.zeros((COUNT, LENGTH), bool)
    solved[:, LENGTH if solved_at is None else solved_at :] = True
    return Episodes(noise, np.zeros((COUNT, LENGTH, 4)), np.zeros((COUNT, LENGTH + 1, 5)), solved)


def judged(columns, failing):
    """Measures of an encoder that sees these columns, whose vectors are its features themselves."""
    data = {"references": walks(1, 0, 9), "judged": walks(1, 1, 9), "frozen": failing}
    made = {kind: some.states[..., columns] for kind, some in data.items()}
    return progress.judge(made, data["judged"].ends(every=1))


def test_successes_end_solved_and_failures_never_are():
    assert reach("expert").solved[:, -1].all()
    assert not reach("astray").solved.any()
    assert reach("expert").states.shape == (3, 61, 39)
    assert len(np.unique(reach("expert").states[:, 0], axis=0)) == 3


def test_episodes_count_up_to_a_little_behind_the_first_solved_step():
    some = walks(1, 0, solved_at=4)
    assert some.ends(every=1).tolist() == [16] * COUNT  # 4 more steps lead to it, and 10 follow
    assert some.ends(every=4).tolist() == [5] * COUNT
    assert walks(1, 0, solved_at=18).ends(every=1).tolist() == [LENGTH + 1] * COUNT


def test_backwards_episodes_run_through_the_same_moments_and_remember_what_comes_after():
    forth = reach("expert")
    back = backwards(forth)
    np.testing.assert_array_equal(back.states[:, :, :FRAME], forth.states[:, ::-1, :FRAME])
    np.testing.assert_array_equal(back.states[:, 1:, FRAME : 2 * FRAME], back.states[:, :-1, :FRAME])
    np.testing.assert_array_equal(back.states[:, :, 36:], forth.states[:, :, 36:])
    np.testing.assert_array_equal(back.physics[:, 0], forth.physics[:, -1])
    assert not back.solved.any()


def test_rows_of_data_hold_states_and_actions_and_no_physics():
    (first, *rest) = rows({"a": reach("expert"), "b": reach("astray")})
    assert len(rest) == 5
    assert {name: leaf.shape for name, leaf in first.items()} == {
        "state": (61, 39),
        "action": (60, 4),
        "physics": (61, 0),
    }


def test_encoder_that_sees_the_walk_passes_and_one_that_sees_noise_does_not():
    found, curves = judged(slice(0, 1), walks(0, 2))
    assert found["cross_spearman"]["value"] > 0.9
    assert found["auroc"]["value"] == 1
    assert found["smd"]["value"] > 5
    assert abs(found["failing_spearman"]["value"]) < 0.5
    assert curves["cross"][-1] > 0.9 > curves["failing"][-1]
    blind, _ = judged(slice(1, 3), walks(0, 2))
    assert abs(blind["cross_spearman"]["value"]) < 0.5
    assert blind["auroc"]["low"] < 0.8
    assert progress.summary([{"prefixes": found}, {"prefixes": blind}], "prefixes")["passes"] == 1


def test_whole_bench_writes_a_table_with_intervals_and_curves(tmp_path, monkeypatch, capsys):
    def drawn(self, physics, camera, size):
        return np.full((size, size, 3), 200 * abs(physics[1]) % 255, np.uint8)

    monkeypatch.setattr(ControlledEnv, "render", drawn)
    monkeypatch.setattr(progress, "SMALL", {name: config.tiny() for name, config in progress.SMALL.items()})
    progress.main([*FEW, *LITTLE, "--out", str(tmp_path / "progress.json")])
    metrics = json.loads((tmp_path / "progress.json").read_text())["metrics"]
    assert list(metrics["encoders"]) == ["fb", "pixel", "state"]
    assert (tmp_path / "progress.png").stat().st_size > 10_000
    printed = capsys.readouterr().out.splitlines()
    named = [tuple(line.split()[:2]) for line in printed[:-1]]
    assert named == [(name, form) for name in ("pixel", "state", "fb") for form in progress.FORMS]
    for found in (one[form] for one in metrics["encoders"].values() for form in progress.FORMS):
        assert set(progress.MEASURES) < set(found)
        assert found["of"] == 1
        assert all(found[name]["low"] <= found[name]["value"] <= found[name]["high"] for name in progress.MEASURES)
        assert set(found["auroc_by_kind"]) == {"noisy", "stopped", "astray", "frozen", "random", "reversed"}
    assert metrics["encoders"]["state"]["prefixes"]["same_spearman"]["value"] > 0.9


def test_unknown_encoders_and_tasks_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="encoders: unknown encoder 'td_jpa'; did you mean 'td_jepa'"):
        progress.main(["--encoders", "td_jpa"])
    with pytest.raises(InputError, match="tasks: unknown task 'reech'; did you mean 'reach'"):
        progress.main(["--tasks", "reech"])
