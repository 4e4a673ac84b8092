"""Whether a bundle does here what it did where it was made: its golden vectors through this machine's runtime."""

import dataclasses

import numpy as np

from .bundle import GOLDEN, MANIFEST, Bundle
from .errors import InputError
from .network import Network
from .observation import Assembler

TOLERANCE = 1e-5  # of an action, against the one that JAX gave
LOOSEST = 1e-2  # that a bundle may ask for, whose actions are found by a search


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the golden vectors say."""

    steps: int
    unequal: int  # observations that are not bit for bit those of the bundle
    action_error: float  # largest |difference| of an action
    target_error: float  # of a target, over the width of its limits
    tolerance: float = TOLERANCE  # of both errors

    @property
    def passed(self) -> bool:
        """Whether all observations are equal and all actions within the tolerance."""
        return self.steps > 0 and not self.unequal and max(self.action_error, self.target_error) <= self.tolerance


def tolerance_of(bundle: Bundle) -> float:
    """How far actions may be from those that JAX gave: what the manifest says, or `TOLERANCE`.

    Raises InputError for one above `LOOSEST`.
    """
    tolerance = bundle.manifest.get("tolerance", TOLERANCE)
    if not isinstance(tolerance, float) or not 0 < tolerance <= LOOSEST:
        raise InputError(f"{bundle.directory / MANIFEST}: tolerance must be in (0, {LOOSEST:g}], got {tolerance}")
    return tolerance


def verify(bundle: Bundle) -> Verdict:
    """The verdict on a bundle: each recorded step is assembled and inferred again. InputError for unfit vectors."""
    golden = bundle.arrays(GOLDEN)
    for name in ("readings", "last_action", "obs", "z", "action", "target", "reset"):
        if name not in golden or len(golden[name]) != len(golden["readings"]):
            raise InputError(f"{bundle.directory / GOLDEN}: array '{name}' is missing or of another length")
    assembler, network = Assembler(bundle.contract), Network(bundle)
    limits = np.array([bundle.contract.action.limit[name] for name in bundle.contract.action.names])
    width = limits[:, 1] - limits[:, 0]
    unequal, action_error, target_error = 0, 0.0, 0.0
    for index, readings in enumerate(golden["readings"]):
        if golden["reset"][index]:
            assembler.reset()
        obs = assembler.observe(readings, golden["last_action"][index])
        unequal += obs.tobytes() != golden["obs"][index].tobytes()
        action, target, finite = network(golden["obs"][index], golden["z"][index])
        action_error = max(action_error, float(np.abs(action - golden["action"][index]).max()))
        apart = float((np.abs(target - golden["target"][index]) / width).max())
        target_error = max(target_error, apart if finite else np.inf)
    return Verdict(len(golden["readings"]), unequal, action_error, target_error, tolerance_of(bundle))
