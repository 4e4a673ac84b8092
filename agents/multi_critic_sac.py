"""Multi-critic skills off-policy: soft actor-critic with twin critics for each kind of reward.

The rewards are those of `agents/multi_critic.py`; the agent learns from a ring of its latest rollouts, each transition
many times. For rewards r_k of K kinds, transitions (s, a, s') that were made under skill z, a' ~ pi(s', z) and
b ~ pi(s, z):

    y_k     = r_k + discount_k min_j Q_target,kj(s', a', z),      r_k alone where the world terminated
    critics = 1/2 sum_kj E[ (Q_kj(s, a, z) - y_k)^2 ] / scale_k^2
    S_k     = moving mean of max( P95 - P5 of mean_j Q_kj(s, b, z), scale_k )
    actor   = E[ temperature log pi(b|s,z) - sum_k w_k mean_j Q_kj(s, b, z) / S_k ],   w_k = 0 while r_k never varied
    log temperature moves by -( E[-log pi] - target ),   target = -certainty for each component of an action

The minimum is taken inside each kind, and entropy is in no y_k, so that a critic knows nothing of other kinds. In units
of S_k the values of all kinds spread alike, whatever the sizes of rewards, so the weights alone say what each counts.
Q_kj = mean_k + scale_k q_kj(s, a, z), with the moving moments of targets, so that sizes do not matter to critics
either. `critics="one"` sums the rewards first: plain SAC with its temperature in units of S, the baseline from the same
code. The reward of skill discovery is never stored: each update computes it anew, by the features as they then are.

Papers: SAC, Haarnoja et al., arXiv 1812.05905; several critics for skills, SLIM, Emukpere et al., arXiv 2402.00823;
skills from replayed rollouts, METRA, Park et al., arXiv 2310.08887; values divided by the range between percentiles,
DreamerV3, Hafner et al., arXiv 2301.04104; values that keep their predictions while targets change size, van Hasselt et
al., arXiv 1602.07714. Differences from the papers: actor, critics and temperature move at once; CSF learns from the
scalar reward of its features as other objectives do, not by successor features. Prompts: Goal, Motion (a policy that
goes where it is told, for objectives that know directions), Prior (one skill at random).
"""

import dataclasses
import math
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from agents import kinds
from embodied.data.normalize import observation_inputs
from embodied.nets.encoders import Net, encoder, with_head
from embodied.optim import adam_by_group, pick, soft_update
from embodied.policy_gradient import target_moments, with_moments
from embodied.ranges import join_ranges
from embodied.types import Agent, Batch, Needs, Obs, Params, RandomKey, Spec

RANGES = join_ranges(
    kinds.RANGES,
    {
        "[1, inf)": ("hidden",),
        "[0, inf)": ("layers", "lr", "lr_temperature", "certainty", "dead"),
        "(0, inf)": ("temperature",),
        "(0, 1]": ("tau",),
        "[0, 1]": ("momentum",),
    },
)
LOG_STD = (-5.0, 2.0)  # of the Gaussian before it is squashed
COMPARED = 32  # rows of a batch on which gradients of the kinds of reward are compared


@dataclasses.dataclass(frozen=True)
class Config(kinds.Config):
    """Three kinds of reward for a hand over a table; sizes and rates as is common where SAC meets states."""

    lr_multiplier: float = 1e-3  # of log multipliers per update, for a cost of twice its budget or more
    hidden: int = 256  # width of actor and critics; 1024 in METRA
    layers: int = 2  # hidden layers of each
    tau: float = 0.005  # moving-average rate of the target critics, in (0, 1]
    lr: float = 3e-4  # of actor and critics; 1e-4 in METRA
    temperature: float = 0.01  # at first
    lr_temperature: float = 3e-4  # of its logarithm; 0 = it stays as it is
    certainty: float = 0.5  # the entropy that the temperature aims at is less than 0 by so much for each action number
    dead: float = 1e-6  # range of a reward in a batch below which it does not vary
    momentum: float = 0.99  # of the moments of critics' targets, and of S

    def __post_init__(self) -> None:
        kinds.check("multi_critic_sac", self, RANGES)

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, hidden=16, layers=1, lr=1e-3, tau=0.01, skill=self.skill.tiny())


@no_type_check
@struct.dataclass
class State:
    """Parameters {actor, critic, temperature (its logarithm), moments of targets, skill}, and what learning keeps."""

    params: PyTree
    target: PyTree  # {critic}: their moving average, in the same units
    optimizer: PyTree
    spread: Float[Array, " K"]  # S_k
    age: Int[Array, " K"]  # updates since each reward first varied; 0 = it never did
    log_multiplier: Float[Array, " R"]  # of the weights of kinds that have a budget, else 0


