"""Forward-backward representations: any reward on states becomes a policy without further training.

    M(s, a, z)[s+] ~= F(e(s), z, a) . B(s+)          z_reward = E[ r(s') B(s') ],   z_goal = B(goal)
    D    = F B^T - discount * F_target B_target^T,      a' ~ pi(e(s'), z)
    loss = 1/(2 n (n-1)) sum_{i != j} D_ij^2 - 1/n sum_i D_ii + c_orth orth(B(s'))
    actor = -E[ F(stop_gradient(e(s)), z, a) . z ]

Papers: Touati and Ollivier, arXiv 2103.07945; with the explicit state encoder e of TD-JEPA, arXiv 2510.00739.
Differences from the papers: rewards are centred before inference, so that a constant reward asks for nothing. Training
latents may also be the model's answers to random rewards, where the source brings them (`latent_ratio`). With
`inputs="standardized"` observations are standardised and a constant is appended.
Where a world offers "privileged" observations, e and B read [state, privileged], and the actor reads the state itself
in place of e(s), as in BFM-Zero (arXiv 2511.04131).
Prompts: Reward (correlation with B), Goal (B(g)), Motion, Prior.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from embodied import actor, losses, nets, prompts, sight
from embodied.actor import Imitation
from embodied.data.normalize import Inputs
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
    "[1, inf)": ("z_dim", "encoder_dim", "encoder_hidden", "backward_hidden"),
    "[2, inf)": ("hidden",),
    "[0, inf)": (
        *("encoder_layers", "backward_layers", "layers", "lr_forward", "lr_backward", "lr_actor"),
        *("c_orth", "noise", "noise_clip", "pessimism", "actor_pessimism"),
    ),
    "[0, 1)": ("discount",),
    "(0, 1]": ("tau",),
    "[0, 1]": ("goal_ratio", "latent_ratio"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    z_dim: int = 50  # width of F, B and the latent
    encoder_dim: int = 256  # width of the state encoder e
    encoder_hidden: int = 256  # hidden width of e; unused when encoder_layers is 0
    encoder_layers: int = 0  # 0 is one linear map
    backward_hidden: int = 256  # hidden width of B
    backward_layers: int = 2  # hidden layers of B; 0 is one linear map
    hidden: int = 1024  # F and actor
    layers: int = 1  # hidden layers after the embeddings, in F and actor
    discount: float = 0.98  # per decision, in [0, 1)
    tau: float = 0.001  # moving-average rate of the targets, in (0, 1]
    lr_forward: float = 1e-4  # F and e
    lr_backward: float = 1e-4  # B
    lr_actor: float = 1e-4
    c_orth: float = 1.0  # orthonormality of B
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

    def __post_init__(self) -> None:
        check("fb", self, RANGES)

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(
            self,
            z_dim=8,
            encoder_dim=12,
            encoder_hidden=16,
            backward_hidden=16,
            hidden=16,
            lr_actor=1e-3,
            tau=0.01,
            imitation=self.imitation.tiny(),
            image=self.image.tiny(),
        )


def check(owner: str, config: Any, ranges: dict[str, Any]) -> None:
    """Nothing; raises InputError for a field of a configuration of this kind that is out of its range."""
    check_ranges(owner, config, ranges)
    check_choice(owner, "inputs", config.inputs, get_args(Inputs))
    check_choice(owner, "matmul", config.matmul, get_args(MatmulType))


@no_type_check
@struct.dataclass
class State:
    """Online parameters, moving-average targets, optimiser state."""

    params: PyTree
    target: PyTree
    optimizer: PyTree


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are encoder (e), forward (F), backward (B) and actor."""
    net, (_, know, recall) = networks(config), sights(config, spec)

    def loss(params: Params, target: Params, batch: Batch, z: Array, measure: Array) -> Any:
        x, next_x = know.read(params, batch.obs), recall.read(params, batch.next_obs)
        return world_loss(params, net, config, x, next_x, z, batch.action, measure, config.discount * batch.discount)

    return build("fb", config, spec, loss)


