"""Rewards of several kinds, the last of them for doing what the policy is told: what agents with many critics share.

The others are tasks of the world, the agent's channels. A channel with a finite budget is a constraint: its rewards are
costs below zero, and its weight is a multiplier that grows while their mean is above the budget.

The policy is told a skill, and the last reward is that of discovery; or a place x of what it shall move, and the last
reward is the distance to it that a decision gains, |x_t - x| - |x_t+1 - x|; or nothing.

A latent names a skill, [z, 0, 0] on the sphere, or a place, [0, x, 1] on the sphere: a place is read as x times the
last number. The skill that leads to a place is chosen anew in every state. Without skills there is no z in it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from agents import discovery
from embodied.data.normalize import Inputs
from embodied.nets.encoders import project
from embodied.policy_gradient import cosines, minibatches
from embodied.ranges import check_choice, check_ranges
from embodied.types import Goal, InputError, Motion, Obs, Params, Prior, Prompt, RandomKey, Spec, nearest

Told = Literal["skill", "goal", "nothing"]
Learn = Callable[[Params, PyTree, tuple[Array, ...], int, RandomKey], tuple[Params, PyTree, Array, dict[str, Array]]]

RANGES = {"[0, inf)": ("lr_multiplier",), "[1, inf)": ("ramp",), "(0, inf)": ("reach",)}
MULTIPLIERS = (-4.0, 4.0)  # logarithms: a constraint that held for long must not take as long to be felt again
LEAST = 1e-6  # of the last number of a latent that names a place


@dataclasses.dataclass(frozen=True)
class Config:
    """What an agent is paid for, and what each kind of reward counts."""

    channels: tuple[str, ...] = ("reach", "safety")  # tasks of the world whose rewards have a critic each
    told: Told = "skill"  # what the policy reads and is paid for last: a skill, a place as the goal, or nothing
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)  # w_k of each kind, that of what it is told last
    begin: tuple[float, ...] = ()  # weights at first, from which they move evenly; () = `weights` from the start
    ramp: int = 100  # updates until they are `weights`
    discounts: tuple[float, ...] = (0.95, 0.95, 0.99)  # of each kind, per decision, in [0, 1)
    budgets: tuple[float, ...] = ()  # largest mean cost per decision of each kind; inf = no constraint, () = no kind is
    lr_multiplier: float = 0.05  # of log multipliers per update, for a cost of twice its budget or more
    critics: Literal["each", "one"] = "each"  # "one": of the weighted sum of rewards, with the last discount
    moved: tuple[str, ...] = ()  # parts of the state that skills shall move; () = all of it
    skill: discovery.Config = discovery.Config()  # how skills are discovered
    reach: float = 3**0.5  # standard deviations of random actions' states up to which goals lie, evenly
    inputs: Inputs = "standardized"  # by the statistics of random actions; or "raw"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the rewards are of, one after the other."""
        return (*self.channels, *[self.told] * (self.told != "nothing"))


def check(owner: str, config: Config, ranges: dict[str, Sequence[str]]) -> None:
    """Nothing; raises InputError for a field of an agent's configuration that is out of its range."""
    check_ranges(owner, config, ranges)
    check_choice(owner, "critics", config.critics, get_args(Literal["each", "one"]))
    check_choice(owner, "inputs", config.inputs, get_args(Inputs))
    check_choice(owner, "told", config.told, get_args(Told))
    if not config.kinds:
        raise InputError(f"{owner}: channels must name a task where told is 'nothing', so that there is a reward")
    for name in ("weights", "discounts", *[one for one in ("begin", "budgets") if getattr(config, one)]):
        if len(getattr(config, name)) != len(config.kinds):
            raise InputError(f"{owner}: {name} must be one number for each of {', '.join(config.kinds)}")
    for name, given in (("weights", config.weights), ("begin", config.begin)):
        if given and (min(given) < 0 or not max(given)):
            raise InputError(f"{owner}: {name} must not be below 0, nor all of them 0, got {given}")
    if not all(0 <= discount < 1 for discount in config.discounts):
        raise InputError(f"{owner}: discounts must be in [0, 1), got {config.discounts}")
    if config.budgets and config.critics == "one":
        raise InputError(f"{owner}: budgets need critics 'each': a sum of rewards has no weights that move")


def judged(config: Config) -> tuple[tuple[str, ...], np.ndarray]:
    """What critics are of, and their discounts [K]: each kind of reward, or the sum of all."""
    names, rates = (config.kinds, config.discounts) if config.critics == "each" else (("sum",), config.discounts[-1:])
    return names, np.asarray(rates, np.float32)


