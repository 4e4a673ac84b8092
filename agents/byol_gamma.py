"""Features that predict a discounted future: BYOL whose target lies a geometric number of steps ahead.

    loss(f, P) = mean_{k,i} | P_k(f(s_t), a_t) - stop_gradient(f_target(s_{t+n})) |^2 + c_orth orth(f(s_t))
    P(n) ~ discount^n,  n = 1, 2, ... within the episode

The future is the one that the data holds, whatever policy made it. Everything else is as in `agents/byol.py`.
Paper: as a baseline of TD-JEPA, arXiv 2510.00739. Differences from the paper: no n leads past the end of an episode,
where a sample of the endless distribution would repeat the last state.
Prompts: Reward (least squares on f), Goal (C^-1 f(g)), Motion, Prior.
"""

import dataclasses

from agents import byol
from embodied import successor
from embodied.types import Agent, Needs, Spec

RANGES = byol.RANGES


@dataclasses.dataclass(frozen=True)
class Config(byol.Config):
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    def __post_init__(self) -> None:
        successor.check("byol_gamma", self, RANGES)


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are features, predictor (P), encoder, successor and actor."""
    return byol.build("byol_gamma", config, spec, Needs(future=config.discount))
