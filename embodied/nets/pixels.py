"""The network that reads images, and the random shifts that keep it from learning where pixels lie.

Encoder and augmentation are those of DrQ-v2: Yarats et al., arXiv 2107.09645. Differences from the paper: shifts are
whole pixels, so they are crops of an image whose border is repeated and need no interpolation.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, UInt8

from embodied.nets.encoders import Net
from embodied.nets.mlp import Dense, LayerNorm, MatmulType

AT_ONCE = 512  # images; more are read in pieces, because each takes up to half a megabyte on its way


class _Images(nn.Module):
    channels: int
    strides: tuple[int, ...]
    out: int
    dtype: MatmulType

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images.astype(jnp.float32) / 255.0 - 0.5
        for i, stride in enumerate(self.strides):
            kernel = nn.initializers.orthogonal(2**0.5)
            conv = nn.Conv(self.channels, (3, 3), stride, padding="VALID", kernel_init=kernel, name=f"conv_{i}")
            x = nn.relu(conv(x))
        x = Dense(self.out, dtype=self.dtype, name="out")(x.reshape(x.shape[0], -1))
        return jnp.tanh(LayerNorm(name="norm")(x))


def image_encoder(channels: int, strides: Sequence[int], out: int, dtype: MatmulType = "float32") -> Net:
    """images [B,H,W,C] in 0 ... 255 -> features [B,out] in (-1, 1): one 3 x 3 convolution for each stride."""
    module = _Images(channels, tuple(strides), out, dtype)

    def apply(params: PyTree, images: Any) -> Array:
        images = jnp.asarray(images)
        read = lambda some: jnp.asarray(module.apply({"params": params}, some))  # noqa: E731
        if len(images) <= AT_ONCE:
            return read(images)
        return jax.lax.map(lambda image: read(image[None])[0], images, batch_size=AT_ONCE // 2)

    return Net(init=lambda key, images: module.init(key, jnp.asarray(images))["params"], apply=apply)


def smallest(strides: Sequence[int]) -> int:
    """The least side of images that these convolutions leave something of."""
    side = 1
    for stride in reversed(strides):
        side = (side - 1) * stride + 3
    return side


def shift(images: UInt8[Array, "B H W C"], offset: Int[Array, "B 2"], pad: int) -> UInt8[Array, "B H W C"]:
    """Images moved up and left by `offset` - `pad` rows and columns, with offsets in [0, 2 pad].

    What comes in at a border repeats its last row or column. All frames of a stack move alike.
    """
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    crop = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])  # noqa: E731
    return jax.vmap(crop)(padded, offset)
