"""When to stop by oneself: a latched state machine between the policy and the motors.

A tick with a non-finite action or reading holds the last target; a second one in a row stops. So do `late_limit` late
inferences in a row, a state older than `stale_ms` and a body tilted too far. A stop is final: damping, with its reason,
until a person makes a new runtime. Targets that pass are inside their limits and within the slew limit of the last one.
"""

import dataclasses

import numpy as np

from .contract import Contract, columns
from .robot import Order, State


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What the policy wants at a tick."""

    target: np.ndarray  # [A]
    finite: bool  # whether the network gave numbers
    seconds: float  # that the inference took


class Safety:
    """The state machine of one run. `reason` is "" until it stops."""

    def __init__(self, contract: Contract, held: np.ndarray):
        """`held` [A]: the targets before the first tick, from which the first slew limit counts."""
        safety, names = contract.safety, contract.action.names
        self._safety = safety
        self._low, self._high = np.array([contract.action.limit[name] for name in names]).T
        self._slew = np.array([safety.slew.get(name, np.inf) for name in names])
        self._quaternion = columns(contract)[contract.imu.quaternion] if contract.imu else None
        # What the robot was last told, [A].
        self.held = np.clip(np.asarray(held, np.float64), self._low, self._high)
        self._missing = self._late = 0
        self.reason = ""

    def stop(self, reason: str) -> None:
        """Nothing; latches: every order from now on is damping. The first reason stays."""
        self.reason = self.reason or reason

    def check(self, state: State, now: float) -> None:
        """Nothing; stops where the state is too old or the body tilted too far."""
        self.check_age(state, now)
        if self._safety.tilt is not None and self._quaternion is not None:
            tilt = tilt_of(state.readings[self._quaternion])
            if tilt > self._safety.tilt:
                self.stop(f"tilt: {tilt:.2f} rad, allowed are {self._safety.tilt:.2f}")

    def check_age(self, state: State, now: float) -> None:
        """Nothing; stops where the state is too old."""
        age = 1000 * (now - state.time)
        if age > self._safety.stale_ms:
            self.stop(f"stale: the newest state is {age:.0f} ms old, allowed are {self._safety.stale_ms:.0f}")

    def order(self, proposal: Proposal) -> Order:
        """What goes to the robot for this proposal."""
        self._count(proposal)
        if self.reason:
            return Order("damping", self.held)
        if not self._missing:
            wanted = np.clip(proposal.target.astype(np.float64), self._low, self._high)
            self.held = np.clip(wanted, self.held - self._slew, self.held + self._slew)
        return Order("target", self.held)

    def _count(self, proposal: Proposal) -> None:
        numbers = proposal.finite and bool(np.isfinite(proposal.target).all())
        self._missing = 0 if numbers else self._missing + 1
        if self._missing >= 2:
            self.stop("not finite: the policy gave no numbers twice in a row")
        late = 1000 * proposal.seconds > self._safety.deadline_ms
        self._late = self._late + 1 if late else 0
        if self._late >= self._safety.late_limit:
            took, allowed = 1000 * proposal.seconds, self._safety.deadline_ms
            self.stop(f"late: {self._late} inferences in a row over {allowed:.0f} ms, the last took {took:.0f}")


def tilt_of(quaternion: np.ndarray) -> float:
    """Angle in rad between the body's z axis and vertical, of a quaternion w x y z; NaN is the largest tilt."""
    _, x, y, _ = quaternion / np.linalg.norm(quaternion)
    cosine = np.clip(1 - 2 * (x * x + y * y), -1, 1)
    return float(np.arccos(cosine)) if np.isfinite(cosine) else np.pi