class Rows(NamedTuple):
    """A batch made ready for actor and critics."""

    x: Float[Array, "N I"]
    z: Float[Array, "N S"]
    action: Float[Array, "N A"]
    goal: Float[Array, "N K"]  # y_k that values learn, in units of their moments


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world, which learns from transitions [B] of a ring of its rollouts (`Needs.replay`)."""
    see = observation_inputs(config.inputs, spec, ("state",))
    skills = kinds.make("multi_critic_sac", config, spec, see)
    names, discounts = kinds.judged(config)
    actor, critic = networks(config, spec, len(names))
    optimizer = adam_by_group({"actor": config.lr, "critic": config.lr, "temperature": config.lr_temperature})
    learned, averaged = ("actor", "critic", "temperature"), ("critic",)

    def policy(actor_params: Params, x: Array, z: Array) -> tuple[Array, Array]:
        mean, raw = jnp.split(actor.apply(actor_params, jnp.concatenate([x, z], -1)), 2, -1)
        return mean, LOG_STD[0] + (LOG_STD[1] - LOG_STD[0]) * jax.nn.sigmoid(raw)

    def draw(actor_params: Params, x: Array, z: Array, key: RandomKey) -> tuple[Array, Array]:
        mean, log_std = policy(actor_params, x, z)
        return squashed(mean, log_std, jax.random.normal(key, mean.shape))

    def raw_values(critic_params: Params, x: Array, z: Array, action: Array) -> Array:
        both = critic.apply(critic_params, jnp.concatenate([x, z, action], -1))
        return both.reshape(len(names), 2, len(x))  # [K, 2, N]

    def values(critic_params: Params, moments: Params, x: Array, z: Array, action: Array) -> Array:
        mean, scale = moments["mean"][:, None, None], moments["scale"][:, None, None]
        return mean + scale * raw_values(critic_params, x, z, action)

    def init(key: RandomKey, batch: Batch) -> State:
        key_actor, key_critic, key_skill = jax.random.split(key, 3)
        x = see(batch.obs)
        inputs = jnp.concatenate([x, jnp.zeros((len(x), skills.width))], -1)
        skill, skill_state = skills.init(key_skill, x)
        # Small first actions, and values that know nothing.
        params = {
            "actor": with_head(actor.init(key_actor, inputs), 0.01),
            "critic": with_head(critic.init(key_critic, jnp.concatenate([inputs, batch.action], -1)), 0.0),
            "temperature": jnp.float32(math.log(config.temperature)),
            "moments": {"mean": jnp.zeros(len(names)), "scale": jnp.ones(len(names))},
            "skill": skill,
        }
        states = {"policy": optimizer.init(pick(params, learned)), "skill": skill_state}
        target = jax.tree.map(jnp.copy, pick(params, averaged))
        age = jnp.zeros(len(names), jnp.int32)
        return State(params, target, states, jnp.ones(len(names)), age, jnp.zeros(len(config.kinds)))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_skill, key_next, key_now = jax.random.split(key, 3)
        x, next_x, z = see(batch.obs), see(batch.next_obs), skills.named(batch.latent)
        params, states = state.params, state.optimizer
        data = (x, next_x, z, batch.discount)  # behind a termination comes another episode
        features, skill_state, gained, metrics = skills.learn(params["skill"], states["skill"], data, 1, key_skill)
        reward = jnp.concatenate([batch.reward, gained], -1)
        metrics |= {f"reward/{name}": reward[:, k].mean() for k, name in enumerate(config.kinds)}
        log_multiplier, weight, reward = kinds.weighed(config, state.log_multiplier, reward, state.age.max())

        next_action, _ = draw(params["actor"], next_x, z, key_next)
        ahead = values(state.target["critic"], params["moments"], next_x, z, next_action).min(1).T
        goal = reward + discounts[None] * batch.discount[:, None] * ahead
        alive = (state.age > 0) | (jnp.ptp(reward, 0) >= config.dead)
        mean, scale = target_moments(params["moments"], goal, alive, state.age, config.momentum)
        target = pick(with_moments(params | state.target, mean, scale), averaged)
        params = with_moments(params, mean, scale) | {"skill": features}

        rows = Rows(x, z, batch.action, (goal - mean[None]) / scale[None])
        share, keep = jnp.where(alive, weight, 0.0), jnp.where(state.age > 0, config.momentum, 0.0)
        grad, (spread, more) = jax.grad(loss, has_aux=True)(
            pick(params, learned), params["moments"], rows, share, keep, state.spread, key_now
        )
        metrics |= more | interfering(params, rows, alive, key_now)
        metrics |= {f"critic/spread_{name}": spread[k] for k, name in enumerate(names)}
        metrics |= {f"weight/{name}": weight[k] for k, name in enumerate(names)}
        metrics |= {f"grad/{name}": optax.tree.norm(grad[name]) for name in ("actor", "critic")}
        delta, policy_state = optimizer.update(grad, states["policy"])
        params = params | optax.apply_updates(pick(params, learned), delta)
        target = soft_update(target, pick(params, averaged), config.tau)
        states = {"policy": policy_state, "skill": skill_state}
        return State(params, target, states, spread, state.age + alive, log_multiplier), metrics

    def loss(
        params: Params, moments: Params, rows: Rows, share: Array, keep: Array, spread: Array, key: RandomKey
    ) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        """The sum of all losses, of which each moves its own parameters alone; S; and metrics."""
        raw = raw_values(params["critic"], rows.x, rows.z, rows.action)
        critic_loss = 0.5 * jnp.square(raw - rows.goal.T[:, None]).mean(-1).sum()
        fixed = jax.lax.stop_gradient(params)
        value, log_prob = judge(params["actor"], fixed["critic"], moments, rows, key)
        spread = keep * spread + (1 - keep) * spread_of(jax.lax.stop_gradient(value), moments["scale"])
        entropy = -log_prob.mean()
        actor_loss = -jnp.exp(fixed["temperature"]) * entropy - (share / spread * value.mean(-1)).sum()
        missing = -config.certainty * spec.action - jax.lax.stop_gradient(entropy)
        metrics = {"loss/critic": critic_loss, "loss/actor": actor_loss, "actor/entropy": entropy}
        metrics |= {"actor/temperature": jnp.exp(fixed["temperature"])}
        metrics |= {f"critic/value_{name}": value[k].mean() for k, name in enumerate(names)}
        return critic_loss + actor_loss - params["temperature"] * missing, (spread, metrics)

    def judge(
        actor_params: Params, critic_params: Params, moments: Params, rows: Rows, key: RandomKey
    ) -> tuple[Array, Array]:
        """Values [K, N] of what the policy would do, and log probabilities [N] of that."""
        action, log_prob = draw(actor_params, rows.x, rows.z, key)
        return values(critic_params, moments, rows.x, rows.z, action).mean(1), log_prob

    def interfering(params: Params, rows: Rows, alive: Array, key: RandomKey) -> dict[str, Array]:
        """Cosines between what each kind of reward alone would do to the actor, on some rows of the batch."""
        if len(names) < 2:
            return {}
        few = jax.tree.map(lambda leaf: leaf[:COMPARED], rows)

        def wanted(actor_params: Params) -> Array:
            value, _ = judge(actor_params, params["critic"], params["moments"], few, key)
            return jnp.where(alive, value.mean(-1), 0.0)

        return kinds.interference(names, jax.jacrev(wanted)(params["actor"]))

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see(obs)
        skill = skills.chosen(params, x, jnp.broadcast_to(z, (len(x), z.shape[-1])))
        if key is None:
            return jnp.tanh(policy(params["actor"], x, skill)[0]), carry
        return draw(params["actor"], x, skill, key)[0], carry

    needs = Needs(channels=config.channels, replay=True)
    return Agent(init, update, skills.prompt, lambda count: (), act, skills.prompts, needs=needs)


def networks(config: Config, spec: Spec, count: int) -> tuple[Net, Net]:
    """The actor's means and logarithms of deviations [N, 2 A], and values [2 K, N, 1], the twins of a kind in a row."""
    actor = encoder(config.hidden, config.layers, 2 * spec.action, on_sphere=False)
    return actor, encoder(config.hidden, config.layers, 1, on_sphere=False, members=2 * count)


def squashed(
    mean: Float[Array, "N A"], log_std: Float[Array, "N A"], noise: Float[Array, "N A"]
) -> tuple[Float[Array, "N A"], Float[Array, " N"]]:
    """tanh(mean + exp(log_std) noise), in (-1, 1), and the logarithm of its density, where the noise is N(0, 1)."""
    raw = mean + jnp.exp(log_std) * noise
    gaussian = -0.5 * jnp.square(noise) - log_std - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))  # log of the derivative of tanh
    return jnp.tanh(raw), (gaussian - slope).sum(-1)


def spread_of(value: Float[Array, "K N"], scale: Float[Array, " K"]) -> Float[Array, " K"]:
    """P95 - P5 of the values of each kind, and no less than the deviation of what they learn from."""
    low, high = jnp.quantile(value, jnp.array([0.05, 0.95]), axis=1)
    return jnp.maximum(high - low, scale)
