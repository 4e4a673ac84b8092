"""Agents that discover skills, at sizes for two CPU cores: what they shall move, and what else they are paid for."""

import dataclasses

from agents import discovery, multi_critic, multi_critic_sac, planner
from embodied.planning import Planning

DISCOVERY = discovery.Config(objective="csf", skill_dim=2, hidden=128, lr=3e-4)
SIZES = multi_critic.Config(
    channels=(), weights=(1.0,), discounts=(0.99,), hidden=128, layers=2, skill=DISCOVERY, lr=1e-3
)
# Safety comes slowly: a hand that is safe at once hovers over the object, and never learns what it can be moved to. The
# features learn quickly, because at first little tells skills apart. A closed hand pushes in the plane; an open one
# lifts as well.
PUSH = dataclasses.replace(
    SIZES,
    channels=("reach", "safety"),
    weights=(0.2, 1.0, 1.0),
    begin=(0.3, 0.0, 1.0),
    ramp=200,
    discounts=(0.95, 0.95, 0.99),
    moved=("object_position",),
    skill=dataclasses.replace(DISCOVERY, lr=3e-3),
)
PICK = dataclasses.replace(PUSH, skill=dataclasses.replace(PUSH.skill, skill_dim=3))
WORLDS = {  # world -> (agent, worlds side by side, decisions of a rollout, updates)
    "point_maze": (dataclasses.replace(SIZES, moved=("position",)), 64, 100, 150),
    "tabletop_push": (PUSH, 64, 100, 250),
    "tabletop_pick": (PICK, 64, 100, 250),
    "tabletop_push_three": (PUSH, 64, 100, 250),
    "tabletop_pick_three": (PICK, 64, 100, 250),
}

# Off-policy: fewer decisions, each of them gone through many times.
SAC_SIZES = multi_critic_sac.Config(
    channels=(), weights=(1.0,), discounts=(0.99,), hidden=128, skill=DISCOVERY, tau=0.02, lr=1e-3
)
SAC_PUSH = dataclasses.replace(
    SAC_SIZES, channels=PUSH.channels, weights=(1.0, 1.0, 1.0), discounts=PUSH.discounts, moved=PUSH.moved
)
REPLAYED = {  # world -> (agent, worlds side by side, decisions of a rollout, updates, updates after each rollout)
    "point_maze": (dataclasses.replace(SAC_SIZES, moved=("position",)), 8, 100, 20_000, 50),
    "tabletop_push": (SAC_PUSH, 8, 100, 40_000, 50),
}

# Over skills (`--skills`) a plan of these has as many decisions, each of them longer.
PLANNER = planner.Config(planning=Planning(horizon=5, samples=128, iterations=3, elites=13), hidden=128, members=3)
PLANNED = {  # world -> (agent, worlds side by side, decisions of a rollout, updates, updates after each rollout)
    "point_maze": (dataclasses.replace(PLANNER, moved=("position",)), 8, 100, 10_000, 100),
    "tabletop_push": (dataclasses.replace(PLANNER, moved=("object_position",)), 8, 100, 20_000, 100),
}
