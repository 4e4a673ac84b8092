"""What is fixed to the world: where episodes begin, what stays where it is, and what tasks pay for."""

import jax
import mujoco
import numpy as np
import pytest

import envs
from embodied.types import InputError
from envs.dmc_rigs import FURTHEST, NEAREST

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def cartpole():
    return envs.make("cartpole", threads=1)


def test_pole_hangs_at_a_start_and_stands_where_a_task_is_to_balance_it(cartpole):
    hanging = cartpole.reset(KEY, 500)
    assert hanging.quantities["pole_upright"].max() < -0.998
    np.testing.assert_allclose(hanging.quantities["cart_position"].std(), 0.01, rtol=0.2)
    swinging = cartpole.begin(cartpole.tasks["swingup"], KEY, 500)
    np.testing.assert_array_equal(swinging.physics, hanging.physics)
    for name in ("balance", "balance_sparse"):
        assert cartpole.trial(cartpole.tasks[name]).met is None
        upright = cartpole.begin(cartpole.tasks[name], KEY, 500).quantities
        assert upright["pole_upright"].min() >= np.cos(0.034)
        assert 0.095 < np.abs(upright["cart_position"]).max() <= 0.1
        for velocity in ("cart_velocity", "pole_velocity"):
            np.testing.assert_allclose(upright[velocity].std(), 0.01, rtol=0.2)


def test_start_option_begins_every_episode_as_the_task_of_that_name_does(cartpole):
    ready = envs.make("cartpole", start="balance", threads=1).reset(KEY, 4)
    np.testing.assert_array_equal(ready.physics, cartpole.begin(cartpole.tasks["balance"], KEY, 4).physics)
    with pytest.raises(InputError, match="unknown start 'balanc' of world 'cartpole'; did you mean 'balance'"):
        envs.make("cartpole", start="balanc")
    with pytest.raises(InputError, match="unknown start 'easy' of world 'reacher'"):
        envs.make("reacher", start="easy")


def test_cartpole_pays_by_hand(cartpole):
    quantities = {
        "cart_position": np.array([0.0, 2.0, 0.25]),
        "pole_upright": np.array([1.0, 0.0, 0.995]),
        "pole_velocity": np.array([0.0, 5.0, 0.0]),
        "control": np.array([[0.0], [1.0], [0.5]]),
    }
    pay = {name: task(quantities, None, quantities) for name, task in cartpole.tasks.items()}
    # Half upright, at the margins of position and velocity (0.1 each), under the strongest force.
    np.testing.assert_allclose(pay["swingup"][:2], [1, 0.5 * 0.55 * 0.8 * 0.55], rtol=1e-9)
    np.testing.assert_array_equal(pay["balance_sparse"], [1, 0, 1])


def test_target_of_the_reacher_is_drawn_for_each_episode_and_stays_where_it_is():
    env = envs.make("reacher", threads=1)
    ts = env.reset(KEY, 500)
    target = ts.quantities["target_position"]
    radius = np.linalg.norm(target, axis=1)
    assert NEAREST <= radius.min() < radius.max() <= FURTHEST
    np.testing.assert_allclose(radius.mean(), (NEAREST + FURTHEST) / 2, atol=0.01)
    np.testing.assert_allclose(target.mean(0), 0, atol=0.02)
    for seed in range(20):
        ts = env.step(ts, np.random.default_rng(seed).uniform(-1, 1, (500, 2)))
    np.testing.assert_array_equal(ts.quantities["target_position"], target)
    apart = ts.quantities["target_position"] - ts.quantities["finger_position"]
    np.testing.assert_allclose(ts.quantities["target_distance"], np.linalg.norm(apart, axis=1), atol=1e-12)
    near = {"target_distance": np.array([0.02, 0.05, 0.07])}
    assert env.tasks["easy"](near, None, near).tolist() == [1, 1, 0]
    assert env.tasks["hard"](near, None, near).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("name", "radius"), [("finger_turn_easy", 0.07), ("finger_turn_hard", 0.03)])
def test_target_of_the_finger_is_somewhere_on_the_circle_of_the_tip(name, radius):
    env = envs.make(name, threads=1)
    ts = env.reset(KEY, 200)
    target = ts.quantities["target_position"]
    np.testing.assert_allclose(np.linalg.norm(target, axis=1), 0.13, atol=1e-9)
    np.testing.assert_allclose(target.mean(0), 0, atol=0.03)
    apart = np.linalg.norm(target - ts.quantities["tip_position"], axis=1)
    np.testing.assert_allclose(ts.quantities["target_distance"], apart, atol=1e-9)
    np.testing.assert_allclose(ts.obs["state"][:, -1], apart - radius, atol=1e-6)
    for seed in range(20):
        ts = env.step(ts, np.random.default_rng(seed).uniform(-1, 1, (200, 2)))
    np.testing.assert_allclose(ts.quantities["target_position"], target, atol=1e-12)
    assert np.ptp(ts.quantities["top_force"]) > 0.1


def test_finger_that_spins_has_no_target_and_less_damping():
    spin, turn = (envs.make(name, threads=1) for name in ("finger_spin", "finger_turn_easy"))
    assert not {"target_position", "target_distance"} & set(spin.spec.quantities)
    damping = [env.world.model.joint("hinge").damping[0] for env in (spin, turn)]
    np.testing.assert_allclose(damping, [0.03, 0.5])
    sites = [spin.world.model.site(name).rgba[3] for name in ("tip", "target")]
    assert sites == [0, 0]
    fast = {"spinner_velocity": np.array([-14.9, -15.0, 20.0])}
    assert spin.tasks["spin"](fast, None, fast).tolist() == [0, 1, 0]


def test_episodes_of_ball_and_finger_begin_where_nothing_touches():
    for name in ("ball_in_cup", "finger_spin"):
        env = envs.make(name, threads=1)
        data = mujoco.MjData(env.world.model)
        for pose in env.world.start(np.random.default_rng(0), 100):
            data.qpos[:] = pose
            mujoco.mj_fwdPosition(env.world.model, data)
            assert data.ncon == 0
    offset = envs.make("ball_in_cup", threads=1).reset(KEY, 500).quantities
    assert 0.19 < np.abs(offset["ball_position"][:, 0]).max() <= 0.2
    assert 0.4 <= offset["ball_position"][:, 1].min() < offset["ball_position"][:, 1].max() <= 0.7
    np.testing.assert_allclose(offset["ball_offset_z"], offset["ball_position"][:, 1] - 0.55, atol=1e-12)
