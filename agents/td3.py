"""TD3: one actor and twin critics for one task; the single-task top line of zero-shot tables.

    y = r + discount min_k Q_k_target(s', a'),   a' = clip(pi_target(s') + clipped noise)
    critic loss = sum_k E (Q_k(s, a) - y)^2,     actor loss = -E Q_1(s, pi(s)), every `actor_every` updates

Paper: Fujimoto et al., arXiv 1802.09477. Differences from the paper: LayerNorm and tanh after the first layer (as all
networks here); the actor maximises the mean of both critics; its delay is a gated step, so every update costs the same;
targets move at every update. Where a world offers "privileged" observations, the critics read them too, the actor not.
Prompts: Prior only (the task is the reward in the batch).
"""

import dataclasses
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, PyTree

from embodied import losses, nets
from embodied.data.normalize import Inputs, observation_inputs
from embodied.nets.mlp import MatmulType
from embodied.optim import soft_update
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
    inputs: Inputs = "raw"  # or "standardized": by the data's mean and deviation, a constant 1 appended
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        check_ranges("td3", self, RANGES)
        check_choice("td3", "inputs", self.inputs, get_args(Inputs))
        check_choice("td3", "matmul", self.matmul, get_args(MatmulType))

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, hidden=16, lr=1e-3, tau=0.01)


@no_type_check
@struct.dataclass
class State:
    """Online parameters {actor, critic}, moving-average targets, optimiser state, update count for the actor delay."""

    params: PyTree
    target: PyTree
    optimizer: PyTree
    count: Array


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its latent has width 0."""
    net = _networks(config, spec)
    see = observation_inputs(config.inputs, spec, ("state",))
    know = observation_inputs(config.inputs, spec, spec.trained_on)
    optimizer = optax.adam(config.lr)

    def init(key: RandomKey, batch: Batch) -> State:
        key_actor, key_critic = jax.random.split(key)
        params = {
            "actor": net["actor"].init(key_actor, see(batch.obs)),
            "critic": net["critic"].init(key_critic, jnp.concatenate([know(batch.obs), batch.action], -1)),
        }
        opt_state = {name: optimizer.init(group) for name, group in params.items()}
        return State(params, jax.tree.map(jnp.copy, params), opt_state, jnp.int32(0))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        x, next_x = know(batch.obs), know(batch.next_obs)
        params, target = state.params, state.target
        mean = jnp.tanh(net["actor"].apply(target["actor"], see(batch.next_obs)))
        next_action = losses.explore(key, mean, config.noise, config.noise_clip)
        next_value = net["critic"].apply(target["critic"], jnp.concatenate([next_x, next_action], -1))[..., 0]
        goal = jax.lax.stop_gradient(
            batch.reward + config.discount * batch.discount * losses.aggregate(next_value, 0.5)
        )
        (loss, value), grad = jax.value_and_grad(critic_loss, has_aux=True)(
            params["critic"], net, x, batch.action, goal
        )
        delta, critic_state = optimizer.update(grad, state.optimizer["critic"], params["critic"])
        critic = optax.apply_updates(params["critic"], delta)

        actor_value, actor_grad = jax.value_and_grad(actor_objective)(params["actor"], net, critic, see(batch.obs), x)
        delta, actor_state = optimizer.update(actor_grad, state.optimizer["actor"], params["actor"])
        due = state.count % config.actor_every == 0
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)  # noqa: E731
        actor = choose(optax.apply_updates(params["actor"], delta), params["actor"])
        new_params = {"actor": actor, "critic": critic}
        opt_state = {"actor": choose(actor_state, state.optimizer["actor"]), "critic": critic_state}
        new_state = State(new_params, soft_update(target, new_params, config.tau), opt_state, state.count + 1)
        metrics = {"loss/critic": loss, "critic/value": value, "actor/value": -actor_value}
        metrics |= {"grad/critic": optax.tree.norm(grad), "grad/actor": optax.tree.norm(actor_grad)}
        return new_state, metrics

    def prompt(params: PyTree, prompt: Prompt, key: RandomKey) -> Array:
        if not isinstance(prompt, Prior):
            raise TypeError(f"td3 takes only Prior prompts (its task is fixed), got {type(prompt).__name__}")
        return jnp.zeros((0,))

    def act(params: PyTree, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        mean = jnp.tanh(net["actor"].apply(params["actor"], see(obs)))
        return (mean if key is None else losses.explore(key, mean, config.noise, config.noise_clip)), carry

    return Agent(init, update, prompt, lambda count: (), act, (Prior,))


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


def actor_objective(
    params: PyTree, net: dict[str, nets.encoders.Net], critic: PyTree, seen: Float[Array, "B S"], x: Float[Array, "B I"]
) -> Float[Array, ""]:
    """-mean value, by what the critic reads (x), of the actor's own actions, by what it sees; only it gets gradient."""
    action = jnp.tanh(net["actor"].apply(params, seen))
    return -net["critic"].apply(critic, jnp.concatenate([x, action], -1)).mean()
