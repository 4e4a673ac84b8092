"""Actors that follow a latent: pi(s, z) alone, or pi(s, z, w) with noise w, held to the actions of the data.

    alone:  loss = -E[ Q_z(s, a) ],   a = pi(s, z) + clipped noise
    held:   loss = -E[ Q_z(s, a) ] / stop_gradient(E|Q_z|)  +  weight E (a - teacher(s, w))^2,   a = pi(s, z, w)
            flow = E | v(s, (1 - t) w + t a_data, t) - (a_data - w) |^2,   t uniform in [0, 1], w ~ N(0, I)

The teacher walks from w along the flow v in Euler steps; it imitates the data whatever z is, so rewards cannot lead
the actor to actions that no data supports. Q_z is aggregated over heads, E|Q_z| averages over them. Flow Q-learning:
Park et al., arXiv 2502.02538; with zero-shot methods: TD-JEPA, arXiv 2510.00739, appendix.
Without a key an actor is deterministic: it adds no noise, and one that takes noise takes w = 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from embodied import losses
from embodied.nets.encoders import Net, actor, flow_field
from embodied.nets.mlp import MatmulType
from embodied.optim import adam_by_group
from embodied.ranges import check_ranges
from embodied.types import Params, RandomKey

RANGES = {"[1, inf)": ("hidden", "layers", "steps"), "[0, inf)": ("weight", "lr")}


@dataclasses.dataclass(frozen=True)
class Imitation:
    """How an actor is held to the actions of the data; published OGBench values, but for the weight."""

    weight: float = 0.0  # of the distance to the teacher beside a value of mean size 1; 0 = the actor is alone
    hidden: int = 512  # of the flow
    layers: int = 4  # hidden layers of the flow
    steps: int = 10  # of the teacher along the flow
    lr: float = 3e-4  # of the flow

    def __post_init__(self) -> None:
        check_ranges("imitation", self, RANGES)

    def tiny(self) -> "Imitation":
        """The same small enough for tests."""
        return dataclasses.replace(self, hidden=16, layers=1, steps=2)


Successors = Callable[[Array], Array]  # action [B, A] -> heads of successor features [K, B, D]


class Actor(NamedTuple):
    """An actor as functions of the agent's parameters, of which it owns `groups`; `seen` [B, S] is what it reads."""

    groups: tuple[str, ...]  # "actor", and "flow" where it is held to the data
    init: Callable[[RandomKey, Array, Array, Array], Params]  # (key, seen, z, action) -> its groups
    optimizer: optax.GradientTransformation  # of its groups
    act: Callable[[Params, Array, Array, RandomKey | None], Array]  # (params, seen, z, key) -> action [B, A]
    # (params, optimiser state, seen, z, action of the data, successors, key) -> (its groups, optimiser state, metrics)
    step: Callable[[Params, Any, Array, Array, Array, Successors, RandomKey], tuple[Params, Any, dict[str, Array]]]


@runtime_checkable
class Config(Protocol):
    """What the configuration of an agent that follows a latent says about its actor."""

    @property
    def hidden(self) -> int: ...
    @property
    def noise(self) -> Any: ...  # a float, or a traced scalar of a sweep; so are the two below
    @property
    def noise_clip(self) -> Any: ...
    @property
    def lr_actor(self) -> Any: ...
    @property
    def actor_pessimism(self) -> float: ...
    @property
    def imitation(self) -> Imitation: ...
    @property
    def matmul(self) -> MatmulType: ...


def following(config: Config, layers: int, action: int) -> Actor:
    """The actor of an agent that follows a latent, with so many hidden layers behind its embeddings.

    It learns from actions with the noise that it explores with.
    """
    noise = (config.noise, config.noise_clip)
    return make(
        actor(config.hidden, layers, action, dtype=config.matmul),
        action,
        config.imitation,
        rate=config.lr_actor,
        noise=noise,
        smoothing=noise,
        pessimism=config.actor_pessimism,
        dtype=config.matmul,
    )


def make(
    net: Net,
    action: int,
    imitation: Imitation,
    *,
    rate: float | Array,
    noise: tuple[float | Array, float | Array],
    smoothing: tuple[float | Array, float | Array],
    pessimism: float,
    dtype: MatmulType,
) -> Actor:
    """The actor of `net` (seen, z) -> [B, A] in (-1, 1), which reads the noise behind `seen` where it is held.

    `rate` is its learning rate; `noise` the deviation and largest value of what explores where it is alone, `smoothing`
    the same of what is added to actions that it learns from; `pessimism` how much disagreement of the heads is
    subtracted from values; `dtype` that of the flow's products.
    """
    field = flow_field(imitation.hidden, imitation.layers, action, dtype=dtype)
    held = imitation.weight > 0
    groups = ("actor", "flow") if held else ("actor",)
    optimizer = adam_by_group({"actor": rate} | ({"flow": imitation.lr} if held else {}))

    def init(key: RandomKey, seen: Array, z: Array, actions: Array) -> Params:
        if not held:
            return {"actor": net.init(key, seen, z)}
        key_actor, key_flow = jax.random.split(key)
        flow = field.init(key_flow, seen, actions, jnp.zeros((len(actions), 1)))
        return {"actor": net.init(key_actor, jnp.concatenate([seen, actions], -1), z), "flow": flow}

    def noisy(params: Params, seen: Array, z: Array, w: Array) -> Array:
        return net.apply(params["actor"], jnp.concatenate([seen, w], -1), z)

    def act(params: Params, seen: Array, z: Array, key: RandomKey | None) -> Array:
        if held:
            shape = (len(seen), action)
            return noisy(params, seen, z, jnp.zeros(shape) if key is None else jax.random.normal(key, shape))
        mean = net.apply(params["actor"], seen, z)
        return mean if key is None else losses.explore(key, mean, *noise)

    def alone(params: Params, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey) -> Any:
        return losses.latent_policy_loss(net.apply(params["actor"], seen, z), successors, z, key, *smoothing, pessimism)

    def imitating(params: Params, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey) -> Any:
        key_actor, key_flow, key_time = jax.random.split(key, 3)
        w = jax.random.normal(key_actor, actions.shape)
        chosen = noisy(params, seen, z, w)
        heads = (successors(chosen) * z[None]).sum(-1)
        value = losses.aggregate(heads, pessimism).mean()
        velocity = lambda x, time: field.apply(params["flow"], seen, x, time)  # noqa: E731
        teacher = jax.lax.stop_gradient(losses.follow_flow(velocity, w, imitation.steps))
        distance = jnp.square(chosen - teacher).mean()
        flow = losses.flow_loss(velocity, jax.random.normal(key_flow, actions.shape), actions, key_time)
        size = jax.lax.stop_gradient(jnp.abs(heads).mean())
        loss = -value / jnp.maximum(size, 1e-6) + imitation.weight * distance + flow
        metrics = {"actor/value": value, "actor/saturation": (jnp.abs(chosen) > 0.95).mean()}
        return loss, metrics | {"actor/imitation": distance, "loss/flow": flow}

    def step(
        params: Params, state: Any, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey
    ) -> tuple[Params, Any, dict[str, Array]]:
        mine = {name: params[name] for name in groups}
        grad, metrics = jax.grad(imitating if held else alone, has_aux=True)(mine, seen, z, actions, successors, key)
        delta, state = optimizer.update(grad, state, mine)
        return optax.apply_updates(mine, delta), state, metrics | {"grad/actor": optax.tree.norm(grad)}

    return Actor(groups, init, optimizer, act, step)
