"""Random network distillation: an explorer whose reward is how badly it predicts a fixed random network.

    e(s') = mean_i (f_i(s') - f_random,i(s'))^2,    r = e / running root mean square of e,    f learns to lower e

The reward feeds TD3 (`agents/td3.py`). Paper: Burda et al., arXiv 1810.12894, used for reward-free data as in ExoRL
(arXiv 2201.13425). Differences from the papers: observations are normalised by running moments inside the state, so
the explorer needs no statistics beforehand. Where a world offers "privileged" observations, novelty is judged by them
too: representations will be trained on them, and no noise in them can pass for novelty. The actor does without.
Prompts: Prior only.
"""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, PyTree

from agents import td3
from embodied import nets
from embodied.data.normalize import observation_inputs
from embodied.ranges import check_ranges
from embodied.types import Agent, Batch, Obs, RandomKey, Spec

RANGES = {"[1, inf)": ("hidden", "features"), "[0, inf)": ("lr",), "[0, 1)": ("momentum",)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Explorer and predictor."""

    explorer: td3.Config = td3.Config(hidden=256, discount=0.99, lr=3e-4, tau=0.01)
    hidden: int = 256  # of both distillation networks
    features: int = 64  # outputs of both distillation networks
    lr: float = 1e-4  # of the predictor
    momentum: float = 0.999  # of the running moments, in [0, 1)

    def __post_init__(self) -> None:
        check_ranges("rnd", self, RANGES)

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, explorer=self.explorer.tiny(), hidden=16, features=8)


@no_type_check
@struct.dataclass
class State:
    """The explorer's own state, the distillation networks and the running moments."""

    explorer: PyTree
    predictor: PyTree
    random: PyTree
    optimizer: PyTree
    moments: PyTree  # mean and variance of observations, mean square of the error

    @property
    def params(self) -> PyTree:
        """What acting needs."""
        return self.explorer.params | {"moments": self.moments}


def make(config: Config, spec: Spec) -> Agent:
    """The explorer for a world."""
    explorer = td3.make(config.explorer, spec)
    network = nets.encoders.encoder(config.hidden, 2, config.features, on_sphere=False)
    optimizer = optax.adam(config.lr)

    join = observation_inputs("raw", spec, spec.trained_on)
    ends = np.cumsum([0, *(spec.obs[name][0] for name in spec.trained_on)]).tolist()
    columns = dict(zip(spec.trained_on, map(slice, ends[:-1], ends[1:]), strict=True))  # in what `join` gives

    def normalise(moments: PyTree, obs: Obs) -> Obs:
        def one(x: Array, where: slice) -> Array:
            x = (x - moments["mean"][where][None]) / jnp.sqrt(moments["variance"][where] + 1e-6)[None]
            return jnp.clip(x, -5.0, 5.0)

        # Whoever acts has the state alone.
        return dict(obs) | {name: one(obs[name], where) for name, where in columns.items() if name in obs}

    def init(key: RandomKey, batch: Batch) -> State:
        key_explorer, key_predictor, key_random = jax.random.split(key, 3)
        x = join(batch.obs)
        predictor = network.init(key_predictor, x)
        moments = {"mean": jnp.zeros(x.shape[1]), "variance": jnp.ones(x.shape[1]), "error": jnp.float32(1.0)}
        return State(
            explorer.init(key_explorer, batch),
            predictor,
            network.init(key_random, x),
            optimizer.init(predictor),
            moments,
        )

    def update(state: State, batch: Batch, key: RandomKey) -> tuple[State, dict[str, Array]]:
        moments = _update_moments(state.moments, join(batch.next_obs), config.momentum)
        batch = batch.replace(obs=normalise(moments, batch.obs), next_obs=normalise(moments, batch.next_obs))
        x = join(batch.next_obs)
        wanted = network.apply(state.random, x)

        def distillation(params: PyTree) -> tuple[Array, Array]:
            error = jnp.square(network.apply(params, x) - wanted).mean(-1)
            return error.mean(), error

        grad, error = jax.grad(distillation, has_aux=True)(state.predictor)
        delta, opt_state = optimizer.update(grad, state.optimizer)
        scale = config.momentum * moments["error"] + (1 - config.momentum) * jnp.square(error).mean()
        reward = error / jnp.sqrt(scale + 1e-12)
        inner, metrics = explorer.update(state.explorer, batch.replace(reward=reward), key)
        new_state = State(
            inner,
            optax.apply_updates(state.predictor, delta),
            state.random,
            opt_state,
            moments | {"error": scale},
        )
        return new_state, metrics | {"loss/distillation": error.mean(), "rnd/reward": reward.mean()}

    def act(params: PyTree, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        inner = {name: group for name, group in params.items() if name != "moments"}
        return explorer.act(inner, normalise(params["moments"], obs), z, carry, key)

    return Agent(init, update, explorer.prompt, explorer.carry, act, explorer.prompts)


def _update_moments(moments: PyTree, x: Array, momentum: float) -> PyTree:
    mean = momentum * moments["mean"] + (1 - momentum) * x.mean(0)
    variance = momentum * moments["variance"] + (1 - momentum) * jnp.square(x - mean[None]).mean(0)
    return moments | {"mean": mean, "variance": variance}
