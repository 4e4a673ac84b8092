"""Standardised observations: statistics of a dataset, and the function that applies them in front of a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from embodied.types import InputError, Obs, Spec

Inputs = Literal["raw", "standardized"]


def statistics(
    obs: Mapping[str, np.ndarray],
) -> tuple[dict[str, tuple[float, ...]], dict[str, tuple[float, ...]]]:
    """(mean, standard deviation) of each observation component over the leading axis; zero deviations become 1."""
    mean = {name: tuple(np.mean(leaf, 0, dtype=np.float64).tolist()) for name, leaf in obs.items()}
    std = {}
    for name, leaf in obs.items():
        spread = np.std(leaf, 0, dtype=np.float64)
        std[name] = tuple(np.where(spread > 1e-6, spread, 1.0).tolist())
    return mean, std


def frame_statistics(frames: UInt8[np.ndarray, "M H W C"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean frame in whole numbers, flat [H W C]; the deviation of all numbers from it, at least 1).

    Of some 2,000 frames, evenly spread.
    """
    some = frames[:: max(1, len(frames) // 2000)]
    mean = np.rint(np.mean(some, 0, dtype=np.float64))
    return tuple(mean.ravel().tolist()), (max(float(np.sqrt(np.square(some - mean).mean())), 1.0),)


def observation_inputs(inputs: Inputs, spec: Spec, names: Sequence[str]) -> Callable[[Obs], Float[Array, "B I"]]:
    """The function obs -> [B, I] that feeds networks with the observations of these names, one after the other.

    "raw" leaves them as they are; "standardized" subtracts the mean, divides by the deviation and appends a 1. Raises
    InputError where the spec lacks one of them.
    """
    if missing := [name for name in names if name not in spec.obs]:
        offer = f"the world offers {', '.join(spec.obs)}"
        raise InputError(f"observations: the agent reads '{missing[0]}', {offer}; choose another agent")

    def join(obs: Obs) -> Any:  # whatever it is given: host or device arrays
        parts = [obs[name] for name in names]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)

    if inputs == "raw":
        return join
    # NumPy, so that an agent which is made inside of a traced function may be kept.
    mean = np.concatenate([np.asarray(spec.mean.get(name, np.zeros(spec.obs[name])), np.float32) for name in names])
    std = np.concatenate([np.asarray(spec.std.get(name, np.ones(spec.obs[name])), np.float32) for name in names])

    def standardize(obs: Obs) -> Array:
        x = (join(obs) - mean[None]) / std[None]
        return jnp.concatenate([x, jnp.ones((x.shape[0], 1))], -1)

    return standardize
