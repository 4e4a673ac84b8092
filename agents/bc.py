"""Behaviour cloning by a flow: acts as the data do, whatever its actions were meant for.

    loss  = E | v(s, (1 - t) w + t a, t) - (a - w) |^2,   t uniform in [0, 1], w ~ N(0, I)
    pi(s) = where Euler steps along v lead from w

It has no latent and asks for nothing: what a method gains over its data is measured against it. A finished run can
be the teacher of actors that are held to the data (`embodied/actor.py`), since their flow is this one.
Papers: flow matching, Lipman et al., arXiv 2210.02747; as the teacher of an actor, Park et al., arXiv 2502.02538.
Without a key it starts at w = 0. Prompts: Prior.
"""

import dataclasses
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, PyTree

from embodied import losses, sight
from embodied.data.normalize import Inputs
from embodied.nets.encoders import flow_field
from embodied.nets.mlp import MatmulType
from embodied.optim import adam_by_group
from embodied.ranges import check_choice, check_ranges
from embodied.sight import Image
from embodied.types import Agent, Batch, Obs, Params, Prior, Prompt, RandomKey, Spec

RANGES = {"[1, inf)": ("hidden", "layers", "steps"), "[0, inf)": ("lr",)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Published OGBench values of the teacher (TD-JEPA, arXiv 2510.00739, appendix)."""

    hidden: int = 512
    layers: int = 4  # hidden layers
    steps: int = 10  # along the flow
    lr: float = 3e-4
    inputs: Inputs = "raw"  # or "standardized": by the data's mean and deviation, a constant 1 appended
    image: Image = Image()  # how observations of pixels are read
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        check_ranges("bc", self, RANGES)
        check_choice("bc", "inputs", self.inputs, get_args(Inputs))
        check_choice("bc", "matmul", self.matmul, get_args(MatmulType))

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, hidden=16, layers=1, steps=2, image=self.image.tiny())


@no_type_check
@struct.dataclass
class State:
    """Parameters {flow, and its image encoder where it sees pixels} and optimiser state."""

    params: PyTree
    optimizer: PyTree


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its latent has width 0."""
    field = flow_field(config.hidden, config.layers, spec.action, dtype=config.matmul)
    see = sight.make(config, spec, spec.acted_on, "flow_image")
    optimizer = adam_by_group({name: config.lr for name in ("flow", *see.groups)})

    def init(key: RandomKey, batch: Batch) -> State:
        params = see.init(key)
        time = jnp.zeros((len(batch.action), 1))
        params |= {"flow": field.init(key, see.read(params, batch.obs), batch.action, time)}
        return State(params, optimizer.init(params))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        key_noise, key_time = jax.random.split(key)
        batch = sight.shifted(config, batch, key)
        noise = jax.random.normal(key_noise, batch.action.shape)

        def loss(params: Params) -> Array:
            seen = see.read(params, batch.obs)
            velocity = lambda x, time: field.apply(params["flow"], seen, x, time)  # noqa: E731
            return losses.flow_loss(velocity, noise, batch.action, key_time)

        value, grad = jax.value_and_grad(loss)(state.params)
        delta, opt_state = optimizer.update(grad, state.optimizer, state.params)
        metrics = {"loss/flow": value, "grad/flow": optax.tree.norm(grad)}
        return State(optax.apply_updates(state.params, delta), opt_state), metrics

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        if not isinstance(prompt, Prior):
            raise TypeError(f"bc takes only Prior prompts (it imitates its data), got {type(prompt).__name__}")
        return jnp.zeros((0,))

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        seen = see.read(params, obs)
        shape = (len(seen), spec.action)
        noise = jnp.zeros(shape) if key is None else jax.random.normal(key, shape)
        velocity = lambda x, time: field.apply(params["flow"], seen, x, time)  # noqa: E731
        return losses.follow_flow(velocity, noise, config.steps), carry

    return Agent(init, update, prompt, lambda count: (), act, (Prior,), drawn=True)
