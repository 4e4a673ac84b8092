"""The contract of a bundle: what a robot must know of a policy, every number addressed by name.

contract.yaml holds one `Contract`. It is written in the JSON part of YAML: any YAML reader takes it, and the runtime
reads it with the standard library. Vectors follow the order of the names beside them; nothing is positional otherwise.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .errors import InputError, nearest
from .files import from_json, read_json

FORMAT = 1
LAST_ACTION = "last_action"  # the source of a term that is no reading
Function = Literal["identity", "arcsinh", "log1p", "projected_gravity"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """One thing that the robot measures. Names are 'joint_position/<joint>', 'joint_velocity/<joint>',
    'activation/<actuator>' or 'sensor/<sensor>'."""

    name: str
    size: int
    available: Literal["robot", "needs_estimator"] = "robot"


@dataclasses.dataclass(frozen=True)
class History:
    """Which frames of a term the policy sees. With `includes_current` false they begin one tick ago."""

    length: int = 1  # frames
    order: Literal["newest_first", "oldest_first"] = "newest_first"
    includes_current: bool = True
    reset_fill: Literal["zeros", "repeat_first"] = "zeros"  # what stands for frames before the first


@dataclasses.dataclass(frozen=True)
class Term:
    """A stretch of the observation: `function(readings - offset)`, then the graph clips and scales it."""

    name: str
    source: tuple[str, ...]  # readings, whole or one element 'name[2]'; or LAST_ACTION alone
    unit: str = ""
    frame: str = ""  # of reference: "body", "world", "joint"
    function: Function = "identity"
    offset: tuple[float, ...] = ()  # subtracted from the readings; empty: nothing
    scale: tuple[float, ...] = ()  # multiplied in the graph, one number or one per component; empty: 1
    clip: float | None = None  # components are kept within +-clip
    clip_before_scale: bool = False
    noise: tuple[float, ...] = ()  # half width of uniform noise in training, one number or one per component; none
    history: History = History()
    estimated: bool = False  # may read what no sensor of a robot gives


@dataclasses.dataclass(frozen=True)
class Observation:
    """The input "obs" of the policy: the terms one after the other."""

    terms: tuple[Term, ...]
    layout: Literal["per_term", "per_time"] = "per_term"  # per_time: frame by frame, all terms in each


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds; one decision of the policy every `control_dt`."""

    sim_dt: float
    decimation: int
    control_dt: float


@dataclasses.dataclass(frozen=True)
class Robot:
    """The robot that the policy was trained for. Joints that a mapping does not name have no such number."""

    name: str
    joints: tuple[str, ...]  # driven joints, in the order of the robot's own interface
    hardware_modes: tuple[str, ...] = ()  # accepted ones; empty: not compared
    default_position: Mapping[str, float] = dataclasses.field(default_factory=dict)  # rad
    position_limit: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # (low, high) in rad
    velocity_limit: Mapping[str, float] = dataclasses.field(default_factory=dict)  # rad/s
    effort_limit: Mapping[str, float] = dataclasses.field(default_factory=dict)  # Nm
    kp: Mapping[str, float] = dataclasses.field(default_factory=dict)  # Nm/rad
    kd: Mapping[str, float] = dataclasses.field(default_factory=dict)  # Nm s/rad
    armature: Mapping[str, float] = dataclasses.field(default_factory=dict)  # kg m2


@dataclasses.dataclass(frozen=True)
class Action:
    """target = limit(offset + scale * rescale * clip(action)), all of it inside the graph."""

    names: tuple[str, ...]  # in the policy's order: joints, or actuators for target "actuator_command"
    target: Literal["joint_position", "actuator_command"]
    scale: Mapping[str, float]
    offset: Mapping[str, float]
    limit: Mapping[str, tuple[float, ...]]  # (low, high) of targets
    clip: float = 1.0
    rescale: float = 1.0
    last_action: Literal["clipped", "target"] = "clipped"  # what a term with source LAST_ACTION sees; clipped: rescaled


@dataclasses.dataclass(frozen=True)
class Imu:
    """Which readings say how the base is turned."""

    quaternion: str  # reading of size 4, w x y z, world from body
    angular_velocity: str  # reading of size 3, rad/s in the body frame


@dataclasses.dataclass(frozen=True)
class Command:
    """What the policy is told to do: a latent on the sphere of radius `norm`; width 0 for a policy with one task."""

    width: int = 0
    norm: float = 0.0


@dataclasses.dataclass(frozen=True)
class Safety:
    """When the runtime stops by itself. A limit of None is not watched."""

    tilt: float | None = None  # rad between the body's z axis and vertical; needs an Imu
    stale_ms: float = 100.0  # age of the newest state
    deadline_ms: float = 20.0  # for one inference
    late_limit: int = 2  # late inferences in a row that stop
    slew: Mapping[str, float] = dataclasses.field(default_factory=dict)  # largest change of a target per tick
    passive_kd: float = 0.0  # Nm s/rad of the damping after a stop
    watchdog_ticks: float = 1.75  # ticks without an order after which the robot damps by itself
    blend: float = 0.3  # seconds from one prompt to the next


@dataclasses.dataclass(frozen=True)
class Contract:
    """All of contract.yaml."""

    format: int
    robot: Robot
    timing: Timing
    readings: tuple[Reading, ...]
    observation: Observation
    action: Action
    command: Command = Command()
    safety: Safety = Safety()
    imu: Imu | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def width(self) -> int:
        """Components of the observation vector."""
        return sum(term_width(self, term) * term.history.length for term in self.observation.terms)


