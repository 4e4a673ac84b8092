"""Actors that follow a latent: pi(s, z) alone, or with noise w held to the actions of the data, in one of two ways.

    alone:   loss = -E[ Q_z(s, a) ],   a = pi(s, z) + clipped noise
    held:    loss = -E[ Q_z(s, a) ] / stop_gradient(E|Q_z|)  +  weight E (a - teacher(s, w))^2,   a = pi(s, z, w)
    choosing:  a = the one of teacher(s, w_1), ..., teacher(s, w_candidates) whose Q_z(s, a) is the largest
    teacher: flow = E | v(s, (1 - t) w + t a_data, t) - (a_data - w) |^2,   t uniform in [0, 1], w ~ N(0, I)

The teacher walks from w along the flow v in Euler steps; it imitates the data whatever z is, so rewards cannot lead
the actor to actions that no data supports. Q_z is aggregated over heads, E|Q_z| averages over them. Flow Q-learning:
Park et al., arXiv 2502.02538; with zero-shot methods: TD-JEPA, arXiv 2510.00739, appendix. Choosing among draws of a
clone: Chen et al., arXiv 2209.14548; it needs no network beside the teacher, so that a short training has precise
actions as soon as the teacher has them, and costs `candidates` flows an action.
Without a key an actor is deterministic: it adds no noise, w is 0, and candidates come from the same noise each time.
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
from embodied.optim import adam_by_group, pick
from embodied.ranges import check_ranges
from embodied.types import InputError, Params, RandomKey, Spec

RANGES = {"[1, inf)": ("hidden", "layers", "steps"), "[0, inf)": ("weight", "candidates", "lr")}


@dataclasses.dataclass(frozen=True)
class Imitation:
    """How an actor is held to the actions of the data; published OGBench values, but for the weight."""

    weight: float = 0.0  # of the distance to the teacher beside a value of mean size 1; 0 = the actor is alone
    candidates: int = 0  # draws of the teacher that are chosen from in place of an actor, then without weight; 0 = none
    hidden: int = 512  # of the flow
    layers: int = 4  # hidden layers of the flow
    steps: int = 10  # of the teacher along the flow
    lr: float = 3e-4  # of the flow; 0 = it stays as it is, which asks for a teacher that was trained before

    def __post_init__(self) -> None:
        check_ranges("imitation", self, RANGES)

    @property
    def held(self) -> bool:
        """Whether there is a teacher."""
        return self.weight > 0 or self.candidates > 0

    def tiny(self) -> "Imitation":
        """The same small enough for tests."""
        return dataclasses.replace(self, hidden=16, layers=1, steps=2)


Successors = Callable[[Array], Array]  # action [B, A] -> heads of successor features [K, B, D]


class Actor(NamedTuple):
    """An actor as functions of the agent's parameters, of which it owns `groups`; `seen` [B, S] is what it reads."""

    groups: tuple[str, ...]  # that learn: "actor" unless it chooses, "flow" where there is a teacher that still learns
    init: Callable[[RandomKey, Array, Array, Array], Params]  # (key, seen, z, action) -> these, and any teacher
    optimizer: optax.GradientTransformation  # of its groups
    # (params, seen, z, successors, key) -> action [B, A]
    act: Callable[[Params, Array, Array, Successors, RandomKey | None], Array]
    # (params, optimiser state, seen, z, action of the data, successors, key) -> (what `init` made, optimiser state,
    # metrics)
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


def following(config: Config, layers: int, spec: Spec) -> Actor:
    """The actor of an agent that follows a latent, with so many hidden layers behind its embeddings.

    It learns from actions with the noise that it explores with.
    """
    noise = (config.noise, config.noise_clip)
    return make(
        actor(config.hidden, layers, spec.action, dtype=config.matmul),
        spec,
        config.imitation,
        rate=config.lr_actor,
        noise=noise,
        smoothing=noise,
        pessimism=config.actor_pessimism,
        dtype=config.matmul,
    )


