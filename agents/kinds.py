"""Rewards of several kinds, that of skills the last of them: what agents with a critic for each kind share.

The others are tasks of the world, the agent's channels. A channel with a finite budget is a constraint: its rewards are
costs below zero, and its weight is a multiplier that grows while their mean is above the budget.

A latent names a skill, [z, 0, 0] on the sphere, or a place, [0, x, 1] on the sphere: a place is read as x times the
last number, and the skill that leads there is chosen anew in every state.
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
from jaxtyping import Array, Bool, Float, PyTree

from agents import discovery
from embodied.data.normalize import Inputs
from embodied.nets.encoders import project
from embodied.policy_gradient import cosines, minibatches
from embodied.ranges import check_choice, check_ranges
from embodied.types import Goal, InputError, Motion, Obs, Params, Prior, Prompt, RandomKey, Spec, nearest

RANGES = {"[0, inf)": ("lr_multiplier",)}
MULTIPLIERS = (-7.0, 7.0)  # logarithms


@dataclasses.dataclass(frozen=True)
class Config:
    """What an agent is paid for, and what each kind of reward counts."""

    channels: tuple[str, ...] = ("reach", "safety")  # tasks of the world whose rewards have a critic each
    skills: bool = True  # whether skill discovery is the last kind of reward, and the policy reads a skill
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)  # w_k of each kind, that of skills last
    discounts: tuple[float, ...] = (0.95, 0.95, 0.99)  # of each kind, per decision, in [0, 1)
    budgets: tuple[float, ...] = ()  # largest mean cost per decision of each kind; inf = no constraint, () = no kind is
    lr_multiplier: float = 0.05  # of log multipliers per update, for a cost of twice its budget
    critics: Literal["each", "one"] = "each"  # "one": of the weighted sum of rewards, with the last discount
    moved: tuple[str, ...] = ()  # parts of the state that skills shall move; () = all of it
    skill: discovery.Config = discovery.Config()  # how skills are discovered
    inputs: Inputs = "standardized"  # by the statistics of random actions; or "raw"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the rewards are of, one after the other."""
        return (*self.channels, *["skill"] * self.skills)


def check(owner: str, config: Config, ranges: dict[str, Sequence[str]]) -> None:
    """Nothing; raises InputError for a field of an agent's configuration that is out of its range."""
    check_ranges(owner, config, ranges)
    check_choice(owner, "critics", config.critics, get_args(Literal["each", "one"]))
    check_choice(owner, "inputs", config.inputs, get_args(Inputs))
    if not config.kinds:
        raise InputError(f"{owner}: channels must name a task, or skills be True, so that there is a reward")
    for name in ("weights", "discounts", *["budgets"] * bool(config.budgets)):
        if len(getattr(config, name)) != len(config.kinds):
            raise InputError(f"{owner}: {name} must be one number for each of {', '.join(config.kinds)}")
    if min(config.weights) < 0 or not max(config.weights):
        raise InputError(f"{owner}: weights must not be below 0, nor all of them 0, got {config.weights}")
    if not all(0 <= discount < 1 for discount in config.discounts):
        raise InputError(f"{owner}: discounts must be in [0, 1), got {config.discounts}")
    if config.budgets and config.critics == "one":
        raise InputError(f"{owner}: budgets need critics 'each': a sum of rewards has no weights that move")


def judged(config: Config) -> tuple[tuple[str, ...], np.ndarray]:
    """What critics are of, and their discounts [K]: each kind of reward, or the sum of all."""
    names, rates = (config.kinds, config.discounts) if config.critics == "each" else (("sum",), config.discounts[-1:])
    return names, np.asarray(rates, np.float32)


def weighed(
    config: Config, log_multiplier: Float[Array, " R"], reward: Float[Array, "N R"]
) -> tuple[Float[Array, " R"], Float[Array, " K"], Float[Array, "N K"]]:
    """Log multipliers after rewards of all R kinds, and weights and rewards of what critics are of (`judged`)."""
    log_multiplier = jnp.clip(log_multiplier + config.lr_multiplier * _excess(config, reward), *MULTIPLIERS)
    weight = jnp.asarray(config.weights) * jnp.exp(log_multiplier)
    if config.critics == "each":
        return log_multiplier, weight, reward
    share = weight / weight.sum()
    return log_multiplier, jnp.ones(1), (reward * share[None]).sum(-1, keepdims=True)


def _excess(config: Config, reward: Float[Array, "N R"]) -> Float[Array, " R"]:
    """How far the mean cost of a decision is above its budget, as a share of it; 0 for rewards that are no costs."""
    if not config.budgets:
        return jnp.zeros(reward.shape[-1])
    budget = jnp.asarray(config.budgets)
    limited = jnp.isfinite(budget)
    safe = jnp.where(limited, jnp.maximum(budget, 1e-3), 1.0)
    return jnp.where(limited, -reward.mean(0) / safe - 1.0, 0.0)