def weighed(
    config: Config, log_multiplier: Float[Array, " R"], reward: Float[Array, "N R"], count: Array
) -> tuple[Float[Array, " R"], Float[Array, " K"], Float[Array, "N K"]]:
    """Log multipliers after rewards of all R kinds, and weights and rewards of what critics are of (`judged`).

    `count` updates were made before.
    """
    log_multiplier = jnp.clip(log_multiplier + config.lr_multiplier * _excess(config, reward), *MULTIPLIERS)
    weight = jnp.asarray(config.weights)
    if config.begin:
        begin = jnp.asarray(config.begin)
        weight = begin + (weight - begin) * jnp.minimum(count / config.ramp, 1.0)
    weight = weight * jnp.exp(log_multiplier)
    if config.critics == "each":
        return log_multiplier, weight, reward
    share = weight / weight.sum()
    return log_multiplier, jnp.ones(1), (reward * share[None]).sum(-1, keepdims=True)


def _excess(config: Config, reward: Float[Array, "N R"]) -> Float[Array, " R"]:
    """How far the mean cost of a decision is above its budget, as a share of it, at most 1; 0 for what is no cost."""
    if not config.budgets:
        return jnp.zeros(reward.shape[-1])
    budget = jnp.asarray(config.budgets)
    limited = jnp.isfinite(budget)
    safe = jnp.where(limited, jnp.maximum(budget, 1e-3), 1.0)
    return jnp.where(limited, jnp.minimum(-reward.mean(0) / safe - 1.0, 1.0), 0.0)


def interference(names: Sequence[str], gradients: PyTree) -> dict[str, Float[Array, ""]]:
    """Metrics "cosine/ONE_OTHER" between the gradients of each kind of reward, leaves [K, ...]; none for one kind."""
    found = cosines(jax.vmap(lambda one: ravel_pytree(one)[0])(gradients))
    pairs = itertools.combinations(range(len(names)), 2)
    return {f"cosine/{names[i]}_{names[j]}": found[i, j] for i, j in pairs}


class Skills(NamedTuple):
    """What a policy is told, for rows of what its networks see, x [N, I], and of latents [N, D].

    `params` are those of discovery alone, "skill" among the agent's; without it they are empty, and not stored.
    """

    width: int  # of what is told, as networks read it
    init: Callable[[RandomKey, Array], tuple[Params, PyTree]]  # (key, x) -> (params, optimiser state)
    # (params, optimiser state, (x, next_x, told, inside), parts, key) -> (params, optimiser state, reward [N, 1],
    # metrics) after a pass over the rows in so many parts; rewards are those of the features behind it, and 0 where
    # `inside` is 0 because another episode follows; [N, 0] where nothing is told
    learn: Learn
    named: Callable[[Array], Array]  # latent -> the skill or place that it names [N, width]
    chosen: Callable[[Params, Array, Array], Array]  # (the agent's params, x, latent) -> what the policy reads there
    prompt: Callable[[Params, Prompt, RandomKey], Array]  # (ignored, prompt, key) -> latent
    prompts: tuple[type, ...]


def make(owner: str, config: Config, spec: Spec, see: Callable[[Obs], Array]) -> Skills:
    """What an agent's policy is told; `owner` is its name in messages, and `see` how it reads observations."""
    columns = columns_of(owner, spec, config.moved)
    moved = np.concatenate(columns)
    if config.told != "skill":
        return _places(owner, config, spec, see, moved)
    skills = discovery.make(config.skill, tuple(map(len, columns)))
    width, toward = skills.skill, skills.toward

    def init(key: RandomKey, x: Array) -> tuple[Params, PyTree]:
        params = skills.init(key, x[:, moved])
        return params, skills.optimizer.init(params)

    def learn(params: Params, state: PyTree, given: tuple[Array, ...], parts: int, key: RandomKey) -> Any:
        x, next_x, skill, inside = given
        data = (x[:, moved], next_x[:, moved], skill, inside)
        key_order, key_loss = jax.random.split(key)
        order = minibatches(key_order, len(x), 1, parts)

        def one(now: tuple[Params, PyTree], given: tuple[Array, RandomKey]) -> Any:
            params, state = now
            index, key = given
            grad, metrics = jax.grad(skills.loss, has_aux=True)(params, *(leaf[index] for leaf in data), key)
            delta, state = skills.optimizer.update(grad, state, params)
            return (optax.apply_updates(params, delta), state), metrics

        (params, state), metrics = jax.lax.scan(one, (params, state), (order, jax.random.split(key_loss, len(order))))
        gained = skills.reward(params, *data[:3]).sum(-1) * inside
        return params, state, gained[:, None], {name: values.mean() for name, values in metrics.items()}

    def named(latent: Array) -> Array:
        return skills.length * discovery.on_sphere(latent[:, :width])

    def chosen(params: Params, x: Array, latent: Array) -> Array:
        if toward is None:
            return named(latent)
        there = toward(params["skill"], x[:, moved], place(latent[:, width:]))
        return jnp.where(latent[:, -1:] > LEAST, there, named(latent))

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if isinstance(prompt, Prior):
            return project(jnp.concatenate([skills.draw(key, 1)[0], jnp.zeros(len(moved) + 1 if toward else 0)]))
        return asked(owner, prompts, prompt, see, moved, width)

    prompts = (Goal, Motion, Prior) if toward else (Prior,)
    return Skills(width, init, learn, named, chosen, prompt, prompts)


