"""Multi-critic skills: rewards of several kinds, a critic each, so that none drowns the others.

For rewards r_k of K kinds, values V_k that read state and skill z, and a rollout of the current policy:

    delta_k = r_k + discount_k V_k(s', z) - V_k(s, z),      A_k,t = delta_k,t + discount_k lambda A_k,t+1
    A       = sum_k w_k (A_k - mean A_k) / std A_k  /  sum_k w_k,        0 in place of A_k where std A_k < dead
    actor   = -E[ min( rho A, clip(rho, 1 - clip, 1 + clip) A ) ] - entropy H(pi),    rho = pi(a|s,z) / pi_old(a|s,z)
    critics = 1/2 sum_k E[ (V_k - sg(A_k + V_k,old))^2 ] / scale_k^2

With a sum of rewards the share of each in the gradient is w_k std A_k, which drifts by orders of magnitude as one of
them is solved; here it is w_k, at every update. Means and deviations are those of the whole rollout. Values are
V_k = mean_k + scale_k v_k(s, z), with the moving moments of their targets, so that sizes of rewards do not matter to
critics either. `critics="one"` sums the rewards first and is plain PPO: the baseline, from the same code.

The last kind of reward, unless `skills` is False, is that of skill discovery (`agents/discovery.py`), computed anew
in each update by the features as they then are. They read what skills shall move, the parts `moved` of the state.
A channel with a finite budget is a constraint: its rewards are costs below zero, and its weight is a multiplier that
grows while the mean cost of a decision is above the budget and falls, to zero at last, while it is below.

Papers: SLIM, Emukpere et al., arXiv 2402.00823 (what its rewards are made of is not published, nor are its numbers);
PPO, Schulman et al., arXiv 1707.06347, with the step size that follows the KL divergence; values that keep their
predictions while targets change size, van Hasselt et al., arXiv 1602.07714. Prompts: Goal, Motion (a policy that goes
where it is told, for objectives that know directions), Prior (one skill at random).
"""

import dataclasses
import itertools
import math
from typing import Any, Literal, NamedTuple, get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from agents import discovery
from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.encoders import Net, encoder, project
from embodied.policy_gradient import (
    advantages,
    clipped,
    cosines,
    divergence,
    explained,
    gaussian_log_prob,
    minibatches,
    normalised,
    rows,
    surrogate,
    target_moments,
    weighted,
    with_moments,
)
from embodied.ranges import check_choice, check_ranges
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
    nearest,
)

RANGES = {
    "[1, inf)": ("hidden", "epochs", "minibatches"),
    "[0, inf)": ("layers", "lr", "lr_multiplier", "entropy", "dead"),
    "(0, inf)": ("clip", "kl", "noise", "gradient"),
    "[0, 1]": ("trace", "momentum"),
}
STEP_SIZES = (1e-5, 1e-2)  # of the actor, however small or large its divergence
MULTIPLIERS = (-7.0, 7.0)  # logarithms


