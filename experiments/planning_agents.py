"""Agents that plan in latents, and the clones that they are measured against, at sizes for two CPU cores."""

import dataclasses
from typing import Any

from agents import gcbc, jepa
from embodied.planning import Planning
from embodied.sight import Image
from embodied.train import TrainConfig
from experiments.experiment import Experiment

IMAGE = Image(channels=32, kernels=(4, 2, 2), strides=(4, 2, 2), features=128, shift=0)
MODEL = jepa.Config(
    planning=Planning(horizon=5, samples=128, iterations=4, elites=13),
    block=5,
    along=1.0,
    hidden=256,
    layers=1,
    projections=64,
    lr=1e-3,
    image=IMAGE,
)
CLONE = gcbc.Config(hidden=256, future=0.95, lr=5e-4, image=IMAGE)
# World -> (what its goals are about: nothing there moves on by itself; width of latents, which are hardly more than
# there are ways to move, so that far is far in latents too).
WORLDS = {
    "point_maze": (("position",), 2),
    "push_t": (("pusher_position", "block_position", "block_axis"), 8),
}
TRAIN, PIXEL_TRAIN = TrainConfig(20_000, 256), TrainConfig(20_000, 128, chunk=100)


def presets() -> dict[str, Experiment[Any]]:
    """Name -> experiment."""
    found = {}
    for world, (parts, latent) in WORLDS.items():
        model = dataclasses.replace(MODEL, parts=parts, frames=1, latent=latent)
        agents: dict[str, Any] = {"jepa": model, "gcbc": CLONE}
        for name, agent in agents.items():
            found[f"{world}-{name}-small"] = Experiment(world, agent, TRAIN)
            found[f"{world}-{name}-pixels-small"] = Experiment(world, agent, PIXEL_TRAIN, pixels=64, buffer=4_000)
    return found
