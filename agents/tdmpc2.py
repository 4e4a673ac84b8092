"""TD-MPC2: plans in a learned latent model of one task, with a learned value behind the end of each plan.

Latents z = enc(s) are products of simplices. A model says where an action leads, d(z, a), what it pays, and whether the
world goes on, c(z, a); there are K values Q_k and a policy pi(z), a squashed Gaussian. On H decisions of the data, from
z_0 = enc(s_0) on along z_t+1 = d(z_t, a_t), while the episode lasts,

    loss = 1/H sum_t rho^t E[ c_z |d(z_t, a_t) - enc(s_t+1)|^2 / D + c_r CE(reward_t, r_t)
                              + c_q mean_k CE(Q_k(z_t, a_t), y_t) + c_e CE(c(z_t, a_t), going_t) ]
    y_t  = r_t + discount going_t min_{k in two} Q_target,k(z', a'),    z' = enc(s_t+1),  a' ~ pi(z')
    pi   = -1/(H + 1) sum_t rho^t E[ mean_{k in two} Q_k(z_t, a) / S + c_h A entropy ],    a ~ pi(z_t)

without gradients into enc(s_t+1), y, and z and Q of the last line. Two values are drawn anew each time, rewards and
values are classes of `embodied/values.py` ("symlog"), S is the moving range between percentiles of values, and the
entropy that of the Gaussian before it is squashed. Sequences of actions, some of them the policy's, are refined by MPPI
(`embodied/planning.py`) for the score

    J = sum_h discount^h g_h r_h + discount^H g_H mean_k Q_k(z_H, pi(z_H)),    g_h = prod_{i<h} c(z_i, a_i)

Without a key the action is the first of the mean that the search ends with. It begins anew in each state, with the same
random numbers: a function of parameters and observation, which is what is exported. With a key it begins where the one
before ended (the carry), and the action is drawn from its last round, with noise of that round's deviation.

Paper: TD-MPC2, Hansen et al., arXiv 2310.16828, with the coefficients of its code. Differences from the paper: worlds
may terminate: c is learnt and planned with, and the policy learns from no latents behind an end. Scores are weighed in
units of the elites' deviation, continuously, and each round's mean competes in the next. Behind a plan counts the mean
of all values, for the mean of the policy. Plans for scores begin anew. No dropout; weights are orthogonal at first. The
discount is given: for T decisions an episode the paper has clip(1 - 5 / T, 0.95, 0.995). Data of the first `warmup`
updates are random actions. Prompts: Prior only (the task is its own).
"""

import dataclasses
import math
from typing import Any, NamedTuple, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from embodied.data.dataset import Path, path_of
from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.encoders import Net, with_head
from embodied.nets.normed import normed
from embodied.optim import adam_by_group, pick, soft_update
from embodied.planning import Plan, Planning, drawn, imagined_return, plan, shifted
from embodied.ranges import check_choice, check_ranges
from embodied.types import Agent, Batch, InputError, Needs, Obs, Params, Prior, Prompt, RandomKey, Spec
from embodied.values import Bins, expected, return_scale, two_hot_loss

