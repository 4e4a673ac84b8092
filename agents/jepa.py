"""JEPA: a world model that predicts latents instead of observations, from states or pixels, and plans in them.

    z_t = e(s_t),     z^_0 = z_t,     z^_{h+1} = z^_h + P(z^_h, a_{t+kh}, ..., a_{t+kh+k-1}),     k = block
    loss(e, P) = mean_{h < rollout} |z^_{h+1} - z_{t+kh+k}|^2 / D + gaussian distance(z, N(0, I))

A prediction leads over a block of k decisions at once, whose actions it reads together. Both sides of it learn: there
is neither a moving average nor a stopped gradient. What keeps latents from collapsing to a point is their distance to a
Gaussian, measured on random projections (SIGReg). Blocks that end behind an episode do not count. With `frozen` nothing
but P learns: latents are the observations themselves, each number in deviations of the data, such as features of an
encoder that was trained elsewhere.

The model sees `parts` of the state, or the latest `frames` of a stack of images: where things stand once nothing moves
them, goals are about where they are, and a distance of latents that know velocities would forbid to move.

A goal g is z_g = e(g). Plans are sequences of H actions, each held for a block, refined by the cross-entropy method or
by MPPI (`embodied/planning.py`); their score in the model is

    J = -(1 - along) |z^_H - z_g| - along mean_h |z^_h - z_g|,     h = 1, ..., H

The first action of the best sequence is done, and the next decision plans anew, with the same random numbers: without a
key the action is a function of parameters, observation and latent. The agent's latent is [z_g, 1] on the sphere; that
of the prior is of z ~ N(0, I), a goal as any other. It asks for no reward, and no policy is learned.

Papers: LeWorldModel, Maes et al., arXiv 2603.19312; SIGReg: Balestriero and LeCun, arXiv 2511.08544; planning with
frozen features: DINO-WM, Zhou et al., arXiv 2411.04983. Differences from the papers: networks are the small ones of
this repository, without batch normalisation; the observation's own stack of frames is all the history; predictions may
be of several blocks (`rollout`); the distance is of all latents of a batch, and not times their number, so that its
weight means the same for batches of any size; actions of a plan are held for a block; plans are made anew at every
decision. Prompts: Goal, Motion, Prior.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from agents import kinds
from embodied import losses, sight
from embodied.data.dataset import STACK
from embodied.data.normalize import Inputs
from embodied.nets import encoders
from embodied.nets.mlp import MatmulType
from embodied.optim import adam_by_group
from embodied.planning import Planning, plan
from embodied.ranges import check_choice, check_ranges
from embodied.sight import Image
from embodied.types import (
    Agent,
    Batch,
    Goal,
    InputError,
    Motion,
    Needs,
    Obs,
    Params,
    Prior,
    Prompt,
    RandomKey,
    Spec,
)

RANGES = {
    "[1, inf)": ("block", "latent", "rollout", "projections"),
    "[2, inf)": ("hidden", "knots"),
    "[0, inf)": ("layers", "gaussian", "lr"),
    "[0, 1]": ("along",),
    "[1, 3]": ("frames",),
}
FAR = 100.0  # no goal lies further out along any axis: what a latent that names no place asks for stays finite


@dataclasses.dataclass(frozen=True)
class Config:
    """Published values (arXiv 2603.19312) where networks allow it."""

    planning: Planning = Planning(horizon=5, samples=300, iterations=10, elites=30)  # how sequences are searched for
    block: int = 5  # k, decisions that one prediction leads over, and that a plan holds each action for
    along: float = 0.0  # share of the whole way in a plan's score, in [0, 1]; the rest is where it ends
    parts: tuple[str, ...] = ()  # of the state that it sees; () = all of it
    frames: int = 3  # of a stack of images that it sees, the latest ones
    latent: int = 192  # D; unused when frozen
    hidden: int = 512  # e and P, even
    layers: int = 2  # hidden layers of e; and of P, behind the embeddings
    rollout: int = 1  # blocks that predictions are followed for while training
    gaussian: float = 0.09 * 128  # weight of the distance to a Gaussian; published as 0.09 times the batch size
    projections: int = 1024  # on which that distance is measured, drawn anew in every update
    knots: int = 17  # of its integral
    frozen: bool = False  # latents are the observations themselves, which are vectors, and only P learns
    lr: float = 3e-4
    inputs: Inputs = "standardized"  # by the data's mean and deviation; or "raw"
    image: Image = Image(shift=0)  # how observations of pixels are read; unmoved, as latents tell where things are
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        check_ranges("jepa", self, RANGES)
        check_choice("jepa", "inputs", self.inputs, get_args(Inputs))
        check_choice("jepa", "matmul", self.matmul, get_args(MatmulType))

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        planning = dataclasses.replace(self.planning, horizon=2, samples=16, iterations=2, elites=4)
        sizes = {"latent": 8, "hidden": 16, "layers": 1, "block": 2, "projections": 16, "knots": 5}
        return dataclasses.replace(self, planning=planning, image=self.image.tiny(), lr=1e-3, **sizes)


@no_type_check
@struct.dataclass
class State:
    """Parameters {encoder and its image encoder (none when frozen), predictor} and optimiser state."""

    params: PyTree
    optimizer: PyTree


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world. Raises InputError for pixels when frozen."""
    if config.frozen and "pixels" in spec.obs:
        raise InputError("jepa: frozen must be False for pixels: they are no features; store an encoder's as states")
    narrowed, narrow = seen_part(config, spec)
    see = sight.make(config, narrowed, spec.acted_on, "encoder_image")
    width = narrowed.obs["state"][0] if config.frozen else config.latent
    net = encoders.encoder(config.hidden, config.layers, width, on_sphere=False, dtype=config.matmul)
    predictor = encoders.dynamics(config.hidden, config.layers, width, members=0, dtype=config.matmul)
    learned = ("predictor",) if config.frozen else ("predictor", "encoder", *see.groups)
    optimizer = adam_by_group(dict.fromkeys(learned, config.lr))
    length, ends = config.block * config.rollout, slice(config.block - 1, None, config.block)

    def features(params: Params, obs: Obs) -> Array:
        x = see.read(params, narrow(obs))
        return x[:, :width] if config.frozen else net.apply(params["encoder"], x)

    def foreseen(params: Params, z: Array, actions: Array) -> Array:
        """Latents [B, T // block, D] behind each block of actions [B, T, A]."""
        seen = []
        for first in range(0, actions.shape[1] - config.block + 1, config.block):
            block = actions[:, first : first + config.block].reshape(len(z), -1)
            z = z + predictor.apply(params["predictor"], z, block)
            seen.append(z)
        return jnp.stack(seen, 1)

    def imagine(params: Params, obs: Obs, actions: Array) -> Array:
        return foreseen(params, features(params, obs), actions)

    def init(key: RandomKey, batch: Batch) -> State:
        key_encoder, key_predictor = jax.random.split(key)
        params = see.init(key)
        if not config.frozen:
            params |= {"encoder": net.init(key_encoder, see.read(params, narrow(batch.obs)))}
        made = predictor.init(key_predictor, jnp.zeros((1, width)), jnp.zeros((1, config.block * spec.action)))
        params |= {"predictor": encoders.with_head(made, 0.1)}  # nothing changes much at first
        return State(params, optimizer.init(params))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        batch = sight.shifted(config, batch, key)

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            z, chain = latents(params, batch), batch.chain
            # Where the world ended another episode follows.
            inside = (chain.inside * chain.discount)[:, :length][:, ends]
            prediction = (
                losses.chain_loss(foreseen(params, z[:, 0], chain.action[:, :length]), z[:, 1:], inside) / width
            )
            distance = losses.gaussian_distance(z.reshape(-1, width), key, config.projections, config.knots)
            total = prediction + (0.0 if config.frozen else config.gaussian) * distance
            apart = jnp.square(z - jnp.roll(z, 1, 0)).mean()  # of two latents at random
            metrics = {"loss/world": total, "loss/prediction": prediction, "loss/gaussian": distance}
            return total, metrics | {"model/relative_error": prediction / jnp.maximum(apart, 1e-12)}

        grad, metrics = jax.grad(loss, has_aux=True)(state.params)
        delta, opt_state = optimizer.update(grad, state.optimizer, state.params)
        metrics |= {"grad/world": optax.tree.norm(grad)}
        return State(optax.apply_updates(state.params, delta), opt_state), metrics

    def latents(params: Params, batch: Batch) -> Array:
        """Latents [B, rollout + 1, D] of a batch where blocks begin and end."""
        later = {name: leaf[:, :length][:, ends] for name, leaf in batch.chain.next_obs.items()}
        rows = jax.tree.map(lambda now, later: jnp.concatenate([now[:, None], later], 1), batch.obs, later)
        flat = features(params, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows))
        return flat.reshape(len(batch.action), -1, width)

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        return kinds.answered("jepa", functools.partial(features, params), width, prompt, key)

    def search(params: Params, z: Array, goal: Array, key: RandomKey) -> Array:
        """The first action [A] of the best plan from the latent z [D] to that of a goal [D]."""

        def score(actions: Float[Array, "S H A"]) -> Float[Array, " S"]:
            start = jnp.broadcast_to(z, (len(actions), width))
            return closeness(foreseen(params, start, jnp.repeat(actions, config.block, 1)), goal, config.along)

        return plan(config.planning, score, jnp.zeros((config.planning.horizon, spec.action)), key).actions[0]

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        here = features(params, obs)
        goal = jnp.clip(kinds.place(jnp.broadcast_to(z, (len(here), width + 1))), -FAR, FAR)
        every = jax.vmap(search, (None, 0, 0, None))
        return every(params, here, goal, jax.random.key(0) if key is None else key), carry

    prompts, needs = (Goal, Motion, Prior), Needs(chain=length)
    return Agent(init, update, prompt, lambda count: (), act, prompts, needs=needs, features=features, imagine=imagine)


