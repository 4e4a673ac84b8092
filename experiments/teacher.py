"""Actors held to data by a teacher that was trained before: `embodied train PRESET --teacher RUN`.

What data do depends on no method, so one cloned policy (`agents/bc.py`) may serve all of them: each then learns only
what to do with it. Its flow takes the place of the one that the agent would learn beside its actor, and stays as it is.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from embodied.actor import Imitation
from embodied.policy import Policy
from embodied.types import Agent, Batch, InputError, Params, RandomKey, Spec, State
from experiments.experiment import Experiment
from experiments.models import named

GROUP = "flow"  # of parameters: the teacher


def taught(experiment: Experiment) -> Experiment:
    """The experiment with a flow of its teacher's size, which does not learn; as it is where it names no teacher.

    Raises InputError for an agent that is not held to data, or a teacher that is no clone of the same world's states.
    """
    if not experiment.teacher:
        return experiment
    imitation = getattr(experiment.agent, "imitation", None)
    if not isinstance(imitation, Imitation) or not imitation.held:
        raise InputError("teacher: needs an agent that is held to its data by agent.imitation.weight or .candidates")
    if experiment.pixels:
        raise InputError(f"teacher: takes agents that see states, pixels must be 0, got {experiment.pixels}")
    clone = _clone(experiment)
    size = {name: getattr(clone.config, name) for name in ("hidden", "layers")}
    agent: Any = dataclasses.replace(experiment.agent, imitation=dataclasses.replace(imitation, **size, lr=0.0))
    return dataclasses.replace(experiment, agent=agent)


def flow_of(experiment: Experiment, spec: Spec) -> Params | None:
    """The teacher's parameters; None where the experiment names no teacher.

    Raises InputError for a teacher of data with other statistics, since it would see other inputs than it learned on.
    """
    if not experiment.teacher:
        return None
    clone = _clone(experiment)
    for name in ("mean", "std"):
        theirs, ours = getattr(clone.spec, name)["state"], getattr(spec, name)["state"]
        if clone.config.inputs == "standardized" and not np.allclose(theirs, ours, rtol=1e-4, atol=1e-6):
            raise InputError(f"teacher: '{experiment.teacher}' was trained on other data (its {name} differs)")
    return jax.tree.map(np.asarray, clone.params[GROUP])


def begun_with(agent: Agent, flow: Params | None) -> Agent:
    """The agent whose state begins with this flow; the agent itself where there is none."""
    if flow is None:
        return agent

    def init(key: RandomKey, batch: Batch) -> State:
        state = agent.init(key, batch)
        return state.replace(params={**state.params, GROUP: jax.tree.map(jnp.asarray, flow)})

    return agent._replace(init=init)


def _clone(experiment: Experiment) -> Policy:
    policy = named(experiment.teacher)
    if policy.agent_name != "bc" or "state" not in policy.spec.obs:
        raise InputError(
            f"teacher: '{experiment.teacher}' must be a run of agent 'bc' on states, got '{policy.agent_name}'"
        )
    if policy.world != experiment.world:
        raise InputError(f"teacher: '{experiment.teacher}' knows world '{policy.world}', not '{experiment.world}'")
    if policy.config.inputs != experiment.agent.inputs:
        raise InputError(
            f"teacher: agent.inputs must be the teacher's, '{policy.config.inputs}', got '{experiment.agent.inputs}'"
        )
    return policy
