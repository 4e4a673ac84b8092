"""MR.Q: values of one task in features that a model of the world has made, without planning in it.

Features z = f(s) of states and y = g(z, a) of decisions are learnt from what follows them, by heads M that are linear
in y. From z_0 = f(s_0) on they are unrolled along the actions of the data, (z_t, rho_t, e_t) = M g(z_t-1, a_t-1), for H
decisions,

    model   = sum_t E[ |z_t - f_before(s_t)|^2 / D + c_r CE(rho_t, two-hot(r_t)) + c_e (e_t - ended_t)^2 ]

while the episode lasts; rewards are classes of `embodied/values.py` ("symexp"). Values and policy read the features
and do not change them. With R the discounted sum of n rewards, m <= n the decisions that the episode still had, s' the
state behind them and z' = f_before(s'),

    target  = ( R + discount^m going scale_before min_k Q_target,k(y') ) / scale,
              y' = g_before(z', clip(pi_target(z') + clipped noise))
    critics = sum_k E[ huber( Q_k(y) - target ) ]
    policy  = -E[ mean_k Q_k(g(z, pi(z))) ] + c_p E[ u^2 ],    pi = tanh(u)

scale is the mean size |r| of a reward, so that values of all worlds are of one size. Once in `period` updates all
targets become what is learnt now, at once: f_before, g_before, Q_target, pi_target, scale_before, and scale.

Paper: MR.Q, Fujimoto et al., arXiv 2501.16142. Differences from the paper: where targets are copied, the paper trains
features for `period` updates in a row, and then values in features that stand still. Here each update learns both,
features in a copy that values see when targets are copied the next time: as many updates of either, each on as fixed a
ground, features later by a period. Both learn from one batch, drawn uniformly and not by its errors. The scale is a
moving mean over batches. Data of the first `warmup` updates are random actions. Weights are orthogonal at first, the
last layers of heads, values and policy small. Prompts: Prior only (the task is its own).
"""

import dataclasses
from typing import Any, NamedTuple, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PyTree

from embodied.data.dataset import Path, path_of
from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.encoders import Net, mlp, with_head
from embodied.nets.normed import normed
from embodied.optim import by_group, pick
from embodied.ranges import check_choice, check_ranges
from embodied.types import Agent, Batch, InputError, Needs, Obs, Params, Prior, Prompt, RandomKey, Spec
from embodied.values import Bins, expected, lambda_returns, two_hot_loss

RANGES = {
    "[1, inf)": ("latent", "hidden", "layers", "action_width", "unroll", "steps", "period"),
    "[2, inf)": ("bins",),
    "[0, inf)": ("lr_model", "lr", "decay", "c_reward", "c_end", "c_policy", "noise", "smoothing", "clip", "warmup"),
    "(0, inf)": ("limit", "gradient"),
    "[0, 1)": ("discount",),
}
MOMENTUM = 0.99  # of the mean size of rewards


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper's values for all of its worlds."""

    task: str = "walk"  # of the world, whose reward it learns
    latent: int = 512  # D, width of features of states and of decisions
    hidden: int = 512  # width of all networks
    layers: int = 2  # hidden layers of each
    action_width: int = 256  # of an action before it meets the features of the state
    unroll: int = 5  # H, decisions that the model looks ahead
    steps: int = 3  # n, rewards in a target before values take over; at most `unroll`
    discount: float = 0.99  # per decision, in [0, 1)
    period: int = 250  # updates between copies to targets
    bins: int = 65  # classes of rewards
    limit: float = 10.0  # of symlog(reward) that classes reach up to
    c_reward: float = 0.1  # of the reward beside features
    c_end: float = 0.1  # of terminations beside features
    c_policy: float = 1e-5  # of the squares of what the policy is before it is squashed
    lr_model: float = 1e-4  # of features and heads
    lr: float = 3e-4  # of values and policy
    decay: float = 1e-4  # of all weights
    gradient: float = 20.0  # largest norm of a gradient of the values
    noise: float = 0.2  # standard deviation of exploration
    smoothing: float = 0.2  # standard deviation of what is added to actions of targets
    clip: float = 0.3  # its largest value
    warmup: int = 10_000  # updates until which data are made by random actions
    inputs: Inputs = "raw"  # or "standardized", by the statistics of random actions, which may have seen little

    def __post_init__(self) -> None:
        check_ranges("mrq", self, RANGES)
        check_choice("mrq", "inputs", self.inputs, get_args(Inputs))
        if self.steps > self.unroll:
            raise InputError(f"mrq: steps must be at most unroll, {self.unroll}, got {self.steps}")

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        small = {"latent": 8, "hidden": 16, "layers": 1, "action_width": 8, "unroll": 2, "steps": 2, "bins": 9}
        return dataclasses.replace(self, **small, period=2, warmup=1, lr_model=1e-3, lr=1e-3)


