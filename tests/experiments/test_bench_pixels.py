"""What the comparison of learned and untrained image encoders makes of its runs."""

import dataclasses
import json

import numpy as np
import pytest

from envs.host import HostEnv
from experiments.bench import pixels
from experiments.presets import COLLECT


def test_curve_has_a_point_for_every_row_that_was_scored(tmp_path):
    rows = [
        {"step": 10, "time/seconds": 2.0},
        {"step": 20, "time/seconds": 3.0, "eval/walk/return": 5.0, "eval/walk/success": 1.0, "health/spectrum": 1.0},
        {"step": 30, "time/seconds": 4.0},
        {"step": 40, "time/seconds": 5.0, "eval/walk/return": 7.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = {"updates": [20, 40], "seconds": [5.0, 14.0], "returns": {"walk": [5.0, 7.0]}}
    assert pixels.curve(tmp_path) == expected


def test_collection_is_timed_by_the_frames_that_it_stores(monkeypatch):
    def drawn(self, physics, camera, size):
        return np.full((size, size, 3), 90, np.uint8)

    monkeypatch.setattr(HostEnv, "render", drawn)
    speed = pixels.collection(dataclasses.replace(COLLECT["point_maze-pixels-noise"], episodes=2, worlds=2))
    assert speed["frames"] == 2 * 51
    assert speed["frames_per_second"] == pytest.approx(102 / speed["seconds"])


def test_drawing_has_a_line_for_each_seed_of_each_kind_and_one_name_for_each_kind():
    row = lambda height: {"updates": [10, 20], "returns": {"a": [0.0, height], "b": [2.0, height]}}  # noqa: E731
    figure = pixels.drawing(
        {"learned": [row(4), row(6)], "untrained": [row(0)]}, {"a": {"iqm": 1.0}, "b": {"iqm": 3.0}}
    )
    (axes,) = figure.axes
    lines = [line.get_ydata() for line in axes.lines]
    np.testing.assert_allclose(lines[:3], [[1, 4], [1, 6], [1, 0]])
    np.testing.assert_allclose(lines[3], [2, 2])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["learned encoders", "untrained encoders", "random actions"]
