"""TD-JEPA: latent-predictive successor features; a reward or a goal becomes a policy without further training.

A state encoder phi and a task encoder psi predict each other's discounted future, per policy pi_z:

    T_phi(phi(s), z, a) ~= E[ sum_t discount^t psi(s_{t+1}) ]
    T_psi(psi(s), z, a) ~= E[ sum_t discount^t phi(s_{t+1}) ]
    y_phi = psi_target(s') + discount T_phi_target(phi_target(s'), z, a'),   a' ~ pi(phi_target(s'), z)
    loss  = |T_phi - y_phi|^2 + |T_psi - y_psi|^2 + c_phi orth(phi(s)) + c_psi orth(psi(s))
    actor = -E[ T_phi(stop_gradient(phi(s)), z, a) . z ]

Paper: TD-JEPA, arXiv 2510.00739 (Algorithm 1). `symmetric=True` is its one-encoder variant: psi = phi, T_psi = T_phi.
Differences from the paper: one coefficient for each orthonormality term; no factor 1/2 in the prediction losses.
Training latents may also be the model's answers to random rewards, where the source brings them (`latent_ratio`).
Rewards that are nowhere positive count from their least value before inference.
With `inputs="standardized"` observations are standardised and a constant is appended, because a linear encoder that
ends on a sphere would otherwise lose the radius of its input.
Where a world offers "privileged" observations, psi reads [state, privileged], and phi, which the actor and T_phi
read, the state alone.
Prompts: Reward (least squares on psi), Goal (C^-1 psi(g)), Motion, Prior.
"""

import dataclasses
import functools
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
from embodied.sight import Image
from embodied.types import Agent, Batch, Goal, InputError, Motion, Obs, Prior, Prompt, RandomKey, Reward, Spec

