"""Figures say what their data says: walls of the model, log axes, ratios, bars; videos hold their frames."""

import struct
import subprocess
from types import SimpleNamespace

import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, Rectangle

import envs
from embodied.types import Env, InputError
from experiments import figures, video


@pytest.fixture(scope="module")
def maze():
    return envs.make("point_maze", threads=1)


class Painter(Env):
    """A world whose image of a state is a plane of that brightness."""

    spec = SimpleNamespace(control_dt=0.05, hold=2)
    reset = reset_to = step = observe = None

    def __init__(self):
        self.closed = 0

    def render(self, physics, camera, size):
        return np.full((size, size, 3), physics[0], np.uint8)

    def close(self):
        self.closed += 1


class Blind(Painter):
    def render(self, physics, camera, size):
        raise RuntimeError("no renderer: install libegl1 libgl1-mesa-dri (or libosmesa6)")


Painter.__abstractmethods__ = Blind.__abstractmethods__ = frozenset()


def test_png_is_twice_as_large_as_its_place_on_the_page():
    image = figures.png(figures.spectrum({"x": np.eye(3)}))
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, _ = struct.unpack(">II", image[16:24])
    assert width == round(figures.WIDTH * 100 * 2)


def test_each_metric_has_a_panel_and_only_wide_positive_ones_are_logarithmic():
    rows = [
        {"step": 10, "loss/world": 100.0, "loss/orth": -5.0, "speed/updates_per_second": 9.0},
        {"step": 20, "loss/world": 1.0, "loss/orth": 50.0, "speed/updates_per_second": 9.5, "eval/walk/return": 3.0},
    ]
    panels = {axes.get_title(loc="left"): axes for axes in figures.learning_curves(rows).axes if axes.axison}
    assert list(panels) == ["eval/walk/return", "loss/world", "loss/orth", "speed/updates_per_second"]
    assert [axes.get_yscale() for axes in panels.values()] == ["linear", "log", "linear", "linear"]
    np.testing.assert_array_equal(panels["loss/world"].lines[0].get_xydata(), [[10, 100], [20, 1]])
    assert panels["speed/updates_per_second"].get_ylim()[0] == 0


def test_no_metrics_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        figures.learning_curves([{"step": 1}])


def test_walls_are_those_of_the_compiled_model(maze):
    panel = figures.Panel("corner", np.zeros((1, 3, 2)), (0.15, 0.15), 0.1, np.array([True]))
    axes = figures.maze_trajectories(maze, [panel]).axes[0]
    drawn = {tuple(np.round(p.get_bbox().bounds, 6)) for p in axes.patches if isinstance(p, Rectangle)}
    names = [maze.world.model.geom(i).name for i in range(maze.world.model.ngeom)]
    assert len(drawn) == len(names) - 2 == 12  # all but the floor and the ball
    assert (-0.01, 0.0, 0.02, 0.1) in drawn  # top_inner: centre (0, 0.05), half sizes (0.01, 0.05)
    np.testing.assert_allclose([*axes.get_xlim(), *axes.get_ylim()], [-0.32, 0.32, -0.32, 0.32])


def test_a_turned_wall_is_drawn_turned():
    wall = '<geom type="box" pos="1 2 0" size="3 1 1" euler="0 0 90"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{wall}</worldbody></mujoco>")
    world = Painter()
    world.world = SimpleNamespace(model=model)
    panel = figures.Panel("turned", np.zeros((1, 2, 2)), (0.0, 0.0), 0.1, np.array([True]))
    axes = figures.maze_trajectories(world, [panel]).axes[0]
    np.testing.assert_allclose([*axes.get_xlim(), *axes.get_ylim()], [0, 2, -1, 5], atol=1e-9)


