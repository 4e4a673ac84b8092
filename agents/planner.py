"""A planner in a learned model of what actions lead to: it goes where it is told without a policy ever being trained.

With x the observation that networks see and d = x' - x what one decision changes, M networks learn, each by itself,

    f_m(x, a) ~ (d - mean) / scale,      loss = sum_m E[ w_m |f_m(x, a) - (d - mean) / scale|^2 ],   w_m ~ Exp(1)

with the moving moments of d, so that all columns count alike whether they change much or little. Weights w_m of rows
are drawn anew for each member (the Bayesian bootstrap), and are 0 where the world terminated: another episode follows.
Plans are sequences of H actions, refined by the cross-entropy method or by MPPI (`embodied/planning.py`); each member
follows them on its own from the state now, x_m,h+1 = x_m,h + mean + scale f_m(x_m,h, a_h), and the score is

    J = mean_m sum_h -|x_m,h - goal|      for a place,         J = mean_m sum_h x_m,h . direction      for a direction

over the columns of `moved`. The first action of the best sequence is done, and the next decision plans anew, with the
same random numbers: without a key the action is a function of parameters, observation and latent.

A latent is [x, 1] on the sphere for the place x, and [direction, 0] for a direction: a place infinitely far away. While
it collects data (with a key) a share `random` of its decisions is random; in the others it plans, and latents of the
prior are directions, so that data are of where plans lead. In a `SkillWorld` actions are skills: the model says what
skills lead to, and plans are sequences of skills.

Papers: PETS, Chua et al., arXiv 1805.12114 (an ensemble that learns changes, each member followed by itself, the
cross-entropy method); PlaNet, Hafner et al., arXiv 1811.04551 (planning with the mean of few samples of the future);
MPPI, Williams et al., arXiv 1509.01149. Differences from the papers: networks are deterministic, so they know what they
disagree on and not how noisy the world is; plans do not start from the one before. Prompts: Goal, Motion, Prior.
"""

import dataclasses
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from agents import kinds
from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.encoders import Net, mlp, project, with_head
from embodied.planning import Planning, plan
from embodied.policy_gradient import target_moments
from embodied.ranges import check_choice, check_ranges
from embodied.types import Agent, Batch, Goal, Motion, Needs, Obs, Params, Prior, Prompt, RandomKey, Spec

RANGES = {
    "[1, inf)": ("members", "hidden"),
    "[0, inf)": ("layers", "lr"),
    "[0, 1]": ("random", "momentum"),
}
STILL = 1e-3  # least scale of changes, as a share of the observation's own: less than that is rounding


@dataclasses.dataclass(frozen=True)
class Config:
    """Five networks of the size that is common for the states of robots, and plans of five decisions."""

    planning: Planning = Planning()  # how sequences are searched for
    moved: tuple[str, ...] = ()  # parts of the state that goals are about; () = all of it
    members: int = 5  # M, networks of the ensemble
    hidden: int = 256  # width of each
    layers: int = 2  # hidden layers of each; 0 = linear
    lr: float = 1e-3
    random: float = 0.5  # share of random actions while it collects data, in [0, 1]
    momentum: float = 0.99  # of the moments of changes
    inputs: Inputs = "standardized"  # by the statistics of random actions; or "raw"

    def __post_init__(self) -> None:
        check_ranges("planner", self, RANGES)
        check_ranges("planner: planning", self.planning, {"[1, inf)": ("horizon",)})  # it has no policy
        check_choice("planner", "inputs", self.inputs, get_args(Inputs))

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        planning = dataclasses.replace(self.planning, horizon=2, samples=16, iterations=2, elites=4)
        return dataclasses.replace(self, planning=planning, members=2, hidden=16, layers=1)


