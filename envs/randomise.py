"""Domain randomisation as data: what differs between episodes of one world, and what shakes it as they go on.

The parameters of an episode are drawn at its start and stand behind everything else in its physics vectors, in the
order of `COLUMNS`. Whoever has the vector has the world: stepping, branching, resuming and relabelling need nothing
beside it. The last column is a seed, a whole number below 2^24, so that float32 holds it. Pushes and noise are
functions of seed and time, by a hash of counters instead of a generator, so they need no state either; branches from
one state are pushed alike. Seed 0 means neither.

The hash is two rounds of shifts and multiplications on 32 bits, with the constants of `lowbias32`, which the hash
prospector found. It is written against an array namespace and gives the same bits in numpy and jax.numpy.

The ranges of "standard" are those of BFM-Zero (arXiv 2511.04131) where it has them: friction, mass, centre of mass, and
the time between pushes. What its authors leave off is drawn too: gain and damping from narrow ranges, latency up to the
whole decision that a policy should survive before it meets a robot. Noise and pushes are multiples of what a world
declares: a push that a walking robot must bear is five times the top speed of the ball in the point maze.
"""

import dataclasses
import types
from types import ModuleType
from typing import Any

import numpy as np

from embodied.ranges import check_choice, check_ranges
from embodied.types import InputError

COLUMNS = ("friction", "mass", "com_x", "com_y", "com_z", "gain", "damping", "latency", "seed")
NOMINAL = (1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
SEEDS = 2**24  # seeds lie in [1, SEEDS)
# What is drawn never shares its numbers with something else: each use has a stream of its own.
PARAMETERS, INTERVALS, PUSHES, NOISE = range(4)

RANGES = {"[0, inf)": ("centre_of_mass", "push", "noise")}
PAIRS = {"[0, inf)": ("friction", "gain", "damping"), "(0, inf)": ("mass", "push_every"), "[0, 1]": ("latency",)}


@dataclasses.dataclass(frozen=True)
class Randomisation:
    """Ranges (low, high) from which an episode's parameters are drawn uniformly; the defaults change nothing."""

    friction: tuple[float, float] = (1.0, 1.0)  # times the sliding friction of every geom
    mass: tuple[float, float] = (1.0, 1.0)  # times mass, inertia and armature of every body and joint
    centre_of_mass: float = 0.0  # m, largest offset of the base's centre of mass along each of its axes
    gain: tuple[float, float] = (1.0, 1.0)  # times the force of every actuator, before its force limits
    damping: tuple[float, float] = (1.0, 1.0)  # times the damping of every joint
    latency: tuple[float, float] = (0.0, 0.0)  # decisions that a command comes late, at most 1
    push: float = 0.0  # largest push, 1 = what the world declares in m/s
    push_every: tuple[float, float] = (1.0, 3.0)  # s between pushes
    noise: float = 0.0  # times the observation noise that the world declares

    def __post_init__(self) -> None:
        check_ranges("randomise", self, RANGES)
        for interval, names in PAIRS.items():
            for name in names:
                low, high = getattr(self, name)
                for end in (low, high):
                    check_ranges("randomise", types.SimpleNamespace(**{name: end}), {interval: [name]})
                if low > high:
                    raise InputError(f"randomise: {name} must be (low, high) with low <= high, got ({low}, {high})")


LEVELS = {
    "none": Randomisation(),
    "standard": Randomisation(
        friction=(0.5, 1.25),
        mass=(0.95, 1.05),
        centre_of_mass=0.02,
        gain=(0.9, 1.1),
        damping=(0.8, 1.2),
        latency=(0.0, 1.0),
        push=1.0,
        noise=1.0,
    ),
    "hard": Randomisation(
        friction=(0.3, 1.5),
        mass=(0.8, 1.2),
        centre_of_mass=0.04,
        gain=(0.8, 1.2),
        damping=(0.5, 1.5),
        latency=(0.0, 1.0),
        push=2.0,
        push_every=(0.5, 2.0),
        noise=2.0,
    ),
}


def level(name: str | Randomisation) -> Randomisation:
    """The level of that name, or ranges as they are given. Raises InputError naming the nearest level."""
    if isinstance(name, Randomisation):
        return name
    check_choice("randomise", "level", name, tuple(LEVELS))
    return LEVELS[name]


def draw(ranges: Randomisation, seed: Any, numpy: ModuleType) -> Any:
    """The parameters [E, K] of episodes with these seeds [E], float32, in the order of `COLUMNS`."""
    offset = (-ranges.centre_of_mass, ranges.centre_of_mass)
    pairs = (ranges.friction, ranges.mass, offset, offset, offset, ranges.gain, ranges.damping, ranges.latency)
    low, high = numpy.asarray(np.array(pairs, np.float32).T[:, None])
    share = uniforms(seed, numpy.zeros_like(seed), PARAMETERS, len(pairs), numpy)
    return numpy.concatenate([low + (high - low) * share, seed.astype(np.float32)[:, None]], axis=1)


def uniforms(seed: Any, step: Any, stream: int, count: int, numpy: ModuleType) -> Any:
    """Numbers [E, count] in [0, 1), float32, that only seed [E], step [E], stream and place decide.

    They are multiples of 2^-24; seeds must lie below 2^24, steps and streams be whole and not negative.
    """
    word = _mix(seed.astype(np.uint32) | np.uint32(stream << 24))
    word = _mix(word + step.astype(np.uint32) * _GOLDEN)
    place = numpy.arange(count, dtype=np.uint32) * _GOLDEN
    return (_mix(word[:, None] + place[None]) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: neighbouring counters land far apart


def _mix(word: Any) -> Any:
    """The hash [...] uint32 of words [...] uint32, one to one."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = (word ^ (word >> np.uint32(shift))) * np.uint32(factor)
    return word ^ (word >> np.uint32(16))
