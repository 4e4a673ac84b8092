"""Layers of the state-based networks, plain or as an ensemble of K members that share one batched matmul.

Initialisation and layout follow the TD-JEPA paper (arXiv 2510.00739, appendix): orthogonal weights, gain 1 for plain
layers and sqrt(2) for ensembles, zero biases, LayerNorm with epsilon 1e-5.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MatmulType = Literal["float32", "bfloat16"]


def _dot(x: Array, kernel: Array, transpose_x: bool = False) -> Array:
    """x @ kernel in bfloat16 with float32 accumulation, both operands in plain row-by-column layout.

    CPUs and tensor cores run their bfloat16 units at full rate only for that layout, so the transposed operand is
    written out first; the barrier keeps the compiler from folding the copy back into the product.
    """
    if transpose_x:
        x = jax.lax.optimization_barrier(jnp.swapaxes(x, -1, -2))
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


@jax.custom_vjp
def matmul_bfloat16(x: Float[Array, "*k b i"], kernel: Float[Array, "*k i o"]) -> Float[Array, "*k b o"]:
    """x @ kernel with bfloat16 operands and a float32 result; its gradients are bfloat16 products as well."""
    return _dot(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))


def _matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    low_x, low_kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _dot(low_x, low_kernel), (low_x, low_kernel)


def _matmul_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    grad = grad.astype(jnp.bfloat16)
    kernel_transposed = jax.lax.optimization_barrier(jnp.swapaxes(kernel, -1, -2))
    return _dot(grad, kernel_transposed), _dot(x, grad, transpose_x=True)


matmul_bfloat16.defvjp(_matmul_forward, _matmul_backward)


def matmul(x: Array, kernel: Array, dtype: MatmulType) -> Array:
    """x @ kernel with a float32 result. A [B, I] input meets an ensemble kernel [K, I, O] as [K, B, O]."""
    product = matmul_bfloat16 if dtype == "bfloat16" else jnp.matmul
    if kernel.ndim == 2:
        return product(x, kernel)
    # One product per member: XLA's CPU backend runs unrolled matmuls faster than a batched one.
    members = [x] * kernel.shape[0] if x.ndim == 2 else list(x)
    return jnp.stack([product(member, kernel[k]) for k, member in enumerate(members)])


def spectral_norm(kernel: Float[Array, "*k i o"]) -> Float[Array, "*k 1 1"]:
    """The largest singular value of W, where W^T W to the power 256 is nothing but its singular vector.

    Training makes singular values alike, for which a few power iterations are too small by tens of percent. The
    singular vectors have no gradient, as that of a singular value is their outer product.
    """
    fixed = jax.lax.stop_gradient(kernel)
    size = lambda gram: jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None] + 1e-30  # noqa: E731
    scaled = lambda gram: gram / size(gram)  # noqa: E731
    gram = jax.lax.fori_loop(0, 8, lambda _, gram: scaled(gram @ gram), scaled(fixed.mT @ fixed))
    largest = jnp.diagonal(gram, axis1=-2, axis2=-1).argmax(-1)
    right = jnp.take_along_axis(gram, largest[..., None, None], -1)
    unit = lambda v: v * jax.lax.rsqrt(jnp.square(v).sum(-2, keepdims=True) + 1e-30)  # noqa: E731
    return unit(fixed @ unit(right)).mT @ kernel @ unit(right)


class Dense(nn.Module):
    """x W + b. With `members` = K > 0 the weights are [K, I, O] and the result is [K, B, O].

    A `spectral` layer divides W by its largest singular value: it lengthens no difference of inputs.
    """

    features: int
    members: int = 0
    dtype: MatmulType = "float32"
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], self.features)
        if self.members:
            orthogonal = nn.initializers.orthogonal(2**0.5)
            kernel = self.param(
                "kernel", lambda key: jax.lax.map(lambda k: orthogonal(k, shape), jax.random.split(key, self.members))
            )
            bias = self.param("bias", nn.initializers.zeros, (self.members, self.features))[:, None]
        else:
            kernel = self.param("kernel", nn.initializers.orthogonal(1.0), shape)
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.spectral:
            kernel = kernel / spectral_norm(kernel)
        out = matmul(x, kernel, self.dtype)
        return out + (bias if self.members else jnp.broadcast_to(bias, out.shape))


class LayerNorm(nn.Module):
    """Normalised last axis, with a scale and a bias per member."""

    members: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.members, 1, x.shape[-1]) if self.members else (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        normal = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        return normal * jnp.broadcast_to(scale, normal.shape) + jnp.broadcast_to(bias, normal.shape)


class Embedding(nn.Module):
    """Dense(hidden) - LayerNorm - tanh - Dense(hidden / 2) - ReLU: the input block of forward maps and actors."""

    hidden: int
    members: int = 0
    dtype: MatmulType = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Dense(self.hidden, self.members, self.dtype, name="in")(x)
        x = jnp.tanh(LayerNorm(self.members, name="norm")(x))
        return nn.relu(Dense(self.hidden // 2, self.members, self.dtype, name="out")(x))