RANGES = {
    "[1, inf)": ("z_dim", "phi_dim", "phi_hidden", "psi_hidden"),
    "[2, inf)": ("hidden",),
    "[0, inf)": (
        *("phi_layers", "psi_layers", "layers", "lr_phi", "lr_psi", "lr_predictor", "lr_actor"),
        *("c_phi", "c_psi", "noise", "noise_clip", "pessimism", "actor_pessimism"),
    ),
    "[0, 1)": ("discount",),
    "(0, 1]": ("tau",),
    "[0, 1]": ("goal_ratio", "latent_ratio"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    z_dim: int = 50  # width of psi, and of the latent (of phi when symmetric)
    phi_dim: int = 256  # width of the state encoder; z_dim when symmetric
    phi_hidden: int = 256  # hidden width of phi; unused when phi_layers is 0 or symmetric
    phi_layers: int = 0  # hidden layers of phi; 0 is one linear map; unused when symmetric
    psi_hidden: int = 256  # hidden width of psi (of phi when symmetric)
    psi_layers: int = 2  # hidden layers of psi (of phi when symmetric); 0 is one linear map
    hidden: int = 1024  # predictors and actor
    layers: int = 1  # hidden layers after the embeddings, in predictors and actor
    symmetric: bool = False  # one encoder and one predictor
    discount: float = 0.98  # per decision, in [0, 1)
    tau: float = 0.001  # moving-average rate of the targets, in (0, 1]
    lr_phi: float = 1e-4
    lr_psi: float = 1e-4  # unused when symmetric
    lr_predictor: float = 1e-4  # T_phi and T_psi
    lr_actor: float = 1e-4
    c_phi: float = 0.1  # orthonormality of phi
    c_psi: float = 0.1  # orthonormality of psi; unused when symmetric
    goal_ratio: float = 0.5  # share of training latents that encode a goal, in [0, 1]
    latent_ratio: float = 0.5  # share of training latents that the batch brings, where it does, in [0, 1]
    scale_goals: bool = False  # goals as C^-1 psi(g) while training (OGBench)
    pessimism: float = 0.0  # head disagreement subtracted in targets; 0.5 is the minimum of two heads
    actor_pessimism: float = 0.0  # the same for the actor
    noise: float = 0.2  # standard deviation of exploration and target actions
    noise_clip: float = 0.3  # largest noise on an action
    imitation: Imitation = Imitation()  # how the actor is held to the actions of the data; then `noise` is not used
    inputs: Inputs = "raw"  # or "standardized": by the data's mean and deviation, a constant 1 appended
    image: Image = Image()  # how observations of pixels are read
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        check_ranges("td_jepa", self, RANGES)
        check_choice("td_jepa", "inputs", self.inputs, get_args(Inputs))
        check_choice("td_jepa", "matmul", self.matmul, get_args(MatmulType))
        if self.symmetric and self.phi_dim != self.z_dim:
            raise InputError(
                f"td_jepa: symmetric=True needs phi_dim equal to z_dim, got {self.phi_dim} and {self.z_dim}"
            )

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        phi_dim = 8 if self.symmetric else 12
        return dataclasses.replace(
            self,
            z_dim=8,
            phi_dim=phi_dim,
            phi_hidden=16,
            psi_hidden=16,
            hidden=16,
            lr_actor=1e-3,
            tau=0.01,
            imitation=self.imitation.tiny(),
            image=self.image.tiny(),
        )


@no_type_check
@struct.dataclass
class State:
    """Online parameters (and the covariance C of psi), moving-average targets, optimiser state."""

    params: PyTree
    target: PyTree
    optimizer: PyTree


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are phi, psi, predict_psi (T_phi), predict_phi (T_psi), actor."""
    if config.symmetric and "privileged" in spec.obs:
        raise InputError(
            'td_jepa: symmetric must be False for a world with "privileged" observations: the actor reads the only '
            "encoder and must not see them, got True"
        )
    net = _networks(config)
    task = "phi" if config.symmetric else "psi"  # the encoder whose successor features are values
    see = sight.make(config, spec, spec.acted_on, "phi_image")
    know = sight.make(config, spec, spec.trained_on, f"{task}_image")
    encoders = ("phi",) if config.symmetric else ("phi", "psi")
    predictors = ("predict_psi",) if config.symmetric else ("predict_psi", "predict_phi")
    averaged = encoders + predictors
    learned = tuple(dict.fromkeys(averaged + see.groups + know.groups))
    rates = {"phi": config.lr_phi, "phi_image": config.lr_phi, "psi": config.lr_psi, "psi_image": config.lr_psi}
    optimizer = adam_by_group({name: rates.get(name, config.lr_predictor) for name in learned})
    pi = actor.following(config, config.layers, spec)
    held = config.imitation.held  # then the actor reads the input of phi itself

    def init(key: RandomKey, batch: Batch) -> State:
        keys = dict(zip(("phi", "psi", "predict_psi", "predict_phi", "actor"), jax.random.split(key, 5), strict=True))
        params = see.init(key) | know.init(key)
        x = see.read(params, batch.obs)
        phi = jnp.zeros((x.shape[0], config.phi_dim))
        z = jnp.zeros((x.shape[0], config.z_dim))
        inputs = {
            "phi": (x,),
            "psi": (know.read(params, batch.obs),),
            "predict_psi": (phi, z, batch.action),
            "predict_phi": (z, z, batch.action),
        }
        params |= {name: net[name].init(keys[name], *inputs[name]) for name in averaged}
        params |= pi.init(keys["actor"], x if held else phi, z, batch.action)
        opt_state = {
            "world": optimizer.init(pick(params, learned)),
            "actor": pi.optimizer.init(pick(params, pi.groups)),
        }
        target = jax.tree.map(jnp.copy, pick(params, averaged))
        return State(params | {"covariance": jnp.eye(config.z_dim)}, target, opt_state)

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_z, key_target, key_actor = jax.random.split(key, 3)
        params, target, batch = state.params, state.target, sight.shifted(config, batch, key)
        x, next_x, next_known = (
            one.read(params, obs) for one, obs in ((see, batch.obs), (see, batch.next_obs), (know, batch.next_obs))
        )
        goals = net[task].apply(params[task], next_known)
        if config.scale_goals:
            goals = jnp.linalg.solve(params["covariance"] + 1e-6 * jnp.eye(config.z_dim), goals.T).T
        z = losses.sample_latents(key_z, goals, config.goal_ratio, batch.latent, config.latent_ratio)
        discount = config.discount * batch.discount

        next_phi = net["phi"].apply(target["phi"], next_x)
        next_psi = net[task].apply(target[task], next_known)
        ahead = lambda action: net["predict_psi"].apply(target["predict_psi"], next_phi, z, action)  # noqa: E731
        next_action = pi.act(params, next_x if held else next_phi, z, ahead, key_target)
        heads = ahead(next_action)
        targets = {"predict_psi": losses.successor_target(next_psi, heads, discount, config.pessimism)}
        if not config.symmetric:
            heads = net["predict_phi"].apply(target["predict_phi"], next_psi, z, next_action)
            targets["predict_phi"] = losses.successor_target(next_phi, heads, discount, config.pessimism)

        def loss(world: PyTree) -> tuple[Array, tuple[dict[str, Array], Array]]:
            inputs = see.read(world, batch.obs), know.read(world, batch.obs)
            return world_loss(world, net, config, *inputs, z, batch.action, targets)

        grad, (metrics, psi) = jax.grad(loss, has_aux=True)(pick(params, learned))
        delta, world_state = optimizer.update(grad, state.optimizer["world"], pick(params, learned))
        world = optax.apply_updates(pick(params, learned), delta)

        phi = jax.lax.stop_gradient(net["phi"].apply(world["phi"], x))

        successors = lambda action: net["predict_psi"].apply(world["predict_psi"], phi, z, action)  # noqa: E731
        acting, actor_state, actor_metrics = pi.step(
            params, state.optimizer["actor"], x if held else phi, z, batch.action, successors, key_actor
        )
        covariance = 0.995 * params["covariance"] + 0.005 * (psi.T @ psi) / psi.shape[0]
        new_params = world | acting | {"covariance": jax.lax.stop_gradient(covariance)}
        new_target = soft_update(target, pick(world, averaged), config.tau)
        new_state = State(new_params, new_target, {"world": world_state, "actor": actor_state})
        metrics |= actor_metrics | {"grad/world": optax.tree.norm(grad)}
        return new_state, metrics

    def features(params: PyTree, obs: Obs) -> Array:
        return net[task].apply(params[task], know.read(params, obs))

    def prompt(params: PyTree, prompt: Prompt, key: RandomKey) -> Array:
        see_task = functools.partial(features, params)
        return prompts.answer_by_regression("td_jepa", see_task, params["covariance"], prompt, key)

    def act(params: PyTree, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see.read(params, obs)
        z = jnp.broadcast_to(z, (x.shape[0], config.z_dim))
        encode = lambda: net["phi"].apply(params["phi"], x)  # noqa: E731
        successors = lambda action: net["predict_psi"].apply(params["predict_psi"], encode(), z, action)  # noqa: E731
        return pi.act(params, x if held else encode(), z, successors, key), carry

    def value(params: PyTree, prompt: Reward, z: Array, obs: Obs) -> Array:
        weights = prompts.reward_weights(features(params, prompt.obs), prompt.reward)
        phi = net["phi"].apply(params["phi"], see.read(params, obs))
        z = jnp.broadcast_to(z, (phi.shape[0], config.z_dim))
        heads = net["predict_psi"].apply(params["predict_psi"], phi, z, act(params, obs, z, (), None)[0])
        return (1.0 - config.discount) * losses.aggregate(heads @ weights, config.actor_pessimism)

    drawn, kinds = config.imitation.held, (Reward, Goal, Motion, Prior)
    return Agent(init, update, prompt, lambda count: (), act, kinds, value, drawn=drawn, features=features)


def _networks(config: Config) -> dict[str, nets.encoders.Net]:
    dtype = config.matmul
    phi_layers = config.psi_layers if config.symmetric else config.phi_layers
    phi_hidden = config.psi_hidden if config.symmetric else config.phi_hidden
    return {
        "phi": nets.encoders.encoder(phi_hidden, phi_layers, config.phi_dim, dtype=dtype),
        "psi": nets.encoders.encoder(config.psi_hidden, config.psi_layers, config.z_dim, dtype=dtype),
        "predict_psi": nets.encoders.forward_map(config.hidden, config.layers, config.z_dim, dtype=dtype),
        "predict_phi": nets.encoders.forward_map(config.hidden, config.layers, config.phi_dim, dtype=dtype),
    }


def world_loss(
    params: PyTree,
    net: dict[str, nets.encoders.Net],
    config: Config,
    x: Float[Array, "B O"],
    known: Float[Array, "B K"],
    z: Float[Array, "B D"],
    action: Float[Array, "B A"],
    targets: dict[str, Array],
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Array]]:
    """The representation loss and (metrics, task features without gradient); phi reads x, psi what is known.

    phi receives gradient only as the input of its own predictor and through its orthonormality term; so does psi.
    """
    phi = net["phi"].apply(params["phi"], x)
    predict_psi = net["predict_psi"].apply(params["predict_psi"], phi, z, action)
    loss_phi = losses.latent_prediction_loss(predict_psi, targets["predict_psi"])
    orthonormal_phi = losses.orthonormality_loss(phi)
    loss = loss_phi + config.c_phi * orthonormal_phi
    metrics = {"loss/predict_psi": loss_phi, "loss/orth_phi": orthonormal_phi}
    task_features = phi
    if not config.symmetric:
        psi = net["psi"].apply(params["psi"], known)
        predict_phi = net["predict_phi"].apply(params["predict_phi"], psi, z, action)
        loss_psi = losses.latent_prediction_loss(predict_phi, targets["predict_phi"])
        orthonormal_psi = losses.orthonormality_loss(psi)
        loss = loss + loss_psi + config.c_psi * orthonormal_psi
        metrics |= {"loss/predict_phi": loss_psi, "loss/orth_psi": orthonormal_psi}
        task_features = psi
    norm = jnp.linalg.norm(predict_psi, axis=-1).mean()
    metrics |= {"loss/world": loss, "health/successor_norm": norm}
    return loss, (metrics, jax.lax.stop_gradient(task_features))