def _places(owner: str, config: Config, spec: Spec, see: Callable[[Obs], Array], moved: np.ndarray) -> Skills:
    """Places to go to, paid for by the distance that is gained; or nothing."""
    is_told = config.told == "goal"
    mean = np.asarray(spec.mean.get("state", np.zeros(spec.obs["state"])), np.float32)
    std = np.asarray(spec.std.get("state", np.ones(spec.obs["state"])), np.float32)

    def learn(params: Params, state: PyTree, given: tuple[Array, ...], parts: int, key: RandomKey) -> Any:
        x, next_x, goal, inside = given
        if not is_told:
            return params, state, jnp.zeros((len(x), 0)), {}
        before, after = (jnp.linalg.norm(one[:, moved] - goal, axis=-1) for one in (x, next_x))
        return params, state, ((before - after) * inside)[:, None], {"goal/distance": after.mean()}

    def named(latent: Array) -> Array:
        return place(latent) if is_told else latent[:, :0]

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if not isinstance(prompt, Prior):
            return asked(owner, prompts, prompt, see, moved, 0)
        if not is_told:
            return jnp.zeros(0)
        drawn = mean + config.reach * std * jax.random.uniform(key, mean.shape, minval=-1.0, maxval=1.0)
        return latent_of(see({"state": drawn[None]})[:, moved])[0]

    prompts = (Goal, Motion, Prior) if is_told else (Prior,)
    width = len(moved) if is_told else 0
    empty = lambda key, x: ({}, ())  # noqa: E731
    return Skills(width, empty, learn, named, lambda params, x, latent: named(latent), prompt, prompts)


def place(latent: Float[Array, "N D"]) -> Float[Array, "N M"]:
    """The place that the end of a latent names; see `latent_of`."""
    return latent[:, :-1] / jnp.maximum(latent[:, -1:], LEAST)


def latent_of(there: Float[Array, "N M"], width: int = 0) -> Float[Array, "N D"]:
    """The latent of a place, as networks see it, behind the `width` numbers of a skill: [0, x, 1] on the sphere."""
    return project(jnp.concatenate([jnp.zeros((len(there), width)), there, jnp.ones((len(there), 1))], -1))


def asked(
    owner: str, prompts: tuple[type, ...], prompt: Prompt, see: Callable[[Obs], Array], moved: np.ndarray, width: int
) -> Array:
    """The latent of a goal [D], or those of a motion [T, D]; TypeError for other prompts."""
    if isinstance(prompt, Goal | Motion) and Goal in prompts:
        there = see({name: jnp.atleast_2d(leaf) for name, leaf in prompt.obs.items()})[:, moved]
        latent = latent_of(there, width)
        return latent if isinstance(prompt, Motion) else latent[0]
    names = ", ".join(kind.__name__ for kind in prompts)
    raise TypeError(f"{owner} takes {names} prompts, got {type(prompt).__name__}")


def answered(
    owner: str, read: Callable[[Obs], Float[Array, "N M"]], width: int, prompt: Prompt, key: RandomKey
) -> Float[Array, "... D"]:
    """The latent of a goal, those of a motion, or of a place drawn from N(0, I), where a place is what `read` sees."""
    match prompt:
        case Goal():
            return latent_of(jnp.asarray(read(jax.tree.map(lambda leaf: leaf[None], prompt.obs))))[0]
        case Motion():
            return latent_of(jnp.asarray(read(prompt.obs)))
        case Prior():
            return latent_of(jax.random.normal(key, (1, width)))[0]
    raise TypeError(f"{owner} takes Goal, Motion or Prior prompts, got {type(prompt).__name__}")


def columns_of(owner: str, spec: Spec, moved: tuple[str, ...]) -> list[np.ndarray]:
    """The columns of the state that each named part has; all of them in one part where none is named.

    Raises InputError for a part that the world's state lacks.
    """
    if not moved:
        return [np.arange(spec.obs["state"][0])]
    for name in moved:
        if name not in spec.parts:
            raise InputError(f"{owner}: the state has no part '{name}'; {nearest(name, spec.parts)}")
    return [np.arange(*spec.parts[name]) for name in moved]
