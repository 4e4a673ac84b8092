"""Agents that learn from pixels learn as from vectors: same functions, image encoders of their own."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from agents import td_jepa
from embodied.types import Batch, Chain, Goal, InputError, Prior, Reward, Spec

SPEC = Spec(obs={"pixels": (32, 32, 9)}, action=2)
ROWS = 8
# Who reads what through an encoder of its own: actors share that of the state side.
GROUPS = {
    "td_jepa": {"phi_image", "psi_image"},
    **{name: {"encoder_image", "backward_image"} for name in ("fb", "rldp")},
    "onestep_fb": {"forward_image", "backward_image"},
    **{name: {"encoder_image", "features_image"} for name in ("laplacian", "hilp", "icvf", "byol", "byol_gamma")},
    "jepa": {"encoder_image"},
    "gcbc": {"actor_image", "goal_image"},
}
quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def tiny(name: str):
    module = importlib.import_module(agents.AGENTS[name])
    config = module.Config().tiny()
    return module.make(dataclasses.replace(config, image=dataclasses.replace(config.image, channels=2)), SPEC)


def images(*leading: int, seed: int = 0) -> jax.Array:
    drawn = np.random.default_rng(seed).integers(0, 256, (*leading, *SPEC.obs["pixels"]))
    return jnp.asarray(drawn, jnp.uint8)


def batch(seed: int = 0) -> Batch:
    """Transitions with all that any agent needs besides."""
    rng = np.random.default_rng(seed)
    action = jnp.asarray(rng.uniform(-1, 1, (ROWS, 5, 2)), jnp.float32)
    following = images(ROWS, 5, seed=seed + 1)
    return Batch(
        obs={"pixels": images(ROWS, seed=seed)},
        action=action[:, 0],
        next_obs={"pixels": following[:, 0]},
        reward=jnp.zeros(ROWS),
        discount=jnp.ones(ROWS),
        future={"pixels": following[:, 2]},
        chain=Chain(action, {"pixels": following}, jnp.zeros((ROWS, 5)), jnp.ones((ROWS, 5)), jnp.ones((ROWS, 5))),
    )


def shapes(tree) -> list:
    return [(str(path), leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize("name", GROUPS)
def test_agent_keeps_its_contract_and_averages_no_image_encoder(name):
    agent, key = tiny(name), jax.random.key(0)
    state = jax.eval_shape(agent.init, key, SPEC.example())
    after, metrics = jax.eval_shape(agent.update, state, batch(), key)
    assert shapes(after) == shapes(state)
    assert all(leaf.shape == () for leaf in metrics.values())
    assert {group for group in state.params if group.endswith("_image")} == GROUPS[name]
    assert not {group for group in getattr(state, "target", ()) if group.endswith("_image")}
    z = jax.eval_shape(agent.prompt, state.params, Prior(), key)
    seen = {"pixels": jax.ShapeDtypeStruct((3, *SPEC.obs["pixels"]), jnp.uint8)}
    action, _ = jax.eval_shape(agent.act, state.params, seen, z, agent.carry(3), None)
    assert (action.shape, action.dtype) == ((3, 2), jnp.float32)
    goal = Goal({"pixels": jax.ShapeDtypeStruct(SPEC.obs["pixels"], jnp.uint8)})
    assert jax.eval_shape(agent.prompt, state.params, goal, key).shape == z.shape
    if Reward in agent.prompts:
        reward = Reward(seen, jax.ShapeDtypeStruct((3,), jnp.float32))
        assert jax.eval_shape(agent.prompt, state.params, reward, key).shape == z.shape
        assert jax.eval_shape(agent.value, state.params, reward, z, seen).shape == (3,)


def test_every_agent_that_learns_from_pixels_is_here():
    of_states = {"td3", "rnd", "bc", "multi_critic", "multi_critic_sac", "planner", "mrq", "tdmpc2"}
    assert set(GROUPS) == set(agents.AGENTS) - of_states


@pytest.mark.parametrize("name", ["td3", "rnd"])
def test_agents_that_read_vectors_alone_say_so(name):
    module = importlib.import_module(agents.AGENTS[name])
    with pytest.raises(InputError, match=r"observations: the agent reads 'state', the world offers pixels"):
        module.make(module.Config().tiny(), SPEC)


@functools.cache
def updated():
    """(state before, state after, metrics) of one update of TD-JEPA."""
    agent = tiny("td_jepa")
    before = jax.jit(agent.init, compiler_options=quick)(jax.random.key(0), SPEC.example())
    after, metrics = jax.jit(agent.update, compiler_options=quick)(before, batch(), jax.random.key(1))
    return before, after, metrics


def test_one_update_moves_both_image_encoders_and_is_finite():
    before, after, metrics = updated()
    assert all(np.isfinite(value) for value in metrics.values())
    for group in ("phi_image", "psi_image"):
        moved = jax.tree.map(
            lambda old, new: float(jnp.abs(new - old).max()), before.params[group], after.params[group]
        )
        assert min(jax.tree.leaves(moved["conv_0"])) > 0, group
        assert max(jax.tree.leaves(moved)) < 3e-4  # no further than Adam's first step at the rate of their networks


def test_each_encoder_learns_from_its_own_loss_alone():
    config = td_jepa.Config().tiny()
    agent = td_jepa.make(dataclasses.replace(config, c_phi=0.0, c_psi=0.0, lr_psi=0.0), SPEC)
    before = jax.jit(agent.init, compiler_options=quick)(jax.random.key(0), SPEC.example())
    after, _ = jax.jit(agent.update, compiler_options=quick)(before, batch(), jax.random.key(1))
    same = jax.tree.map(lambda old, new: bool((old == new).all()), before.params, after.params)
    assert all(jax.tree.leaves(same["psi_image"]))  # it has the rate of psi
    assert not any(jax.tree.leaves(same["phi_image"]["conv_0"]))
