"""What other runtimes ask of a contract and of prompts, beyond the terms: each function refuses by name."""

import math
from collections.abc import Mapping

import numpy as np

from embodied.deploy.bundle import Bundle
from embodied.deploy.contract import LAST_ACTION, Contract
from embodied.deploy.errors import InputError
from embodied.export.targets.terms import defaults


def check_joints(contract: Contract) -> None:
    """Nothing; raises InputError for a policy that does not command the position of every joint of its robot."""
    action, joints = contract.action, contract.robot.joints
    if action.target != "joint_position":
        raise InputError(f"action.target is '{action.target}'; this runtime commands positions of joints")
    for joint in joints:
        if joint not in action.names:
            raise InputError(f"action: joint '{joint}' is not commanded; this runtime commands every joint")


def check_offset(contract: Contract) -> None:
    """Nothing; raises InputError where a target is not counted from the default position of its joint."""
    for joint, default in defaults(contract).items():
        offset = contract.action.offset[joint]
        if not math.isclose(offset, default, abs_tol=1e-9):  # a sum of two limits may miss it by a rounding
            raise InputError(
                f"action.offset of '{joint}' is {offset}, and {default} is subtracted from its position; "
                "this runtime has one default position for both"
            )


def check_last_action(contract: Contract) -> None:
    """Nothing; raises InputError where the policy sees its last target: the runtime shows what the graph gave."""
    seen = [term.name for term in contract.observation.terms if term.source == (LAST_ACTION,)]
    if seen and contract.action.last_action == "target":
        raise InputError(
            f"term '{seen[0]}' is the last target; this runtime shows the last action, before scale and offset"
        )


def check_reach(contract: Contract) -> None:
    """Nothing; raises InputError where a target could leave its limits: the runtime does not clip it."""
    action = contract.action
    for name in action.names:
        low, high = action.limit[name]
        reach = abs(action.scale[name]) * action.rescale * action.clip
        least, most = action.offset[name] - reach, action.offset[name] + reach
        slack = 1e-6 * (high - low)
        if least < low - slack or most > high + slack:
            raise InputError(
                f"action: joint '{name}' can be sent from {least:.4g} to {most:.4g}, "
                f"its limit is {low:.4g} to {high:.4g}; this runtime does not clip"
            )


def check_rate(contract: Contract, control_dt: float) -> None:
    """Nothing; raises InputError for another time between decisions than the runtime's own."""
    if not np.isclose(contract.timing.control_dt, control_dt, rtol=1e-6):
        raise InputError(
            f"timing.control_dt is {contract.timing.control_dt} s; this runtime decides every {control_dt} s"
        )


def complete(contract: Contract, field: str) -> Mapping[str, float]:
    """Joint -> number of a field of the contract's robot. Raises InputError for a joint without one."""
    numbers = getattr(contract.robot, field)
    for joint in contract.robot.joints:
        if joint not in numbers:
            raise InputError(f"robot.{field} has no number for joint '{joint}', which this runtime needs")
    return numbers


def baked(bundle: Bundle) -> dict[str, np.ndarray]:
    """Prompt -> the one latent [D] that becomes part of a graph. Raises InputError for motions, and without prompts."""
    found = {name: bundle.prompt(name) for name in bundle.prompts}
    if not found:
        raise InputError("prompt: the bundle has none, and a graph for this runtime holds one")
    for name, z in found.items():
        if z.ndim > 1:
            raise InputError(f"prompt '{name}' is a motion of {len(z)} latents; a graph for this runtime holds one")
    return found
