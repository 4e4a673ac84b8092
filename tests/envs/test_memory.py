"""Observations with a history: what a world shows, stores and goes on from is what a robot's runtime assembles."""

import functools

import jax
import numpy as np
import pytest

from embodied.deploy.contract import Command, History, Term
from embodied.deploy.observation import Assembler, scaling
from embodied.types import Quantity
from envs.compiled import compile_model
from envs.contract import contract_of, read
from envs.forms import build
from envs.memory import kept
from envs.model import WorldModel

XML = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01"/>
  <worldbody>
    <body>
      <joint name="a" axis="0 1 0" damping=".2"/><geom type="capsule" fromto="0 0 0 0 0 -.3" size=".02" mass="1"/>
      <body pos="0 0 -.3">
        <joint name="b" axis="0 1 0" damping=".2"/><geom type="capsule" fromto="0 0 0 0 0 -.3" size=".02" mass="1"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="a" kp="20" kv="1" ctrlrange="-.4 1"/><position joint="b" kp="20" kv="1" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
BOTH = ("joint_position/a", "joint_position/b"), ("joint_velocity/a", "joint_velocity/b")
OBSERVATION = (
    Term("position", BOTH[0], history=History(3, "newest_first", True, "zeros"), noise=(0.01,)),
    Term("speed", BOTH[1], scale=(0.5,)),
    Term("speeds", BOTH[1], scale=(0.1,), history=History(2, "oldest_first", False, "repeat_first"), noise=(0.1,)),
    Term("action", ("last_action",), history=History(2, "oldest_first", True, "zeros")),
)


@functools.cache
def arm(form="host", level="none"):
    world = WorldModel(
        name="arm",
        source=compile_model(XML, {}, {}),
        control_dt=0.02,
        hold=2,
        quantities={"angle": Quantity((), "rad", "angle of the first joint")},
        rewards={"up": ("angle", "up")},
        observation=OBSERVATION,
        measure=lambda reading: {"angle": reading.qpos[..., 0]},
        start=lambda generator, count: generator.uniform(-1, 1, (count, 2)),
        episode_length=100,
    )
    return build(world, form, 1 if form == "host" else None, level)


def actions(step, count=3):
    return np.random.default_rng(step).uniform(-1, 1, (count, 2)).astype(np.float32)


def test_history_is_what_a_runtime_assembles_from_the_first_step_on():
    env = arm()
    agreed = contract_of(env.world, Command())
    low, scale, high = scaling(agreed)
    assert env.spec.obs["state"] == (3 * 2 + 2 + 2 * 2 + 2 * 2,) == (agreed.width,)
    ts, assemblers, last = env.reset(jax.random.key(0), 3), [Assembler(agreed) for _ in range(3)], np.zeros((3, 2))
    for step in range(6):
        readings = read(env.world, ts.physics, env.sensordata(ts.physics), agreed)
        wanted = [one.observe(*pair) for one, *pair in zip(assemblers, readings, last, strict=True)]
        np.testing.assert_allclose(ts.obs["state"], np.clip(wanted, low, high) * scale, atol=1e-6, err_msg=f"{step}")
        last = actions(step)
        ts = env.step(ts, last)


def test_first_observation_by_hand():
    env = arm()
    ts = env.reset(jax.random.key(0), 1)
    angles = ts.physics[0, env.world.qpos]
    np.testing.assert_allclose(ts.obs["state"][0], [*angles, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], atol=1e-7)


@pytest.mark.parametrize("level", ["none", "standard"])
def test_stored_states_show_and_go_on_as_they_did(level):
    env = arm("host", level)
    ts = env.reset(jax.random.key(1), 3)
    for step in range(4):
        ts = env.step(ts, actions(step))
    np.testing.assert_array_equal(env.observe(ts.physics)[0]["state"], ts.obs["state"])
    again = env.reset_to(ts.physics)
    np.testing.assert_array_equal(again.physics, ts.physics)
    for step in range(4, 8):
        ts, again = env.step(ts, actions(step)), env.step(again, actions(step))
        np.testing.assert_array_equal(again.obs["state"], ts.obs["state"])


def test_bare_states_begin_without_a_past():
    env = arm()
    ts = env.step(env.reset(jax.random.key(1), 3), actions(0))
    bare = env.reset_to(ts.physics[:, : env.world.ctrl.stop])
    np.testing.assert_array_equal(bare.obs["state"][:, :2], ts.obs["state"][:, :2])
    np.testing.assert_array_equal(bare.obs["state"][:, 2:6], 0)
    assert np.abs(ts.obs["state"][:, 2:4]).min() > 0


def test_noise_of_a_frame_stays_with_it():
    env = arm("host", "standard")
    ts = env.step(env.reset(jax.random.key(2), 3), actions(0))
    newest = ts.obs["state"][:, :2]
    after = env.step(ts, actions(1))
    np.testing.assert_array_equal(after.obs["state"][:, 2:4], newest)
    assert np.abs(newest - ts.physics[:, env.world.qpos]).max() > 1e-3


@pytest.mark.parametrize("level", ["none", "standard"])
def test_both_forms_remember_the_same(level):
    host, traced = arm("host", level), arm("mjx", level)
    ts = host.step(host.reset(jax.random.key(3), 3), actions(0))
    ours, theirs = ts, traced.reset_to(ts.physics)
    for step in range(1, 4):
        ours, theirs = host.step(ours, actions(step)), traced.step(theirs, actions(step))
    np.testing.assert_allclose(theirs.obs["state"], ours.obs["state"], atol=2e-4)
    np.testing.assert_allclose(theirs.physics, ours.physics, atol=2e-4)


def test_terms_that_show_only_now_take_no_memory():
    assert [kept(term) for term in OBSERVATION] == [3, 0, 3, 2]
    env = arm()
    assert env.world.memory.stop - env.world.memory.start == 1 + 2 * (3 + 3 + 2)
