"""Agents that act by the successor features of features f, whatever way these are learned.

    Psi(e(s), z, a) ~= E[ sum_t discount^t f(s_{t+1}) ] under pi_z
    y     = f(s') + discount Psi_target(e_target(s'), z, a'),   a' ~ pi(e_target(s'), z)
    loss  = 1/2 sum_k mean (Psi_k - y)^2  +  the loss of the features
    actor = -E[ Psi(stop_gradient(e(s)), z, a) . z ]

A method is a file under `agents/` that brings a `Method`: the networks and the loss of its features. Neither the loss
of Psi nor the actor moves them. The baselines of TD-JEPA are of this kind (arXiv 2510.00739, appendix): training
latents are drawn from the sphere, or encode a goal as C^-1 f(g), with C the moving covariance of f.
Where a world offers "privileged" observations, f and e read [state, privileged], and the actor reads the state itself
in place of e(s).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, PyTree

from embodied import actor, losses, prompts, sight
from embodied.actor import Imitation
from embodied.data.normalize import Inputs
from embodied.nets import encoders
from embodied.nets.mlp import MatmulType
from embodied.optim import adam_by_group, pick, soft_update
from embodied.ranges import check_choice, check_ranges
from embodied.sight import Image, Sight
from embodied.types import (
    TRANSITIONS,
    Agent,
    Batch,
    Goal,
    Motion,
    Needs,
    Obs,
    Params,
    Prior,
    Prompt,
    RandomKey,
    Reward,
    Spec,
)

RANGES = {
    "[1, inf)": ("z_dim", "encoder_dim", "encoder_hidden", "feature_hidden"),
    "[2, inf)": ("hidden",),
    "[0, inf)": (
        *("encoder_layers", "feature_layers", "layers", "lr_features", "lr_successor", "lr_actor"),
        *("noise", "noise_clip", "pessimism", "actor_pessimism"),
    ),
    "[0, 1)": ("discount",),
    "(0, 1]": ("tau",),
    "[0, 1]": ("goal_ratio", "latent_ratio"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What all methods share, with the published state-based walker values (arXiv 2510.00739, appendix)."""

    z_dim: int = 50  # width of the features, of Psi and of the latent
    encoder_dim: int = 256  # width of the state encoder e
    encoder_hidden: int = 256  # hidden width of e; unused when encoder_layers is 0
    encoder_layers: int = 0  # 0 is one linear map
    feature_hidden: int = 256  # hidden width of f
    feature_layers: int = 2  # hidden layers of f; 0 is one linear map
    hidden: int = 1024  # Psi, actor and what else predicts
    layers: int = 1  # hidden layers after the embeddings of these
    discount: float = 0.98  # per decision, in [0, 1)
    tau: float = 0.001  # moving-average rate of the targets, in (0, 1]
    lr_features: float = 1e-4  # f and all that helps to learn it
    lr_successor: float = 1e-4  # Psi and e
    lr_actor: float = 1e-4
    goal_ratio: float = 0.5  # share of training latents that encode a goal, in [0, 1]
    latent_ratio: float = 0.5  # share of training latents that the batch brings, where it does, in [0, 1]
    pessimism: float = 0.0  # head disagreement subtracted in targets; 0.5 is the minimum of two heads
    actor_pessimism: float = 0.0  # the same for the actor
    noise: float = 0.2  # standard deviation of exploration and target actions
    noise_clip: float = 0.3  # largest noise on an action
    imitation: Imitation = Imitation()  # how the actor is held to the actions of the data; then `noise` is not used
    inputs: Inputs = "raw"  # or "standardized": by the data's mean and deviation, a constant 1 appended
    image: Image = Image()  # how observations of pixels are read
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(
            self,
            z_dim=8,
            encoder_dim=12,
            encoder_hidden=16,
            feature_hidden=16,
            hidden=16,
            lr_actor=1e-3,
            tau=0.01,
            imitation=self.imitation.tiny(),
            image=self.image.tiny(),
        )


def check(owner: str, config: Any, ranges: dict[str, Any]) -> None:
    """Nothing; raises InputError for a field of a method's configuration that is out of its range."""
    check_ranges(owner, config, ranges)
    check_choice(owner, "inputs", config.inputs, get_args(Inputs))
    check_choice(owner, "matmul", config.matmul, get_args(MatmulType))


