"""A world seen through its camera: observations are stacks of the latest frames instead of vectors.

Everything else is the world's own: physics vectors, quantities, tasks. The frames seen so far are part of the
observation that a step starts from, so steps stay pure functions. At a start, and where a world went on from a fresh
one, the first frame is repeated.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from embodied.data.dataset import STACK
from embodied.types import Env, InputError, Obs, Quantities, RandomKey, Timestep
from envs import render
from envs.host import HostEnv

SMALLEST = 32  # below, nothing is left behind four convolutions


def frames(env: Env, physics: Float[np.ndarray, "E P"], size: int) -> UInt8[np.ndarray, "E size size 3"]:
    """What an agent's camera sees of physics states. Raises InputError where nothing can be drawn."""
    try:
        return np.stack([env.render(state, env.eye, size) for state in physics])
    except RuntimeError as error:
        raise InputError(f"pixels: {error}") from None


def setting(env: Env, size: int) -> dict[str, Any]:
    """How frames of a world are drawn, for the metadata of data that holds some."""
    plain = env.env if isinstance(env, PixelEnv) else env
    camera = plain.eye or (plain.world.camera if isinstance(plain, HostEnv) else "")
    backend = os.environ.get("MUJOCO_GL", "")
    return {"size": size, "camera": camera or "the model's first", "backend": backend, **render.SETTING}


class PixelEnv(Env):
    """A world of the host form whose observations are {"pixels": uint8 [E, size, size, 3 * STACK]}, oldest first."""

    def __init__(self, env: Env, size: int):
        if size < SMALLEST:
            raise InputError(f"pixels must be at least {SMALLEST}, or 0 for observations of the state, got {size}")
        assert not env.spec.jittable
        self.env, self.size, self.tasks = env, size, env.tasks
        self.spec = dataclasses.replace(env.spec, obs={"pixels": (size, size, 3 * STACK)})
        self.trials = {name: trial._replace(start=self._seen(trial.start)) for name, trial in env.trials.items()}

    def reset(self, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode."""
        return self._start(self.env.reset(key, count))

    def reset_to(self, physics: Float[Any, "E P"]) -> Timestep:
        """Worlds placed in the given physics states (time included), with nothing seen before."""
        return self._start(self.env.reset_to(physics))

    def step(self, ts: Timestep, action: Float[Any, "E A"]) -> Timestep:
        """The worlds after holding `action`; the oldest frame of each stack makes room for the newest."""
        after = self.env.step(ts, action)
        frame = frames(self.env, after.physics, self.size)
        earlier = np.asarray(ts.obs["pixels"])[..., 3:]
        fresh = (np.asarray(after.discount) == 0)[:, None, None, None]
        seen = np.concatenate([np.where(fresh, np.tile(frame, STACK - 1), earlier), frame], -1)
        return after.replace(obs={"pixels": seen})

    def observe(self, physics: Float[Any, "E P"]) -> tuple[Obs, Quantities]:
        """Stacks of the one frame of each physics state, drawn once they are read, and named quantities."""
        return _Drawn(self, self.complete(np.asarray(physics, np.float64))), self.env.observe(physics)[1]

    def complete(self, physics: Float[Any, "E P"]) -> Float[Any, "E Q"]:
        """Physics states of this world in any length it takes, as vectors of length `spec.physics`."""
        return self.env.complete(physics)

    def render(self, physics: Float[np.ndarray, " P"], camera: str, size: int) -> UInt8[np.ndarray, "H W 3"]:
        """An image of one physics state."""
        return self.env.render(physics, camera, size)

    def close(self) -> None:
        """Frees the renderer."""
        render.close()

    def still(self, physics: Float[np.ndarray, "E P"]) -> UInt8[np.ndarray, "E H W C"]:
        """The stacks that worlds see which have not moved yet."""
        return np.tile(frames(self.env, physics, self.size), STACK)

    def _seen(self, start: Callable[[RandomKey, int], Timestep]) -> Callable[[RandomKey, int], Timestep]:
        return lambda key, count: self._start(start(key, count))

    def _start(self, ts: Timestep) -> Timestep:
        return ts.replace(obs={"pixels": self.still(ts.physics)})


class _Drawn(Mapping[str, Any]):
    """Observations that cost nothing until they are read: relabelling reads quantities alone."""

    def __init__(self, env: PixelEnv, physics: np.ndarray) -> None:
        self._env, self._physics = env, physics

    def __getitem__(self, name: str) -> Any:
        if name != "pixels":
            raise KeyError(name)
        return self._env.still(self._physics)

    def __iter__(self) -> Iterator[str]:
        return iter(("pixels",))

    def __len__(self) -> int:
        return 1
