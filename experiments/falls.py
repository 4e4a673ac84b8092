"""Whether a robot that should stand ends an episode on the ground, and how often."""

from collections.abc import Mapping

import numpy as np

from embodied import statistics

LAST = 1.0  # seconds at the end of an episode during which one that has fallen is down
LYING = 0.5  # cosine between the torso's axis and vertical: tilted over 60 degrees


def down(path: Mapping[str, np.ndarray], control_dt: float) -> np.ndarray | None:
    """Whether each episode of a path, leaves [E, S, ...], ends fallen; None in a world where nothing stands."""
    if "torso_upright" not in path:
        return None
    steps = max(1, round(LAST / control_dt))
    return np.asarray(np.median(path["torso_upright"][:, -steps:], axis=1) < LYING)


def share(fallen: np.ndarray) -> dict[str, float]:
    """Rate of falls with its 95 % Wilson interval."""
    rate = statistics.wilson(int(fallen.sum()), len(fallen))
    return {"rate": rate.value, "low": rate.low, "high": rate.high}


def overlap(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two intervals, each with "low" and "high", have a value in common."""
    return one["low"] <= other["high"] and other["low"] <= one["high"]
