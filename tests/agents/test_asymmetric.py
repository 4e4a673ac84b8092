"""Worlds with privileged observations: actors do without them, critics and representations use them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from agents import td3, td_jepa
from embodied.policy import Buffer, Policy
from embodied.types import Agent, Batch, Goal, InputError, Reward, Spec
from tests.agents.chains import OF_STORED_DATA, quick_jit, random_batch, random_state

SYMMETRIC = Spec(obs={"state": (4,)}, action=2)
# The order in which a file or a tree of JAX would put the names.
SPEC = Spec(obs={"privileged": (5,), "state": (4,)}, action=2)
ROWS = 16
SUCCESSOR = ("laplacian", "hilp", "icvf", "byol", "byol_gamma")
FORWARD_BACKWARD = ("fb", "rldp")
PROMPTABLE = ("td_jepa", "onestep_fb", *FORWARD_BACKWARD, *SUCCESSOR)


# Clones have nothing beside their actor, and a model that is planned in is what acts.
LEARNERS = [name for name in OF_STORED_DATA if name not in ("bc", "gcbc", "jepa")]


class Case(NamedTuple):
    """An agent of the asymmetric world with a compiled update that counts its traces."""

    name: str
    config: Any
    agent: Agent
    state: Any
    update: Any
    traces: list


@pytest.fixture(scope="module", params=LEARNERS)
def case(request):
    config = agents.module(request.param).Config().tiny()
    agent, traces = agents.module(request.param).make(config, SPEC), []

    def update(state, batch, key):
        traces.append(1)
        return agent.update(state, batch, key)

    state = random_state(agent, SPEC)
    if request.param == "rnd":  # what is filled at random there includes its explorer's moments of gradients
        state = state.replace(explorer=random_state(td3.make(config.explorer, SPEC), SPEC))
    return Case(request.param, config, agent, state, quick_jit(update), traces)


def batch(seed: int = 0) -> Batch:
    return random_batch(SPEC, ROWS, seed)


def told_otherwise(obs: Any) -> dict:
    """The observations with other privileged inputs."""
    return {**obs, "privileged": 3.0 - obs["privileged"]}


def inputs(tree: Any) -> set[int]:
    """How many numbers the layers below a part of the parameters read."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf.shape[-2] for path, leaf in leaves if path[-1].key == "kernel"}


def policy(case: Case) -> Policy:
    obs = {name: np.asarray(leaf) for name, leaf in random_batch(SPEC, 40, 3).obs.items()}
    buffer = Buffer(obs, np.zeros((40, 1)))
    return Policy(case.name, case.config, SPEC, "nowhere", {}, case.state.params, buffer)


def reward(obs: Any) -> Reward:
    return Reward(obs, jnp.linspace(-1, 1, 40))


def test_actor_does_not_depend_on_privileged_inputs_nor_need_them(case):
    z = jnp.ones(case.config.z_dim if case.name in PROMPTABLE else 0)
    act = quick_jit(lambda obs: case.agent.act(case.state.params, obs, z, (), None)[0])
    obs = batch().obs
    action = act(obs)
    np.testing.assert_array_equal(action, act(told_otherwise(obs)))
    np.testing.assert_array_equal(action, act({"state": obs["state"]}))
    assert (action != act({**obs, "state": -obs["state"]})).any()


def test_what_learns_beside_the_actor_depends_on_privileged_inputs_and_updates_are_traced_once(case):
    given = batch()
    other = given.replace(obs=told_otherwise(given.obs), next_obs=told_otherwise(given.next_obs))
    after, again, apart = (case.update(case.state, one, jax.random.key(1))[0] for one in (given, given, other))
    assert case.traces == [1]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), after.params, again.params)
    assert all(jax.tree.leaves(same))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, apart.params)
    parts = {"td_jepa": ("psi",), "onestep_fb": ("forward", "backward"), "td3": ("critic",), "rnd": ("critic",)}
    parts |= dict.fromkeys(FORWARD_BACKWARD, ("encoder", "forward", "backward"))
    parts |= dict.fromkeys(SUCCESSOR, ("encoder", "successor", "features"))
    assert all(any(jax.tree.leaves(moved[part])) for part in parts[case.name])


