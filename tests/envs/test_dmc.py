"""Worlds of the DeepMind Control Suite read the same observations and pay the same rewards as dm_control."""

import jax
import mujoco
import numpy as np
import pytest
from dm_control import suite

import envs
from envs.compiled import without_forces

STATES = 300
CASES = {
    "walker": ("stand", "walk", "run"),
    "cheetah": ("run",),
    "quadruped": ("walk", "run"),
    "cartpole": ("swingup", "swingup_sparse", "balance", "balance_sparse"),
    "reacher": ("easy", "hard"),
    "ball_in_cup": ("catch",),
    "finger_spin": ("spin",),
    "finger_turn_easy": ("turn_easy",),
    "finger_turn_hard": ("turn_hard",),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run"),
}
LEGGED = ("walker", "cheetah", "quadruped", "hopper", "humanoid")
# Where states lie that tell good from bad: half widths (m, rad) of positions around MIDDLE or the drawn pose; rad/s.
SPREAD = {
    "cartpole": np.array([0.4, 4.0]),
    "reacher": np.array([3.0, 2.5, 0.15, 0.15]),
    "ball_in_cup": np.array([0.03, 0.03, 0.04, 0.04]),
}
MIDDLE = {"ball_in_cup": np.array([0.0, 0.0, 0.0, 0.35])}
SPEED = {"finger_spin": 15.0}


@pytest.fixture(scope="module", params=CASES)
def readings(request):
    """A world, random physics vectors [N, P], and dm_control's observations and rewards of them."""
    name = request.param
    env = envs.make(name, threads=1)
    generator = np.random.default_rng(7)
    originals = {task: original(name, task) for task in CASES[name]}
    physics = np.zeros((STATES, env.spec.physics))
    observations, rewards = [], {task: [] for task in originals}
    for row in physics:
        for task, theirs in originals.items():
            place(theirs, env.world, row, generator if task == CASES[name][0] else None)
            rewards[task].append(theirs.task.get_reward(theirs.physics))
        observation = theirs.task.get_observation(theirs.physics)
        observations.append(np.concatenate([np.ravel(part) for part in observation.values()]))
    return env, physics, np.array(observations), rewards


def original(name, task):
    """dm_control's environment at the start of an episode, at which a task sets what its model needs."""
    environment = suite.load("finger" if name.startswith("finger") else name, task)
    environment.reset()
    return environment


def place(theirs, world, row, generator):
    """Puts dm_control's physics into the state `row`, drawn first where a generator is given."""
    physics = theirs.physics
    data, nq, nv = physics.data, physics.model.nq, physics.model.nv
    if generator is not None:
        spread = generator.uniform(-1, 1, world.model.nq) * SPREAD.get(world.name, 0.5)
        pose = MIDDLE.get(world.name, world.model.qpos0) + spread
        mujoco.mj_normalizeQuat(physics.model.ptr, pose[:nq])
        row[world.qpos] = pose
        row[world.qvel][:nv] = generator.normal(size=nv) * SPEED.get(world.name, 3.0)
        row[world.act] = generator.uniform(-1, 1, physics.model.na)
        row[world.ctrl] = generator.uniform(-0.8, 0.8, physics.model.nu)
    # Behind dm_control's own joints are those of the target.
    if world.name == "reacher":
        physics.named.model.geom_pos["target", :2] = row[world.qpos][nq:]
    elif world.name.startswith("finger_turn"):
        angle = row[world.qpos][nq]
        place = [0.2 + 0.13 * np.sin(angle), 0.4 + 0.13 * np.cos(angle)]
        physics.named.model.site_pos["target", ["x", "z"]] = place
    data.qpos[:], data.qvel[:], data.ctrl[:] = row[world.qpos][:nq], row[world.qvel][:nv], row[world.ctrl]
    if physics.model.na:
        data.act[:] = row[world.act]
    data.qacc_warmstart[:] = 0
    physics.forward()


def test_observations_equal_those_of_dm_control(readings):
    env, physics, expected, _ = readings
    state, _ = env.read(physics)
    np.testing.assert_allclose(state, expected, rtol=1e-6, atol=1e-6)


def test_rewards_equal_those_of_dm_control(readings):
    env, physics, _, rewards = readings
    _, quantities = env.read(physics)
    for task, expected in rewards.items():
        reward = env.tasks[task](quantities, None, quantities)
        np.testing.assert_allclose(reward, expected, atol=1e-6, err_msg=task)
        assert np.ptp(expected) > 0.1  # the states tell good from bad


