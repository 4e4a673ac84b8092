"""Acting with several latents: generalised policy improvement (GPI) over the answers to one reward.

At each step the latent whose policy promises most of that reward acts: argmax_k V^{pi_k}(s), with the agent's value,
which applies the reward's prediction from features to successor features. Barreto et al., arXiv 1606.05312; the maximum
is over policies alone, since actions are continuous here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from embodied import prompts
from embodied.policy import Policy
from embodied.rollout import Behaviour
from embodied.types import Agent, Carry, InputError, Obs, Params, RandomKey, Reward, obs_type

# The value is computed from the prompt's rows at every step; so many fix the reward's weights well enough.
VALUE_ROWS = 2048


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """A policy with several latents for one reward."""

    policy: Policy
    z: np.ndarray  # [K, D]
    prompt: Reward  # whose value chooses

    @property
    def params(self) -> tuple[Params, Reward, Any]:
        """What `improving` takes in place of an agent's parameters."""
        head = jax.tree.map(lambda leaf: leaf[:VALUE_ROWS], self.prompt)
        return self.policy.params, head, jnp.asarray(self.z)

    def carry(self) -> Carry:
        """What `act` remembers at the start of an episode."""
        return self.policy.agent.carry(1)

    def act(self, obs: Obs, carry: Carry) -> tuple[Float[np.ndarray, " A"], Carry]:
        """The action for one observation (leaves without a batch axis), in [-1, 1], and the next carry."""
        batched = {name: jnp.asarray(leaf, obs_type(name))[None] for name, leaf in obs.items()}
        behave = _compiled(self.policy.agent)
        action, (_, _, inner) = behave(batched, (self.params, None, carry), jax.random.key(0))
        return np.asarray(action[0]), inner


def ensemble(policy: Policy, prompt: Reward, count: int, seed: int) -> Ensemble:
    """The latent of a prompt and `count` more, each of its rows resampled; raises InputError without a value."""
    if policy.agent.value is None:
        raise InputError(
            f"bootstraps: must be 0 for '{policy.agent_name}', which has no value to choose by, got {count}"
        )
    asked = [prompt, *prompts.resampled(prompt, count, seed)]
    return Ensemble(policy, np.stack([policy.prompt(one, seed).z for one in asked]), prompt)


@functools.lru_cache(maxsize=8)
def improving(agent: Agent) -> Behaviour:
    """GPI as a behaviour whose carry is `(Ensemble.params, anything, inner carry)`; the same one for the same agent."""
    value = agent.value
    assert value is not None

    def behave(obs: Obs, carry: tuple[Any, Any, Carry], key: RandomKey) -> tuple[Any, Carry]:
        (params, prompt, latents), unused, inner = carry
        promised = jax.vmap(value, (None, None, 0, None))(params, prompt, latents, obs)
        action, inner = agent.act(params, obs, latents[jnp.argmax(promised, 0)], inner, None)
        return action, ((params, prompt, latents), unused, inner)

    return behave


@functools.lru_cache(maxsize=8)
def _compiled(agent: Agent) -> Any:
    return jax.jit(improving(agent))
