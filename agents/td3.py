"""TD3: one actor and twin critics for one task; the single-task top line of zero-shot tables.

    y = r + discount min_k Q_k_target(s', a'),   a' = clip(pi_target(s') + clipped noise)
    critic loss = sum_k E (Q_k(s, a) - y)^2,     actor loss = -E Q_1(s, pi(s)), every `actor_every` updates

Paper: Fujimoto et al., arXiv 1802.09477. Differences from the paper: LayerNorm and tanh after the first layer (as all
networks here); the actor maximises the mean of both critics; its delay is a gated step, so every update costs the same;
targets move at every update. Held to the data (`imitation`) it is flow Q-learning (arXiv 2502.02538) with TD3's
critics, the top line of OGBench's tables. Where a world offers "privileged" observations, the critics read them too,
the actor not.
Prompts: Prior only (the task is the reward in the batch).
"""

import dataclasses
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from embodied import actor, losses, nets
from embodied.actor import Imitation
from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.mlp import MatmulType
from embodied.optim import pick, soft_update
from embodied.ranges import check_choice, check_ranges
from embodied.types import Agent, Batch, Obs, Prior, Prompt, RandomKey, Spec

RANGES = {
    "[1, inf)": ("hidden", "layers", "actor_every"),
    "[0, inf)": ("lr", "noise", "noise_clip"),
    "[0, 1)": ("discount",),
    "(0, 1]": ("tau",),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """State-based DMC values of the TD-JEPA paper's top line (arXiv 2510.00739, appendix)."""

    hidden: int = 1024  # actor and critics
    layers: int = 2  # hidden layers of actor and critics, at least 1
    discount: float = 0.98  # per decision, in [0, 1)
    tau: float = 0.005  # moving-average rate of the targets, in (0, 1]
    lr: float = 1e-4
    actor_every: int = 2  # critic updates per actor update, at least 1
    noise: float = 0.2  # standard deviation of exploration and target actions
    noise_clip: float = 0.3  # largest noise on an action
    imitation: Imitation = Imitation()  # how the actor is held to the actions of the data; then `noise` is not used
    inputs: Inputs = "raw"  # or "standardized": by the data's mean and deviation, a constant 1 appended
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        check_ranges("td3", self, RANGES)
        check_choice("td3", "inputs", self.inputs, get_args(Inputs))
        check_choice("td3", "matmul", self.matmul, get_args(MatmulType))

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, hidden=16, lr=1e-3, tau=0.01, imitation=self.imitation.tiny())


@no_type_check
@struct.dataclass
class State:
    """Online parameters {actor, critic, flow if held}, targets, optimiser state, update count for the actor delay."""

    params: PyTree
    target: PyTree
    optimizer: PyTree
    count: Array


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its latent has width 0."""
    net = _networks(config, spec)
    see = observation_inputs(config.inputs, spec, ("state",))
    know = observation_inputs(config.inputs, spec, spec.trained_on)
    pi = actor.make(
        nets.encoders.Net(
            lambda key, seen, z: net["actor"].init(key, seen),
            lambda params, seen, z: jnp.tanh(net["actor"].apply(params, seen)),
        ),
        spec,
        config.imitation,
        rate=config.lr,
        noise=(config.noise, config.noise_clip),
        smoothing=(0.0, 0.0),
        pessimism=0.0,
        dtype=config.matmul,
    )
    optimizer = optax.adam(config.lr)
    averaged = (*[name for name in pi.groups if name == "actor"], "critic")

    def init(key: RandomKey, batch: Batch) -> State:
        key_actor, key_critic = jax.random.split(key)
        params = pi.init(key_actor, see(batch.obs), _one(batch.action), batch.action)
        params["critic"] = net["critic"].init(key_critic, jnp.concatenate([know(batch.obs), batch.action], -1))
        opt_state = {"actor": pi.optimizer.init(pick(params, pi.groups)), "critic": optimizer.init(params["critic"])}
        return State(params, jax.tree.map(jnp.copy, pick(params, averaged)), opt_state, jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        x, next_x = know(batch.obs), know(batch.next_obs)
        params, target = state.params, state.target
        ahead = lambda action: net["critic"].apply(target["critic"], jnp.concatenate([next_x, action], -1))  # noqa: E731
        flow = {"flow": params["flow"]} if config.imitation.held else {}
        next_value = ahead(pi.act(flow | target, see(batch.next_obs), _one(batch.action), ahead, key))[..., 0]
        goal = jax.lax.stop_gradient(
            batch.reward + config.discount * batch.discount * losses.aggregate(next_value, 0.5)
        )
        (loss, value), grad = jax.value_and_grad(critic_loss, has_aux=True)(
            params["critic"], net, x, batch.action, goal
        )
        delta, critic_state = optimizer.update(grad, state.optimizer["critic"], params["critic"])
        critic = optax.apply_updates(params["critic"], delta)

        values = lambda action: net["critic"].apply(critic, jnp.concatenate([x, action], -1))  # noqa: E731
        acting, actor_state, actor_metrics = pi.step(
            params,
            state.optimizer["actor"],
            see(batch.obs),
            _one(batch.action),
            batch.action,
            values,
            jax.random.fold_in(key, 1),
        )
        due = state.count % config.actor_every == 0
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)  # noqa: E731
        new_params = choose(acting, pick(params, tuple(acting))) | {"critic": critic}
        opt_state = {"actor": choose(actor_state, state.optimizer["actor"]), "critic": critic_state}
        new_target = soft_update(target, pick(new_params, averaged), config.tau)
        metrics = {"loss/critic": loss, "critic/value": value, "grad/critic": optax.tree.norm(grad)}
        return State(new_params, new_target, opt_state, state.count + 1), metrics | actor_metrics

    def prompt(params: PyTree, prompt: Prompt, key: RandomKey) -> Array:
        if not isinstance(prompt, Prior):
            raise TypeError(f"td3 takes only Prior prompts (its task is fixed), got {type(prompt).__name__}")
        return jnp.zeros((0,))

    def act(params: PyTree, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        seen = see(obs)
        values = lambda action: net["critic"].apply(params["critic"], jnp.concatenate([seen, action], -1))  # noqa: E731
        return pi.act(params, seen, _one(seen), values, key), carry

    drawn = config.imitation.held
    return Agent(init, update, prompt, lambda count: (), act, (Prior,), drawn=drawn)


def _networks(config: Config, spec: Spec) -> dict[str, nets.encoders.Net]:
    mlp = lambda out, members: nets.encoders.encoder(  # noqa: E731
        config.hidden, config.layers, out, on_sphere=False, members=members, dtype=config.matmul
    )
    return {"actor": mlp(spec.action, 0), "critic": mlp(1, 2)}


def critic_loss(
    params: PyTree, net: dict[str, nets.encoders.Net], x: Array, action: Array, goal: Float[Array, " B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The summed squared temporal-difference error of both critics, and their mean value."""
    value = net["critic"].apply(params, jnp.concatenate([x, action], -1))[..., 0]
    return jnp.square(value - goal[None]).mean(1).sum(), value.mean()


def _one(rows: Float[Array, "B n"]) -> Float[Array, "B 1"]:
    """The latent of the only task: a value is its product with one successor feature, the critic's output."""
    return jnp.ones((len(rows), 1))
