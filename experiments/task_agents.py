"""Agents that learn one task from rollouts of their own: sizes for one CPU core, and those of the papers."""

import dataclasses
from typing import Any

from agents import mrq, tdmpc2
from embodied.planning import Planning
from embodied.train import TrainConfig
from experiments.experiment import Experiment, Online

HOLD = 2  # control steps per decision, as in the papers
TASKS = {"cartpole": "swingup", "walker": "walk"}  # world -> the task that is learnt
SMALL: dict[str, Any] = {
    "mrq": mrq.Config(latent=128, hidden=128, action_width=64, lr_model=3e-4, warmup=2_000),
    "tdmpc2": tdmpc2.Config(
        planning=Planning("mppi", horizon=3, samples=64, iterations=4, elites=8, spread=2.0, resolution=0.01),
        proposals=8,
        latent=64,
        hidden=128,
        encoder_hidden=128,
        members=2,
        warmup=2_000,
    ),
}
PUBLISHED: dict[str, Any] = {"mrq": mrq.Config(), "tdmpc2": tdmpc2.Config()}
# One update for each decision. An episode has 500 of them; rings hold 100 thousand, and a million.
SMALL_TRAIN, SMALL_ONLINE = TrainConfig(20_000, 128, 1_000), Online(2, 500, capacity=200)
PUBLISHED_TRAIN, PUBLISHED_ONLINE = TrainConfig(500_000, 256, 500), Online(1, 500, capacity=2_000)


def presets() -> dict[str, Experiment[Any]]:
    """Name -> experiment."""
    found = {}
    for world, task in TASKS.items():
        for agents, size, train, online in (
            (SMALL, "-small", SMALL_TRAIN, SMALL_ONLINE),
            (PUBLISHED, "", PUBLISHED_TRAIN, PUBLISHED_ONLINE),
        ):
            for name, agent in agents.items():
                config = dataclasses.replace(agent, task=task)
                found[f"{world}-{name}{size}"] = Experiment(world, config, train, HOLD, online)
    return found