@dataclasses.dataclass(frozen=True)
class Config:
    """Three kinds of reward for a hand over a table; sizes and rates as is common where PPO meets robots."""

    channels: tuple[str, ...] = ("reach", "safety")  # tasks of the world whose rewards have a critic each
    skills: bool = True  # whether skill discovery is the last kind of reward, and the policy reads a skill
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)  # w_k of each kind, that of skills last
    discounts: tuple[float, ...] = (0.95, 0.95, 0.99)  # of each kind, per decision, in [0, 1)
    budgets: tuple[float, ...] = ()  # largest mean cost per decision of each kind; inf = no constraint, () = no kind is
    critics: Literal["each", "one"] = "each"  # "one": of the weighted sum of rewards, with the last discount
    trunk: Literal["apart", "shared"] = "apart"  # whether critics share all but their last layer
    moved: tuple[str, ...] = ()  # parts of the state that skills shall move; () = all of it
    skill: discovery.Config = discovery.Config()  # how skills are discovered
    hidden: int = 256  # width of actor and critics
    layers: int = 3  # hidden layers of each
    trace: float = 0.95  # lambda
    clip: float = 0.2  # how far rho counts
    entropy: float = 1e-3  # weight of the policy's entropy
    kl: float = 0.01  # divergence that a step of the policy should have; the step size follows
    lr: float = 3e-4  # the step size at first
    gradient: float = 1.0  # largest norm of the gradient of the actor, and of each critic
    epochs: int = 5  # times each rollout is gone through
    minibatches: int = 8  # of each time
    noise: float = 1.0  # standard deviation of actions at first
    dead: float = 1e-6  # spread of advantages below which a reward says nothing
    momentum: float = 0.99  # of the moments of critics' targets
    lr_multiplier: float = 0.05  # of log multipliers per update, for a cost of twice its budget
    inputs: Inputs = "standardized"  # by the statistics of random actions; or "raw"

    def __post_init__(self) -> None:
        check_ranges("multi_critic", self, RANGES)
        check_choice("multi_critic", "critics", self.critics, get_args(Literal["each", "one"]))
        check_choice("multi_critic", "trunk", self.trunk, get_args(Literal["apart", "shared"]))
        check_choice("multi_critic", "inputs", self.inputs, get_args(Inputs))
        kinds = self.kinds
        if not kinds:
            raise InputError("multi_critic: channels must name a task, or skills be True, so that there is a reward")
        for name in ("weights", "discounts", *["budgets"] * bool(self.budgets)):
            if len(getattr(self, name)) != len(kinds):
                raise InputError(f"multi_critic: {name} must be one number for each of {', '.join(kinds)}")
        if min(self.weights) < 0 or not max(self.weights):
            raise InputError(f"multi_critic: weights must not be below 0, nor all of them 0, got {self.weights}")
        if not all(0 <= discount < 1 for discount in self.discounts):
            raise InputError(f"multi_critic: discounts must be in [0, 1), got {self.discounts}")
        if self.budgets and self.critics == "one":
            raise InputError("multi_critic: budgets need critics 'each': a sum of rewards has no weights that move")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the rewards are of, one after the other."""
        return (*self.channels, *["skill"] * self.skills)

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        small = {"hidden": 16, "layers": 1, "epochs": 2, "minibatches": 2, "skill": self.skill.tiny()}
        return dataclasses.replace(self, **small)


@no_type_check
@struct.dataclass
class State:
    """Parameters {actor, critic, moments of their targets, skill}, optimisers, step size, multipliers, updates."""

    params: PyTree
    optimizer: PyTree
    lr: Float[Array, ""]
    log_multiplier: Float[Array, " K"]  # of the weights of kinds that have a budget, else 0
    count: Array  # int32 []


class Rollout(NamedTuple):
    """One row per decision of a rollout, N of them, made ready for the actor and its critics."""

    x: Float[Array, "N I"]
    z: Float[Array, "N S"]
    action: Float[Array, "N A"]
    log_prob: Float[Array, " N"]  # of the action, under the policy that took it
    mean: Float[Array, "N A"]  # of that policy
    advantage: Float[Array, " N"]
    each: Float[Array, "N K"]  # advantages of the kinds of reward, normalised
    goal: Float[Array, "N K"]  # that values learn, in units of their moments


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world, which learns from rollouts [E, T] of its own (`Needs.channels`).

    A latent names a skill, [z, 0, 0] on the sphere, or a place, [0, x, 1] on the sphere: a place is read as x times
    the last number, and the skill that leads there is chosen anew in every state.
    """
    see = observation_inputs(config.inputs, spec, ("state",))
    columns = columns_of(spec, config.moved)
    skills = discovery.make(config.skill, tuple(map(len, columns)))
    moved = np.concatenate(columns)
    width = skills.skill if config.skills else 0
    kinds = config.kinds if config.critics == "each" else ("sum",)
    discounts = jnp.asarray(config.discounts if config.critics == "each" else config.discounts[-1:])
    actor, critic = networks(config, spec, len(kinds))
    optimizer = optax.scale_by_adam()
    knows_directions = config.skills and skills.toward is not None
    taken = (Goal, Motion, Prior) if knows_directions else (Prior,)

    def policy(params: Params, x: Array, z: Array) -> Array:
        return actor.apply(params["actor"]["mean"], jnp.concatenate([x, z], -1))

    def values(params: Params, x: Array, z: Array) -> Array:
        moments = params["moments"]
        return moments["mean"][None] + moments["scale"][None] * raw_values(params["critic"], x, z)

    def raw_values(params: Params, x: Array, z: Array) -> Array:
        out = critic.apply(params, jnp.concatenate([x, z], -1))
        return out[..., 0].T if out.ndim == 3 else out

    def init(key: RandomKey, batch: Batch) -> State:
        key_actor, key_critic, key_skill = jax.random.split(key, 3)
        x = see(batch.obs)
        inputs = jnp.concatenate([x, jnp.zeros((len(x), width))], -1)
        # Small first actions, and values that know nothing: a kind of reward that never comes keeps advantages of 0.
        mean, value = (
            net.init(one, inputs) | {"head": jax.tree.map(lambda leaf, s=size: s * leaf, net.init(one, inputs)["head"])}
            for net, one, size in ((actor, key_actor, 0.01), (critic, key_critic, 0.0))
        )
        params = {
            "actor": {"mean": mean, "log_std": jnp.full(spec.action, math.log(config.noise), jnp.float32)},
            "critic": value,
            "moments": {"mean": jnp.zeros(len(kinds)), "scale": jnp.ones(len(kinds))},
            "skill": skills.init(key_skill, x[:, moved]) if config.skills else {},
        }
        states = {name: optimizer.init(params[name]) for name in ("actor", "critic")}
        states |= {"skill": skills.optimizer.init(params["skill"])} if config.skills else {}
        return State(params, states, jnp.float32(config.lr), jnp.zeros(len(config.kinds)), jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_skill, key_order = jax.random.split(key)
        worlds, decisions = batch.action.shape[:2]
        x, next_x, z = see(rows(batch.obs)), see(rows(batch.next_obs)), named(rows(batch.latent))
        params, states, metrics = state.params, state.optimizer, {}
        reward = batch.reward
        if config.skills:
            before, after = x[:, moved], next_x[:, moved]
            inside = rows(batch.discount)  # behind a termination comes another episode
            learned, skill_state, metrics = learn_skills(
                skills, params["skill"], states["skill"], (before, after, z, inside), config.minibatches, key_skill
            )
            params, states = params | {"skill": learned}, states | {"skill": skill_state}
            gained = skills.reward(learned, before, after, z).sum(-1) * inside
            reward = jnp.concatenate([reward, gained.reshape(worlds, decisions, 1)], -1)
        metrics |= {f"reward/{name}": reward[..., k].mean() for k, name in enumerate(config.kinds)}
        log_multiplier = state.log_multiplier + config.lr_multiplier * excess(config, reward)
        log_multiplier = jnp.clip(log_multiplier, *MULTIPLIERS)
        weight = jnp.asarray(config.weights) * jnp.exp(log_multiplier)
        if config.critics == "one":
            share = weight / weight.sum()
            reward, weight = (reward * share[None, None]).sum(-1, keepdims=True), jnp.ones(1)

        shape = (worlds, decisions, len(kinds))
        value, next_value = (values(params, one, z).reshape(shape) for one in (x, next_x))
        found = advantages(reward, value, next_value, batch.discount, batch.last, discounts, config.trace)
        target = rows(found + value)
        spread = rows(found).std(0)
        each, alive = normalised(rows(found), config.dead), spread >= config.dead
        metrics |= {
            f"critic/{what}_{name}": one[k]
            for what, one in (("explained", explained(target, rows(value))), ("spread", spread))
            for k, name in enumerate(kinds)
        }
        params = with_moments(params, *target_moments(params["moments"], target, alive, state.count, config.momentum))
        actor_params, action = params["actor"], rows(batch.action)
        mean = policy(params, x, z)
        rollout = Rollout(
            x,
            z,
            action,
            gaussian_log_prob(action, mean, actor_params["log_std"]),
            mean,
            weighted(each, weight, alive),
            each,
            (target - params["moments"]["mean"][None]) / params["moments"]["scale"][None],
        )
        order = minibatches(key_order, len(x), config.epochs, config.minibatches)
        metrics |= interference(params["actor"], jax.tree.map(lambda leaf: leaf[order[0]], rollout))
        now, old_log_std = (params, states, state.lr), actor_params["log_std"]

        def step_of(now: Any, index: Array) -> Any:
            return step(*now, jax.tree.map(lambda leaf: leaf[index], rollout), old_log_std)

        (params, states, lr), steps = jax.lax.scan(step_of, now, order)
        metrics |= {name: values.mean() for name, values in steps.items()}
        metrics |= {f"weight/{name}": weight[k] for k, name in enumerate(kinds)} if config.budgets else {}
        return State(params, states, lr, log_multiplier, state.count + 1), metrics

    def actor_loss(actor_params: Params, part: Rollout, advantage: Array) -> tuple[Array, Array]:
        mean = actor.apply(actor_params["mean"], jnp.concatenate([part.x, part.z], -1))
        log_prob = gaussian_log_prob(part.action, mean, actor_params["log_std"])
        entropy = (actor_params["log_std"] + 0.5 * math.log(2 * math.pi * math.e)).sum()
        ratio = jnp.exp(log_prob - part.log_prob)
        return surrogate(ratio, advantage, config.clip) - config.entropy * entropy, mean

    def critic_loss(critic_params: Params, part: Rollout) -> Array:
        return 0.5 * jnp.square(raw_values(critic_params, part.x, part.z) - part.goal).mean(0).sum()

    def step(params: Params, states: PyTree, lr: Array, part: Rollout, old_log_std: Array) -> Any:
        """One minibatch: actor and critics move by gradients of their own."""
        (loss, mean), grad = jax.value_and_grad(actor_loss, has_aux=True)(params["actor"], part, part.advantage)
        kl = divergence(mean, params["actor"]["log_std"], part.mean, old_log_std)
        lr = jnp.where(kl > 2 * config.kl, lr / 1.5, jnp.where(kl < config.kl / 2, lr * 1.5, lr))
        lr = jnp.clip(lr, *STEP_SIZES)
        critic_value, critic_grad = jax.value_and_grad(critic_loss)(params["critic"], part)
        members = len(kinds) if config.trunk == "apart" else 0
        parts = {
            "actor": (clipped(grad, config.gradient), lr),
            "critic": (clipped(critic_grad, config.gradient, members), config.lr),
        }
        for name, (one, rate) in parts.items():
            delta, state = optimizer.update(one, states[name])
            params = params | {name: jax.tree.map(lambda p, d, r=rate: p - r * d, params[name], delta)}
            states = states | {name: state}
        metrics = {"loss/actor": loss, "loss/critic": critic_value, "actor/kl": kl, "actor/step_size": lr}
        return (params, states, lr), metrics | {"grad/actor": optax.tree.norm(grad)}

    def interference(actor_params: Params, part: Rollout) -> dict[str, Array]:
        """Cosines between what each kind of reward alone would do to the actor, on some rows of the rollout."""
        if len(kinds) < 2:
            return {}
        alone = lambda advantage: jax.grad(actor_loss, has_aux=True)(actor_params, part, advantage)[0]["mean"]  # noqa: E731
        gradients = jax.vmap(lambda one: ravel_pytree(alone(one))[0])(part.each.T)
        found = cosines(gradients)
        pairs = itertools.combinations(range(len(kinds)), 2)
        return {f"cosine/{kinds[i]}_{kinds[j]}": found[i, j] for i, j in pairs}

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if isinstance(prompt, Prior):
            skill = skills.draw(key, 1)[0] if config.skills else jnp.zeros(0)
            return project(jnp.concatenate([skill, jnp.zeros(len(moved) + 1 if knows_directions else 0)]))
        if isinstance(prompt, Goal | Motion) and knows_directions:
            there = see({name: jnp.atleast_2d(leaf) for name, leaf in prompt.obs.items()})[:, moved]
            z = project(jnp.concatenate([jnp.zeros((len(there), width)), there, jnp.ones((len(there), 1))], -1))
            return z if isinstance(prompt, Motion) else z[0]
        names = ", ".join(kind.__name__ for kind in taken)
        raise TypeError(f"multi_critic takes {names} prompts, got {type(prompt).__name__}")

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see(obs)
        mean = policy(params, x, skill_of(params, x, jnp.broadcast_to(z, (len(x), z.shape[-1]))))
        if key is None:
            return jnp.clip(mean, -1.0, 1.0), carry
        # Not clipped: worlds do that, and its probability is that of the draw.
        return mean + jnp.exp(params["actor"]["log_std"])[None] * jax.random.normal(key, mean.shape), carry

    def named(z: Array) -> Array:
        return skills.length * discovery.on_sphere(z[:, :width])

    def skill_of(params: Params, x: Array, z: Array) -> Array:
        if not knows_directions:
            return named(z)
        asked = z[:, -1:]
        there = z[:, width:-1] / jnp.maximum(asked, 1e-6)
        return jnp.where(asked > 1e-6, skills.toward(params["skill"], x[:, moved], there), named(z))

    return Agent(init, update, prompt, lambda count: (), act, taken, needs=Needs(channels=config.channels))


def columns_of(spec: Spec, moved: tuple[str, ...]) -> list[np.ndarray]:
    """The columns of the state that each named part has; all of them in one part where none is named.

    Raises InputError for a part that the world's state lacks.
    """
    if not moved:
        return [np.arange(spec.obs["state"][0])]
    for name in moved:
        if name not in spec.parts:
            raise InputError(f"multi_critic: moved: the state has no part '{name}'; {nearest(name, spec.parts)}")
    return [np.arange(*spec.parts[name]) for name in moved]


def networks(config: Config, spec: Spec, kinds: int) -> tuple[Net, Net]:
    """The actor's means [N, A], and values [K, N, 1] of critics apart or [N, K] of one trunk."""
    actor = encoder(config.hidden, config.layers, spec.action, on_sphere=False)
    if config.trunk == "shared":
        return actor, encoder(config.hidden, config.layers, kinds, on_sphere=False)
    return actor, encoder(config.hidden, config.layers, 1, on_sphere=False, members=kinds)


def learn_skills(
    skills: discovery.Discovery, params: Params, state: PyTree, data: tuple[Array, ...], parts: int, key: RandomKey
) -> tuple[Params, PyTree, dict[str, Array]]:
    """Parameters and optimiser state after one pass over the rollout, and mean metrics."""
    key_order, key_loss = jax.random.split(key)
    order = minibatches(key_order, len(data[0]), 1, parts)

    def one(now: tuple[Params, PyTree], given: tuple[Array, RandomKey]) -> Any:
        params, state = now
        index, key = given
        grad, metrics = jax.grad(skills.loss, has_aux=True)(params, *(leaf[index] for leaf in data), key)
        delta, state = skills.optimizer.update(grad, state, params)
        return (optax.apply_updates(params, delta), state), metrics

    (params, state), metrics = jax.lax.scan(one, (params, state), (order, jax.random.split(key_loss, len(order))))
    return params, state, {name: values.mean() for name, values in metrics.items()}


def excess(config: Config, reward: Float[Array, "E T K"]) -> Float[Array, " K"]:
    """How far the mean cost of a decision is above its budget, as a share of it; 0 for rewards that are no costs."""
    if not config.budgets:
        return jnp.zeros(reward.shape[-1])
    budget = jnp.asarray(config.budgets)
    limited = jnp.isfinite(budget)
    safe = jnp.where(limited, jnp.maximum(budget, 1e-3), 1.0)
    return jnp.where(limited, -reward.mean((0, 1)) / safe - 1.0, 0.0)
