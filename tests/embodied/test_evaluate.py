"""Scores of prompted policies against returns worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.evaluate import EvaluateConfig, Scores, evaluate, ever, random_behaviour
from embodied.rewards import Task
from embodied.rollout import Trajectory, agent_behaviour
from embodied.types import Trial
from tests.embodied import toys
from tests.embodied.toys import Adder

CONFIG = EvaluateConfig(episodes=2, seed=3)


def constant(obs, carry, key):
    """The latent as the action."""
    return carry[1], carry


@pytest.fixture(scope="module", params=[False, True], ids=["host", "jittable"])
def result(request):
    env = Adder(request.param)
    tasks = {
        "far": Task.of("far", "x", env.spec.quantities),
        "gain": Task.of("gain", "x - previous_x", env.spec.quantities),
        "effort": Task.of("effort", "x * 0 + component(action, 0)", env.spec.quantities, action=1),
    }
    latents = {"far": np.float32([1.0]), "gain": np.float32([0.5]), "effort": np.float32([-0.25])}
    criteria = {"gain": lambda path: path["x"][:, -1] > 4.5}
    return evaluate(env, constant, (), latents, tasks, CONFIG, criteria)


def test_return_sums_the_reward_behind_every_control_step(result):
    scores, _ = result
    # Four decisions of two control steps: x is 1, 2, ... 8 from 0, and one more in the second world.
    np.testing.assert_allclose(scores["far"].returns, [36.0, 44.0])


def test_previous_quantities_are_those_before_each_control_step(result):
    scores, _ = result
    np.testing.assert_allclose(scores["gain"].returns, [4.0, 4.0], rtol=1e-6)


def test_held_action_is_paid_at_every_control_step(result):
    scores, _ = result
    np.testing.assert_allclose(scores["effort"].returns, [-2.0, -2.0], rtol=1e-6)


def test_success_is_judged_on_the_paths_of_the_prompt_it_belongs_to(result):
    scores, trajectories = result
    np.testing.assert_array_equal(scores["gain"].success, [False, True])
    assert scores["far"].success is None
    np.testing.assert_allclose(trajectories["gain"].path["x"][:, -1], [4.0, 5.0])


def test_all_prompts_start_from_the_same_states(result):
    _, trajectories = result
    starts = [trajectory.physics[:, 0, 0] for trajectory in trajectories.values()]
    for start in starts:
        np.testing.assert_allclose(start, [0.0, 1.0])


@pytest.mark.parametrize("jittable", [False, True])
def test_nothing_is_paid_behind_a_termination(jittable):
    env = Adder(jittable, limit=3.5)
    tasks = {"far": Task.of("far", "x", env.spec.quantities)}
    scores, trajectories = evaluate(env, constant, (), {"far": np.float32([1.0])}, tasks, CONFIG)
    # The first world passes 3.5 with its second decision, the second one too, and both go on from 0.
    np.testing.assert_array_equal(trajectories["far"].discount, [[1, 0, 1, 0]] * 2)
    np.testing.assert_allclose(scores["far"].returns, [1 + 2 + 3 + 4, 2 + 3 + 4 + 5])


@pytest.mark.parametrize("jittable", [False, True])
def test_task_with_a_trial_begins_where_it_says_and_is_solved_where_it_is_ever_met(jittable):
    env = Adder(jittable, limit=3.5)
    env.tasks = {"near": Task.of("near", "x", env.spec.quantities)}
    away = lambda key, count: env.reset_to(env.reset(key, count).physics - 4.0)  # noqa: E731
    env.trials = {"near": Trial(away, lambda path: np.abs(path["x"] - 0.5) < 0.1)}
    latents = dict.fromkeys(("near", "far"), np.float32([1.5]))
    tasks = env.tasks | {"far": Task.of("far", "x", env.spec.quantities)}
    scores, trajectories = evaluate(env, constant, (), latents, tasks, CONFIG)
    np.testing.assert_allclose(trajectories["near"].physics[:, 0, 0], [-4.0, -3.0])
    np.testing.assert_allclose(trajectories["far"].physics[:, 0, 0], [0.0, 1.0])
    # By 1.5 at each control step: -2.5, -1, 0.5, 2, 3.5, 5 in the first world.
    np.testing.assert_array_equal(scores["near"].success, [True, False])
    assert scores["far"].success is None
    criteria = {"near": lambda path: path["x"][:, 0] < 0}
    scores, _ = evaluate(env, constant, (), latents, tasks, CONFIG, criteria)
    np.testing.assert_array_equal(scores["near"].success, [True, True])


def test_goal_that_is_met_behind_a_termination_is_not_reached():
    discount = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    whole = Trajectory(None, None, None, None, {}, discount)
    met = np.zeros((3, 6), bool)
    met[0, 5] = met[1, 3] = met[2, 2] = True
    np.testing.assert_array_equal(ever(whole, met, 2), [True, True, False])


@pytest.mark.parametrize("jittable", [False, True])
def test_latents_of_a_motion_are_walked_along_and_the_last_is_held(jittable):
    env = Adder(jittable)
    tasks = dict.fromkeys(("walk", "short", "stand"), Task.of("far", "x", env.spec.quantities))
    latents = {
        "walk": np.float32([[1.0], [0.0], [-1.0], [0.5]]),
        "short": np.float32([[0.5], [0.25]]),
        "stand": np.float32([0.75]),
    }
    _, trajectories = evaluate(env, constant, (), latents, tasks, CONFIG)
    np.testing.assert_array_equal(trajectories["walk"].action[..., 0], [[1.0, 0.0, -1.0, 0.5]] * 2)
    np.testing.assert_array_equal(trajectories["short"].action[..., 0], [[0.5, 0.25, 0.25, 0.25]] * 2)
    np.testing.assert_array_equal(trajectories["stand"].action[..., 0], [[0.75] * 4] * 2)


@pytest.mark.parametrize("jittable", [False, True])
def test_agent_with_a_memory_starts_every_episode_with_it(jittable):
    def act(params, obs, z, carry, key):
        return z * params + carry[:, None], carry + 1.0

    agent = toys.agent()._replace(act=act, carry=jnp.zeros)  # one number for each world
    env = Adder(jittable)
    tasks = dict.fromkeys(("a", "b"), Task.of("far", "x", env.spec.quantities))
    latents = {"a": np.float32([0.0]), "b": np.float32([[0.5], [1.0]])}
    behave = agent_behaviour(agent, explore=False)
    _, trajectories = evaluate(env, behave, jnp.float32(1.0), latents, tasks, CONFIG, carry=agent.carry)
    np.testing.assert_array_equal(trajectories["a"].action[..., 0], [[0.0, 1.0, 2.0, 3.0]] * 2)
    np.testing.assert_array_equal(trajectories["b"].action[..., 0], [[0.5, 2.0, 3.0, 4.0]] * 2)


def test_scoring_again_compiles_nothing_again():
    env, traces = Adder(True), []

    def behave(obs, carry, key):
        traces.append(1)
        return constant(obs, carry, key)

    tasks = {"far": Task.of("far", "x", env.spec.quantities)}
    evaluate(env, behave, (), {"far": np.float32([1.0])}, tasks, CONFIG)
    once = len(traces)
    evaluate(env, behave, (), {"far": np.float32([2.0])}, tasks, CONFIG)
    assert len(traces) == once


def test_summary_gives_mean_error_and_intervals():
    row = Scores(np.array([1.0, 2.0, 3.0, 6.0]), np.array([True, True, False, True])).summary()
    assert row["mean"] == pytest.approx(3.0)
    assert row["iqm"] == pytest.approx(2.5)
    assert row["standard_error"] == pytest.approx(np.sqrt(14 / 3) / 2)
    assert row["low"] <= row["iqm"] <= row["high"]
    assert row["success"] == pytest.approx(0.75)
    assert row["success_low"] < 0.75 < row["success_high"]
    assert row["episodes"] == 4


def test_single_episode_has_no_standard_error_and_a_point_as_interval():
    row = Scores(np.array([5.0])).summary()
    assert (row["standard_error"], row["low"], row["iqm"], row["high"]) == (0.0, 5.0, 5.0, 5.0)


def test_random_behaviour_is_uniform_between_minus_one_and_one():
    carry = ("params", "z", ())
    action, after = random_behaviour(3)({"state": jnp.zeros((2000, 2))}, carry, jax.random.key(0))
    assert after == carry
    assert action.shape == (2000, 3)
    assert np.abs(action).max() <= 1.0
    np.testing.assert_allclose(np.std(action, axis=0), 3**-0.5, rtol=0.05)
