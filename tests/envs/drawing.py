"""Draws what tests look at, in a process of its own: MuJoCo settles how it draws when it is first imported.

Prints one JSON object: "error" where nothing can be drawn, otherwise the numbers that the tests compare.
"""

import json
import os

os.environ["MUJOCO_GL"] = os.environ.get("EMBODIED_TEST_GL", "egl")

import jax
import numpy as np

import envs
from embodied.types import InputError
from envs.pixels import frames, setting


def numbers() -> dict:
    """What is seen of a ball in known places, by worlds that take turns and are thrown away."""
    maze = envs.make("point_maze", threads=1, start="top_right")
    seen = envs.make("point_maze", threads=1, pixels=64)
    physics = np.zeros((2, maze.spec.physics))
    physics[:, 1:3] = [[0.15, 0.15], [-0.15, -0.15]]
    first = frames(maze, physics, 64)
    walker = envs.make("walker", threads=1, pixels=48).reset(jax.random.key(0), 1).obs["pixels"]
    maze.render(physics[0], "", 80)
    again = envs.make("point_maze", threads=1, pixels=64)
    after = seen.step(seen.reset_to(physics), np.ones((2, 2), np.float32))
    drawn = frames(maze, np.asarray(after.physics), 64)
    return {
        "ball": redness(first),
        "same_after_another_world": bool((again.observe(physics)[0]["pixels"][..., 6:] == first).all()),
        "step": [
            bool((after.obs["pixels"][..., low : low + 3] == one).all())
            for low, one in ((0, first), (3, first), (6, drawn))
        ],
        "moved": bool((drawn != first).any()),
        "walker": [list(walker.shape), str(walker.dtype), float(walker.std())],
        "setting": setting(seen, 64),
        "red_at_the_table": red_at_the_table(),
        "floors": floors(),
        "hand": hand(),
    }


def redness(images: np.ndarray) -> list[list[int]]:
    """(row, column) of the reddest pixel of each image, in the room that the ball is in."""
    found = []
    rooms = ((slice(2, 30), slice(34, 62)), (slice(34, 62), slice(2, 30)))
    for image, (rows, columns) in zip(images.astype(int), rooms, strict=True):
        red = (image[..., 0] - image[..., 1:].max(-1))[rows, columns]
        row, column = np.unravel_index(red.argmax(), red.shape)
        found.append([int(row) + rows.start, int(column) + columns.start])
    return found


def red_at_the_table() -> list[int]:
    """Red pixels of an image with OGBench's red cube in sight, and of one with the cube behind the camera."""
    table = envs.make("cube_single", threads=1)
    physics = np.array(table.begin(table.tasks["task1_horizontal"], jax.random.key(0), 2).physics)
    joint = int(table.world.model.joint("object_joint_0").qposadr[0])
    physics[1, 1 + joint : 4 + joint] = (9.0, 0.0, 0.02)
    images = frames(table, physics, 96).astype(int)
    return [int((image[..., 0] - image[..., 1:].max(-1) > 40).sum()) for image in images]


def floors() -> list[list[float]]:
    """Mean colour of what the ant sees in opposite corners of its maze."""
    maze = envs.make("antmaze_medium", threads=1)
    physics = np.tile(maze.reset(jax.random.key(0), 1).physics, (2, 1))
    physics[:, 1:3] = [[0.0, 0.0], [20.0, 20.0]]
    return frames(maze, physics, 64).mean((1, 2)).tolist()


def hand() -> list[int]:
    """Of Meta-World's arm: red pixels above and below, and pixels that differ between two starts."""
    env = envs.make("metaworld_reach", threads=1)
    ts = env.reset(jax.random.key(0), 2)
    one, other = frames(env, ts.physics, 64).astype(int)
    red = (one[..., 0] > 100) & (one[..., 1:] < 60).all(-1)
    return [int(red[:40].sum()), int(red[40:].sum()), int((np.abs(one - other).max(-1) > 30).sum())]


if __name__ == "__main__":
    try:
        print(json.dumps(numbers()))
    except InputError as error:
        print(json.dumps({"error": str(error)}))
