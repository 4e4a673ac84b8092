"""Algorithms, one file each: `Config` (frozen dataclass) and `make(config, spec) -> Agent`."""

import importlib
from types import ModuleType

from embodied.types import InputError, nearest

AGENTS = {
    "td_jepa": "agents.td_jepa",
    "fb": "agents.fb",
    "laplacian": "agents.laplacian",
    "hilp": "agents.hilp",
    "icvf": "agents.icvf",
    "byol": "agents.byol",
    "byol_gamma": "agents.byol_gamma",
    "rldp": "agents.rldp",
    "onestep_fb": "agents.onestep_fb",
    "td3": "agents.td3",
    "bc": "agents.bc",
    "multi_critic": "agents.multi_critic",
    "multi_critic_sac": "agents.multi_critic_sac",
    "planner": "agents.planner",
    "mrq": "agents.mrq",
    "tdmpc2": "agents.tdmpc2",
    "jepa": "agents.jepa",
    "gcbc": "agents.gcbc",
    "rnd": "agents.rnd",
}


def module(name: str) -> ModuleType:
    """The module of a registered agent; raises InputError with the nearest name otherwise."""
    if name not in AGENTS:
        raise InputError(f"agent: unknown agent '{name}'; {nearest(name, AGENTS)}")
    return importlib.import_module(AGENTS[name])