def columns(contract: Contract) -> dict[str, slice]:
    """Where each reading lies in the vector of all readings."""
    found, start = {}, 0
    for reading in contract.readings:
        found[reading.name] = slice(start, start + reading.size)
        start += reading.size
    return found


def source_columns(contract: Contract, term: Term) -> list[int]:
    """Indices into the vector of all readings of a term's sources; [] for LAST_ACTION. InputError for unknown ones."""
    return columns_of(term, columns(contract))


def columns_of(term: Term, places: Mapping[str, slice]) -> list[int]:
    """Indices of a term's sources where `places` says where each reading lies; [] for LAST_ACTION.

    Raises InputError for a source that is unknown, or an element that its reading does not have.
    """
    found: list[int] = []
    for source in term.source:
        if source == LAST_ACTION:
            continue
        name, bracket, index = source.partition("[")
        if name not in places:
            raise InputError(f"observation: term '{term.name}' reads unknown '{source}'; {nearest(name, places)}")
        every = range(places[name].start, places[name].stop)
        if not bracket:
            found += every
            continue
        element = index.removesuffix("]")
        if not element.isdecimal() or int(element) >= len(every):
            known = f"elements 0 to {len(every) - 1}"
            raise InputError(f"observation: term '{term.name}' reads '{source}'; '{name}' has {known}")
        found.append(every[int(element)])
    return found


def term_width(contract: Contract, term: Term) -> int:
    """Components of one frame of a term."""
    if term.source == (LAST_ACTION,):
        return len(contract.action.names)
    return frame_width(term, len(source_columns(contract, term)))


def frame_width(term: Term, sources: int) -> int:
    """Components of one frame of a term that reads so many numbers."""
    return 3 if term.function == "projected_gravity" else sources


def check(contract: Contract) -> None:
    """Nothing; raises InputError for the first part of a contract that contradicts another."""
    timing, action = contract.timing, contract.action
    if contract.format != FORMAT:
        raise InputError(f"contract: format {contract.format} is not {FORMAT}, the one read here")
    if not math.isclose(timing.control_dt, timing.sim_dt * timing.decimation, rel_tol=1e-9):
        raise InputError(f"timing: control_dt {timing.control_dt} is not sim_dt * decimation")
    for field in ("scale", "offset", "limit"):
        if set(getattr(action, field)) != set(action.names):
            raise InputError(f"action: {field} must name exactly {', '.join(action.names)}")
    for name, bounds in action.limit.items():
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise InputError(f"action: limit of '{name}' must be (low, high) with low < high, got {bounds}")
    if action.target == "joint_position":
        for name in action.names:
            if name not in contract.robot.joints:
                raise InputError(f"action: '{name}' is no joint of the robot; {nearest(name, contract.robot.joints)}")
    for term in contract.observation.terms:
        _check_term(contract, term)
    lengths = {term.history.length for term in contract.observation.terms}
    if contract.observation.layout == "per_time" and len(lengths) > 1:
        raise InputError(f"observation: layout per_time needs one history length, got {sorted(lengths)}")
    if contract.safety.tilt is not None and contract.imu is None:
        raise InputError("safety: tilt needs an imu")
    if contract.imu is not None:
        names = columns(contract)
        for name in (contract.imu.quaternion, contract.imu.angular_velocity):
            if name not in names:
                raise InputError(f"imu: unknown reading '{name}'; {nearest(name, names)}")


def _check_term(contract: Contract, term: Term) -> None:
    if LAST_ACTION in term.source and len(term.source) > 1:
        raise InputError(f"observation: term '{term.name}' mixes {LAST_ACTION} with readings")
    sources, width = len(source_columns(contract, term)), term_width(contract, term)
    if term.function == "projected_gravity" and sources != 4:
        raise InputError(f"observation: term '{term.name}' needs a quaternion of 4 readings, has {sources}")
    if len(term.offset) not in (0, sources):
        raise InputError(
            f"observation: offset of term '{term.name}' must have {sources} numbers, got {len(term.offset)}"
        )
    for field in ("scale", "noise"):
        if len(getattr(term, field)) not in (0, 1, width):
            raise InputError(f"observation: {field} of term '{term.name}' must have 1 or {width} numbers")
    if term.history.length < 1:
        raise InputError(f"observation: history of term '{term.name}' must have length 1 or more")


def read(path: Path) -> Contract:
    """The contract in a file. Raises InputError naming the field that is wrong."""
    return from_json(Contract, read_json(path, "the contract of a bundle"), f"{path}")


def write(contract: Contract) -> str:
    """The text of contract.yaml: one line per entry, full precision."""
    return _text(dataclasses.asdict(contract), 0) + "\n"


def _text(value: Any, depth: int) -> str:
    """JSON that YAML 1.1 readers take as well: they read 1e-05 as a word, and 1.0e-05 as a number."""
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, Mapping):
        items = [f"{json.dumps(name)}: {_text(one, depth + 1)}" for name, one in value.items()]
        inner, (opening, closing) = list(value.values()), "{}"
    elif isinstance(value, list | tuple):
        items = [_text(one, depth + 1) for one in value]
        inner, (opening, closing) = list(value), "[]"
    else:
        return json.dumps(value)
    if depth > 2 or not any(isinstance(one, Mapping) for one in inner):
        return opening + ", ".join(items) + closing
    gap = "\n" + " " * (depth + 1)
    return f"{opening}{gap}{f',{gap}'.join(items)}\n{' ' * depth}{closing}"
