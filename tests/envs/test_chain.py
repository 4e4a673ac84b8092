"""Inverse kinematics: chains say what MuJoCo says, and hands go where they are sent, alike in both forms."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from embodied.deploy.contract import Command
from embodied.types import InputError
from envs.chain import Chain, about, product, rotation_vector
from envs.contract import contract_of
from envs.controller import Hand

JOINTS = ("shoulder_yaw", "shoulder_pitch", "upper_arm_roll", "elbow", "forearm_roll", "wrist_pitch", "flange_roll")


@pytest.fixture(scope="module")
def model():
    return envs.make("tabletop_arm_push", threads=1).world.model


@pytest.fixture(scope="module")
def hand(model):
    low, high = np.array([-0.2, -0.3, 0.0]), np.array([0.2, 0.3, 0.3])
    return Hand(Chain.of(model, JOINTS, "pinch"), slice(0, 7), np.eye(3), low, high, reach=0.03, period=0.1)


def random_angles(count):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (count, 7))


def after(hand, angles, moves):
    """The servos' targets after these moves [n, 3], a decision each."""
    for move in moves:
        angles = angles + hand.period * hand.velocities(angles, np.tile(move, (len(angles), 1)), np)
    return angles


def test_end_of_a_chain_and_its_jacobian_are_mujocos(model, hand):
    angles, data = random_angles(3), mujoco.MjData(model)
    position, turn, jacobian = hand.chain.end(angles, np)
    for index, row in enumerate(angles):
        data.qpos[:7] = row
        mujoco.mj_forward(model, data)
        expected = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, expected[:3], expected[3:], model.site("pinch").id)
        np.testing.assert_allclose(position[index], data.site("pinch").xpos, atol=1e-9)
        np.testing.assert_allclose(turn[index], data.site("pinch").xmat.reshape(3, 3), atol=1e-9)
        np.testing.assert_allclose(jacobian[index], expected[:, :7], atol=1e-9)


def test_rotation_vectors_are_axis_times_angle():
    axis = np.array([2.0, -1.0, 2.0]) / 3
    angles = np.array([0.0, 1e-9, 0.3, -2.0])
    np.testing.assert_allclose(rotation_vector(about(axis, angles, np), np), angles[:, None] * axis, atol=1e-12)


def test_hand_moves_by_as_much_as_it_is_asked_to_and_keeps_facing_down(hand):
    begin = after(hand, random_angles(20) * 0.2, [[0, 0, 0]] * 5)
    position, turn, _ = hand.chain.end(begin, np)
    np.testing.assert_allclose(turn, np.tile(np.eye(3), (20, 1, 1)), atol=1e-4)
    move = np.array([1.0, -0.5, 0.25])
    moved, turn, _ = hand.chain.end(after(hand, begin, [move]), np)
    np.testing.assert_allclose(moved, position + 0.03 * move, atol=2e-4)
    np.testing.assert_allclose(turn, np.tile(np.eye(3), (20, 1, 1)), atol=1e-3)


def test_hand_stops_at_the_border_of_where_it_may_be_sent(hand):
    for sign in (-1, 1):
        far = after(hand, np.zeros((1, 7)), [[sign, sign, sign]] * 30)
        expected = hand.low if sign < 0 else hand.high
        np.testing.assert_allclose(hand.chain.end(far, np)[0][0], expected, atol=1e-3)


def test_joints_return_to_the_middle_as_far_as_the_hand_does_not_feel_it(hand):
    # The elbow turned about the line from shoulder to wrist: the hand is where it was, all joints are elsewhere.
    aside = np.zeros((1, 7))
    for _ in range(20):
        jacobian = hand.chain.end(aside, np)[2][0]
        aside = aside + 0.05 * np.linalg.svd(jacobian)[2][-1]
    aside = after(hand, aside, [[0, 0, 0]])
    place, still = hand.chain.end(aside, np)[0], aside
    assert np.abs(aside).max() > 0.3
    for _ in range(60):
        still = after(hand, still, [[0, 0, 0]])
        np.testing.assert_allclose(hand.chain.end(still, np)[0], place, atol=1e-3)
    assert np.linalg.norm(still) < 0.2 * np.linalg.norm(aside)


def test_velocities_are_the_same_in_numpy_and_in_jax_and_in_rows_or_alone(hand):
    angles, move = random_angles(5), np.random.default_rng(1).uniform(-1, 1, (5, 3))
    expected = hand.velocities(angles, move, np)
    rows = jax.vmap(lambda a, m: hand.velocities(a, m, jnp))(jnp.asarray(angles), jnp.asarray(move))
    np.testing.assert_allclose(rows, expected, atol=2e-3)
    np.testing.assert_allclose(hand.velocities(angles[2], move[2], np), expected[2], atol=1e-9)


def test_products_of_matrices_are_numpys():
    left, right = np.random.default_rng(2).normal(size=(2, 4, 3, 3))
    np.testing.assert_allclose(product(left, right), left @ right, atol=1e-12)


def test_world_holds_the_action_and_its_controller_makes_commands_of_it():
    env = envs.make("tabletop_arm_pick", threads=1)
    ts = env.reset(jax.random.key(0), 2)
    action = np.array([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, -1.0]])
    after = env.step(ts, action)
    np.testing.assert_array_equal(after.physics[:, env.world.ctrl], np.clip(action, -1, 1))
    controls = env.world.controls(after.physics, np)
    assert controls.shape == (2, env.world.model.nu)
    np.testing.assert_allclose(controls[:, -1], [0.04, 0.0])
    np.testing.assert_allclose(controls[1, :7], 0, atol=1e-4)
    assert np.abs(controls[0, :7]).max() > 0.1


def test_late_commands_of_the_arm_are_those_of_the_decision_before():
    env = envs.make("tabletop_arm_push", threads=1, randomise="standard")
    ts = env.reset(jax.random.key(1), 3)
    physics = np.array(ts.physics)
    physics[:, env.world.dynamics] = [1, 1, 0, 0, 0, 1, 1, 1, 0]  # nominal, but a whole decision late, without noise
    ts = env.reset_to(physics)
    once = env.step(ts, np.tile([1.0, 0.0, 0.0], (3, 1)))
    moved = once.quantities["gripper_position"] - ts.quantities["gripper_position"]
    np.testing.assert_allclose(moved, 0, atol=1e-3)
    twice = env.step(once, np.zeros((3, 3)))
    moved = twice.quantities["gripper_position"] - ts.quantities["gripper_position"]
    assert (moved[:, 0] > 0.015).all()


def test_bundles_refuse_worlds_with_a_controller():
    world = envs.make("tabletop_arm_push", threads=1).world
    with pytest.raises(InputError, match=r"actions of world 'tabletop_arm_push' go through a controller"):
        contract_of(world, Command())
