"""Operations of one update of TD-JEPA and FB, counted from their layer sizes and as XLA counts them."""

import jax

from agents import fb, td_jepa
from embodied.types import Agent, Spec

HEADS = 2  # of every predictor

Sizes = list[tuple[int, int]]  # (inputs, outputs) of each layer, per member


def update_flops(config: td_jepa.Config | fb.Config, spec: Spec, batch: int) -> int:
    """Operations of one update's matrix products, counted from the layer sizes (TD-JEPA: two-encoder form)."""
    inputs = spec.obs["state"][0] + (config.inputs == "standardized")
    if isinstance(config, fb.Config):
        return 2 * batch * _fb(config, inputs, spec.action, batch)
    if config.symmetric:
        raise ValueError("only the two-encoder form of TD-JEPA is counted")
    return 2 * batch * _td_jepa(config, inputs, spec.action)


def _td_jepa(config: td_jepa.Config, inputs: int, action: int) -> int:
    """Multiply-adds per transition."""
    z, width = config.z_dim, config.phi_dim
    phi = _encoder(inputs, config.phi_hidden, config.phi_layers, width)
    psi = _encoder(inputs, config.psi_hidden, config.psi_layers, z)
    predict_psi = _forward_map(width, z, action, config.hidden, config.layers, z)
    predict_phi = _forward_map(z, z, action, config.hidden, config.layers, width)
    actor = _actor(width, z, action, config.hidden, config.layers)
    predictors = HEADS * (_size(predict_psi) + _size(predict_phi))
    targets = _size(psi) + _size(actor) + _size(phi) + _size(psi) + predictors  # goals use the online psi
    world = _learn_encoder(phi) + _learn_encoder(psi) + 3 * predictors
    acting = _size(phi) + _learn_actor(actor, predict_psi)
    # Orthonormality is a Gram matrix and two products for its gradient; then the covariance of psi.
    return targets + world + acting + 3 * (width**2 + z**2) + z**2


def _fb(config: fb.Config, inputs: int, action: int, batch: int) -> int:
    """Multiply-adds per transition."""
    z, width = config.z_dim, config.encoder_dim
    encoder = _encoder(inputs, config.encoder_hidden, config.encoder_layers, width)
    backward = _encoder(inputs, config.backward_hidden, config.backward_layers, z)
    forward = _forward_map(width, z, action, config.hidden, config.layers, z)
    actor = _actor(width, z, action, config.hidden, config.layers)
    targets = _size(backward) + _size(actor) + _size(encoder) + _size(backward) + HEADS * _size(forward)
    world = _learn_encoder(encoder) + _learn_encoder(backward) + 3 * HEADS * _size(forward)
    acting = _size(encoder) + _learn_actor(actor, forward)
    measure = batch * z * (1 + 3 * HEADS)  # the target, then each head with its two gradients
    return targets + world + acting + 3 * z**2 + measure


def _encoder(inputs: int, hidden: int, layers: int, out: int) -> Sizes:
    return [(inputs, hidden), *[(hidden, hidden)] * (layers - 1), (hidden, out)] if layers else [(inputs, out)]


def _forward_map(obs: int, z: int, action: int, hidden: int, layers: int, out: int) -> Sizes:
    return [*_embeddings(obs + action, obs + z, hidden), *[(hidden, hidden)] * layers, (hidden, out)]


def _actor(obs: int, z: int, action: int, hidden: int, layers: int) -> Sizes:
    return [*_embeddings(obs, obs + z, hidden), *[(hidden, hidden)] * layers, (hidden, action)]


def _embeddings(first: int, second: int, hidden: int) -> Sizes:
    return [(first, hidden), (hidden, hidden // 2), (second, hidden), (hidden, hidden // 2)]


def _size(layers: Sizes) -> int:
    return sum(inputs * outputs for inputs, outputs in layers)


def _learn_encoder(layers: Sizes) -> int:
    """Forward and weight gradients of all layers, input gradients of all but the first."""
    return 2 * _size(layers) + _size(layers[1:])


def _learn_actor(actor: Sizes, value: Sizes) -> int:
    """The actor's own three passes, and through the heads of the value: forward, then back to the action alone."""
    first = [actor[0], actor[2]]  # their inputs take no gradient
    latent_branch = value[2:4]  # the embedding of (state, latent) does not see the action
    return 3 * _size(actor) - _size(first) + HEADS * (2 * _size(value) - _size(latent_branch))


def xla_flops(agent: Agent, spec: Spec, batch: int) -> float:
    """Operations of one update as XLA counts them before optimisation, element-wise ones included."""
    example = spec.example(batch)
    state = jax.eval_shape(agent.init, jax.random.key(0), example)
    return float(jax.jit(agent.update).lower(state, example, jax.random.key(0)).cost_analysis()["flops"])
