"""The network that reads images, and the random shifts that keep it from learning where pixels lie.

Encoder and augmentation are those of DrQ-v2: Yarats et al., arXiv 2107.09645. Differences from the paper: shifts are
whole pixels, so they are crops of an image whose border is repeated and need no interpolation. Convolutions may be of
other sizes, and where one is as large as its stride, it is the matrix product of patches that do not overlap: the same
numbers without the gradient of a strided convolution, which a CPU computes slowly.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PyTree

from embodied.nets.encoders import Net
from embodied.nets.mlp import Dense, LayerNorm, MatmulType

AT_ONCE = 512  # images; more are read in pieces, because each takes up to half a megabyte on its way


class _Images(nn.Module):
    channels: int
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    out: int
    dtype: MatmulType
    scale: float

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images.astype(jnp.float32) / self.scale
        x = x - 0.5 if images.dtype == jnp.uint8 else x
        init = nn.initializers.orthogonal(2**0.5)
        for i, (side, stride) in enumerate(zip(self.kernels, self.strides, strict=True)):
            name = f"conv_{i}"
            if side == stride:
                x = nn.Dense(self.channels, kernel_init=init, name=name)(patches(x, side))
            else:
                x = nn.Conv(self.channels, (side, side), stride, padding="VALID", kernel_init=init, name=name)(x)
            x = nn.relu(x)
        x = Dense(self.out, dtype=self.dtype, name="out")(x.reshape(x.shape[0], -1))
        return jnp.tanh(LayerNorm(name="norm")(x))


def image_encoder(
    channels: int,
    kernels: Sequence[int],
    strides: Sequence[int],
    out: int,
    dtype: MatmulType = "float32",
    scale: float = 255.0,
) -> Net:
    """images [B,H,W,C] -> features [B,out] in (-1, 1): convolutions of these sides and strides.

    Numbers are divided by `scale`. Images of bytes then lose 0.5; those of signed numbers have lost a mean before.
    """
    module = _Images(channels, tuple(kernels), tuple(strides), out, dtype, scale)

    def apply(params: PyTree, images: Any) -> Array:
        images = jnp.asarray(images)
        read = lambda some: jnp.asarray(module.apply({"params": params}, some))  # noqa: E731
        if len(images) <= AT_ONCE:
            return read(images)
        return jax.lax.map(lambda image: read(image[None])[0], images, batch_size=AT_ONCE // 2)

    return Net(init=lambda key, images: module.init(key, jnp.asarray(images))["params"], apply=apply)


def smallest(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The least side of images that these convolutions leave something of."""
    side = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        side = (side - 1) * stride + kernel
    return side


def patches(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B h w P"]:
    """The squares of a grid, each as a row of numbers: row, column, channel. What fills no square is left out."""
    batch, height, width, channels = x.shape
    rows, columns = height // side, width // side
    cut = x[:, : rows * side, : columns * side].reshape(batch, rows, side, columns, side, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, side * side * channels)


def shift(images: Num[Array, "B H W C"], offset: Int[Array, "B 2"], pad: int) -> Num[Array, "B H W C"]:
    """Images moved up and left by `offset` - `pad` rows and columns, with offsets in [0, 2 pad].

    What comes in at a border repeats its last row or column. All frames of a stack move alike.
    """
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    crop = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])  # noqa: E731
    return jax.vmap(crop)(padded, offset)
