"""What a robot is to the runtime: it says what it is, gives its newest state and takes one command per tick."""

import dataclasses
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .contract import Contract
from .errors import InputError


@dataclasses.dataclass(frozen=True)
class Identity:
    """What stands at the other end."""

    name: str
    joints: tuple[str, ...]  # driven joints, in the order of its own interface
    readings: tuple[str, ...]  # what it measures, in the order of `State.readings`
    hardware_mode: str = ""


class State(NamedTuple):
    """What a robot measured at one instant."""

    time: float  # seconds, on the clock of `RobotInterface.now`
    readings: np.ndarray  # [R] float64, all readings one after the other


class Order(NamedTuple):
    """One command: follow `target`, or be limp and damped."""

    mode: Literal["target", "damping"]
    target: np.ndarray  # [A], in the contract's order; ignored while damping


@runtime_checkable
class RobotInterface(Protocol):
    """A robot, or a simulation of one. Implement these five on your robot's own library."""

    def identity(self) -> Identity:
        """What this robot is."""

    def now(self) -> float:
        """Seconds on the clock that stamps states."""

    def read(self) -> State:
        """The newest state."""

    def send(self, order: Order) -> None:
        """Nothing; the robot follows the order until the next one, or until its watchdog damps it."""

    def wait(self, until: float) -> None:
        """Nothing; returns when the clock shows `until`."""


def check_identity(identity: Identity, contract: Contract) -> None:
    """Nothing; raises InputError where this robot is not the one that the contract was written for."""
    robot = contract.robot
    if identity.name != robot.name:
        raise InputError(f"robot: is a '{identity.name}', the bundle is for '{robot.name}'")
    if len(identity.joints) != len(robot.joints):
        raise InputError(f"robot: has {len(identity.joints)} driven joints, the bundle is for {len(robot.joints)}")
    if identity.joints != robot.joints:
        wrong = next(pair for pair in zip(identity.joints, robot.joints, strict=True) if pair[0] != pair[1])
        raise InputError(f"robot: joint '{wrong[0]}' stands where the bundle expects '{wrong[1]}'")
    if robot.hardware_modes and identity.hardware_mode not in robot.hardware_modes:
        modes = ", ".join(robot.hardware_modes)
        raise InputError(f"robot: hardware mode '{identity.hardware_mode}' is none of the accepted {modes}")
    expected = tuple(reading.name for reading in contract.readings)
    for name in expected:
        if name not in identity.readings:
            raise InputError(f"robot: does not measure '{name}'")
    if identity.readings != expected:
        raise InputError("robot: gives its readings in another order than the contract")