def build(
    owner: str,
    config: Config,
    spec: Spec,
    world_loss: Callable[[Params, Params, Batch, Array, Array], tuple[Array, dict[str, Array]]],
    more: Mapping[str, Callable[[RandomKey], PyTree]] | None = None,
    needs: Needs = TRANSITIONS,
) -> Agent:
    """The agent, `owner` in errors, whose e, F and B follow `world_loss` (params, target, batch, z, target measure).

    `more` are the initialisers of groups of parameters that the loss has besides; they learn at the rate of B.
    """
    net, more = networks(config), more or {}
    pi = actor.following(config, config.layers, spec)
    see, know, recall = sights(config, spec)
    # e serves the actor too where it reads nothing that the actor may not read, unless that is held to the data.
    shared = spec.trained_on == spec.acted_on and not config.imitation.held
    averaged = ("encoder", "forward", "backward")
    learned = (*averaged, *know.groups, *recall.groups, *more)
    towards = ("encoder", "forward", *know.groups)
    rates = {name: config.lr_forward if name in towards else config.lr_backward for name in learned}
    optimizer = adam_by_group(rates)

    def init(key: RandomKey, batch: Batch) -> State:
        key_encoder, key_forward, key_backward, key_actor = jax.random.split(key, 4)
        params = know.init(key) | recall.init(key)
        x = know.read(params, batch.obs)
        encoded = jnp.zeros((x.shape[0], config.encoder_dim))
        z = jnp.zeros((x.shape[0], config.z_dim))
        params |= {
            "encoder": net["encoder"].init(key_encoder, x),
            "forward": net["forward"].init(key_forward, encoded, z, batch.action),
            "backward": net["backward"].init(key_backward, recall.read(params, batch.obs)),
        }
        params |= pi.init(key_actor, encoded if shared else see.read(params, batch.obs), z, batch.action)
        params |= {name: one(jax.random.fold_in(key, i)) for i, (name, one) in enumerate(more.items())}
        opt_state = {
            "world": optimizer.init(pick(params, learned)),
            "actor": pi.optimizer.init(pick(params, pi.groups)),
        }
        return State(params, jax.tree.map(jnp.copy, pick(params, averaged)), opt_state)

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_z, key_target, key_actor = jax.random.split(key, 3)
        params, target, batch = state.params, state.target, sight.shifted(config, batch, key)
        x, next_x = know.read(params, batch.obs), know.read(params, batch.next_obs)
        after = recall.read(params, batch.next_obs)
        goals = net["backward"].apply(params["backward"], after)
        z = losses.sample_latents(key_z, goals, config.goal_ratio, batch.latent, config.latent_ratio)

        next_encoded = net["encoder"].apply(target["encoder"], next_x)
        next_seen = next_encoded if shared else see.read(params, batch.next_obs)
        ahead = lambda action: net["forward"].apply(target["forward"], next_encoded, z, action)  # noqa: E731
        next_forward = ahead(pi.act(params, next_seen, z, ahead, key_target))
        next_backward = net["backward"].apply(target["backward"], after)
        measure = losses.target_measure(next_forward, next_backward, config.pessimism)

        grad, metrics = jax.grad(world_loss, has_aux=True)(pick(params, learned), target, batch, z, measure)
        delta, world_state = optimizer.update(grad, state.optimizer["world"], pick(params, learned))
        world = optax.apply_updates(pick(params, learned), delta)

        encoded = jax.lax.stop_gradient(net["encoder"].apply(world["encoder"], x))
        seen = encoded if shared else see.read(params, batch.obs)

        successors = lambda action: net["forward"].apply(world["forward"], encoded, z, action)  # noqa: E731
        acting, actor_state, actor_metrics = pi.step(
            params, state.optimizer["actor"], seen, z, batch.action, successors, key_actor
        )
        new_params = world | acting
        new_state = State(
            new_params,
            soft_update(target, pick(world, averaged), config.tau),
            {"world": world_state, "actor": actor_state},
        )
        metrics |= actor_metrics | {"grad/world": optax.tree.norm(grad)}
        return new_state, metrics

    def features(params: PyTree, obs: Obs) -> Array:
        return net["backward"].apply(params["backward"], recall.read(params, obs))

    def prompt(params: PyTree, prompt: Prompt, key: RandomKey) -> Array:
        return prompts.answer_by_correlation(owner, functools.partial(features, params), config.z_dim, prompt, key)

    def act(params: PyTree, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see.read(params, obs)
        z = jnp.broadcast_to(z, (x.shape[0], config.z_dim))
        encode = lambda: net["encoder"].apply(params["encoder"], x)  # noqa: E731
        successors = lambda action: net["forward"].apply(params["forward"], encode(), z, action)  # noqa: E731
        return pi.act(params, encode() if shared else x, z, successors, key), carry

    def value(params: PyTree, prompt: Reward, z: Array, obs: Obs) -> Array:
        # F B^T is a density against the data, so the return is F . E[r B], with r uncentred.
        weights = (prompt.reward[:, None] * features(params, prompt.obs)).mean(0)
        x = net["encoder"].apply(params["encoder"], know.read(params, obs))
        z = jnp.broadcast_to(z, (x.shape[0], config.z_dim))
        heads = net["forward"].apply(params["forward"], x, z, act(params, obs, z, (), None)[0])
        return (1.0 - config.discount) * losses.aggregate(heads @ weights, config.actor_pessimism)

    drawn, kinds = config.imitation.held, (Reward, Goal, Motion, Prior)
    return Agent(init, update, prompt, lambda count: (), act, kinds, value, needs, drawn, features)


def sights(config: Config, spec: Spec) -> tuple[Sight, Sight, Sight]:
    """What feeds the actor, e and B; actor and e share an image encoder."""
    return (
        sight.make(config, spec, spec.acted_on, "encoder_image"),
        sight.make(config, spec, spec.trained_on, "encoder_image"),
        sight.make(config, spec, spec.trained_on, "backward_image"),
    )


def networks(config: Config) -> dict[str, nets.encoders.Net]:
    """encoder (e), forward (F) and backward (B)."""
    dtype = config.matmul
    return {
        "encoder": nets.encoders.encoder(config.encoder_hidden, config.encoder_layers, config.encoder_dim, dtype=dtype),
        "forward": nets.encoders.forward_map(config.hidden, config.layers, config.z_dim, dtype=dtype),
        "backward": nets.encoders.encoder(config.backward_hidden, config.backward_layers, config.z_dim, dtype=dtype),
    }


def world_loss(
    params: PyTree,
    net: dict[str, nets.encoders.Net],
    config: Config,
    x: Float[Array, "B O"],
    next_x: Float[Array, "B O"],
    z: Float[Array, "B D"],
    action: Float[Array, "B A"],
    measure: Float[Array, "B B"],
    discount: Float[Array, " B"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The forward-backward loss with orthonormality, and metrics; gradients reach e, F and B."""
    encoded = net["encoder"].apply(params["encoder"], x)
    forward = net["forward"].apply(params["forward"], encoded, z, action)
    backward = net["backward"].apply(params["backward"], next_x)
    loss_fb, metrics = losses.forward_backward_loss(forward, backward, measure, discount)
    orthonormal = losses.orthonormality_loss(backward)
    loss = loss_fb + config.c_orth * orthonormal
    metrics |= {"loss/world": loss, "loss/fb": loss_fb, "loss/orth_backward": orthonormal}
    metrics |= {"health/forward_norm": jnp.linalg.norm(forward, axis=-1).mean()}
    return loss, metrics