def interference(names: Sequence[str], gradients: PyTree) -> dict[str, Float[Array, ""]]:
    """Metrics "cosine/ONE_OTHER" between the gradients of each kind of reward, leaves [K, ...]; none for one kind."""
    found = cosines(jax.vmap(lambda one: ravel_pytree(one)[0])(gradients))
    pairs = itertools.combinations(range(len(names)), 2)
    return {f"cosine/{names[i]}_{names[j]}": found[i, j] for i, j in pairs}


class Skills(NamedTuple):
    """Skills as an agent has them, for rows of what its networks see, x [N, I], and of latents [N, D].

    `params` are those of discovery alone, "skill" among the agent's; without skills they are empty, and not stored.
    """

    width: int  # of a skill, as networks read it
    init: Callable[[RandomKey, Array], tuple[Params, PyTree]]  # (key, x) -> (params, optimiser state)
    # (params, optimiser state, (x, next_x, skill, inside), parts, key) -> (params, optimiser state, reward [N, 1],
    # metrics) after a pass over the rows in so many parts; rewards are those of the features behind it, and 0 where
    # `inside` is 0 because another episode follows; [N, 0] without skills
    learn: Callable[[Params, PyTree, tuple[Array, ...], int, RandomKey], tuple[Params, PyTree, Array, dict[str, Array]]]
    named: Callable[[Array], Array]  # latent -> the skill that it names [N, width]
    chosen: Callable[[Params, Array, Array], Array]  # (the agent's params, x, latent) -> the skill to follow there
    prompt: Callable[[Params, Prompt, RandomKey], Array]  # (ignored, prompt, key) -> latent
    prompts: tuple[type, ...]


def make(owner: str, config: Config, spec: Spec, see: Callable[[Obs], Array]) -> Skills:
    """The skills of an agent, which is called `owner` in messages and reads observations as `see` gives them."""
    columns = columns_of(owner, spec, config.moved)
    moved = np.concatenate(columns)
    skills = discovery.make(config.skill, tuple(map(len, columns)))
    width = skills.skill if config.skills else 0
    knows_directions = config.skills and skills.toward is not None
    taken = (Goal, Motion, Prior) if knows_directions else (Prior,)

    def init(key: RandomKey, x: Array) -> tuple[Params, PyTree]:
        params = skills.init(key, x[:, moved]) if config.skills else {}
        return params, skills.optimizer.init(params) if config.skills else ()

    def learn(params: Params, state: PyTree, given: tuple[Array, ...], parts: int, key: RandomKey) -> Any:
        x, next_x, skill, inside = given
        if not config.skills:
            return params, state, jnp.zeros((len(x), 0)), {}
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
        if not knows_directions:
            return named(latent)
        is_place, there = place_of(latent, width)
        return jnp.where(is_place, skills.toward(params["skill"], x[:, moved], there), named(latent))

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if isinstance(prompt, Prior):
            skill = skills.draw(key, 1)[0] if config.skills else jnp.zeros(0)
            return project(jnp.concatenate([skill, jnp.zeros(len(moved) + 1 if knows_directions else 0)]))
        if isinstance(prompt, Goal | Motion) and knows_directions:
            there = see({name: jnp.atleast_2d(leaf) for name, leaf in prompt.obs.items()})[:, moved]
            latent = at_place(there, width)
            return latent if isinstance(prompt, Motion) else latent[0]
        names = ", ".join(kind.__name__ for kind in taken)
        raise TypeError(f"{owner} takes {names} prompts, got {type(prompt).__name__}")

    return Skills(width, init, learn, named, chosen, prompt, taken)


def at_place(there: Float[Array, "N M"], width: int) -> Float[Array, "N D"]:
    """The latents of places: on the sphere, behind `width` zeros where others name a skill."""
    return project(jnp.concatenate([jnp.zeros((len(there), width)), there, jnp.ones((len(there), 1))], -1))


def place_of(latent: Float[Array, "N D"], width: int) -> tuple[Bool[Array, "N 1"], Float[Array, "N M"]]:
    """Whether each latent is that of a place, and which."""
    last = latent[:, -1:]
    return last > 1e-6, latent[:, width:-1] / jnp.maximum(last, 1e-6)


def columns_of(owner: str, spec: Spec, moved: tuple[str, ...]) -> list[np.ndarray]:
    """The columns of the state that each named part has; all of them in one part where none is named.

    Raises InputError for a part that the world's state lacks.
    """
    if not moved:
        return [np.arange(spec.obs["state"][0])]
    for name in moved:
        if name not in spec.parts:
            raise InputError(f"{owner}: moved: the state has no part '{name}'; {nearest(name, spec.parts)}")
    return [np.arange(*spec.parts[name]) for name in moved]