@pytest.mark.parametrize("name", CASES)
def test_timing_and_actuation_equal_those_of_dm_control(name):
    env = envs.make(name, threads=1)
    theirs = original(name, CASES[name][0])
    action = np.linspace(-0.7, 0.7, env.spec.action)
    low, high = theirs.physics.model.actuator_ctrlrange.T
    start = np.zeros(env.spec.physics)
    data, nq, nv = theirs.physics.data, theirs.physics.model.nq, theirs.physics.model.nv
    start[env.world.qpos][:nq], start[env.world.qvel][:nv], start[env.world.act] = data.qpos, data.qvel, data.act
    ts = env.reset_to(start[None])
    for _ in range(3):
        theirs.step(low + (action + 1) / 2 * (high - low))
        ts = env.step(ts, action[None])
    assert theirs.control_timestep() == pytest.approx(env.spec.control_dt)
    np.testing.assert_allclose(ts.physics[0, env.world.qpos][:nq], theirs.physics.data.qpos, atol=1e-4)
    assert env.spec.episode_length * env.spec.control_dt == pytest.approx(theirs._step_limit * env.spec.control_dt)
    np.testing.assert_allclose(ts.quantities["control"][0], action, atol=1e-12)


def test_backward_tasks_mirror_forward_tasks_of_cheetah():
    tasks = envs.make("cheetah", threads=1).tasks
    ahead, back = {"torso_velocity_x": np.array([5.0])}, {"torso_velocity_x": np.array([-5.0])}
    assert tasks["run"](ahead, None, ahead) == tasks["run_backward"](back, None, back) == 0.5
    assert tasks["walk"](ahead, None, ahead) == tasks["walk_backward"](back, None, back) == 1.0
    assert tasks["run"](back, None, back) == tasks["walk_backward"](ahead, None, ahead) == 0.0


def test_spin_pays_for_angular_momentum_and_jump_for_height():
    spin = envs.make("walker", threads=1).tasks["spin"]
    standing = {"torso_height": np.full(3, 1.3), "torso_upright": np.ones(3)}
    turning = {**standing, "angular_momentum_y": np.array([0.0, 2.5, 5.0])}
    np.testing.assert_allclose(spin(turning, None, turning), [1 / 6, 3.5 / 6, 1.0])
    jump = envs.make("quadruped", threads=1).tasks["jump"]
    upright = np.array([1.0, 1.0, 1.0, -1.0])
    torso = {"torso_height": np.array([0.5, 0.75, 1.2, 1.2]), "torso_upright": upright}
    np.testing.assert_allclose(jump(torso, None, torso), [0.0, 0.5, 1.0, 0.0])


def test_quadruped_starts_just_above_the_floor_in_any_orientation():
    env = envs.make("quadruped", threads=1)
    data = mujoco.MjData(env.world.model)
    poses = env.world.start(np.random.default_rng(0), 10)
    for pose in poses:
        contacts = []
        for drop in (0.0, 0.01):
            data.qpos[:] = pose
            data.qpos[2] -= drop
            mujoco.mj_fwdPosition(env.world.model, data)
            contacts.append(data.ncon > 0)
        assert contacts == [False, True]
    assert np.ptp(poses[:, 3:7], axis=0).min() > 0.5


@pytest.mark.parametrize("name", LEGGED)
def test_reference_starts_are_upright_poses_close_to_the_drawn_one(name):
    env = envs.make(name, start="reference", threads=1)
    physics = env.reset(jax.random.key(3), 200).physics
    model = env.world.model
    away = physics[:, env.world.qpos] - model.qpos0
    hinges = model.jnt_qposadr[model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE]
    np.testing.assert_array_equal(np.delete(away, hinges, axis=1), 0)
    np.testing.assert_allclose(away[:, hinges].std(), 0.1, rtol=0.1)
    assert env.observe(physics)[1]["torso_upright"].min() > 0.8


@pytest.mark.parametrize(("name", "forces"), [("walker", False), ("cheetah", False), ("quadruped", True)])
def test_sensors_of_a_state_are_those_of_the_whole_model_bit_for_bit(name, forces):
    env = envs.make(name, threads=1)
    ts = env.reset(jax.random.key(3), 8)
    for seed in range(20):
        ts = env.step(ts, np.random.default_rng(seed).uniform(-1, 1, (8, env.spec.action)))
    model, contacts = env.world.model, 0
    assert (without_forces(model) is model) == forces
    for state, sensed in zip(ts.physics, env.sensordata(ts.physics), strict=True):
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, state[: env.world.ctrl.start], mujoco.mjtState.mjSTATE_FULLPHYSICS)
        data.ctrl[:] = state[env.world.ctrl]
        mujoco.mj_forward(model, data)
        np.testing.assert_array_equal(sensed, data.sensordata)
        contacts += data.ncon
    assert contacts > 0


def test_model_for_reading_sensors_leaves_the_one_that_steps_alone():
    model = envs.make("walker", threads=1).world.model
    before = model.opt.disableflags
    assert without_forces(model).opt.disableflags != before
    assert model.opt.disableflags == before
