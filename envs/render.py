"""Images of physics states, drawn by the one renderer that this process has.

A renderer that is collected late silently spoils the images of the next one, so there is never a second: one for
another model or size takes the place of the one before, which is closed and collected first.
"""

import atexit
import functools
import gc
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

NO_RENDERER = "no renderer: install libegl1 libgl1-mesa-dri (or libosmesa6) and set MUJOCO_GL=egl"
# How images are drawn, for the metadata of data that holds some. Shadows dominate the cost of an image.
SETTING = {"shadows": False, "reflections": False, "multisampling": 0}

_open: list[Any] = []  # the renderer, if there is one


def draw(model: mujoco.MjModel, data: mujoco.MjData, camera: str | int, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A `size` x `size` image of the state in `data`; raises as `check`."""
    renderer = _renderer(model, size)
    renderer.update_scene(data, camera)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    return renderer.render().copy()


def check() -> None:
    """Raises RuntimeError where no OpenGL is installed."""
    if not _can_draw():
        raise RuntimeError(NO_RENDERER)


def close(model: mujoco.MjModel | None = None) -> None:
    """Frees the renderer; with a model only where it is that model's."""
    if _open and (model is None or _open[0].model is model):
        _open.pop().close()
        gc.collect()


def _renderer(model: mujoco.MjModel, size: int) -> Any:
    if not _open or _open[0].model is not model or _open[0].width != size:
        close()
        check()
        buffer, quality = model.vis.global_, model.vis.quality
        quality.shadowsize = quality.offsamples = 0
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
        _open.append(mujoco.Renderer(model, size, size))
        atexit.unregister(close)
        atexit.register(close)  # last registered, first called: while the OpenGL library is still there
    return _open[0]


@functools.cache
def _can_draw() -> bool:
    # Tried once per process: after a failure MuJoCo aborts the process at the next attempt.
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception:  # which one depends on the OpenGL backend and on what of it is missing
        return False
    gc.collect()
    return True