def seen_part(config: Config, spec: Spec) -> tuple[Spec, Callable[[Obs], Obs]]:
    """The spec of what the model sees of observations, and the function that takes it from them.

    Raises InputError for a part that the world's state lacks.
    """
    if "pixels" in spec.obs:
        *sides, depth = spec.obs["pixels"]
        channels = depth // STACK * config.frames
        latest = lambda obs: {name: leaf[..., -channels:] if name == "pixels" else leaf for name, leaf in obs.items()}  # noqa: E731
        return dataclasses.replace(spec, obs=spec.obs | {"pixels": (*sides, channels)}), latest
    if not config.parts:
        return spec, lambda obs: obs
    columns = np.concatenate(kinds.columns_of("jepa", spec, config.parts))
    of_part = lambda numbers: {name: tuple(np.asarray(one)[columns].tolist()) for name, one in numbers.items()}  # noqa: E731
    narrowed = dataclasses.replace(spec, obs={"state": (len(columns),)}, mean=of_part(spec.mean), std=of_part(spec.std))
    return narrowed, lambda obs: {"state": obs["state"][..., columns]}


def closeness(seen: Float[Any, "S H D"], goal: Float[Any, " D"], along: float) -> Float[Any, " S"]:
    """Minus the distance to the goal of what plans lead to: a share `along` of it on the way, the rest at the end."""
    distance = jnp.sqrt(jnp.square(seen - goal[None, None]).sum(-1) + 1e-12)
    return -(1 - along) * distance[:, -1] - along * distance.mean(1)
