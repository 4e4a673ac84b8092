"""Laplacian features: what changes slowly along the data, read by successor features.

    loss(f) = mean (f(s) - f(s'))^2 + c_orth ( mean_{i != j} (f_i . f_j)^2 - 2 mean_i |f_i|^2 ),    f_i = f(s_i)

The first mean is over rows and components. Gradients flow through f(s) and f(s').
The successor features of f, the actor and the answers to prompts are those of `embodied/successor.py`.
Papers: Wu et al., arXiv 1810.04586; as a baseline of TD-JEPA, arXiv 2510.00739.
Differences from the papers: where `c_orth` is 0 only the sphere on which f ends keeps features apart from zero.
Prompts: Reward (least squares on f), Goal (C^-1 f(g)), Motion, Prior.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from embodied import losses, successor
from embodied.ranges import join_ranges
from embodied.types import Agent, Batch, Params, RandomKey, Spec

RANGES = join_ranges(successor.RANGES, {"[0, inf)": ("c_orth",)})


@dataclasses.dataclass(frozen=True)
class Config(successor.Config):
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    c_orth: float = 1.0  # orthonormality of f

    def __post_init__(self) -> None:
        successor.check("laplacian", self, RANGES)


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are features, encoder, successor and actor."""
    net, know = successor.feature_net(config), successor.knowing(config, spec)

    def init(key: RandomKey, x: Array, action: Array) -> Params:
        return {"features": net.init(key, x)}

    def embed(params: Params, x: Array) -> Array:
        return net.apply(params["features"], x)

    def loss(params: Params, target: Params, batch: Batch, key: RandomKey) -> tuple[Array, dict[str, Array]]:
        here, there = (embed(params, know.read(params, obs)) for obs in (batch.obs, batch.next_obs))
        slow, orthonormal = feature_loss(here, there)
        return slow + config.c_orth * orthonormal, {"loss/slowness": slow, "loss/orth_features": orthonormal}

    return successor.make("laplacian", config, spec, successor.Method(("features",), init, loss, embed))


def feature_loss(here: Float[Array, "n d"], there: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(mean squared step from s to s', orthonormality of f(s) as this paper scales it: twice the usual one)."""
    return jnp.square(here - there).mean(), 2.0 * losses.orthonormality_loss(here)
