"""Self-predictive features: f(s) and an action tell f(s'), read by successor features.

    loss(f, P) = mean_{k,i} | P_k(f(s), a) - stop_gradient(f_target(s')) |^2 + c_orth orth(f(s))

The successor features of f, the actor and the answers to prompts are those of `embodied/successor.py`.
Papers: BYOL-Explore, Guo et al., arXiv 2206.08332; as a zero-shot baseline of TD-JEPA, arXiv 2510.00739.
Differences from the papers: one step, no recurrence and no exploration bonus, as in the baseline.
Prompts: Reward (least squares on f), Goal (C^-1 f(g)), Motion, Prior.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from embodied import losses, successor
from embodied.nets import encoders
from embodied.ranges import join_ranges
from embodied.types import TRANSITIONS, Agent, Batch, Needs, Params, RandomKey, Spec

RANGES = join_ranges(successor.RANGES, {"[0, inf)": ("c_orth",)})


@dataclasses.dataclass(frozen=True)
class Config(successor.Config):
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    c_orth: float = 0.01  # orthonormality of f

    def __post_init__(self) -> None:
        successor.check("byol", self, RANGES)


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are features, predictor (P), encoder, successor and actor."""
    return build("byol", config, spec, TRANSITIONS)


def build(owner: str, config: Config, spec: Spec, needs: Needs) -> Agent:
    """The agent that predicts f of the next state, or of the future ones that its batches hold where it needs them."""
    net, know = successor.feature_net(config), successor.knowing(config, spec)
    predictor = encoders.dynamics(config.hidden, config.layers, config.z_dim, dtype=config.matmul)

    def init(key: RandomKey, x: Array, action: Array) -> Params:
        key_features, key_predictor = jax.random.split(key)
        latent = jnp.zeros((x.shape[0], config.z_dim))
        return {"features": net.init(key_features, x), "predictor": predictor.init(key_predictor, latent, action)}

    def embed(params: Params, x: Array) -> Array:
        return net.apply(params["features"], x)

    def loss(params: Params, target: Params, batch: Batch, key: RandomKey) -> tuple[Array, dict[str, Array]]:
        ahead = batch.next_obs if needs.future is None else batch.future
        aim = jax.lax.stop_gradient(embed(target, know.read(params, ahead)))
        here = embed(params, know.read(params, batch.obs))
        prediction = losses.latent_prediction_loss(predictor.apply(params["predictor"], here, batch.action), aim)
        orthonormal = losses.orthonormality_loss(here)
        metrics = {"loss/prediction": prediction, "loss/orth_features": orthonormal}
        return prediction + config.c_orth * orthonormal, metrics

    groups = ("features", "predictor")
    method = successor.Method(groups, init, loss, embed, averaged=("features",), needs=needs)
    return successor.make(owner, config, spec, method)
