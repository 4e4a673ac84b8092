"""What stands between OGBench's models and this library: the arm's kinematics, and worlds with a controller."""

import dataclasses
import functools
import importlib.util

import jax
import mujoco
import numpy as np
import pytest

import envs
from embodied.evaluate import EvaluateConfig, evaluate
from embodied.rewards import Task
from embodied.types import InputError, Quantity
from envs.controlled import ControlledEnv
from envs.controlled_world import ControlledWorld, State
from envs.ogbench_arm import FLANGE, HIGH, HOME, JOINTS, LOW, PINCH, Arm
from envs.ogbench_switches import Switches

AXES = ("0 0 1", "0 1 0", "0 1 0", "0 1 0", "0 0 1", "0 1 0")
PLACES = ("0 0 .16", "0 .14 0", "0 -.13 .42", "0 0 .39", "0 .13 0", "0 0 .1")
WORLD = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body><joint name="cart" type="slide" axis="1 0 0" damping="1"/><geom size=".1" mass="1"/></body>
    <body><joint name="door" type="slide" axis="0 1 0" damping="1"/><geom size=".1" pos="0 9 0" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="cart"/><motor joint="door"/></actuator>
</mujoco>
"""


@pytest.fixture(scope="module")
def model():
    """An arm of the same build as OGBench's: the same names, other lengths."""
    inner = f'<site name="{FLANGE}" pos="0 .1 0" quat="-1 1 0 0"/><body pos="0 .1 0" quat="-1 1 0 0">' + (
        f'<geom size=".01"/><site name="{PINCH}" pos="0 0 .15" quat="1 0 0 -1"/></body>'
    )
    for name, axis, place in reversed(list(zip(JOINTS, AXES, PLACES, strict=True))):
        turn = "1 0 1 0" if name in ("shoulder_lift", "wrist_1") else "1 0 0 0"
        joint = f'<joint name="ur5e/{name}_joint" axis="{axis}"/><geom size=".01"/>'
        inner = f'<body pos="{place}" quat="{turn}">{joint}{inner}</body>'
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><worldbody><body quat='1 0 0 1'>{inner}</body></worldbody></mujoco>"
    )


def test_flange_and_its_jacobian_are_mujocos(model):
    arm, data = Arm.of(model), mujoco.MjData(model)
    angles = np.random.default_rng(0).uniform(-2, 2, (5, 6))
    position, turn, jacobian = arm.flange(angles)
    for row in range(5):
        data.qpos[:] = angles[row]
        mujoco.mj_forward(model, data)
        expected = np.zeros((6, 6))
        mujoco.mj_jacSite(model, data, expected[:3], expected[3:], model.site(FLANGE).id)
        np.testing.assert_allclose(position[row], data.site(FLANGE).xpos, atol=1e-12)
        np.testing.assert_allclose(turn[row].ravel(), data.site(FLANGE).xmat, atol=1e-12)
        np.testing.assert_allclose(jacobian[row], expected, atol=1e-12)


def test_angles_bring_the_fingers_where_they_are_asked_to_be(model):
    arm, data = Arm.of(model), mujoco.MjData(model)
    position, yaw = np.random.default_rng(1).uniform(LOW, HIGH, (20, 3)), np.linspace(-1, 1, 20)
    angles = arm.angles(position, yaw, np.tile(HOME, (20, 1)))
    for row in range(20):
        data.qpos[:] = angles[row]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site(PINCH).xpos, position[row], atol=2e-4)
        down = data.site(PINCH).xmat.reshape(3, 3)
        np.testing.assert_allclose(down[:, 0], [np.cos(yaw[row]), np.sin(yaw[row]), 0], atol=2e-4)
        np.testing.assert_allclose(down[:, 2], [0, 0, -1], atol=2e-4)


