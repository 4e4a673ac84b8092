"""A trained policy as a servable: the prompts that were loaded when it started, or a latent sent along.

Beside the observation a request may have "prompt", the name of a loaded prompt (without it the first one is followed),
or "z", a latent of length sqrt(D). A reward text is never inferred for a request.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from embodied.policy import Policy, Prompted
from embodied.serve.servable import read_array
from embodied.types import InputError, Prior, nearest

LENGTH_TOLERANCE = 1e-3  # of a latent, relative to sqrt(D)


class PolicyServable:
    """`policy` with prompts by name, each latent [D] or, for a motion, [T, D]; compiled when this returns.

    A decision is held for H control steps, so its action comes back H times: one row per control step.
    """

    def __init__(self, policy: Policy, prompts: Mapping[str, Prompted], control_dt: float) -> None:
        hold = int(policy.options.get("hold") or 1)
        agent = policy.agent
        self._agent, self._params = agent, jax.device_put(policy.params)
        self._latents = {name: np.asarray(prompted.z, np.float32) for name, prompted in prompts.items()}
        self._width = jax.eval_shape(agent.prompt, policy.params, Prior(), jax.random.key(0)).shape[-1]
        self.schema = {"state": tuple(policy.spec.obs["state"])}  # clients have no privileged observations
        self.extras = ("prompt", "z") if self._width else ()
        self.metadata = {
            "world": policy.world,
            "agent": policy.agent_name,
            "model_sha256": policy.sha256,
            "actions": [hold, policy.spec.action],
            "control_dt": control_dt,  # seconds per row of actions
            "prompts": list(self._latents),
            "latent": self._width,  # numbers in "z"
        }

        @jax.jit
        def act(params: Any, obs: Any, z: Any, inner: Any) -> tuple[Any, Any]:
            batched = {name: leaf[None] for name, leaf in obs.items()}
            action, inner = agent.act(params, batched, z, inner, None)
            return jnp.repeat(action, hold, axis=0), inner

        self._act = act
        self._warm_up()

    def start(self) -> tuple[str, int, Any]:
        """(prompt followed, decisions under it, what the agent remembers): nothing yet."""
        return "", 0, self._agent.carry(1)

    def infer(
        self, observation: Mapping[str, Any], carry: tuple[str, int, Any]
    ) -> tuple[np.ndarray, tuple[str, int, Any]]:
        """(actions [H, A] in [-1, 1], next carry). Raises InputError for a prompt or latent that cannot be followed."""
        name, z = self._latent(observation)
        before, step, inner = carry
        step = step if name == before else 0
        obs = {part: observation[part] for part in self.schema}
        actions, inner = self._act(self._params, obs, z if z.ndim == 1 else z[min(step, len(z) - 1)], inner)
        return np.asarray(actions), (name, step + 1, inner)

    def _latent(self, observation: Mapping[str, Any]) -> tuple[str, np.ndarray]:
        """(name, latent) that a request asks for; a latent sent along has no name."""
        if not self._width:
            return "", np.zeros(0, np.float32)
        if "z" in observation:
            if "prompt" in observation:
                raise InputError("observation: give 'prompt' or 'z', not both")
            return "", read_latent(observation["z"], self._width)
        if "prompt" not in observation and not self._latents:
            raise InputError(
                "observation: 'z' is missing, and no prompt was loaded; send a latent or serve with --prompt"
            )
        name = observation.get("prompt", next(iter(self._latents), ""))
        if not isinstance(name, str):
            raise InputError(f"prompt: must be the name of a loaded prompt, got {type(name).__name__}")
        if name not in self._latents:
            loaded = nearest(name[:40], self._latents) if self._latents else "none was loaded; send a latent as 'z'"
            raise InputError(f"prompt: no prompt {name[:40]!r} was loaded; {loaded}")
        return name, self._latents[name]

    def _warm_up(self) -> None:
        """Nothing; compiles for the carry of a start and for that of a later step."""
        obs = {name: np.zeros(shape, np.float32) for name, shape in self.schema.items()}
        inner = self._agent.carry(1)
        for _ in range(2):
            actions, inner = self._act(self._params, obs, np.zeros(self._width, np.float32), inner)
        jax.block_until_ready(actions)


def read_latent(value: Any, width: int) -> np.ndarray:
    """The latent as float32 [width]. Raises InputError unless it is finite and of length sqrt(width)."""
    z = read_array("z", value, (width,))
    length, expected = float(np.linalg.norm(z.astype(np.float64))), width**0.5
    if abs(length - expected) > LENGTH_TOLERANCE * expected:
        raise InputError(f"z: must have length {expected:.4f}, the root of its {width} numbers; got {length:.4f}")
    return z
