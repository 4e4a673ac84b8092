"""Goal-conditioned behaviour cloning: does what the data did where they came to the goal later.

    loss = E |pi(s_t, z) - a_t|^2,    z = latent of s_{t+k},   P(k) ~ future^k,  k = 1, 2, ... within the episode

Goals are seen by the actor as the observation itself is: a latent is [x, 1] on the sphere for the goal x, which for
pixels is the features of its image, learned by the same loss. That of the prior is of x ~ N(0, I). It knows no world
and no rewards: what planning gains over its data is measured against it.
Papers: Ghosh et al., arXiv 1912.06088; as a baseline, Park et al., arXiv 2410.20092. Differences from the papers: goals
are of the data alone; without a key actions are the mean, and with one they have noise. Prompts: Goal, Motion, Prior.
"""

import dataclasses
import functools
from typing import Any, get_args, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, PyTree

from agents import kinds
from embodied import losses, sight
from embodied.data.normalize import Inputs
from embodied.nets import encoders
from embodied.nets.mlp import MatmulType
from embodied.optim import adam_by_group
from embodied.ranges import check_choice, check_ranges
from embodied.sight import Image
from embodied.types import Agent, Batch, Goal, Motion, Needs, Obs, Params, Prior, Prompt, RandomKey, Spec

RANGES = {
    "[2, inf)": ("hidden",),
    "[0, inf)": ("layers", "lr", "noise"),
    "[0, 1)": ("future",),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Published OGBench sizes (arXiv 2410.20092)."""

    hidden: int = 512  # even
    layers: int = 2  # hidden layers after the embeddings
    future: float = 0.98  # how far ahead goals lie, as a discount per decision, in [0, 1)
    noise: float = 0.2  # standard deviation of exploration
    lr: float = 3e-4
    inputs: Inputs = "standardized"  # by the data's mean and deviation, a constant 1 appended; or "raw"
    image: Image = Image()  # how observations of pixels are read
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        check_ranges("gcbc", self, RANGES)
        check_choice("gcbc", "inputs", self.inputs, get_args(Inputs))
        check_choice("gcbc", "matmul", self.matmul, get_args(MatmulType))

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, hidden=16, layers=1, image=self.image.tiny())


@no_type_check
@struct.dataclass
class State:
    """Parameters {actor, and the image encoders of observations and goals where it sees pixels}, optimiser state."""

    params: PyTree
    optimizer: PyTree


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world."""
    actor = encoders.actor(config.hidden, config.layers, spec.action, dtype=config.matmul)
    see = sight.make(config, spec, spec.acted_on, "actor_image")
    aim = sight.make(config, spec, spec.acted_on, "goal_image")
    optimizer = adam_by_group({name: config.lr for name in ("actor", *see.groups, *aim.groups)})

    def init(key: RandomKey, batch: Batch) -> State:
        params = see.init(key) | aim.init(key)
        z = kinds.latent_of(aim.read(params, batch.obs))
        params |= {"actor": actor.init(key, see.read(params, batch.obs), z)}
        return State(params, optimizer.init(params))

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        batch = sight.shifted(config, batch, key)

        def loss(params: Params) -> Array:
            z = kinds.latent_of(aim.read(params, batch.future))
            action = actor.apply(params["actor"], see.read(params, batch.obs), z)
            return jnp.square(action - batch.action).sum(-1).mean()

        value, grad = jax.value_and_grad(loss)(state.params)
        delta, opt_state = optimizer.update(grad, state.optimizer, state.params)
        metrics = {"loss/world": value, "grad/actor": optax.tree.norm(grad)}
        return State(optax.apply_updates(state.params, delta), opt_state), metrics

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        width = aim.read(params, spec.example(1).obs).shape[-1]
        return kinds.answered("gcbc", functools.partial(aim.read, params), width, prompt, key)

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        seen = see.read(params, obs)
        mean = actor.apply(params["actor"], seen, jnp.broadcast_to(z, (len(seen), z.shape[-1])))
        return (mean if key is None else losses.explore(key, mean, config.noise, 2 * config.noise)), carry

    prompts = (Goal, Motion, Prior)
    return Agent(init, update, prompt, lambda count: (), act, prompts, needs=Needs(future=config.future))