RANGES = {
    "[1, inf)": ("latent", "hidden", "layers", "encoder_hidden", "encoder_layers", "unroll", "group"),
    "[2, inf)": ("members", "bins"),
    "[0, inf)": ("c_latent", "c_reward", "c_value", "c_end", "entropy", "lr", "lr_encoder", "proposals", "warmup"),
    "(0, inf)": ("limit", "gradient"),
    "[0, 1)": ("discount",),
    "(0, 1]": ("decay", "tau"),
}
LOG_STD = (-10.0, 2.0)  # of the policy before it is squashed
TOLERANCE = 5e-3  # of an action between runtimes, a tenth of what the last round of a search still spreads


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper's values, in its size of 5 M parameters."""

    task: str = "walk"  # of the world, whose reward it learns
    # How plans are searched for; horizon 0 = the policy acts.
    planning: Planning = Planning("mppi", horizon=3, samples=512, iterations=6, elites=64, spread=2.0, resolution=0.01)
    proposals: int = 24  # sequences of the policy among the samples, which have room for two others
    latent: int = 512  # D, a multiple of `group`
    group: int = 8  # numbers in each simplex
    hidden: int = 512  # width of the model, values and policy
    layers: int = 2  # hidden layers of each
    encoder_hidden: int = 256  # width of the encoder
    encoder_layers: int = 1  # its hidden layers
    members: int = 5  # K, values
    unroll: int = 3  # H, decisions that losses look ahead
    decay: float = 0.5  # rho, what a decision counts beside the one before
    discount: float = 0.99  # per decision, in [0, 1)
    bins: int = 101  # classes of rewards and values
    limit: float = 10.0  # of symlog that classes reach up to
    c_latent: float = 20.0  # of latents
    c_reward: float = 0.1  # of rewards
    c_value: float = 0.1  # of values
    c_end: float = 0.1  # of whether the world goes on
    entropy: float = 1e-4  # of the policy, for each action number
    lr: float = 3e-4  # of the model, values and policy
    lr_encoder: float = 9e-5
    gradient: float = 20.0  # largest norm of a gradient, of the policy's and of all others together
    tau: float = 0.01  # moving-average rate of the target values and of S, in (0, 1]
    warmup: int = 2_500  # updates until which data are made by random actions
    inputs: Inputs = "raw"  # or "standardized", by the statistics of random actions, which may have seen little

    def __post_init__(self) -> None:
        check_ranges("tdmpc2", self, RANGES)
        check_choice("tdmpc2", "inputs", self.inputs, get_args(Inputs))
        if self.latent % self.group:
            raise InputError(f"tdmpc2: latent must be a multiple of group, {self.group}, got {self.latent}")
        if self.planning.samples < self.proposals + 2:
            least = self.proposals + 2
            raise InputError(f"tdmpc2: planning.samples must be at least {least}, got {self.planning.samples}")

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        planning = dataclasses.replace(self.planning, horizon=2, samples=16, iterations=2, elites=4)
        small = {"latent": 8, "group": 4, "hidden": 16, "layers": 1, "encoder_hidden": 16, "unroll": 2, "bins": 11}
        return dataclasses.replace(self, planning=planning, proposals=4, **small, members=3, warmup=1, lr=1e-3)


@no_type_check
@struct.dataclass
class State:
    """Parameters {encoder, dynamics, outcome, value, policy, practised}, and what learning keeps."""

    params: PyTree  # practised is 1 where data are its own and 0 while they are of random actions
    target: PyTree  # {value}
    optimizer: PyTree
    scale: Float[Array, ""]  # S
    age: Int[Array, ""]  # updates done