def test_worlds_side_by_side_get_the_angles_that_each_gets_alone(model):
    arm = Arm.of(model)
    position, yaw, start = np.tile((LOW + HIGH) / 2, (3, 1)), np.array([0.0, 0.5, -2.0]), np.tile(HOME, (3, 1))
    together = arm.angles(position, yaw, start)
    alone = [arm.angles(position[[row]], yaw[[row]], start[[row]])[0] for row in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_commands_move_and_turn_the_fingers_within_the_table_and_close_them(model):
    arm = Arm.of(model)
    fingers = np.array([[0.4, 0.0, 0.2, 0.1], [0.59, 0.0, 0.03, 0.0]])
    joints = arm.angles(fingers[:, :3], fingers[:, 3], np.tile(HOME, (2, 1)))
    action = np.array([[0.5, 0.0, 0.0, 1.0, 0.25], [9.0, 0.0, -9.0, 0.0, -9.0]])
    command = arm.command(action, fingers, joints, driver=np.array([0.4, 0.4]))
    position, _, _ = arm.flange(command[:, :6])
    reached = np.array([[0.425, 0.0, 0.2], [0.6, 0.0, 0.02]])
    expected = arm.flange(arm.angles(reached, np.array([0.4, 0.0]), joints))[0]
    np.testing.assert_allclose(position, expected, atol=3e-4)
    np.testing.assert_allclose(command[:, 6], [255 * 0.75, 0])


def placed(low, high, generator, count):
    """Both at rest, the cart between low and high."""
    positions = np.stack([generator.uniform(low, high, count), np.zeros(count)], axis=1)
    return positions, np.zeros((count, 2)), np.zeros((count, 1))


def cart(hold=1, **changes):
    """A cart that is pushed by the action and a door that is pushed with 1 N; passing x = -0.02 unlocks the door."""
    model = mujoco.MjModel.from_xml_string(WORLD)
    fields = {
        "name": "cart",
        "model": model,
        "control_dt": 0.05,
        "hold": hold,
        "episode_length": 20,
        "action": 1,
        "quantities": {"x": Quantity((), "m", "place"), "door": Quantity((), "m", "place of the door")},
        "rewards": {"left": ("(x < -0.02) - 1", "be on the left")},
        "control": lambda state, action: (
            np.zeros((len(state.physics), 2)) if action is None else np.hstack([action, 1 + 0 * action])
        ),
        "look": lambda data: data.xpos[1, :1],
        "observe": lambda state: np.concatenate([state.joint("cart")[0], state.seen, state.act], axis=-1),
        "measure": lambda state: {"x": state.qpos[..., 0], "door": state.qpos[..., 1]},
        "draw": lambda state, seen: (model, mujoco.MjData(model)),
        "eye": "",
        "start": functools.partial(placed, 0.0, 0.0),
        "task_starts": {"left": functools.partial(placed, 3.0, 3.5)},
        "own": Switches(("cart",), np.eye(1), ("door",)),
    }
    return ControlledEnv(ControlledWorld(**{**fields, **changes}), threads=2)


def test_what_is_seen_lags_by_one_physics_step_and_survives_storing():
    env = cart(own=None, observe=lambda state: np.concatenate([state.joint("cart")[0], state.seen], axis=-1))
    ts = env.step(env.reset(jax.random.key(0), 2), np.array([[1.0], [-1.0]]))
    position, seen = ts.obs["state"].T
    velocity = ts.physics[:, env.world.qvel][:, 0]
    np.testing.assert_allclose(seen, position - 0.01 * velocity, atol=1e-7)
    np.testing.assert_array_equal(env.observe(ts.physics)[0]["state"], ts.obs["state"])
    np.testing.assert_array_equal(env.reset_to(ts.physics).obs["state"], ts.obs["state"])


def test_bare_vector_is_completed_by_what_is_seen_at_rest():
    env = cart()
    bare = np.array([[1.0, 0.3, 0.0, 2.0, 0.0, 1.0, 0.5]])  # time, two positions, two velocities, switch, action
    whole = env.complete(bare)
    np.testing.assert_array_equal(whole[:, :7], bare)
    np.testing.assert_allclose(env.reset_to(bare).obs["state"], [[0.3, 0.3, 1.0]], atol=1e-7)
    with pytest.raises(InputError, match="physics: a vector of world 'cart' has 7 or 10 numbers, got 4"):
        env.complete(bare[:, :4])


def test_button_flips_its_switch_once_and_unlocks_the_door():
    env = cart()
    ts = env.reset(jax.random.key(0), 2)
    switch, door = [], []
    for _ in range(12):
        ts = env.step(ts, np.array([[-1.0], [0.0]]))
        switch.append(ts.physics[:, env.world.act][:, 0])
        door.append(ts.quantities["door"])
    changes = np.diff(np.array(switch), axis=0)
    assert changes.sum(axis=0).tolist() == [1, 0]
    assert np.abs(np.array(door)[:, 1]).max() < 1e-5
    assert door[-1][0] > 0.01


def test_held_action_is_asked_for_anew_at_each_control_step_and_the_path_shows_all():
    once, twice = cart(), cart(hold=2)
    action, start = np.array([[0.5]]), once.reset(jax.random.key(0), 1)
    middle = once.step(start, action)
    end, held = once.step(middle, action), twice.step(start, action)
    np.testing.assert_array_equal(held.physics, end.physics)
    np.testing.assert_array_equal(held.path["x"][0], [middle.quantities["x"][0], end.quantities["x"][0]])


def test_world_that_breaks_is_replaced_and_named_and_the_others_go_on(caplog):
    env = cart()
    ts, action = env.reset(jax.random.key(0), 3), np.full((3, 1), 0.1)
    physics = ts.physics.copy()
    physics[1, 1] = np.nan
    after = env.step(ts.replace(physics=physics), action)
    assert after.last.tolist() == [False, True, False]
    assert after.discount.tolist() == [1.0, 0.0, 1.0]
    np.testing.assert_array_equal(after.physics[[0, 2]], env.step(ts, action).physics[[0, 2]])
    assert after.physics[1, 0] == 0
    assert [record.message for record in caplog.records] == ["world 1 of 'cart' became unstable at 0 s; it was reset"]


def test_task_is_judged_from_its_own_start_and_is_met_where_nothing_is_left_to_do():
    env, path = cart(), {"x": np.array([[0.0, -0.03, 0.0], [0.0, -0.01, 0.5]])}
    trial = env.trial(env.tasks["left"])
    assert trial.met(path).tolist() == [[False, True, False], [False, False, False]]
    begun = env.begin(env.tasks["left"], jax.random.key(0), 4).quantities["x"]
    assert ((begun >= 3.0) & (begun <= 3.5)).all()
    assert len(set(begun)) == 4


def test_rewards_that_are_no_task_of_the_world_start_anywhere_and_are_not_judged():
    env = cart()
    stranger = Task.of("left", "(x < -0.02) - 1", env.spec.quantities)
    assert env.trial(stranger) is None
    assert env.trial(None) is None
    for task in (stranger, None):
        begun = env.begin(task, jax.random.key(0), 4)
        np.testing.assert_array_equal(begun.physics, env.reset(jax.random.key(0), 4).physics)


def test_evaluation_uses_the_worlds_own_start_and_measure_of_a_task():
    env = cart()
    tasks = {"left": env.tasks["left"], "text": Task.of("text", "(x < -0.02) - 1", env.spec.quantities)}
    latents = {name: np.float32([-1.0]) for name in tasks}
    pushed = lambda obs, carry, key: (carry[1], carry)  # noqa: E731
    scores, trajectories = evaluate(env, pushed, (), latents, tasks, EvaluateConfig(episodes=3, seed=5))
    starts = {name: one.quantities["x"][:, 0] for name, one in trajectories.items()}
    assert starts["left"].min() >= 3.0
    np.testing.assert_array_equal(starts["text"], 0.0)
    # One newton on a kilogram for a second: far enough from 0, not from 3.
    assert scores["left"].success.tolist() == [False] * 3
    assert scores["text"].success is None
    assert (scores["text"].returns > scores["left"].returns).all()
    again = dataclasses.replace(env.world, task_starts={"left": functools.partial(placed, 0.1, 0.3)})
    env = ControlledEnv(again, threads=1)
    scores, trajectories = evaluate(env, pushed, (), {"left": latents["left"]}, env.tasks, EvaluateConfig(3, 5))
    np.testing.assert_array_equal(scores["left"].returns, ((trajectories["left"].path["x"] < -0.02) - 1.0).sum(1))
    assert scores["left"].success.all()


def test_hold_that_does_not_divide_an_episode_is_refused():
    with pytest.raises(InputError, match="hold must divide the 20 control steps of an episode, got 3"):
        cart(hold=3)


@pytest.mark.parametrize("name", envs.EXTRA_WORLDS)
def test_world_whose_package_is_missing_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    package = "metaworld" if name.startswith("metaworld") else "ogbench"
    with pytest.raises(
        InputError, match=rf"world '{name}' needs the package {package}: pip install 'embodied-stack\[{package}\]'"
    ):
        envs.make(name)


def test_state_has_no_other_parts():
    with pytest.raises(AttributeError, match="speed"):
        State(cart().world, np.zeros(10)).speed  # noqa: B018
