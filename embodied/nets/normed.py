"""Networks of world models, whose every layer is normalised: Dense - LayerNorm - activation, then a linear layer.

Latents may end on a product of simplices (SimNorm, TD-MPC2, Hansen et al., arXiv 2310.16828): groups of V numbers, each
the softmax of its own, which bounds what a model that is applied again and again can do to them.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from embodied.nets.encoders import Net, net_of
from embodied.nets.mlp import Dense, LayerNorm

Activation = Literal["mish", "elu", "relu"]
Ending = Literal["linear", "simplex", "activation"]


def mish(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """x tanh(softplus(x)), with one exponential: for n = e^x (e^x + 2) it is x n / (n + 2). arXiv 1908.08681."""
    exponential = jnp.exp(jnp.minimum(x, 20.0))  # beyond, the ratio is 1 in float32
    ratio = exponential * (exponential + 2.0)
    return x * (ratio / (ratio + 2.0))


def sim_norm(x: Float[Array, "*B D"], group: int) -> Float[Array, "*B D"]:
    """The softmax of each group of so many numbers, which must divide D."""
    return jax.nn.softmax(x.reshape(*x.shape[:-1], -1, group), -1).reshape(x.shape)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"mish": mish, "elu": jax.nn.elu, "relu": jax.nn.relu}


class _Normed(nn.Module):
    hidden: int
    layers: int
    out: int
    activation: Activation
    ending: Ending
    group: int
    members: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        for i in range(self.layers):
            x = Dense(self.hidden, self.members, name=f"hidden_{i}")(x)
            x = activation(LayerNorm(self.members, name=f"norm_{i}")(x))
        x = Dense(self.out, self.members, name="head")(x)
        if self.ending == "simplex":
            return sim_norm(x, self.group)
        return activation(LayerNorm(self.members, name="norm")(x)) if self.ending == "activation" else x


def normed(
    hidden: int,
    layers: int,
    out: int,
    activation: Activation,
    *,
    ending: Ending = "linear",
    group: int = 8,
    members: int = 0,
) -> Net:
    """(x [B,I]) -> [B,out], or [K,B,out] with members; so many hidden layers, each normalised.

    The last layer is linear, or is followed by SimNorm ("simplex"), or is another normalised one ("activation").
    """
    return net_of(_Normed(hidden, layers, out, activation, ending, group, members))