@no_type_check
@struct.dataclass
class State:
    """Parameters {state: f, pair: g, values, policy, practised}, and what learning keeps."""

    params: PyTree  # practised is 1 where data are its own and 0 while they are of random actions
    target: PyTree  # {state, pair, values, policy} of the period before
    model: PyTree  # {state, pair, heads} that learn; what values and policy read is their copy
    optimizer: PyTree
    sizes: Float[Array, " 3"]  # of rewards: their moving mean, scale, scale_before
    age: Int[Array, ""]  # updates done


class Networks(NamedTuple):
    """All networks, rows [N, ...]."""

    state: Net  # what is observed -> z [N, D]
    pair: Net  # (z, action) -> y [N, D]
    heads: Net  # y -> [N, D + bins + 1]: z behind the decision, logits of its reward, whether it ends the episode
    values: Net  # y -> [2, N, 1]
    policy: Net  # z -> u [N, A]


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world, which learns from chains of a ring of its rollouts; its latent has width 0."""
    see = observation_inputs(config.inputs, spec, ("state",))
    net, bins = networks(config, spec), Bins(config.bins, config.limit, "symexp")
    learned, averaged = ("values", "policy"), ("state", "pair", "values", "policy")
    adam = optax.adamw(config.lr, weight_decay=config.decay)
    optimizers = {
        "model": optax.adamw(config.lr_model, weight_decay=config.decay),
        "control": by_group({"values": optax.chain(optax.clip_by_global_norm(config.gradient), adam), "policy": adam}),
    }

    def init(key: RandomKey, batch: Batch) -> State:
        keys, x = jax.random.split(key, 5), see(batch.obs)
        z = jnp.zeros((len(x), config.latent))
        model = {"state": net.state.init(keys[0], x), "pair": net.pair.init(keys[1], z, batch.action)}
        params = jax.tree.map(jnp.copy, model) | {
            "values": with_head(net.values.init(keys[2], z), 0.1),
            "policy": with_head(net.policy.init(keys[3], z), 0.1),
            "practised": jnp.float32(config.warmup == 0),
        }
        model |= {"heads": with_head(net.heads.init(keys[4], z), 0.1)}
        states = {
            "model": optimizers["model"].init(model),
            "control": optimizers["control"].init(pick(params, learned)),
        }
        target = jax.tree.map(jnp.copy, pick(params, averaged))
        return State(params, target, model, states, jnp.ones(3), jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        path, params = path_of(batch, see), state.params
        now = jnp.abs(path.reward[0]).mean()
        size = jnp.where(state.age == 0, now, MOMENTUM * state.sizes[0] + (1 - MOMENTUM) * now)
        sizes = jnp.where(state.age == 0, size_or_one(size), state.sizes).at[0].set(size)

        aims = net.state.apply(params["state"], path.x[1:])
        grad, metrics = jax.grad(model_loss, has_aux=True)(state.model, config, net, bins, path, aims)
        delta, model_state = optimizers["model"].update(grad, state.optimizer["model"], state.model)
        model = optax.apply_updates(state.model, delta)
        metrics |= {"grad/model": optax.tree.norm(grad)}

        goal = targets(state.target, path, sizes, key)
        grad, more = jax.grad(control_loss, has_aux=True)(pick(params, learned), params, path, goal)
        delta, control_state = optimizers["control"].update(grad, state.optimizer["control"], pick(params, learned))
        params = params | optax.apply_updates(pick(params, learned), delta)
        metrics |= more | {f"grad/{name}": optax.tree.norm(grad[name]) for name in learned}
        metrics |= {"reward/mean": path.reward[0].mean(), "reward/scale": sizes[1]}

        age = state.age + 1
        due = age % config.period == 0
        either = lambda new, old: jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)  # noqa: E731
        target = either(pick(params, averaged), state.target)
        params = params | either(pick(model, ("state", "pair")), pick(params, ("state", "pair")))
        params = params | {"practised": jnp.float32(age >= config.warmup)}
        sizes = either(jnp.stack([size, size_or_one(size), sizes[1]]), sizes)
        states = {"model": model_state, "control": control_state}
        return State(params, target, model, states, sizes, age), metrics

    def targets(target: Params, path: Path, sizes: Array, key: RandomKey) -> Float[Array, " B"]:
        """What values of the first decisions learn: n rewards and the value behind them, in units of `scale`."""
        z = net.state.apply(target["state"], path.x[config.steps])
        noise = jnp.clip(config.smoothing * jax.random.normal(key, path.action.shape[1:]), -config.clip, config.clip)
        action = jnp.clip(jnp.tanh(net.policy.apply(target["policy"], z)) + noise, -1.0, 1.0)
        behind = net.values.apply(target["values"], net.pair.apply(target["pair"], z, action))[..., 0].min(0)
        first = jax.tree.map(lambda leaf: leaf[: config.steps], path)
        # Behind the end of an episode nothing is paid, and nothing discounted.
        discount = jnp.where(first.inside > 0, config.discount * first.discount, 1.0)
        values = jnp.broadcast_to(sizes[2] * behind, first.reward.shape)
        return lambda_returns(first.inside * first.reward, discount, values, 1.0)[0] / sizes[1]

    def control_loss(moved: Params, params: Params, path: Path, goal: Array) -> tuple[Array, dict[str, Array]]:
        """The losses of values and policy, of which each moves its own parameters alone, and metrics."""
        z = net.state.apply(params["state"], path.x[0])
        value = net.values.apply(moved["values"], net.pair.apply(params["pair"], z, path.action[0]))[..., 0]
        critic = optax.huber_loss(value, jnp.broadcast_to(goal, value.shape)).mean(-1).sum()
        raw = net.policy.apply(moved["policy"], z)
        chosen = net.values.apply(params["values"], net.pair.apply(params["pair"], z, jnp.tanh(raw)))
        actor = -chosen.mean() + config.c_policy * jnp.square(raw).mean()
        metrics = {"loss/critic": critic, "loss/actor": actor, "critic/value": value.mean()}
        return critic + actor, metrics | {"actor/saturation": (jnp.abs(jnp.tanh(raw)) > 0.95).mean()}

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if not isinstance(prompt, Prior):
            raise TypeError(f"mrq takes only Prior prompts (its task is fixed), got {type(prompt).__name__}")
        return jnp.zeros((0,))

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        mean = jnp.tanh(net.policy.apply(params["policy"], net.state.apply(params["state"], see(obs))))
        if key is None:
            return mean, carry
        key_noise, key_action = jax.random.split(key)
        noisy = jnp.clip(mean + config.noise * jax.random.normal(key_noise, mean.shape), -1.0, 1.0)
        anything = jax.random.uniform(key_action, mean.shape, minval=-1.0, maxval=1.0)
        return jnp.where(params["practised"] > 0, noisy, anything), carry

    def features(params: Params, obs: Obs) -> Array:
        return net.state.apply(params["state"], see(obs))

    needs = Needs(chain=config.unroll, channels=(config.task,), replay=True)
    return Agent(init, update, prompt, lambda count: (), act, (Prior,), needs=needs, features=features)


def networks(config: Config, spec: Spec) -> Networks:
    """Untrained networks for a world."""
    embed = mlp(config.action_width, 0, config.action_width)
    trunk = normed(config.hidden, config.layers, config.latent, "elu")

    def init_pair(key: RandomKey, z: Array, action: Array) -> Params:
        key_action, key_both = jax.random.split(key)
        both = jnp.zeros((len(z), config.latent + config.action_width))
        return {"action": embed.init(key_action, action), "both": trunk.init(key_both, both)}

    def pair(params: Params, z: Array, action: Array) -> Array:
        known = jax.nn.elu(embed.apply(params["action"], action))
        return trunk.apply(params["both"], jnp.concatenate([z, known], -1))

    return Networks(
        state=normed(config.hidden, config.layers, config.latent, "elu", ending="activation"),
        pair=Net(init_pair, pair),
        heads=mlp(config.hidden, 0, config.latent + config.bins + 1),
        values=normed(config.hidden, config.layers, 1, "elu", members=2),
        policy=normed(config.hidden, config.layers, spec.action, "relu"),
    )


def model_loss(
    model: Params, config: Config, net: Networks, bins: Bins, path: Path, aims: Float[Array, "C B D"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """How well features, rewards and ends of `unroll` decisions are foreseen from the first state, and metrics."""
    z, outs = net.state.apply(model["state"], path.x[0]), []
    for action in path.action:
        outs.append(net.heads.apply(model["heads"], net.pair.apply(model["pair"], z, action)))
        z = outs[-1][:, : config.latent]
    out = jnp.stack(outs)
    error = {
        "model/features": jnp.square(out[..., : config.latent] - aims).mean(-1),
        "model/reward": two_hot_loss(bins, out[..., config.latent : -1], path.reward),
        "model/end": jnp.square(out[..., -1] - (1.0 - path.discount)),
    }
    found = {name: (path.inside * one).mean(1).sum() for name, one in error.items()}
    loss = found["model/features"] + config.c_reward * found["model/reward"] + config.c_end * found["model/end"]
    reward = expected(bins, out[0, :, config.latent : -1])
    apart = jnp.abs(reward - path.reward[0]).mean()
    return loss, {**found, "loss/world": loss, "model/reward_error": apart}


def size_or_one(size: Float[Array, ""]) -> Float[Array, ""]:
    """The size of rewards that values are divided by: 1 while there were none."""
    return jnp.where(size > 0, size, 1.0)
