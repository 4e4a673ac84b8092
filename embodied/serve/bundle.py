"""A bundle as a servable: clients send what the robot measures, the server assembles, remembers and infers.

A request has "readings", all readings of the contract one after the other, and may have "prompt" or "z" as for a
trained policy. An answer is one row of targets, within their limits, in the order and unit of the contract's action.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from embodied.deploy.bundle import Bundle, check_latent
from embodied.deploy.network import Network
from embodied.deploy.observation import Assembler
from embodied.serve.servable import Question, Result, read_array
from embodied.types import InputError, nearest


class Memory(NamedTuple):
    """What a bundle remembers of an episode."""

    assembler: Assembler
    last_action: np.ndarray  # [A]
    prompt: str
    step: int  # decisions under that prompt


class BundleServable:
    """A verified bundle, its first inference made."""

    batch = 1  # as on the robot; a bundle's network takes one

    def __init__(self, bundle: Bundle) -> None:
        contract = bundle.contract
        self._bundle, self._network = bundle, Network(bundle)
        self._latents = {name: bundle.prompt(name) for name in bundle.prompts}
        self.schema = {"readings": (sum(reading.size for reading in contract.readings),)}
        self.extras = ("prompt", "z") if contract.command.width else ()
        self.metadata = {
            "world": contract.robot.name,
            "agent": bundle.manifest.get("agent", ""),
            "model_sha256": bundle.manifest.get("model_sha256", ""),
            "readings": [[reading.name, reading.size] for reading in contract.readings],
            "targets": list(contract.action.names),
            "actions": [1, len(contract.action.names)],
            "control_dt": contract.timing.control_dt,  # seconds per row of actions
            "prompts": list(self._latents),
            "latent": contract.command.width,
        }
        first = next(iter(self._latents.values()))
        self._network(np.zeros(contract.width), np.atleast_2d(first)[0])  # the first inference takes longest

    def start(self) -> Memory:
        """Nothing measured, nothing done."""
        return Memory(Assembler(self._bundle.contract), np.zeros(len(self._bundle.contract.action.names)), "", 0)

    def infer(self, asked: Sequence[Question]) -> list[Result]:
        """For each question (targets [1, A], next carry), or why its prompt or latent cannot be followed."""
        return [self._answer(observation, carry) for observation, carry in asked]

    def _answer(self, observation: Mapping[str, Any], carry: Memory) -> Result:
        try:
            name, z = self._latent(observation)
        except InputError as error:
            return error
        step = carry.step if name == carry.prompt else 0
        obs = carry.assembler.observe(observation["readings"].astype(np.float64), carry.last_action)
        action, target, _ = self._network(obs, z if z.ndim == 1 else z[min(step, len(z) - 1)])
        held = action if self._bundle.contract.action.last_action == "clipped" else target
        return target[None], Memory(carry.assembler, held, name, step + 1)

    def _latent(self, observation: Mapping[str, Any]) -> tuple[str, np.ndarray]:
        """(name, latent) that a request asks for; a latent sent along has no name."""
        if "z" in observation:
            if "prompt" in observation:
                raise InputError("observation: give 'prompt' or 'z', not both")
            z = read_array("z", observation["z"], (self._bundle.contract.command.width,))
            check_latent(self._bundle.contract, z, "z")
            return "", z
        name = observation.get("prompt", next(iter(self._latents)))
        if not isinstance(name, str) or name not in self._latents:
            raise InputError(f"prompt: the bundle has no {str(name)[:40]!r}; {nearest(str(name)[:40], self._latents)}")
        return name, self._latents[name]
