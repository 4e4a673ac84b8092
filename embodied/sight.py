"""How networks see observations: as they are or standardised, images through an encoder of their own.

Every agent reads its observations here, so one that learns from vectors learns from pixels as well. An image encoder
is a group of parameters of its own beside the network that it serves. It learns at that network's rate and has no
moving average: targets, too, read the latest one.

While training, each image of a batch moves by a shift of its own, observations and next observations apart. Shifts
stand beside the images, as "shift", so that what was observed can still be compared.
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.mlp import MatmulType
from embodied.nets.pixels import image_encoder, shift, smallest
from embodied.ranges import check_ranges
from embodied.types import Batch, InputError, Obs, Params, RandomKey, Spec

RANGES = {"[1, inf)": ("channels", "features"), "[0, inf)": ("shift",)}
_SHIFTS = 2**31 - 5  # of a key: apart from those that an update makes by splitting it


@dataclasses.dataclass(frozen=True)
class Image:
    """How observations of pixels are read; published values (DrQ-v2, arXiv 2107.09645; TD-JEPA, arXiv 2510.00739)."""

    channels: int = 32  # of each convolution
    kernels: tuple[int, ...] = (3, 3, 3, 3)  # side of each convolution; those as large as their stride are quickest
    strides: tuple[int, ...] = (2, 1, 1, 1)  # of each convolution; larger ones are quicker and see less
    features: int = 256  # what networks behind it read
    shift: int = 2  # largest random shift while training, in pixels

    def __post_init__(self) -> None:
        check_ranges("image", self, RANGES)
        for name, numbers in (("kernels", self.kernels), ("strides", self.strides)):
            if not numbers or min(numbers) < 1:
                raise InputError(f"image: {name} must be one or more numbers of at least 1, got {numbers}")
        if len(self.kernels) != len(self.strides):
            raise InputError(f"image: kernels must be as many as strides, {len(self.strides)}, got {self.kernels}")

    def tiny(self) -> "Image":
        """The same small enough for tests."""
        return dataclasses.replace(self, channels=4, kernels=(3, 3, 3, 3), strides=(2, 2, 2, 1), features=8)


@runtime_checkable
class Config(Protocol):
    """What an agent's configuration says about what it sees."""

    @property
    def inputs(self) -> Inputs: ...
    @property
    def image(self) -> Image: ...
    @property
    def matmul(self) -> MatmulType: ...


class Sight(NamedTuple):
    """What feeds one network."""

    groups: tuple[str, ...]  # of parameters: an image encoder, or none
    init: Callable[[RandomKey], Params]  # these groups
    read: Callable[[Params, Obs], Array]  # (parameters with these groups, obs) -> [B, I]
    same: Callable[[Obs], Array]  # [B, ...]; rows are equal where the same was observed, whatever the shifts


def make(config: Config, spec: Spec, names: Sequence[str], group: str) -> Sight:
    """The sight of observations of these names, one after the other; `group` is for the parameters that images need.

    Raises InputError for images that are too small for the convolutions.
    """
    if "pixels" not in names:
        join = observation_inputs(config.inputs, spec, names)
        return Sight((), lambda key: {}, lambda params, obs: join(obs), join)
    image = config.image
    least = smallest(image.kernels, image.strides)
    if spec.obs["pixels"][0] < least:
        raise InputError(f"image: kernels {image.kernels} with strides {image.strides} need pixels of at least {least}")
    centred, scale = _centring(config, spec)
    net = image_encoder(image.channels, image.kernels, image.strides, image.features, config.matmul, scale)

    def init(key: RandomKey) -> Params:
        own = jax.random.fold_in(key, zlib.crc32(group.encode()))
        return {group: net.init(own, centred(jnp.zeros((1, *spec.obs["pixels"]), jnp.uint8)))}

    def read(params: Params, obs: Obs) -> Array:
        images = centred(obs["pixels"])
        moved = shift(images, obs["shift"], config.image.shift) if "shift" in obs else images
        return net.apply(params[group], moved)

    def same(obs: Obs) -> Array:
        return obs["pixels"].reshape(len(obs["pixels"]), -1)

    return Sight((group,), init, read, same)


def _centring(config: Config, spec: Spec) -> tuple[Callable[[Array], Array], float]:
    """What images lose before they are shifted, as a function, and what they are divided by.

    A camera that stands still shows the same but for what moves in front of it, which may be a few pixels: without
    the mean frame of the data encoders see next to nothing of it.
    """
    if config.inputs == "raw" or "pixels" not in spec.mean:
        return jnp.asarray, 255.0
    side, _, depth = spec.obs["pixels"]
    frame = np.asarray(spec.mean["pixels"], np.int16).reshape(side, side, -1)
    mean = np.tile(frame, depth // frame.shape[-1])
    return lambda images: jnp.asarray(images).astype(jnp.int16) - mean[None], spec.std["pixels"][0]


def shifted(config: Config, batch: Batch, key: RandomKey) -> Batch:
    """The batch of an update with a random shift beside each image; one of vectors stays as it is."""
    if "pixels" not in batch.obs or not config.image.shift:
        return batch
    keys = jax.random.split(jax.random.fold_in(key, _SHIFTS), 4)

    def draw(key: RandomKey, obs: Obs) -> Obs:
        leading = obs["pixels"].shape[:-3]
        return {**obs, "shift": jax.random.randint(key, (*leading, 2), 0, 2 * config.image.shift + 1)}

    moved = dataclasses.replace(batch, obs=draw(keys[0], batch.obs), next_obs=draw(keys[1], batch.next_obs))
    if batch.future is not None:
        moved = dataclasses.replace(moved, future=draw(keys[2], batch.future))
    if batch.chain is not None:
        chain = dataclasses.replace(batch.chain, next_obs=draw(keys[3], batch.chain.next_obs))
        moved = dataclasses.replace(moved, chain=chain)
    return moved