class Method(NamedTuple):
    """How features are learned. `params` are those of the agent, `target` the moving averages of some of them."""

    groups: tuple[str, ...]  # of parameters; with "encoder" among them, e is learned here and not by Psi
    init: Callable[[RandomKey, Array, Array], dict[str, PyTree]]  # (key, input of f, action) -> these groups
    loss: Callable[[Params, Params, Batch, RandomKey], tuple[Array, dict[str, Array]]]  # (params, target, ...)
    embed: Callable[[Params, Array], Array]  # (params, input [B, I]) -> features [B, D]
    averaged: tuple[str, ...] = ()  # groups whose moving averages `loss` reads
    centred: bool = False  # features are used without their moving mean
    needs: Needs = TRANSITIONS  # what `loss` reads of a batch besides transitions


@no_type_check
@struct.dataclass
class State:
    """Online parameters (and the moments of the features), moving-average targets, optimiser state."""

    params: PyTree
    target: PyTree
    optimizer: PyTree


def knowing(config: Config, spec: Spec, network: str = "features") -> Sight:
    """What feeds f, or for "encoder" e."""
    return sight.make(config, spec, spec.trained_on, f"{network}_image")


def feature_net(config: Config, on_sphere: bool = True, members: int = 0) -> encoders.Net:
    """The network of f: input [B, I] -> [B, D], or [K, B, D] with members."""
    return encoders.encoder(
        config.feature_hidden, config.feature_layers, config.z_dim, on_sphere, members, config.matmul
    )


