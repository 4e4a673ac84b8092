"""Moving pictures of episodes. Where nothing can be rendered, one line says so and nothing fails."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from jaxtyping import Float, UInt8

from embodied.types import Env

COLUMNS = 4  # most episodes side by side
GAP = 6  # pixels of nothing between the images of a film strip


def record(
    env: Env,
    physics: Float[np.ndarray, "*E T P"],
    camera: str,
    path: Path,
    size: int = 320,
    fps: int | float | None = None,
) -> Path | None:
    """The mp4 of one episode or of several in rows; None, and one line on stderr, without a renderer.

    Shows one frame per decision; without `fps` time runs as it does in the world.
    """
    fps = fps or 1 / (env.spec.control_dt * env.spec.hold)
    episodes = physics.reshape(-1, *physics.shape[-2:])
    with _rendering(env, path.name):
        clip = tile([frames(env, episode, camera, size) for episode in episodes], columns=min(len(episodes), COLUMNS))
        encode(clip, path, fps)
        return path
    return None


def film_strip(
    env: Env, physics: Float[np.ndarray, "T P"], camera: str, count: int = 6, size: int = 240
) -> bytes | None:
    """A PNG of `count` moments of an episode, evenly spread, left to right; None as in `record`."""
    moments = physics[np.linspace(0, len(physics) - 1, count).round().astype(int)]
    with _rendering(env, "film strip"):
        images = frames(env, moments, camera, size)
        opaque = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=-1)
        strip = np.concatenate(np.pad(opaque, ((0, 0), (0, 0), (0, GAP), (0, 0))), axis=1)[:, :-GAP]
        buffer = io.BytesIO()
        imageio.imwrite(buffer, strip, format="PNG")
        return buffer.getvalue()
    return None


def frames(env: Env, physics: Float[np.ndarray, "T P"], camera: str, size: int) -> UInt8[np.ndarray, "T size size 3"]:
    """One image per physics state; raises RuntimeError without a renderer."""
    return np.stack([env.render(state, camera, size) for state in physics])


def tile(clips: Sequence[UInt8[np.ndarray, "T H W 3"]], columns: int) -> UInt8[np.ndarray, "T rows_H columns_W 3"]:
    """Clips of equal shape in a grid filled row by row; cells left over are white."""
    rows = -(-len(clips) // columns)
    blank = np.full_like(clips[0], 255)
    cells = [*clips, *[blank] * (rows * columns - len(clips))]
    lines = [np.concatenate(cells[i * columns : (i + 1) * columns], axis=2) for i in range(rows)]
    return np.concatenate(lines, axis=1)


def encode(clip: UInt8[np.ndarray, "T H W 3"], path: Path, fps: int | float) -> None:
    """Nothing; writes an H.264 mp4 that starts to play before it is read to the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = clip.shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    # Browsers want 4:2:0, which wants even sides.
    codec = ["-c:v", "libx264", "-crf", "22", "-pix_fmt", "yuv420p", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
    command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *codec, "-movflags", "+faststart", str(path)]
    subprocess.run(command, input=clip.tobytes(), check=True)


@contextlib.contextmanager
def _rendering(env: Env, what: str) -> Iterator[None]:
    """Turns a missing renderer into one line. Closes the renderer: one that is collected late spoils later images."""
    try:
        yield
    except RuntimeError as error:
        print(f"  {what} left out: {error}", file=sys.stderr)
    finally:
        if close := getattr(env, "close", None):
            close()
