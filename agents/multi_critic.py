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

The last kind of reward is that of what the policy is told (`agents/kinds.py`): of a skill, the reward of discovery
(`agents/discovery.py`), computed anew in each update by the features as they then are, which read what skills shall
move, the parts `moved` of the state; of a place to go to, the distance that is gained. `told="nothing"` has neither.
A channel with a finite budget is a constraint: its rewards are costs below zero, and its weight is a multiplier that
grows while the mean cost of a decision is above the budget and falls, to zero at last, while it is below. Weights may
`begin` elsewhere: a hand that is safe before it knows what there is to do never touches anything.

Papers: SLIM, Emukpere et al., arXiv 2402.00823 (what its rewards are made of is not published, nor are its numbers);
PPO, Schulman et al., arXiv 1707.06347, with the step size that follows the KL divergence; values that keep their
predictions while targets change size, van Hasselt et al., arXiv 1602.07714. Prompts: Goal, Motion (a policy that goes
where it is told, for objectives that know directions), Prior (one skill at random).
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from agents import kinds
from embodied.data.normalize import observation_inputs
from embodied.nets.encoders import Net, encoder, with_head
from embodied.policy_gradient import (
    advantages,
    clipped,
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
from embodied.ranges import check_choice, join_ranges
from embodied.types import Agent, Batch, Needs, Obs, Params, RandomKey, Spec

RANGES = join_ranges(
    kinds.RANGES,
    {
        "[1, inf)": ("hidden", "epochs", "minibatches"),
        "[0, inf)": ("layers", "lr", "entropy", "dead"),
        "(0, inf)": ("clip", "kl", "noise", "gradient"),
        "[0, 1]": ("trace", "momentum"),
    },
)
STEP_SIZES = (1e-5, 1e-2)  # of the actor, however small or large its divergence


@dataclasses.dataclass(frozen=True)
class Config(kinds.Config):
    """Three kinds of reward for a hand over a table; sizes and rates as is common where PPO meets robots."""

    trunk: Literal["apart", "shared"] = "apart"  # whether critics share all but their last layer
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

    def __post_init__(self) -> None:
        kinds.check("multi_critic", self, RANGES)
        check_choice("multi_critic", "trunk", self.trunk, get_args(Literal["apart", "shared"]))

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
    """The agent for a world, which learns from rollouts [E, T] of its own (`Needs.channels`)."""
    see = observation_inputs(config.inputs, spec, ("state",))
    skills = kinds.make("multi_critic", config, spec, see)
    names, discounts = kinds.judged(config)
    actor, critic = networks(config, spec, len(names))
    optimizer = optax.scale_by_adam()

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
        inputs = jnp.concatenate([x, jnp.zeros((len(x), skills.width))], -1)
        skill, skill_state = skills.init(key_skill, x)
        # Small first actions, and values that know nothing: a kind of reward that never comes keeps advantages of 0.
        mean = with_head(actor.init(key_actor, inputs), 0.01)
        params = {
            "actor": {"mean": mean, "log_std": jnp.full(spec.action, math.log(config.noise), jnp.float32)},
            "critic": with_head(critic.init(key_critic, inputs), 0.0),
            "moments": {"mean": jnp.zeros(len(names)), "scale": jnp.ones(len(names))},
            "skill": skill,
        }
        states = {name: optimizer.init(params[name]) for name in ("actor", "critic")} | {"skill": skill_state}
        return State(params, states, jnp.float32(config.lr), jnp.zeros(len(config.kinds)), jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_skill, key_order = jax.random.split(key)
        worlds, decisions = batch.action.shape[:2]
        x, next_x, z = see(rows(batch.obs)), see(rows(batch.next_obs)), skills.named(rows(batch.latent))
        params, states = state.params, state.optimizer
        data = (x, next_x, z, rows(batch.discount))  # behind a termination comes another episode
        learned, skill_state, gained, metrics = skills.learn(
            params["skill"], states["skill"], data, config.minibatches, key_skill
        )
        params, states = params | {"skill": learned}, states | {"skill": skill_state}
        reward = jnp.concatenate([rows(batch.reward), gained], -1)
        metrics |= {f"reward/{name}": reward[:, k].mean() for k, name in enumerate(config.kinds)}
        log_multiplier, weight, reward = kinds.weighed(config, state.log_multiplier, reward, state.count)

        shape = (worlds, decisions, len(names))
        value, next_value = (values(params, one, z).reshape(shape) for one in (x, next_x))
        reward = reward.reshape(shape)
        found = advantages(reward, value, next_value, batch.discount, batch.last, jnp.asarray(discounts), config.trace)
        target = rows(found + value)
        spread = rows(found).std(0)
        each, alive = normalised(rows(found), config.dead), spread >= config.dead
        metrics |= {
            f"critic/{what}_{name}": one[k]
            for what, one in (("explained", explained(target, rows(value))), ("spread", spread))
            for k, name in enumerate(names)
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
        metrics |= interfering(params["actor"], jax.tree.map(lambda leaf: leaf[order[0]], rollout))
        now, old_log_std = (params, states, state.lr), actor_params["log_std"]

        def step_of(now: Any, index: Array) -> Any:
            return step(*now, jax.tree.map(lambda leaf: leaf[index], rollout), old_log_std)

        (params, states, lr), steps = jax.lax.scan(step_of, now, order)
        metrics |= {name: values.mean() for name, values in steps.items()}
        metrics |= {f"weight/{name}": weight[k] for k, name in enumerate(names)}
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
        members = len(names) if config.trunk == "apart" else 0
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

    def interfering(actor_params: Params, part: Rollout) -> dict[str, Array]:
        """Cosines between what each kind of reward alone would do to the actor, on some rows of the rollout."""
        if len(names) < 2:
            return {}
        alone = lambda advantage: jax.grad(actor_loss, has_aux=True)(actor_params, part, advantage)[0]["mean"]  # noqa: E731
        return kinds.interference(names, jax.vmap(alone)(part.each.T))

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see(obs)
        mean = policy(params, x, skills.chosen(params, x, jnp.broadcast_to(z, (len(x), z.shape[-1]))))
        if key is None:
            return jnp.clip(mean, -1.0, 1.0), carry
        # Not clipped: worlds do that, and its probability is that of the draw.
        return mean + jnp.exp(params["actor"]["log_std"])[None] * jax.random.normal(key, mean.shape), carry

    needs = Needs(channels=config.channels)
    return Agent(init, update, skills.prompt, lambda count: (), act, skills.prompts, needs=needs)


def networks(config: Config, spec: Spec, count: int) -> tuple[Net, Net]:
    """The actor's means [N, A], and values [K, N, 1] of critics apart or [N, K] of one trunk."""
    actor = encoder(config.hidden, config.layers, spec.action, on_sphere=False)
    if config.trunk == "shared":
        return actor, encoder(config.hidden, config.layers, count, on_sphere=False)
    return actor, encoder(config.hidden, config.layers, 1, on_sphere=False, members=count)
