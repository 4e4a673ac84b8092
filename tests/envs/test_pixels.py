"""Worlds seen through a camera: real images where a GL library is, painted ones for the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import envs
from embodied.rollout import rollout
from embodied.types import InputError
from envs.pixels import PixelEnv, frames
from tests.embodied.toys import Adder

ROOT = Path(__file__).parents[2]
MISSING = "pixels: no renderer: install libegl1 libgl1-mesa-dri (or libosmesa6) and set MUJOCO_GL=egl"
SIZE = 32


def drawn(backend: str) -> dict:
    """What `tests/envs/drawing.py` says."""
    environment = os.environ | {"EMBODIED_TEST_GL": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "envs" / "drawing.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""  # nor does anything complain when the process ends
    return json.loads(done.stdout)


def test_images_are_right_and_stay_so_when_worlds_and_sizes_take_turns():
    seen = drawn("egl")
    if "error" in seen:  # no GL library here: then this, and nothing else, is what a user must read
        assert seen == {"error": MISSING}
        return
    # The camera is 0.84 m above the ball and sees 0.84 tan(22.5 deg) = 0.348 m to each side: 0.15 m are 13.8 pixels.
    assert np.abs(np.array(seen["ball"]) - [[18.2, 45.8], [45.8, 18.2]]).max() <= 1.3
    assert seen["same_after_another_world"]
    assert seen["step"] == [True, True, True]
    assert seen["moved"]
    assert seen["walker"][:2] == [[1, 48, 48, 9], "uint8"]
    assert seen["walker"][2] > 5
    cube, nothing = seen["red_at_the_table"]
    assert cube > 5
    assert nothing == 0  # no mark of a goal, which the physics vector does not know
    near, far = np.array(seen["floors"])
    assert np.abs(far - near)[:2].min() > 30  # red and green of the floor tell where the ant is
    above, below, changed = seen["hand"]
    assert above > 2 * below
    assert 0 < changed < 60  # the goal and the puck
    assert {"size": 64, "shadows": False, "reflections": False, "multisampling": 0}.items() <= seen["setting"].items()


def test_without_a_gl_library_one_error_names_the_packages():
    assert drawn("disable") == {"error": MISSING}


class Painted(Adder):
    """The world of one number, seen as a wall in a grey that says it."""

    def render(self, physics, camera, size):
        """A wall as grey as x."""
        return np.full((size, size, 3), int(physics[0]), np.uint8)


def greys(obs) -> list:
    return np.asarray(obs["pixels"])[:, 0, 0, ::3].tolist()


def test_observation_shows_the_latest_three_frames_and_repeats_the_first():
    env = PixelEnv(Painted(jittable=False), SIZE)
    ts = env.reset(jax.random.key(0), 3)
    assert greys(ts.obs) == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    ts = env.step(ts, np.ones((3, 1)))
    assert greys(ts.obs) == [[0, 0, 2], [1, 1, 3], [2, 2, 4]]
    ts = env.step(env.step(ts, np.ones((3, 1))), np.zeros((3, 1)))
    assert greys(ts.obs) == [[2, 4, 4], [3, 5, 5], [4, 6, 6]]
    assert ts.obs["pixels"].shape == (3, *env.spec.obs["pixels"])
    assert ts.obs["pixels"].dtype == np.uint8


def test_equal_steps_from_one_timestep_give_equal_observations():
    env = PixelEnv(Painted(jittable=False), SIZE)
    ts = env.step(env.reset(jax.random.key(0), 2), np.ones((2, 1)))
    first, _ = env.step(ts, np.ones((2, 1))), env.step(ts, np.zeros((2, 1)))
    assert greys(first.obs) == greys(env.step(ts, np.ones((2, 1))).obs)


def test_world_that_went_on_from_a_fresh_start_has_seen_nothing_before():
    env = PixelEnv(Painted(jittable=False, limit=4.0), SIZE)
    ts = env.step(env.reset_to(np.array([[1.0], [3.0]])), np.ones((2, 1)))
    assert greys(ts.obs) == [[1, 1, 3], [0, 0, 0]]
    assert ts.discount.tolist() == [1.0, 0.0]


def test_stored_states_give_one_frame_and_the_quantities_without_drawing_any():
    env = PixelEnv(Painted(jittable=False), SIZE)
    physics = np.array([[5.0], [7.0]])
    assert greys(env.observe(physics)[0]) == [[5, 5, 5], [7, 7, 7]]
    env.env.render = None  # from here on drawing would fail
    obs, quantities = env.observe(physics)
    assert quantities["x"].tolist() == [5.0, 7.0]
    assert list(obs) == ["pixels"]


def test_rollout_keeps_the_stacks_of_all_decisions():
    env = PixelEnv(Painted(jittable=False), SIZE)
    behave = lambda obs, carry, key: (jax.numpy.ones((2, 1)), carry)  # noqa: E731
    seen = rollout(env, behave, env.reset(jax.random.key(0), 2), (), 3, jax.random.key(1)).obs["pixels"]
    assert seen.shape == (2, 4, SIZE, SIZE, 9)
    assert seen[0, :, 0, 0, ::3].tolist() == [[0, 0, 0], [0, 0, 2], [0, 2, 4], [2, 4, 6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": 16}, "pixels must be at least 32, or 0 for observations of the state, got 16"),
        ({"pixels": 64, "form": "mjx"}, "pixels belongs to form 'host'; leave it out for form 'mjx'"),
        ({"pixel": 64}, "unknown option 'pixel' of world 'point_maze'; did you mean 'pixels'"),
    ],
)
def test_bad_options_are_named_with_what_was_expected(options, message):
    with pytest.raises(InputError, match=message):
        envs.make("point_maze", **options)


def test_world_without_a_camera_says_so():
    with pytest.raises(InputError, match="pixels: world 'adder' has no renderer in this form"):
        frames(Adder(jittable=False), np.zeros((1, 1)), SIZE)
