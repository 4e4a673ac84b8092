"""Random transitions of the walker's shapes, for measurements of speed."""

import numpy as np

from embodied.data import dataset
from embodied.types import Spec

WALKER = Spec(obs={"state": (24,)}, action=6)


def transitions(episodes: int, decisions: int) -> dataset.Dataset:
    """So many episodes of so many random transitions each."""
    generator = np.random.default_rng(0)
    draw = lambda *shape: generator.random(shape, np.float32) * 2 - 1  # noqa: E731
    width = WALKER.obs["state"][0]
    return dataset.from_episodes(
        [
            {
                "state": draw(decisions + 1, width),
                "action": draw(decisions, WALKER.action),
                "physics": np.zeros((decisions + 1, 1), np.float32),
            }
            for _ in range(episodes)
        ]
    )
