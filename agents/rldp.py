"""Regularised latent dynamics prediction: B predicts itself along chains, F is forward-backward's on such a B.

    x_0 = B(s_t),   x_{h+1} = P(x_h, a_{t+h})
    loss(B, P) = mean_{h < horizon} | x_{h+1} - stop_gradient(B_target(s_{t+h+1})) |^2 + c_orth orth(B(s_t))
    loss(e, F) = the forward-backward loss of F B^T, with B as it is

Steps behind the end of an episode do not count. The actor and the answers to prompts are those of `agents/fb.py`.
Papers: Jajoo et al. 2025; as a baseline of TD-JEPA, arXiv 2510.00739. Differences from the papers: those of
`agents/fb.py`.
Where a world offers "privileged" observations, e and B read [state, privileged], and the actor reads the state itself.
Prompts: Reward (correlation with B), Goal (B(g)), Motion, Prior.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from agents import fb
from embodied import losses, nets
from embodied.ranges import join_ranges
from embodied.types import Agent, Batch, Needs, Obs, Params, RandomKey, Spec

RANGES = join_ranges(fb.RANGES, {"[1, inf)": ("horizon",)})


@dataclasses.dataclass(frozen=True)
class Config(fb.Config):
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    c_orth: float = 0.01  # orthonormality of B
    horizon: int = 5  # predicted steps

    def __post_init__(self) -> None:
        fb.check("rldp", self, RANGES)


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are those of forward-backward, and predictor (P)."""
    net, (_, know, recall) = fb.networks(config), fb.sights(config, spec)
    predictor = nets.encoders.dynamics(config.hidden, config.layers, config.z_dim, members=0, dtype=config.matmul)

    def init(key: RandomKey) -> Params:
        return predictor.init(key, jnp.zeros((1, config.z_dim)), jnp.zeros((1, spec.action)))

    def encode_chain(params: Params, online: Params, obs: Obs) -> Array:
        flat = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in obs.items()}
        encoded = net["backward"].apply(params["backward"], recall.read(online, flat))
        return encoded.reshape(-1, config.horizon, config.z_dim)

    def loss(params: Params, target: Params, batch: Batch, z: Array, measure: Array) -> tuple[Array, dict[str, Array]]:
        encoded = net["encoder"].apply(params["encoder"], know.read(params, batch.obs))
        forward = net["forward"].apply(params["forward"], encoded, z, batch.action)
        after = jax.lax.stop_gradient(net["backward"].apply(params["backward"], recall.read(params, batch.next_obs)))
        loss_fb, metrics = losses.forward_backward_loss(forward, after, measure, config.discount * batch.discount)

        here = net["backward"].apply(params["backward"], recall.read(params, batch.obs))
        latent, latents = here, []
        for step in range(config.horizon):
            latent = predictor.apply(params["predictor"], latent, batch.chain.action[:, step])
            latents.append(latent)
        aim = jax.lax.stop_gradient(encode_chain(target, params, batch.chain.next_obs))
        prediction = losses.chain_loss(jnp.stack(latents, 1), aim, batch.chain.inside)
        orthonormal = losses.orthonormality_loss(here)
        loss = loss_fb + prediction + config.c_orth * orthonormal
        metrics |= {"loss/world": loss, "loss/fb": loss_fb, "loss/prediction": prediction}
        metrics |= {"loss/orth_backward": orthonormal, "health/forward_norm": jnp.linalg.norm(forward, axis=-1).mean()}
        return loss, metrics

    return fb.build("rldp", config, spec, loss, {"predictor": init}, Needs(chain=config.horizon))