def make(owner: str, config: Config, spec: Spec, method: Method) -> Agent:
    """The agent of a method, `owner` in errors; its groups of parameters: encoder, successor, actor, the method's."""
    net = _networks(config)
    see = sight.make(config, spec, spec.acted_on, "encoder_image")
    know, study = knowing(config, spec, "encoder"), knowing(config, spec)
    pi = actor.following(config, config.layers, spec)
    # e serves the actor too where it reads nothing that the actor may not read, unless that is held to the data.
    shared = spec.trained_on == spec.acted_on and not config.imitation.held
    learned = tuple(dict.fromkeys(("encoder", "successor", *method.groups, *know.groups, *study.groups)))
    averaged = tuple(dict.fromkeys(("encoder", "successor", *method.averaged)))
    studied = {*method.groups, *study.groups} | (set(know.groups) if "encoder" in method.groups else set())
    rates = {name: config.lr_features if name in studied else config.lr_successor for name in learned}
    optimizer = adam_by_group(rates)

    def embed(params: Params, x: Array) -> Array:
        features = method.embed(params, x)
        return features - params["mean"][None] if method.centred else features

    def init(key: RandomKey, batch: Batch) -> State:
        key_encoder, key_successor, key_actor, key_method = jax.random.split(key, 4)
        params = know.init(key) | study.init(key)
        x = know.read(params, batch.obs)
        encoded, z = (jnp.zeros((x.shape[0], width)) for width in (config.encoder_dim, config.z_dim))
        params |= {
            "encoder": net["encoder"].init(key_encoder, x),
            "successor": net["successor"].init(key_successor, encoded, z, batch.action),
            "covariance": jnp.eye(config.z_dim),
        }
        params |= pi.init(key_actor, encoded if shared else see.read(params, batch.obs), z, batch.action)
        params |= {"mean": jnp.zeros(config.z_dim)} if method.centred else {}
        params |= method.init(key_method, study.read(params, batch.obs), batch.action)
        opt_state = {
            "world": optimizer.init(pick(params, learned)),
            "actor": pi.optimizer.init(pick(params, pi.groups)),
        }
        return State(params, jax.tree.map(jnp.copy, pick(params, averaged)), opt_state)

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_z, key_target, key_actor, key_method = jax.random.split(key, 4)
        params, target, batch = state.params, state.target, sight.shifted(config, batch, key)
        x, next_x = know.read(params, batch.obs), know.read(params, batch.next_obs)
        here, there = features(params, batch.obs), features(params, batch.next_obs)
        goals = jnp.linalg.solve(params["covariance"] + 1e-6 * jnp.eye(config.z_dim), there.T).T
        z = losses.sample_latents(key_z, goals, config.goal_ratio, batch.latent, config.latent_ratio)

        next_encoded = net["encoder"].apply(target["encoder"], next_x)
        next_seen = next_encoded if shared else see.read(params, batch.next_obs)
        ahead = lambda action: net["successor"].apply(target["successor"], next_encoded, z, action)  # noqa: E731
        heads = ahead(pi.act(params, next_seen, z, ahead, key_target))
        aim = losses.successor_target(there, heads, config.discount * batch.discount, config.pessimism)

        def world_loss(world: Params) -> tuple[Array, dict[str, Array]]:
            encoded = net["encoder"].apply(world["encoder"], know.read(world, batch.obs))
            encoded = jax.lax.stop_gradient(encoded) if "encoder" in method.groups else encoded
            successors = net["successor"].apply(world["successor"], encoded, z, batch.action)
            loss_successor = losses.successor_loss(successors, aim)
            loss_features, metrics = method.loss(world, target, batch, key_method)
            loss = loss_successor + loss_features
            metrics |= {"loss/world": loss, "loss/successor": loss_successor, "loss/features": loss_features}
            return loss, metrics | {"health/successor_norm": jnp.linalg.norm(successors, axis=-1).mean()}

        grad, metrics = jax.grad(world_loss, has_aux=True)(pick(params, learned))
        delta, world_state = optimizer.update(grad, state.optimizer["world"], pick(params, learned))
        world = optax.apply_updates(pick(params, learned), delta)

        encoded = jax.lax.stop_gradient(net["encoder"].apply(world["encoder"], x))
        seen = encoded if shared else see.read(params, batch.obs)

        successors = lambda action: net["successor"].apply(world["successor"], encoded, z, action)  # noqa: E731
        acting, actor_state, actor_metrics = pi.step(
            params, state.optimizer["actor"], seen, z, batch.action, successors, key_actor
        )
        new_params = world | acting | moments(params, here)
        new_state = State(
            new_params,
            soft_update(target, pick(world, averaged), config.tau),
            {"world": world_state, "actor": actor_state},
        )
        metrics |= actor_metrics | {"grad/world": optax.tree.norm(grad)}
        return new_state, metrics

    def moments(params: Params, features: Array) -> dict[str, Array]:
        features = jax.lax.stop_gradient(features)
        covariance = 0.995 * params["covariance"] + 0.005 * (features.T @ features) / features.shape[0]
        # `features` come without the mean so far, so that they are what it has to move by.
        centre = {"mean": params["mean"] + 0.005 * features.mean(0)} if method.centred else {}
        return {"covariance": covariance} | centre

    def features(params: Params, obs: Obs) -> Array:
        return embed(params, study.read(params, obs))

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        read = functools.partial(features, params)
        return prompts.answer_by_regression(owner, read, params["covariance"], prompt, key)

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see.read(params, obs)
        z = jnp.broadcast_to(z, (x.shape[0], config.z_dim))
        encode = lambda: net["encoder"].apply(params["encoder"], x)  # noqa: E731
        successors = lambda action: net["successor"].apply(params["successor"], encode(), z, action)  # noqa: E731
        return pi.act(params, encode() if shared else x, z, successors, key), carry

    def value(params: Params, prompt: Reward, z: Array, obs: Obs) -> Array:
        weights = prompts.reward_weights(features(params, prompt.obs), prompt.reward)
        encoded = net["encoder"].apply(params["encoder"], know.read(params, obs))
        z = jnp.broadcast_to(z, (encoded.shape[0], config.z_dim))
        heads = net["successor"].apply(params["successor"], encoded, z, act(params, obs, z, (), None)[0])
        return (1.0 - config.discount) * losses.aggregate(heads @ weights, config.actor_pessimism)

    kinds, drawn = (Reward, Goal, Motion, Prior), config.imitation.held
    return Agent(init, update, prompt, lambda count: (), act, kinds, value, method.needs, drawn, features)


def _networks(config: Config) -> dict[str, encoders.Net]:
    dtype = config.matmul
    return {
        "encoder": encoders.encoder(config.encoder_hidden, config.encoder_layers, config.encoder_dim, dtype=dtype),
        "successor": encoders.forward_map(config.hidden, config.layers, config.z_dim, dtype=dtype),
    }
