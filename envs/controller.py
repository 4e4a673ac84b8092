"""What stands between actions and actuators: here, the inverse kinematics of a hand that an arm carries.

One function for both forms of a world. It reads a physics vector at the beginning of a decision and gives what the
actuators hold until its end.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from envs.chain import Chain, product, rotated, rotation_vector


class Controller(NamedTuple):
    """A controller of a world."""

    names: tuple[str, ...]  # of the components of an action
    commands: Callable[[Any, Any, ModuleType], Any]  # (physics [..., P], action [..., A], numpy) -> [..., nu]


@dataclasses.dataclass(frozen=True)
class Hand:
    """A hand at the end of a chain of hinges whose servos' targets are moved at commanded velocities.

    Differential inverse kinematics: damped least squares on the chain's Jacobian, with a term in its null space that
    draws the joints towards 0. It starts from the targets and not from the joints, which lag behind them: so the hand
    stays where it was sent, and does not sink under a load.
    """

    chain: Chain
    targets: slice  # of a physics vector: the servos' targets, rad
    facing: np.ndarray  # [3, 3] the frame that the hand keeps
    low: np.ndarray  # [3] m, where the hand may be sent
    high: np.ndarray  # [3] m
    reach: float  # m that an action of 1 moves it in a decision
    period: float  # s, a decision
    steps: int = 2  # of least squares
    damping: float = 1e-4  # of the squares
    pull: float = 0.05  # share of the joints' angles that each step takes away, as far as the hand does not feel it

    def velocities(self, physics: Any, move: Any, numpy: ModuleType) -> Any:
        """Velocities [..., J] of the targets, rad/s, that move the hand by `move` [..., 3] in [-1, 1] in a decision."""

        def everywhere(constant: np.ndarray) -> np.ndarray:
            return np.broadcast_to(constant, (*move.shape[:-1], *constant.shape))

        begin = angles = physics[..., self.targets]
        wanted, facing = None, everywhere(self.facing)
        for _ in range(self.steps):
            position, turn, jacobian = self.chain.end(angles, numpy)
            if wanted is None:
                wanted = numpy.clip(position + self.reach * move, everywhere(self.low), everywhere(self.high))
            turned = rotation_vector(product(facing, turn.swapaxes(-1, -2)), numpy)
            error = numpy.concatenate([wanted - position, turned], axis=-1)
            free = -self.pull * angles
            transposed = jacobian.swapaxes(-1, -2)
            squares = product(jacobian, transposed) + everywhere(self.damping * np.eye(6))
            rest = numpy.linalg.solve(squares, (error - rotated(jacobian, free))[..., None])[..., 0]
            angles = angles + free + rotated(transposed, rest)
        return (angles - begin) / self.period
