"""What each number of an observation is, so that it can be found in the vector of another runtime.

A runtime that was made for other policies assembles its own vector: other terms, joints in another order, other frames.
Both vectors are lists of components here: a quantity, of one joint or axis, so many ticks ago. Terms are recognised by
what they read; what no other runtime reads is refused.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from embodied.deploy.contract import LAST_ACTION, Contract, Reading, Term, source_columns
from embodied.deploy.errors import InputError

POSITION, VELOCITY, ACTION = "joint position", "joint velocity", "last action"
RATE, GRAVITY = "angular velocity", "projected gravity"
JOINTWISE = (POSITION, VELOCITY, ACTION)
AXES = ("x", "y", "z")  # of the body


class Component(NamedTuple):
    """One number of an observation."""

    quantity: str
    element: str  # a joint or an axis
    age: int  # ticks since it was the newest


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A stretch of a runtime's vector: frames of one quantity, one after the other."""

    name: str  # what the runtime calls it
    quantity: str
    ages: tuple[int, ...]  # of the frames, in their order


def oldest_first(count: int) -> tuple[int, ...]:
    """The ages of so many frames."""
    return tuple(reversed(range(count)))


def elements(quantity: str, joints: Iterable[str]) -> tuple[str, ...]:
    """What one frame of a quantity holds, one number each."""
    return tuple(joints) if quantity in JOINTWISE else AXES


def components(contract: Contract) -> list[tuple[Component, Term]]:
    """Each number of the policy's observation, with its term. Raises InputError for a term that is none of ours."""
    framed = [_frames(contract, term) for term in contract.observation.terms]
    if contract.observation.layout == "per_time":
        return [one for frames in zip(*framed, strict=True) for frame in frames for one in frame]
    return [one for frames in framed for frame in frames for one in frame]


def frames_needed(contract: Contract) -> dict[str, int]:
    """Quantity -> how many of its frames, the newest included, the policy looks at."""
    found: dict[str, int] = {}
    for component, _ in components(contract):
        found[component.quantity] = max(found.get(component.quantity, 0), component.age + 1)
    return found


def columns(contract: Contract, stretches: Iterable[Stretch], joints: Iterable[str]) -> tuple[np.ndarray, int]:
    """(where each number of the policy's observation lies in a runtime's vector [N], the width of that vector)."""
    joints = tuple(joints)
    theirs = [
        Component(stretch.quantity, element, age)
        for stretch in stretches
        for age in stretch.ages
        for element in elements(stretch.quantity, joints)
    ]
    place = {component: index for index, component in enumerate(theirs)}
    return np.array([place[component] for component, _ in components(contract)], np.int64), len(theirs)


def filled_otherwise(contract: Contract, fill: str) -> np.ndarray:
    """For how many steps after a reset each number [N] differs from training, where a runtime fills by `fill`."""
    return np.array(
        [
            # The first action is 0, however it is filled.
            0 if term.history.reset_fill == fill or component.quantity == ACTION else component.age
            for component, term in components(contract)
        ]
    )


def defaults(contract: Contract) -> dict[str, float]:
    """Joint -> what the policy subtracts from its position; for joints that it does not read the offset of the target.

    Raises InputError where two terms subtract different numbers.
    """
    found: dict[str, float] = {}
    for term in contract.observation.terms:
        for (quantity, joint), offset in zip(_parts(contract, term), _offsets(term), strict=False):
            if quantity == POSITION and found.setdefault(joint, offset) != offset:
                raise InputError(
                    f"term '{term.name}' subtracts {offset} from the position of '{joint}' and another term "
                    f"{found[joint]}; this runtime has one default position"
                )
    return {joint: found.get(joint, contract.action.offset[joint]) for joint in contract.robot.joints}


def _frames(contract: Contract, term: Term) -> list[list[tuple[Component, Term]]]:
    newest = 0 if term.history.includes_current else 1
    ages = range(newest, newest + term.history.length)
    parts = _parts(contract, term)
    return [
        [(Component(quantity, element, age), term) for quantity, element in parts]
        for age in (ages if term.history.order == "newest_first" else reversed(ages))
    ]


def _parts(contract: Contract, term: Term) -> list[tuple[str, str]]:
    """(quantity, element) of each number in one frame of a term."""
    if term.source == (LAST_ACTION,):
        return [(ACTION, name) for name in contract.action.names]
    every = [(reading, index) for reading in contract.readings for index in range(reading.size)]
    sources = [every[column] for column in source_columns(contract, term)]
    for reading, _ in sources:
        if reading.available == "needs_estimator":
            raise InputError(f"term '{term.name}' reads '{reading.name}', which needs an estimator: no sensor gives it")
    if term.function == "projected_gravity":
        turned = contract.imu.quaternion if contract.imu else None
        if [(reading.name, index) for reading, index in sources] != [(turned, index) for index in range(4)]:
            raise _unknown(contract, term, sources[0][0])
        parts = [(GRAVITY, axis) for axis in AXES]
    elif term.function != "identity":
        raise InputError(
            f"term '{term.name}' is the {term.function} of its readings, which this runtime cannot compute"
        )
    else:
        parts = [_part(contract, term, *source) for source in sources]
    if any(term.offset) and {quantity for quantity, _ in parts} != {POSITION}:
        raise InputError(f"term '{term.name}' has an offset; this runtime subtracts default positions of joints only")
    return parts


def _part(contract: Contract, term: Term, reading: Reading, index: int) -> tuple[str, str]:
    kinds: Mapping[str, str] = {"joint_position": POSITION, "joint_velocity": VELOCITY}
    kind, _, joint = reading.name.partition("/")
    if kind in kinds and joint in contract.robot.joints:
        return kinds[kind], joint
    if contract.imu and reading.name == contract.imu.angular_velocity:
        return RATE, AXES[index]
    raise _unknown(contract, term, reading)


def _unknown(contract: Contract, term: Term, reading: Reading) -> InputError:
    imu = contract.imu
    known = (
        f"'{imu.angular_velocity}', and gravity by '{imu.quaternion}'" if imu else "no more: the contract has no imu"
    )
    return InputError(
        f"term '{term.name}' reads '{reading.name}', which this runtime does not give; "
        f"it gives positions and velocities of the robot's joints and {known}"
    )


def _offsets(term: Term) -> Iterable[float]:
    return term.offset or itertools.repeat(0.0)
