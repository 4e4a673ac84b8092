"""Every world as a contract: the robot that a bundle simulates measures, sees and moves like the world."""

import jax
import mujoco
import numpy as np
import pytest

import envs
from embodied.deploy import contract as contracts
from embodied.deploy.contract import Command, Term
from embodied.deploy.errors import InputError
from embodied.deploy.observation import Assembler, scaling
from embodied.deploy.robot import Order
from embodied.deploy.simulation import Simulation
from envs.compiled import compile_model
from envs.contract import contract_of, is_servo, read, servo_gains
from envs.readings import check_terms, driven, measured


@pytest.fixture(scope="module", params=[name for name in envs.WORLDS if not name.startswith("tabletop_arm")])
def env(request):
    return envs.make(request.param, threads=1)


def test_contract_is_complete_and_survives_its_file(env, tmp_path):
    agreed = contract_of(env.world, Command(50, 50**0.5))
    (tmp_path / "contract.yaml").write_text(contracts.write(agreed))
    assert contracts.read(tmp_path / "contract.yaml") == agreed
    assert agreed.width == env.spec.obs["state"][0]
    assert agreed.timing.control_dt == pytest.approx(env.spec.hold * env.spec.control_dt)
    assert len(agreed.action.names) == env.spec.action


def test_simulated_robot_sees_and_moves_like_the_world(env):
    agreed = contract_of(env.world, Command())
    ts = env.reset(jax.random.key(3), 1)
    model = mujoco.MjModel.from_xml_string(env.world.source.xml)
    robot = Simulation(agreed, model, ts.physics[0, : env.world.ctrl.start])
    assembler, unit = Assembler(agreed), np.array([agreed.action.scale[name] for name in agreed.action.names])
    centre = np.array([agreed.action.offset[name] for name in agreed.action.names])
    action = np.zeros(env.spec.action)
    low, scale, high = scaling(agreed)
    # The text of the model has six digits: contacts let such differences grow, hence few steps.
    for step in range(3):
        readings = robot.read().readings
        np.testing.assert_allclose(
            readings, read(env.world, ts.physics, env.sensordata(ts.physics), agreed)[0], rtol=1e-3, atol=2e-3
        )
        seen = scale * np.clip(assembler.observe(readings, action), low, high)
        np.testing.assert_allclose(seen, ts.obs["state"][0], rtol=1e-3, atol=2e-3, err_msg=f"step {step}")
        action = np.random.default_rng(step).uniform(-1, 1, env.spec.action)
        robot.send(Order("target", centre + unit * action))
        robot.wait((step + 1) * agreed.timing.control_dt)
        ts = env.step(ts, action[None])


def test_readings_without_a_sensor_are_marked():
    by_name = {r.name: r.available for r in contract_of(envs.make("quadruped", threads=1).world, Command()).readings}
    assert by_name["joint_position/knee_front_left"] == "robot"
    assert by_name["sensor/imu_gyro"] == "robot"
    assert by_name["sensor/velocimeter"] == "needs_estimator"
    assert by_name["sensor/torso_z_axis"] == "needs_estimator"


def test_term_that_no_sensor_gives_is_refused_unless_marked():
    model = envs.make("walker", threads=1).world.model
    place = Term("place", ("joint_position/rootx",))
    with pytest.raises(InputError, match=r"no sensor of a robot gives 'joint_position/rootx' of term 'place'"):
        check_terms(model, [place])
    check_terms(model, [Term("place", ("joint_position/rootx",), estimated=True)])
    check_terms(model, [Term("hip", ("joint_position/left_hip",))])
    with pytest.raises(InputError, match="did you mean 'joint_position/left_hip'"):
        check_terms(model, [Term("hip", ("joint_position/left_hipp",))])


def test_servo_gains_come_from_the_model_by_joint():
    xml = """
    <mujoco>
      <worldbody>
        <body>
          <joint name="a"/><geom size=".1"/>
          <body><joint name="b"/><geom size=".1"/></body>
        </body>
      </worldbody>
      <actuator><position joint="b" kp="30" kv="2" forcerange="-7 7"/><motor joint="a" gear="5"/></actuator>
    </mujoco>
    """
    model = compile_model(xml, include={}, sensors={}).model
    assert [is_servo(model, index) for index in range(2)] == [True, False]
    assert servo_gains(model) == {"kp": {"b": 30.0}, "kd": {"b": 2.0}, "effort_limit": {"b": 7.0}}
    assert driven(model) == [0, 1]
    assert measured(model, "joint_velocity/b")