def test_panel_without_a_goal_draws_blue_paths_and_no_disc(maze):
    figure = figures.maze_trajectories(maze, [figures.Panel("loop", np.linspace([0.1, 0.1], [0.2, 0.2], 9)[None])])
    axes = figure.axes[0]
    assert not any(isinstance(patch, Circle) for patch in axes.patches)
    (paths,) = (c for c in axes.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(paths.get_colors()[:, :3] - to_rgb(figures.BLUE), 0, atol=1e-9)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["start", "end"]
    assert axes.get_title(loc="right") == ""


def test_paths_are_coloured_by_success_and_grow_stronger(maze):
    positions = np.stack([np.linspace([0.1, 0.1], [0.2, 0.2], 500), np.linspace([-0.1, 0.1], [-0.2, 0.2], 500)])
    panel = figures.Panel("two", positions, (0.2, 0.2), 0.05, np.array([True, False]))
    axes = figures.maze_trajectories(maze, [panel] * 5).axes[4]
    reached, missed = (c for c in axes.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(reached.get_colors()[0, :3], to_rgb(figures.BLUE))
    np.testing.assert_allclose(missed.get_colors()[0, :3], to_rgb(figures.VERMILLION))
    assert reached.get_colors()[0, 3] < reached.get_colors()[-1, 3]
    np.testing.assert_allclose(reached.get_segments()[-1][-1], [0.2, 0.2])
    assert axes.get_title(loc="right") == "1/2"


def test_spectrum_of_scaled_axes_is_the_square_of_the_scales():
    features = np.concatenate([np.diag([2.0, 1.0, 0.1]), -np.diag([2.0, 1.0, 0.1])])
    np.testing.assert_allclose(figures.relative_spectrum(features), [1, 0.25, 0.0025], rtol=1e-12)
    figure = figures.spectrum({"psi": features})
    assert "2.5e-03" in figure.legends[0].get_texts()[0].get_text()
    assert any(np.allclose(line.get_ydata(), 1e-3) for line in figure.axes[0].lines)


def test_bars_have_the_length_of_the_mean_and_a_missing_task_has_none():
    walk, run = {"iqm": 10.0, "low": 8.0, "high": 13.0}, {"iqm": -4.0}
    figure = figures.task_bars({"ours": {"walk": walk, "run": run}, "random actions": {"run": {"iqm": 1.0}}})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [10.0, -4.0, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["walk", "run"]
    interval = axes.collections[0].get_segments()[0]
    np.testing.assert_allclose(interval[:, 0], [8, 13])


def test_tiles_fill_rows_and_leave_white():
    clips = [np.full((2, 1, 1, 3), value, np.uint8) for value in (1, 2, 3)]
    np.testing.assert_array_equal(video.tile(clips, columns=2)[0, :, :, 0], [[1, 2], [3, 255]])


def test_a_recorded_video_holds_one_frame_per_state_side_by_side(tmp_path):
    world = Painter()
    physics = np.stack([np.full((7, 1), 30.0), np.full((7, 1), 220.0)])
    path = video.record(world, physics, "top", tmp_path / "new" / "a.mp4", size=33)
    command = [get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    assert b" 66x34" in decoded.stderr  # an odd height is padded by one row
    assert b" 10 fps" in decoded.stderr  # 1 / (0.05 s * 2)
    clip = np.frombuffer(decoded.stdout, np.uint8).reshape(7, 34, 66, 3)
    assert abs(clip[3, 16, 10].mean() - 30) < 8
    assert abs(clip[3, 16, 50].mean() - 220) < 8
    assert world.closed == 1


def test_a_film_strip_shows_first_and_last_moment():
    strip = imageio.imread(video.film_strip(Painter(), np.arange(101.0)[:, None], "top", count=3, size=8))
    assert strip.shape == (8, 3 * 8 + 2 * video.GAP, 4)
    middle = strip[4, [0, 8 + video.GAP, -1], 0]
    np.testing.assert_array_equal(middle, [0, 50, 100])


def test_without_a_renderer_one_line_names_the_packages_and_nothing_fails(tmp_path, capsys):
    world = Blind()
    assert video.record(world, np.zeros((3, 1)), "top", tmp_path / "a.mp4") is None
    assert video.film_strip(world, np.zeros((3, 1)), "top") is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("libegl1" in line and "libosmesa6" in line for line in lines)
    assert not (tmp_path / "a.mp4").exists()
    assert world.closed == 2
