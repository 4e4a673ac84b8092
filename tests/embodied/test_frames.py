"""Frames in datasets: how they are stored, checked and stacked into observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.data import dataset, replay
from embodied.data.check import check
from embodied.data.dataset import from_dataset, from_episodes, gather
from embodied.data.store import Writer, read_episodes, read_metadata, write_episodes
from embodied.types import InputError, Needs
from tests.embodied.toys import episodes

SIDE = 4


def seen(lengths: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """Endless episodes whose frames are grey, 40 times the episode plus the time, but for a corner that is white."""
    found = episodes(lengths)
    for i, episode in enumerate(found):
        grey = (40 * i + np.arange(len(episode["state"]))).astype(np.uint8)
        episode["pixels"] = np.tile(grey[:, None, None, None], (1, SIDE, SIDE, 3))
        episode["pixels"][:, 0, 0] = 255
        episode["discount"] = np.ones(len(grey) - 1, np.float32)
    return found


def greys(stack: np.ndarray) -> np.ndarray:
    """The grey of each of the three frames of stacks [..., H, W, 9]."""
    return np.asarray(stack)[..., -1, -1, ::3]


def test_stacks_show_the_latest_three_frames_and_repeat_the_first_of_an_episode():
    steps = from_episodes(seen((4, 2)), pixels=True).steps
    np.testing.assert_array_equal(
        greys(dataset.stack(steps, np.arange(8))),
        [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [40, 40, 40], [40, 40, 41], [40, 41, 42]],
    )
    assert dataset.stack(steps, np.arange(8)).shape == (8, SIDE, SIDE, 9)
    assert steps.frames.dtype == np.uint8
    assert steps.obs == {}


def test_no_stack_reaches_behind_a_termination():
    episode = seen((5,))[0]
    episode["discount"] = np.array([1, 1, 0, 1, 1], np.float32)
    steps = from_episodes([episode], pixels=True).steps
    assert greys(dataset.stack(steps, np.arange(6))).tolist() == [
        *([0, 0, 0], [0, 0, 1], [0, 1, 2]),  # the world ended with the third transition and began again in row 3
        *([3, 3, 3], [3, 3, 4], [3, 4, 5]),
    ]


def test_drawn_transitions_hold_stacks_of_their_own_rows_on_the_device():
    stored = from_episodes(seen((5, 1, 3)), pixels=True)
    source = from_dataset(stored, 200, Needs(future=0.8, chain=2))
    assert isinstance(source.data.steps.frames, jax.Array)
    batch = source.next(source.data, (), jax.random.key(0))[1]
    reward = np.asarray(batch.reward).astype(int)  # 100 times the episode plus the time
    episode, time = reward // 100, reward % 100
    for back, channel in ((2, 0), (1, 1), (0, 2)):
        here = 40 * episode + np.maximum(time - back, 0)
        after = 40 * episode + np.maximum(time + 1 - back, 0)
        np.testing.assert_array_equal(greys(batch.obs["pixels"])[:, channel], here)
        np.testing.assert_array_equal(greys(batch.next_obs["pixels"])[:, channel], after)
    np.testing.assert_array_equal(batch.chain.next_obs["pixels"][:, 0], batch.next_obs["pixels"])
    assert (greys(batch.future["pixels"])[:, 2] >= 40 * episode + time + 1).all()
    assert {leaf.dtype for leaf in (batch.obs["pixels"], batch.future["pixels"])} == {np.dtype(np.uint8)}


def test_ring_of_frames_gives_the_stacks_of_the_dataset_it_was_filled_from():
    steps = from_episodes(seen((3, 3)), pixels=True).steps
    example = jax.tree.map(lambda leaf: leaf[:4], steps)
    ring = replay.add(replay.empty(example, 2), steps, 4)
    index = jnp.array([0, 1, 2, 4, 6])
    np.testing.assert_array_equal(gather(ring.steps, index).obs["pixels"], gather(steps, index).obs["pixels"])


def test_states_are_what_is_observed_where_nobody_asks_for_frames():
    batch = gather(from_episodes(seen((2,))).steps, jnp.array([1]))
    assert list(batch.obs) == ["state"]


def test_stored_frames_come_back_bit_for_bit_or_are_left_out(tmp_path):
    given = seen((3, 2))
    given[0]["pixels"][1] = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    write_episodes(tmp_path, "noise", given, {"frames": {"size": SIDE}})
    for stored, episode in zip(read_episodes(tmp_path), given, strict=True):
        assert stored["pixels"].dtype == np.uint8
        np.testing.assert_array_equal(stored["pixels"], episode["pixels"])
        np.testing.assert_array_equal(stored["physics"], episode["physics"])
    assert "pixels" not in read_episodes(tmp_path, frames=False)[0]
    assert read_metadata(tmp_path)["shapes"]["pixels"] == [SIDE, SIDE, 3]


def test_tfds_reads_the_frames_of_a_step(tmp_path):
    import tensorflow_datasets as tfds

    given = seen((3,))
    write_episodes(tmp_path, "noise", given, {})
    (episode,) = tfds.builder_from_directory(tmp_path).as_data_source("train")
    shown = [step["observation"]["pixels"] for step in episode["steps"]]
    np.testing.assert_array_equal(np.stack(shown), given[0]["pixels"])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, SIDE, SIDE, 3), np.float32), "'pixels' must be uint8, got float32"),
        (
            np.zeros((3, SIDE, SIDE, 3), np.uint8),
            r"'pixels' has shape \[3, 4, 4, 3\], expected \[4, height, width, 3\]",
        ),
        (
            np.zeros((4, SIDE, SIDE, 4), np.uint8),
            r"'pixels' has shape \[4, 4, 4, 4\], expected \[4, height, width, 3\]",
        ),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path, pixels, message):
    with pytest.raises(InputError, match=message):
        write_episodes(tmp_path, "noise", [{**seen((3,))[0], "pixels": pixels}], {})


def test_dataset_has_frames_of_one_size_in_every_episode_or_in_none(tmp_path):
    small, bare = seen((3, 3))
    small["pixels"] = small["pixels"][:, :2, :2]
    del bare["pixels"]
    with Writer(tmp_path, "noise", {}) as writer:
        writer.add(seen((3,))[0])
        with pytest.raises(InputError, match="'pixels' has 2 x 2 x 3 columns, expected 4 x 4 x 3 as before"):
            writer.add(small)
        with pytest.raises(InputError, match="'pixels' has no columns, expected 4 x 4 x 3 as before"):
            writer.add(bare)


def test_check_names_frames_on_which_nothing_was_drawn(tmp_path):
    given = seen((4, 4))
    for episode in given:
        episode["state"] += 1
        episode["physics"] = 0.1 * np.arange(5.0)[:, None]
    given[1]["pixels"][2:4] = 0
    write_episodes(tmp_path, "noise", given, {})
    report = check(tmp_path)
    assert report.shapes["pixels"] == (SIDE, SIDE, 3)
    (problem,) = [str(one) for one in report.problems]
    assert "episode 1: 'pixels' row 2 is of a single shade: nothing was drawn (2 such rows)" in problem
