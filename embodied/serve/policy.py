"""A trained policy as a servable: the prompts that were loaded when it started, or a latent sent along.

Beside the observation a request may have "prompt", the name of a loaded prompt (without it the first one is followed),
or "z", a latent of length sqrt(D). A reward text is never inferred for a request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from embodied.policy import Policy, Prompted
from embodied.serve.servable import Question, Result, read_array
from embodied.types import InputError, Prior, nearest

LENGTH_TOLERANCE = 1e-3  # of a latent, relative to sqrt(D)


class PolicyServable:
    """`policy` with prompts by name, each latent [D] or, for a motion, [T, D]; compiled when this returns.

    A decision is held for H control steps, so its action comes back H times: one row per control step.
    """

    batch = 32  # a power of two

    def __init__(self, policy: Policy, prompts: Mapping[str, Prompted], control_dt: float) -> None:
        if "pixels" in policy.spec.obs:
            raise InputError("serve: the policy acts on pixels; clients send states")
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
            action, inner = agent.act(params, obs, z, inner, None)
            return jnp.repeat(action[:, None], hold, axis=1), inner

        self._act = act
        self._warm_up()

    def start(self) -> tuple[str, int, Any]:
        """(prompt followed, decisions under it, what the agent remembers): nothing yet."""
        return "", 0, jax.tree.map(np.asarray, self._agent.carry(1))

    def infer(self, asked: Sequence[Question]) -> list[Result]:
        """For each question (actions [H, A] in [-1, 1], next carry), or why its prompt or latent cannot be followed.

        All are answered by one call of the network. Its size is a power of two, so that few are compiled.
        """
        results: list[Any] = [self._followed(observation, carry) for observation, carry in asked]
        rows = [index for index, result in enumerate(results) if not isinstance(result, InputError)]
        if not rows:
            return results
        filled = rows + rows[:1] * ((1 << (len(rows) - 1).bit_length()) - len(rows))
        obs = {part: np.stack([asked[index][0][part] for index in filled]) for part in self.schema}
        z = np.stack([results[index][0] for index in filled])
        inner = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(asked[index][1][2] for index in filled))
        actions, inner = jax.device_get(self._act(self._params, obs, z, inner))
        for row, index in enumerate(rows):
            _, name, step = results[index]
            remembered = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], inner)
            results[index] = (actions[row], (name, step + 1, remembered))
        return results

    def _followed(
        self, observation: Mapping[str, Any], carry: tuple[str, int, Any]
    ) -> tuple[np.ndarray, str, int] | InputError:
        """(latent [D], prompt, decisions under it) of a question, or what is wrong with it."""
        try:
            name, z = self._latent(observation)
        except InputError as error:
            return error
        before, step, _ = carry
        step = step if name == before else 0
        return (z if z.ndim == 1 else z[min(step, len(z) - 1)]), name, step

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
        """Nothing; compiles for every size of a batch."""
        for count in (2**power for power in range(self.batch.bit_length())):
            obs = {name: np.zeros((count, *shape), np.float32) for name, shape in self.schema.items()}
            inner = jax.tree.map(np.asarray, self._agent.carry(count))
            self._act(self._params, obs, np.zeros((count, self._width), np.float32), inner)


def read_latent(value: Any, width: int) -> np.ndarray:
    """The latent as float32 [width]. Raises InputError unless it is finite and of length sqrt(width)."""
    z = read_array("z", value, (width,))
    length, expected = float(np.linalg.norm(z.astype(np.float64))), width**0.5
    if abs(length - expected) > LENGTH_TOLERANCE * expected:
        raise InputError(f"z: must have length {expected:.4f}, the root of its {width} numbers; got {length:.4f}")
    return z
