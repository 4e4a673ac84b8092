"""A world whose actions are skills: each decision says what a frozen policy is told for its next few decisions.

Whoever acts in worlds acts in this one: an agent that learns in it is the upper level of a hierarchy, a planner that
searches in it plans over skills, and data collected in it teach what skills lead to.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from embodied.nets.encoders import project
from embodied.rollout import still_behaviour
from embodied.types import Agent, Env, InputError, Obs, Params, Prior, Quantities, RandomKey, Timestep


class SkillWorld(Env):
    """`env` steered by latents of `agent`, each of which is held for `decisions` of its decisions.

    An action [W] in [-1, 1] is the direction of the latent's first W numbers, the others are 0; its length says
    nothing. Tasks, starts and quantities are those of `env`, and so is the form: pure functions, jittable where it is.
    """

    def __init__(self, env: Env, agent: Agent, params: Params, width: int, decisions: int) -> None:
        """Raises InputError where the episodes of `env` are no multiple of the decisions, or latents are narrower."""
        latent = jax.eval_shape(agent.prompt, params, Prior(), jax.random.key(0)).shape[-1]
        if not 1 <= width <= latent:
            raise InputError(f"skill_world: width must be in [1, {latent}], the width of latents, got {width}")
        if decisions < 1 or env.spec.decisions % decisions:
            raise InputError(
                f"skill_world: decisions must divide the {env.spec.decisions} decisions of an episode, got {decisions}"
            )
        self.env, self.agent, self.params, self.decisions = env, agent, params, decisions
        named = f"skills of {env.spec.name}"
        self.spec = dataclasses.replace(env.spec, name=named, action=width, hold=env.spec.hold * decisions)
        self.tasks, self.trials, self.eye = env.tasks, env.trials, env.eye
        self._padding = latent - width
        self._act = jax.jit(still_behaviour(agent))

    def latents(self, action: Float[Any, "E W"]) -> Float[Any, "E D"]:
        """What the policy is told."""
        action = jnp.asarray(action, jnp.float32)
        return project(jnp.concatenate([action, jnp.zeros((*action.shape[:-1], self._padding))], -1))

    def reset(self, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode."""
        return self._longer(self.env.reset(key, count))

    def reset_to(self, physics: Float[Any, "E P"]) -> Timestep:
        """Worlds placed in the given physics states."""
        return self._longer(self.env.reset_to(physics))

    def step(self, ts: Timestep, action: Float[Any, "E W"]) -> Timestep:
        """The worlds after the policy has followed the skills; what happens behind a termination is another episode."""
        z = self.latents(action)
        carry, paths = (self.params, z, self.agent.carry(len(z))), []
        discount, last = jnp.ones(len(z)), jnp.zeros(len(z), bool)
        for i in range(self.decisions):
            low, carry = self._act(ts.obs, carry, jax.random.key(i))
            ts = self.env.step(ts, low if self.env.spec.jittable else np.asarray(low))
            paths.append(ts.path)
            discount, last = discount * ts.discount, last | ts.last
        join = jnp.concatenate if self.env.spec.jittable else np.concatenate
        path = jax.tree.map(lambda *leaves: join(leaves, 1), *paths)
        ended = (discount, last) if self.env.spec.jittable else (np.asarray(discount), np.asarray(last))
        return dataclasses.replace(ts, path=path, discount=ended[0], last=ended[1])

    def observe(self, physics: Float[Any, "E P"]) -> tuple[Obs, Quantities]:
        """Observations and named quantities of stored physics states."""
        return self.env.observe(physics)

    def complete(self, physics: Float[Any, "E P"]) -> Float[Any, "E Q"]:
        """Physics states in any length that the world takes."""
        return self.env.complete(physics)

    def render(self, physics: Float[np.ndarray, " P"], camera: str, size: int) -> UInt8[np.ndarray, "H W 3"]:
        """An image of one physics state."""
        return self.env.render(physics, camera, size)

    def _longer(self, ts: Timestep) -> Timestep:
        """A first time step whose path is as long as those of decisions."""
        numpy = jnp if self.env.spec.jittable else np
        return dataclasses.replace(
            ts, path=jax.tree.map(lambda leaf: numpy.repeat(leaf[:, -1:], self.spec.hold, 1), ts.path)
        )
