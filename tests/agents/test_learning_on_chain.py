"""Zero-shot agents learn finite worlds: rewards and goals they never saw in training become good policies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import fb, laplacian, td_jepa
from embodied.types import Goal, Reward
from tests.agents.chains import (
    everywhere,
    greedy_actions,
    grid,
    latent,
    learn,
    line,
    optimal_returns,
    quick_jit,
    returns,
)

DISCOUNT = 0.9
LINE = line(5)
# The latent has one dimension per state: a wider one leaves the covariance of features singular.
FAST = {"z_dim": 5, "hidden": 32, "discount": DISCOUNT, "tau": 0.05, "lr_actor": 3e-3}
CHAIN_AGENTS = {
    "fb": fb.make(dataclasses.replace(fb.Config().tiny(), lr_forward=3e-3, lr_backward=1e-3, **FAST), LINE.spec),
    "td_jepa": td_jepa.make(
        dataclasses.replace(td_jepa.Config().tiny(), lr_phi=1e-3, lr_psi=1e-3, lr_predictor=3e-3, c_psi=1.0, **FAST),
        LINE.spec,
    ),
    # For all agents on the trunk of successor features.
    "laplacian": laplacian.make(
        dataclasses.replace(laplacian.Config().tiny(), lr_features=1e-3, lr_successor=3e-3, **FAST), LINE.spec
    ),
}


@pytest.fixture(scope="module", params=CHAIN_AGENTS)
def trained(request):
    agent = CHAIN_AGENTS[request.param]
    return agent, learn(agent, LINE, batch_size=64, updates=1000, compile=quick_jit)


def test_source_walks_as_the_line_says():
    batch = jax.jit(lambda key: everywhere(LINE, 200).next((), (), key)[1])(jax.random.key(0))
    here, there = (np.asarray(obs["state"]).argmax(-1) for obs in (batch.obs, batch.next_obs))
    np.testing.assert_array_equal(there, np.clip(here + np.sign(batch.action[:, 0]), 0, 4))
    assert set(here) == set(range(5))


def test_value_iteration_agrees_with_the_best_policy_written_down():
    reward = np.eye(5)[4]
    best = optimal_returns(LINE, reward, DISCOUNT)
    np.testing.assert_allclose(best, DISCOUNT ** np.array([3, 2, 1, 0, 0]) / (1 - DISCOUNT), rtol=1e-5)
    np.testing.assert_allclose(returns(LINE, np.ones((5, 1)), reward, DISCOUNT), best, rtol=1e-5)


def test_reward_on_the_right_makes_every_state_go_right(trained):
    agent, params = trained
    prompt = Reward({"state": jnp.eye(5)}, jnp.eye(5)[4])
    z = latent(agent, params, prompt)
    assert (greedy_actions(agent, LINE, params, z) > 0).all()


def test_goal_on_the_left_makes_every_state_go_left(trained):
    agent, params = trained
    z = latent(agent, params, Goal({"state": jnp.eye(5)[0]}))
    assert (greedy_actions(agent, LINE, params, z) < 0).all()


def test_value_is_the_mean_reward_per_decision_of_what_the_policy_does(trained):
    agent, params = trained
    reward = np.eye(5)[4]
    prompt = Reward({"state": jnp.eye(5)}, jnp.asarray(reward, jnp.float32))
    z = latent(agent, params, prompt)
    value = quick_jit(agent.value)(params, prompt, z, {"state": jnp.eye(5)})
    exact = (1 - DISCOUNT) * returns(LINE, greedy_actions(agent, LINE, params, z), reward, DISCOUNT)
    np.testing.assert_allclose(value, exact, atol=0.12)
    assert np.corrcoef(value, exact)[0, 1] > 0.95


GRID = grid(4)


def grid_agent(name, width):
    """An agent for the grid whose latent has `width` dimensions."""
    sizes = {"hidden": 128, "z_dim": width, "discount": DISCOUNT, "tau": 0.02, "lr_actor": 1e-3}
    if name == "fb":
        config = fb.Config(encoder_dim=32, backward_hidden=64, lr_forward=1e-3, lr_backward=1e-3, **sizes)
        return fb.make(config, GRID.spec)
    config = td_jepa.Config(phi_dim=32, psi_hidden=64, lr_phi=1e-3, lr_psi=1e-3, lr_predictor=1e-3, c_psi=1.0, **sizes)
    return td_jepa.make(config, GRID.spec)


def shares(name, width):
    """For every single-goal reward, the policy's return as a share of the optimal one, both averaged over starts."""
    agent = grid_agent(name, width)
    params = learn(agent, GRID, batch_size=256, updates=5000)
    result = []
    for reward in np.eye(GRID.states):
        prompt = Reward({"state": jnp.eye(GRID.states)}, jnp.asarray(reward, jnp.float32))
        action = greedy_actions(agent, GRID, params, latent(agent, params, prompt))
        best = optimal_returns(GRID, reward, DISCOUNT)
        result.append(returns(GRID, action, reward, DISCOUNT).mean() / best.mean())
    return np.array(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fb", "td_jepa"])
def test_full_rank_agents_solve_every_goal_of_a_grid_and_low_rank_ones_fewer(name):
    full, low = shares(name, GRID.states), shares(name, GRID.states // 4)
    assert full.min() >= 0.95
    assert low.mean() < full.mean()