def make(
    net: Net,
    spec: Spec,
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
    subtracted from values; `dtype` that of the flow's products. Raises InputError where it would have to choose by
    values that read what an actor may not.
    """
    if imitation.candidates and "privileged" in spec.obs:
        raise InputError("imitation: candidates must be 0 in a world with privileged observations, which values read")
    action = spec.action
    field = flow_field(imitation.hidden, imitation.layers, action, dtype=dtype)
    chooses, teachable = imitation.candidates > 0, imitation.held and imitation.lr > 0
    rates = {"actor": rate} | {"flow": imitation.lr}
    groups = (*["actor"] * (not chooses), *["flow"] * teachable)
    given = ("flow",) * (imitation.held and not teachable)
    optimizer = adam_by_group({name: rates[name] for name in groups})

    def init(key: RandomKey, seen: Array, z: Array, actions: Array) -> Params:
        if not imitation.held:
            return {"actor": net.init(key, seen, z)}
        key_actor, key_flow = jax.random.split(key)
        flow = {"flow": field.init(key_flow, seen, actions, jnp.zeros((len(actions), 1)))}
        return flow if chooses else {"actor": net.init(key_actor, jnp.concatenate([seen, actions], -1), z)} | flow

    def velocity(params: Params, seen: Array) -> Callable[[Array, Array], Array]:
        return lambda x, time: field.apply(params["flow"], seen, x, time)

    def noisy(params: Params, seen: Array, z: Array, w: Array) -> Array:
        return net.apply(params["actor"], jnp.concatenate([seen, w], -1), z)

    def choose(params: Params, seen: Array, z: Array, successors: Successors, key: RandomKey | None) -> Array:
        shape = (imitation.candidates, len(seen), action)
        same = jax.random.normal(jax.random.key(0), (imitation.candidates, 1, action))
        w = jnp.broadcast_to(same, shape) if key is None else jax.random.normal(key, shape)
        drawn = jax.vmap(lambda one: losses.follow_flow(velocity(params, seen), one, imitation.steps))(w)
        heads = jax.vmap(lambda one: (successors(one) * z[None]).sum(-1))(drawn)
        best = jnp.argmax(losses.aggregate(jnp.swapaxes(heads, 0, 1), pessimism), 0)
        return jnp.take_along_axis(drawn, best[None, :, None], 0)[0]

    def act(params: Params, seen: Array, z: Array, successors: Successors, key: RandomKey | None) -> Array:
        if chooses:
            return choose(params, seen, z, successors, key)
        if imitation.held:
            shape = (len(seen), action)
            return noisy(params, seen, z, jnp.zeros(shape) if key is None else jax.random.normal(key, shape))
        mean = net.apply(params["actor"], seen, z)
        return mean if key is None else losses.explore(key, mean, *noise)

    def alone(params: Params, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey) -> Any:
        return losses.latent_policy_loss(net.apply(params["actor"], seen, z), successors, z, key, *smoothing, pessimism)

    def cloning(params: Params, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey) -> Any:
        if not teachable:
            return jnp.float32(0.0), {}
        _, key_flow, key_time = jax.random.split(key, 3)
        noise = jax.random.normal(key_flow, actions.shape)
        flow = losses.flow_loss(velocity(params, seen), noise, actions, key_time)
        return flow, {"loss/flow": flow}

    def imitating(params: Params, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey) -> Any:
        w = jax.random.normal(jax.random.split(key, 3)[0], actions.shape)
        chosen = noisy(params, seen, z, w)
        heads = (successors(chosen) * z[None]).sum(-1)
        value = losses.aggregate(heads, pessimism).mean()
        teacher = jax.lax.stop_gradient(losses.follow_flow(velocity(params, seen), w, imitation.steps))
        distance = jnp.square(chosen - teacher).mean()
        flow, metrics = cloning(params, seen, z, actions, successors, key)
        size = jax.lax.stop_gradient(jnp.abs(heads).mean())
        loss = -value / jnp.maximum(size, 1e-6) + imitation.weight * distance + flow
        metrics |= {"actor/value": value, "actor/saturation": (jnp.abs(chosen) > 0.95).mean()}
        return loss, metrics | {"actor/imitation": distance}

    judge = cloning if chooses else imitating if imitation.held else alone

    def step(
        params: Params, state: Any, seen: Array, z: Array, actions: Array, successors: Successors, key: RandomKey
    ) -> tuple[Params, Any, dict[str, Array]]:
        mine, teacher = pick(params, groups), pick(params, given)
        whole = lambda mine: judge(teacher | mine, seen, z, actions, successors, key)  # noqa: E731
        grad, metrics = jax.grad(whole, has_aux=True)(mine)
        delta, state = optimizer.update(grad, state, mine)
        metrics |= {"grad/actor": optax.tree.norm(grad)} if groups else {}
        return teacher | optax.apply_updates(mine, delta), state, metrics

    return Actor(groups, init, optimizer, act, step)