@no_type_check
@struct.dataclass
class State:
    """Parameters {model (leaves [M, ...]), moments of changes}, and what learning keeps."""

    params: PyTree
    optimizer: PyTree
    age: Int[Array, ""]  # updates done


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world, which learns from transitions [B] of a ring of its rollouts (`Needs.replay`)."""
    see = observation_inputs(config.inputs, spec, ("state",))
    moved = np.concatenate(kinds.columns_of("planner", spec, config.moved))
    width = spec.obs["state"][0]
    model = networks(config, spec)
    optimizer = optax.adam(config.lr)

    def init(key: RandomKey, batch: Batch) -> State:
        # Nothing changes much at first, whatever is done.
        params = {
            "model": with_head(model.init(key, jnp.concatenate([see(batch.obs), batch.action], -1)), 0.1),
            "moments": {"mean": jnp.zeros(width), "scale": jnp.ones(width)},
        }
        return State(params, optimizer.init(params["model"]), jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        x = see(batch.obs)
        moments, moving = state.params["moments"], jnp.ones(width, bool)
        change = jnp.where(batch.discount[:, None] > 0, (see(batch.next_obs) - x)[:, :width], moments["mean"][None])
        mean, scale = target_moments(moments, change, moving, state.age, config.momentum)
        scale = jnp.maximum(scale, STILL)
        goal = (change - mean[None]) / scale[None]
        weight = jax.random.exponential(key, (config.members, len(x))) * batch.discount[None]

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            guess = model.apply(params, jnp.concatenate([x, batch.action], -1))
            error = jnp.square(guess - goal[None]).mean(-1)
            metrics = {"loss/world": error.mean(), "model/disagreement": guess.std(0).mean()}
            return (weight * error).mean(-1).sum(), metrics

        grad, metrics = jax.grad(loss, has_aux=True)(state.params["model"])
        delta, after = optimizer.update(grad, state.optimizer)
        params = {"model": optax.apply_updates(state.params["model"], delta), "moments": {"mean": mean, "scale": scale}}
        metrics |= {"grad/model": optax.tree.norm(grad), "model/scale": scale.mean()}
        return State(params, after, state.age + 1), metrics

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if isinstance(prompt, Prior):
            return project(jnp.append(jax.random.normal(key, (len(moved),)), 0.0))
        return kinds.asked("planner", prompts, prompt, see, moved, 0)

    def search(params: Params, x: Array, z: Array, key: RandomKey) -> Array:
        """The first action [A] of the best plan for one world, from x [I] under the latent z [D]."""

        def score(actions: Float[Array, "S H A"]) -> Float[Array, " S"]:
            def step(now: tuple[Array, Array], action: Array) -> tuple[tuple[Array, Array], None]:
                x, total = now
                x = ahead(model, params, x, action)
                return (x, total + closeness(x[..., moved], z).mean(0)), None

            start = jnp.broadcast_to(x, (config.members, len(actions), len(x)))
            (_, total), _ = jax.lax.scan(step, (start, jnp.zeros(len(actions))), jnp.swapaxes(actions, 0, 1))
            return total

        return plan(config.planning, score, jnp.zeros((config.planning.horizon, spec.action)), key).actions[0]

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see(obs)
        z = jnp.broadcast_to(z, (len(x), z.shape[-1]))
        every = jax.vmap(search, (None, 0, 0, None))
        if key is None:
            return every(params, x, z, jax.random.key(0)), carry
        key_plan, key_which, key_action = jax.random.split(key, 3)
        anything = jax.random.uniform(key_action, (len(x), spec.action), minval=-1.0, maxval=1.0)
        at_random = jax.random.bernoulli(key_which, config.random, (len(x), 1))
        return jnp.where(at_random, anything, every(params, x, z, key_plan)), carry

    prompts, needs = (Goal, Motion, Prior), Needs(channels=(), replay=True)
    return Agent(init, update, prompt, lambda count: (), act, prompts, needs=needs)


def networks(config: Config, spec: Spec) -> Net:
    """f_m for all m: [x, a] [B, I + A], of each member if [M, ...], -> changes of the state, normalised [M, B, O]."""
    return mlp(config.hidden, config.layers, spec.obs["state"][0], members=config.members)


def ahead(model: Net, params: Params, x: Float[Array, "M B I"], action: Float[Array, "B A"]) -> Float[Array, "M B I"]:
    """What networks see after the action, as each member says; columns that are no part of the state stay."""
    both = jnp.concatenate([x, jnp.broadcast_to(action, (len(x), *action.shape))], -1)
    mean, scale = params["moments"]["mean"], params["moments"]["scale"]
    change = mean[None, None] + scale[None, None] * model.apply(params["model"], both)
    return x + jnp.pad(change, ((0, 0), (0, 0), (0, x.shape[-1] - change.shape[-1])))


def closeness(there: Float[Array, "M B K"], latent: Float[Array, " D"]) -> Float[Array, "M B"]:
    """Minus the distance to the place that the latent names, or how far it is in the direction that it names."""
    distance = jnp.sqrt(jnp.square(there - kinds.place(latent[None])[None]).sum(-1) + 1e-12)
    direction = latent[:-1] / jnp.sqrt(jnp.maximum(jnp.square(latent[:-1]).sum(), 1e-12))
    return jnp.where(latent[-1] > kinds.LEAST, -distance, (there * direction[None, None]).sum(-1))
