"""The networks of zero-shot agents, as `Net(init, apply)` over plain nested dictionaries.

`forward_map` predicts successor features or values from (state, action, latent), `actor` chooses the action,
`flow_field` moves noise to actions, `encoder` is the backward map, the state encoder or the task encoder, `dynamics`
says where an action leads from an encoded state, `mlp` is for inputs of a few numbers. This folder alone knows of Flax.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from embodied.nets.mlp import Dense, Embedding, LayerNorm, MatmulType


class Net(NamedTuple):
    """A network: `init(key, *inputs) -> params` and `apply(params, *inputs) -> output`."""

    init: Callable[..., PyTree]
    apply: Callable[..., Array]


def net_of(module: nn.Module) -> Net:
    """A Flax module as functions of its parameters."""
    return Net(
        init=lambda key, *inputs: module.init(key, *map(jnp.asarray, inputs))["params"],
        apply=lambda params, *inputs: module.apply({"params": params}, *map(jnp.asarray, inputs)),
    )


def project(z: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """z scaled to the sphere of radius sqrt(d), where all latents live; zero stays zero, with a finite gradient."""
    square = jnp.square(z).sum(-1, keepdims=True)
    # The norm itself has no gradient at zero, and a row of zeros is an observation like any other.
    return z * (z.shape[-1] ** 0.5) * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


class _Forward(nn.Module):
    hidden: int
    layers: int
    out: int
    members: int
    dtype: MatmulType

    @nn.compact
    def __call__(self, obs: Array, z: Array, action: Array) -> Array:
        embed = lambda name: Embedding(self.hidden, self.members, self.dtype, name=name)  # noqa: E731
        x = jnp.concatenate(
            [
                embed("obs_action")(jnp.concatenate([obs, action], -1)),
                embed("obs_z")(jnp.concatenate([obs, z], -1)),
            ],
            -1,
        )
        for i in range(self.layers):
            x = nn.relu(Dense(self.hidden, self.members, self.dtype, name=f"hidden_{i}")(x))
        return Dense(self.out, self.members, self.dtype, name="head")(x)


class _Actor(nn.Module):
    hidden: int
    layers: int
    action: int
    dtype: MatmulType

    @nn.compact
    def __call__(self, obs: Array, z: Array) -> Array:
        x = jnp.concatenate(
            [
                Embedding(self.hidden, dtype=self.dtype, name="obs")(obs),
                Embedding(self.hidden, dtype=self.dtype, name="obs_z")(jnp.concatenate([obs, z], -1)),
            ],
            -1,
        )
        for i in range(self.layers):
            x = nn.relu(Dense(self.hidden, dtype=self.dtype, name=f"hidden_{i}")(x))
        return jnp.tanh(Dense(self.action, dtype=self.dtype, name="head")(x))


class _FlowField(nn.Module):
    hidden: int
    layers: int
    action: int
    dtype: MatmulType

    @nn.compact
    def __call__(self, obs: Array, x: Array, time: Array) -> Array:
        x = jnp.concatenate([obs, x, time], -1)
        for i in range(self.layers):
            x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name=f"hidden_{i}")(x), approximate=False)
        return Dense(self.action, dtype=self.dtype, name="head")(x)


class _Dynamics(nn.Module):
    hidden: int
    layers: int
    out: int
    members: int
    dtype: MatmulType

    @nn.compact
    def __call__(self, latent: Array, action: Array) -> Array:
        embed = lambda name: Embedding(self.hidden, self.members, self.dtype, name=name)  # noqa: E731
        x = jnp.concatenate(
            [embed("latent")(latent), embed("latent_action")(jnp.concatenate([latent, action], -1))],
            -1,
        )
        for i in range(self.layers):
            x = nn.relu(Dense(self.hidden, self.members, self.dtype, name=f"hidden_{i}")(x))
        return Dense(self.out, self.members, self.dtype, name="head")(x)


class _Encoder(nn.Module):
    hidden: int
    layers: int
    out: int
    on_sphere: bool
    members: int
    dtype: MatmulType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.layers:
            x = Dense(self.hidden, self.members, self.dtype, name="in")(x)
            x = jnp.tanh(LayerNorm(self.members, name="norm")(x))
            for i in range(self.layers - 1):
                x = nn.relu(Dense(self.hidden, self.members, self.dtype, name=f"hidden_{i}")(x))
        x = Dense(self.out, self.members, self.dtype, name="head")(x)
        return project(x) if self.on_sphere else x


class _Mlp(nn.Module):
    hidden: int
    layers: int
    out: int
    members: int
    spectral: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = lambda features, name: Dense(features, self.members, spectral=self.spectral, name=name)  # noqa: E731
        for i in range(self.layers):
            x = nn.relu(dense(self.hidden, f"hidden_{i}")(x))
        return dense(self.out, "head")(x)


def forward_map(hidden: int, layers: int, out: int, members: int = 2, dtype: MatmulType = "float32") -> Net:
    """(obs [B,O], z [B,D], action [B,A]) -> [K,B,out], K independent members."""
    return net_of(_Forward(hidden, layers, out, members, dtype))


def dynamics(hidden: int, layers: int, out: int, members: int = 2, dtype: MatmulType = "float32") -> Net:
    """(latent [B,D], action [B,A]) -> latent after it [K,B,out], K independent members; [B,out] for members=0."""
    return net_of(_Dynamics(hidden, layers, out, members, dtype))


def actor(hidden: int, layers: int, action: int, dtype: MatmulType = "float32") -> Net:
    """(obs [B,O], z [B,D]) -> mean action [B,A] in (-1, 1)."""
    return net_of(_Actor(hidden, layers, action, dtype))


def flow_field(hidden: int, layers: int, action: int, dtype: MatmulType = "float32") -> Net:
    """(obs [B,O], x [B,A] on the way from noise to an action, time [B,1] in [0, 1]) -> velocity of x [B,A]."""
    return net_of(_FlowField(hidden, layers, action, dtype))


def encoder(
    hidden: int, layers: int, out: int, on_sphere: bool = True, members: int = 0, dtype: MatmulType = "float32"
) -> Net:
    """(x [B,I]) -> features [B,out] (or [K,B,out]), on the sphere of radius sqrt(out) unless told otherwise.

    layers = 0 is a single linear map.
    """
    return net_of(_Encoder(hidden, layers, out, on_sphere, members, dtype))


def mlp(hidden: int, layers: int, out: int, members: int = 0, spectral: bool = False) -> Net:
    """(x [B,I]) -> [B,out], or [K,B,out] with members, whose input may be [K,B,I]; ReLU between linear layers.

    No layer is normalised: of an input of two or three numbers that would forget the size. A `spectral` net is
    1-Lipschitz: outputs lie no further apart than inputs. layers = 0 is a single linear map.
    """
    return net_of(_Mlp(hidden, layers, out, members, spectral))


def with_head(params: PyTree, size: float) -> PyTree:
    """The parameters of a network with its last layer multiplied by `size`."""
    return params | {"head": jax.tree.map(lambda leaf: size * leaf, params["head"])}


def count(params: PyTree) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