class Networks(NamedTuple):
    """All networks, rows [N, ...]."""

    encoder: Net  # what is observed -> z [N, D]
    dynamics: Net  # [z, a] -> z behind it [N, D]
    outcome: Net  # [z, a] -> [N, bins + 1]: logits of its reward, and of whether the world goes on
    value: Net  # [z, a] -> logits [K, N, bins]
    two: Net  # the same for two of its members
    policy: Net  # z -> means and deviations [N, 2 A], before they are squashed


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world, which learns from chains of a ring of its rollouts; its latent has width 0."""
    see = observation_inputs(config.inputs, spec, ("state",))
    net, bins = networks(config, spec), Bins(config.bins, config.limit, "symlog")
    model = ("encoder", "dynamics", "outcome", "value")
    rates = {name: config.lr_encoder if name == "encoder" else config.lr for name in model}
    optimizers = {
        "model": optax.chain(optax.clip_by_global_norm(config.gradient), adam_by_group(rates)),
        "policy": optax.chain(optax.clip_by_global_norm(config.gradient), optax.adam(config.lr)),
    }

    def init(key: RandomKey, batch: Batch) -> State:
        keys, x = jax.random.split(key, 5), see(batch.obs)
        z = jnp.zeros((len(x), config.latent))
        both = jnp.concatenate([z, batch.action], -1)
        params = {
            "encoder": net.encoder.init(keys[0], x),
            "dynamics": net.dynamics.init(keys[1], both),
            "outcome": with_head(net.outcome.init(keys[2], both), 0.0),
            "value": with_head(net.value.init(keys[3], both), 0.0),
            "policy": net.policy.init(keys[4], z),
            "practised": jnp.float32(config.warmup == 0),
        }
        states = {
            "model": optimizers["model"].init(pick(params, model)),
            "policy": optimizers["policy"].init(params["policy"]),
        }
        target = jax.tree.map(jnp.copy, pick(params, ("value",)))
        return State(params, target, states, jnp.float32(1.0), jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_aim, key_policy = jax.random.split(key)
        path, params = path_of(batch, see), state.params
        aims = net.encoder.apply(params["encoder"], path.x[1:])
        goals = targets(params["policy"], state.target["value"], path, aims, key_aim)
        grad, (latents, metrics) = jax.grad(model_loss, has_aux=True)(pick(params, model), path, aims, goals)
        delta, model_state = optimizers["model"].update(grad, state.optimizer["model"], pick(params, model))
        params = params | optax.apply_updates(pick(params, model), delta)
        metrics |= {"grad/model": optax.tree.norm(grad)}

        grad, (scale, more) = jax.grad(policy_loss, has_aux=True)(
            params["policy"], params["value"], path, latents, state.scale, key_policy
        )
        delta, policy_state = optimizers["policy"].update(grad, state.optimizer["policy"], params["policy"])
        params = params | {"policy": optax.apply_updates(params["policy"], delta)}
        metrics |= more | {"grad/policy": optax.tree.norm(grad), "reward/mean": path.reward[0].mean()}

        target = soft_update(state.target, pick(params, ("value",)), config.tau)
        age = state.age + 1
        params = params | {"practised": jnp.float32(age >= config.warmup)}
        return State(params, target, {"model": model_state, "policy": policy_state}, scale, age), metrics

    def targets(policy: Params, value: Params, path: Path, aims: Array, key: RandomKey) -> Float[Array, "C B"]:
        """y_t."""
        key_action, key_two = jax.random.split(key)
        z = aims.reshape(-1, config.latent)
        action, _ = draw(policy, z, key_action)
        worth = expected(bins, of_two(value, z, action, key_two)).min(0).reshape(path.reward.shape)
        return path.reward + config.discount * path.discount * worth

    def model_loss(
        params: Params, path: Path, aims: Array, goals: Array
    ) -> tuple[Float[Array, ""], tuple[Array, dict[str, Array]]]:
        """The loss of encoder, model and values; the latents [C + 1, B, D] that were passed through; and metrics."""
        latents = [net.encoder.apply(params["encoder"], path.x[0])]
        for action in path.action:
            latents.append(net.dynamics.apply(params["dynamics"], jnp.concatenate([latents[-1], action], -1)))
        z = jnp.stack(latents)
        both = jnp.concatenate([z[:-1], path.action], -1)
        both = both.reshape(-1, both.shape[-1])
        outcome = net.outcome.apply(params["outcome"], both).reshape(*path.reward.shape, -1)
        logits = net.value.apply(params["value"], both).reshape(config.members, *path.reward.shape, -1)
        each = {
            "model/latent": jnp.square(z[1:] - aims).mean(-1),
            "model/reward": two_hot_loss(bins, outcome[..., :-1], path.reward),
            "model/end": optax.sigmoid_binary_cross_entropy(outcome[..., -1], path.discount),
            "loss/critic": two_hot_loss(bins, logits, jnp.broadcast_to(goals, logits.shape[:-1])).mean(0),
        }
        share = config.decay ** jnp.arange(config.unroll) / config.unroll
        found = {name: share @ (path.inside * one).mean(1) for name, one in each.items()}
        counts = dict(zip(each, (config.c_latent, config.c_reward, config.c_end, config.c_value), strict=True))
        loss = sum((counts[name] * one for name, one in found.items()), jnp.float32(0.0))
        reward = jnp.abs(expected(bins, outcome[0, :, :-1]) - path.reward[0]).mean()
        metrics = {**found, "loss/world": loss, "model/reward_error": reward, "critic/target": goals.mean()}
        return loss, (jax.lax.stop_gradient(z), metrics)

    def policy_loss(
        policy: Params, value: Params, path: Path, latents: Array, scale: Array, key: RandomKey
    ) -> tuple[Float[Array, ""], tuple[Array, dict[str, Array]]]:
        """The loss of the policy on latents [C + 1, B, D], S, and metrics."""
        key_action, key_two = jax.random.split(key)
        z = latents.reshape(-1, config.latent)
        action, entropy = draw(policy, z, key_action)
        worth = expected(bins, of_two(value, z, action, key_two)).mean(0).reshape(latents.shape[:2])
        entropy = entropy.reshape(latents.shape[:2])
        scale = return_scale(scale, jax.lax.stop_gradient(worth[0]), config.tau)
        alive = jnp.cumprod(jnp.concatenate([jnp.ones_like(path.inside[:1]), path.inside * path.discount]), 0)
        share = config.decay ** jnp.arange(config.unroll + 1) / (config.unroll + 1)
        each = worth / scale + config.entropy * spec.action * entropy
        loss = -(share @ (alive * each).mean(1))
        metrics = {"loss/actor": loss, "critic/value": worth[0].mean(), "critic/scale": scale}
        return loss, (scale, metrics | {"actor/entropy": entropy.mean()})

    def of_two(value: Params, z: Array, action: Array, key: RandomKey) -> Float[Array, "2 N M"]:
        """Logits of two values, drawn without replacement."""
        which = jax.random.permutation(key, config.members)[:2]
        return net.two.apply(jax.tree.map(lambda leaf: leaf[which], value), jnp.concatenate([z, action], -1))

    def gaussian(policy: Params, z: Array) -> tuple[Array, Array]:
        """Means and logarithms of deviations [N, A] of the policy before it is squashed."""
        mean, raw = jnp.split(net.policy.apply(policy, z), 2, -1)
        low, high = LOG_STD
        return mean, low + 0.5 * (high - low) * (jnp.tanh(raw) + 1.0)

    def draw(policy: Params, z: Array, key: RandomKey) -> tuple[Float[Array, "N A"], Float[Array, " N"]]:
        """An action in (-1, 1), and the entropy of the Gaussian that it comes from."""
        mean, log_std = gaussian(policy, z)
        action = jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))
        return action, (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def ahead(params: Params, z: Array, action: Array) -> tuple[Array, Array, Array]:
        """(z behind an action, its reward, the probability that the world goes on) of rows."""
        both = jnp.concatenate([z, action], -1)
        outcome = net.outcome.apply(params["outcome"], both)
        behind = net.dynamics.apply(params["dynamics"], both)
        return behind, expected(bins, outcome[:, :-1]), jax.nn.sigmoid(outcome[:, -1])

    def worth(params: Params, z: Array) -> Float[Array, " N"]:
        """The mean of all values of what the policy would do."""
        mean, _ = gaussian(params["policy"], z)
        return expected(bins, net.value.apply(params["value"], jnp.concatenate([z, jnp.tanh(mean)], -1))).mean(0)

    def proposed(params: Params, z: Array, key: RandomKey) -> Float[Array, "Q H A"]:
        """What the policy would do from one latent on, several times."""
        z, actions = jnp.broadcast_to(z, (config.proposals, len(z))), []
        for one in jax.random.split(key, config.planning.horizon):
            actions.append(draw(params["policy"], z, one)[0])
            z = net.dynamics.apply(params["dynamics"], jnp.concatenate([z, actions[-1]], -1))
        return jnp.stack(actions, 1)

    def search(params: Params, z: Float[Array, " D"], mean: Float[Array, "H A"], key: RandomKey) -> Plan:
        """The plan of one world from a latent, which begins around `mean`."""
        key_search, key_policy = jax.random.split(key)
        start = jnp.broadcast_to(z, (config.planning.samples, len(z)))
        step = lambda z, action: ahead(params, z, action)  # noqa: E731
        score = lambda actions: imagined_return(  # noqa: E731
            step, lambda z: worth(params, z), config.discount, start, actions
        )
        proposals = proposed(params, z, key_policy) if config.proposals else None
        return plan(config.planning, score, mean, key_search, proposals)

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if not isinstance(prompt, Prior):
            raise TypeError(f"tdmpc2 takes only Prior prompts (its task is fixed), got {type(prompt).__name__}")
        return jnp.zeros((0,))

    def carry(count: int) -> Array:
        return jnp.zeros((count, config.planning.horizon, spec.action))

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        latent = net.encoder.apply(params["encoder"], see(obs))
        every = jax.vmap(search, (None, 0, 0, None))  # the same random numbers in all worlds: they are costly
        if key is None:
            if not config.planning.horizon:
                return jnp.tanh(gaussian(params["policy"], latent)[0]), carry
            nothing = jnp.zeros((len(latent), config.planning.horizon, spec.action))
            return every(params, latent, nothing, jax.random.key(0)).mean[:, 0], carry
        key_plan, key_draw, key_noise = jax.random.split(key, 3)

        def at_random() -> tuple[Array, Array]:
            shape = (len(latent), spec.action)
            return jax.random.uniform(key_draw, shape, minval=-1.0, maxval=1.0), carry

        def exploring() -> tuple[Array, Array]:
            if not config.planning.horizon:
                return draw(params["policy"], latent, key_draw)[0], carry
            found = every(params, latent, jax.vmap(shifted)(carry), key_plan)
            action = jax.vmap(drawn)(found, jax.random.split(key_draw, len(latent)))[:, 0]
            noise = found.std[:, 0] * jax.random.normal(key_noise, action.shape)
            return jnp.clip(action + noise, -1.0, 1.0), found.mean

        return jax.lax.cond(params["practised"] > 0, exploring, at_random)

    def features(params: Params, obs: Obs) -> Array:
        return net.encoder.apply(params["encoder"], see(obs))

    def imagine(params: Params, obs: Obs, actions: Array) -> Array:
        z, seen = features(params, obs), []
        for action in jnp.swapaxes(actions, 0, 1):
            z = net.dynamics.apply(params["dynamics"], jnp.concatenate([z, action], -1))
            seen.append(z)
        return jnp.stack(seen, 1)

    needs = Needs(chain=config.unroll, channels=(config.task,), replay=True)
    more: dict[str, Any] = {"features": features, "imagine": imagine, "tolerance": TOLERANCE}
    return Agent(init, update, prompt, carry, act, (Prior,), needs=needs, **more)


def networks(config: Config, spec: Spec) -> Networks:
    """Untrained networks for a world."""
    shape = (config.hidden, config.layers)
    simplex: Any = {"ending": "simplex", "group": config.group}
    return Networks(
        encoder=normed(config.encoder_hidden, config.encoder_layers, config.latent, "mish", **simplex),
        dynamics=normed(*shape, config.latent, "mish", **simplex),
        outcome=normed(*shape, config.bins + 1, "mish"),
        value=normed(*shape, config.bins, "mish", members=config.members),
        two=normed(*shape, config.bins, "mish", members=2),
        policy=normed(*shape, 2 * spec.action, "mish"),
    )