def test_networks_read_what_they_may(case):
    read = {
        "td_jepa": {"phi": 4, "psi": 9, "actor": 12},
        "onestep_fb": {"forward": 9 + 2, "backward": 9, "actor": 4},
        "td3": {"actor": 4, "critic": 9 + 2},
        "rnd": {"actor": 4, "critic": 9 + 2},
        **{method: {"encoder": 9, "backward": 9, "actor": 4} for method in FORWARD_BACKWARD},
        **{method: {"encoder": 9, "features": 9, "actor": 4} for method in SUCCESSOR},
    }[case.name]
    for part, width in read.items():
        assert width in inputs(case.state.params[part])
        assert inputs(case.state.params[part]) & {4, 9, 11} <= {width}


@pytest.mark.parametrize("name", LEARNERS)
def test_without_privileged_observations_all_networks_read_the_state_and_actors_its_encoding(name):
    module = agents.module(name)
    agent = module.make(module.Config().tiny(), SYMMETRIC)
    state = jax.eval_shape(agent.init, jax.random.key(0), SYMMETRIC.example())
    read = {"td_jepa": ("phi", "psi"), "onestep_fb": ("backward", "actor"), "td3": ("actor",), "rnd": ("actor",)}
    read |= dict.fromkeys(FORWARD_BACKWARD, ("encoder", "backward"))
    read |= dict.fromkeys(SUCCESSOR, ("encoder", "features"))
    assert all(4 in inputs(state.params[part]) for part in read[name])
    assert not {5, 9, 11} & inputs(state.params)
    if name in (*FORWARD_BACKWARD, *SUCCESSOR):
        width = module.Config().tiny().encoder_dim
        assert width in inputs(state.params["actor"])  # e(s), not the state
        assert 4 not in inputs(state.params["actor"])


def test_reward_and_goal_prompts_use_privileged_inputs_and_the_prompted_policy_acts_without(case):
    if case.name not in PROMPTABLE:
        assert Reward not in case.agent.prompts
        return
    ours = policy(case)
    obs, one = ours.buffer.obs, {name: leaf[0] for name, leaf in ours.buffer.obs.items()}
    for prompt, other in (
        (reward(obs), reward(told_otherwise(obs))),
        (Goal(one), Goal(told_otherwise(one))),
    ):
        prompted = ours.prompt(prompt)
        assert np.abs(prompted.z - ours.prompt(other).z).max() > 1e-3
        action, _ = prompted.act({"state": one["state"]}, prompted.carry())
        np.testing.assert_array_equal(action, prompted.act(one, prompted.carry())[0])
    with pytest.raises(InputError, match="Goal prompt: observation 'privileged' is missing; got state"):
        ours.prompt(Goal({"state": one["state"]}))


def test_predicted_value_of_forward_backward_depends_on_privileged_inputs(case):
    obs, at = random_batch(SPEC, 40, 3).obs, batch().obs
    if case.agent.value is None:
        assert case.name not in PROMPTABLE
        return
    z = jnp.ones(case.config.z_dim)
    value = quick_jit(lambda at: case.agent.value(case.state.params, reward(obs), z, at))
    differs = bool((value(at) != value(told_otherwise(at))).any())
    assert differs == (case.name != "td_jepa")  # TD-JEPA's values see by phi


def test_symmetric_td_jepa_is_refused():
    config = dataclasses.replace(td_jepa.Config(), symmetric=True, phi_dim=50).tiny()
    td_jepa.make(config, SYMMETRIC)
    with pytest.raises(
        InputError, match=r'td_jepa: symmetric must be False for a world with "privileged" observations'
    ):
        td_jepa.make(config, SPEC)


def test_explorer_finds_new_privileged_inputs_novel(case):
    if case.name != "rnd":
        assert not hasattr(case.state, "moments")
        return
    assert case.state.moments["mean"].shape == (9,)
    given = batch()
    known, novel = (
        float(case.update(case.state, given.replace(next_obs=obs), jax.random.key(0))[1]["loss/distillation"])
        for obs in (given.next_obs, told_otherwise(given.next_obs))
    )
    assert known != novel
