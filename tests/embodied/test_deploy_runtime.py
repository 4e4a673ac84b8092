"""A bundle on its simulated robot, in this process: the loop, prompts, faults, and joints in another order."""

import dataclasses

import numpy as np
import pytest

from embodied.deploy import bundle
from embodied.deploy.__main__ import main
from embodied.deploy.errors import InputError
from embodied.deploy.robot import Order, State
from embodied.deploy.runtime import Runtime, between
from embodied.deploy.simulation import Simulation, load_model
from tests.embodied import robots


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return robots.write_bundle(tmp_path_factory.mktemp("bundle") / "biped")


@pytest.fixture
def loaded(sealed):
    return bundle.load(sealed)


def instant() -> float:
    """A clock on which an inference takes no time."""
    return 0.0


def simulation(loaded, **options) -> Simulation:
    return Simulation(loaded.contract, load_model(loaded), robots.start(), **options)


def test_loop_runs_in_time_with_the_simulated_clock(loaded):
    robot, ticks = simulation(loaded), []
    reason = Runtime(loaded, robot, "lean", instant).run(1.0, ticks.append)
    assert (reason, len(ticks)) == ("", 50)
    np.testing.assert_allclose([tick.state.time for tick in ticks], np.arange(50) * 0.02, atol=1e-9)
    assert robot.model.opt.disableflags  # damped at the end


def test_loop_repeats_its_golden_vectors(loaded):
    golden, ticks = loaded.arrays(bundle.GOLDEN), []
    free = dataclasses.replace(loaded.contract, safety=dataclasses.replace(loaded.contract.safety, slew={}))
    runtime = Runtime(dataclasses.replace(loaded, contract=free), simulation(loaded), "lean", instant)
    runtime.run(12 * 0.02, ticks.append)
    np.testing.assert_allclose([tick.action for tick in ticks], golden["action"][:12], atol=1e-5)


def test_order_of_the_policys_joints_does_not_matter(loaded, tmp_path):
    other = bundle.load(robots.write_bundle(tmp_path / "permuted", robots.permuted(loaded.contract)))
    assert other.contract.action.names == loaded.contract.action.names[::-1]
    paths = []
    for one in (loaded, other):
        robot, path = simulation(one), []
        Runtime(one, robot, "rock", instant).run(2.0, lambda tick, path=path: path.append(tick.state.readings))
        paths.append(np.array(path))
    np.testing.assert_allclose(paths[0], paths[1], atol=1e-5)
    assert np.ptp(paths[0][:, 0]) > 0.05  # and it moves


def test_prompt_switch_blends_on_the_sphere_and_keeps_the_slew_limit(loaded):
    ticks, runtime = [], Runtime(loaded, simulation(loaded), "lean", instant)

    def each(tick):
        ticks.append(tick)
        if len(ticks) == 10:
            runtime.switch("rock")

    runtime.run(0.6, each)
    targets = np.array([tick.order.target for tick in ticks])
    assert np.abs(np.diff(targets, axis=0)).max() <= 0.2 + 1e-9
    with pytest.raises(InputError, match="did you mean 'rock'"):
        runtime.switch("rok")


def test_between_latents_stays_on_the_sphere():
    start, end = np.array([1.0, 1.0], np.float32), np.array([-1.0, 1.0], np.float32)
    for share in (0.0, 0.3, 0.99):
        assert np.linalg.norm(between(start, end, share)) == pytest.approx(2**0.5, rel=1e-6)
    np.testing.assert_array_equal(between(start, -start, 0.5), -start)


def test_motion_is_walked_along_and_its_end_is_held(loaded):
    motion = np.array([[1, 1], [1, -1], [-1, -1]], np.float32)
    runtime = Runtime(loaded, simulation(loaded), motion, instant)
    seen = [runtime._latent.next().tolist() for _ in range(5)]
    assert seen == [[1, 1], [1, -1], [-1, -1], [-1, -1], [-1, -1]]


class Broken(Simulation):
    """A robot whose readings turn into NaN, or whose states stop coming."""

    fault = ""

    def read(self) -> State:
        state = super().read()
        if self.fault == "nan" and state.time > 0.11:
            return State(state.time, state.readings * np.nan)
        if self.fault == "stale":
            return State(min(state.time, 0.11), state.readings)
        if self.fault == "tilt" and state.time > 0.11:
            turned = state.readings.copy()
            turned[4:8] = np.cos(0.6), np.sin(0.6), 0, 0
            return State(state.time, turned)
        return state


@pytest.mark.parametrize(
    ("fault", "reason", "ticks"), [("nan", "not finite", 8), ("stale", "stale", 12), ("tilt", "tilt", 7)]
)
def test_faults_of_the_robot_end_in_latched_damping(loaded, fault, reason, ticks):
    agreed = loaded.contract
    if fault == "nan":  # without a tilt check, which would see the NaN first
        agreed = dataclasses.replace(agreed, safety=dataclasses.replace(agreed.safety, tilt=None))
    robot = Broken(agreed, load_model(loaded), robots.start())
    robot.fault, seen = fault, []
    found = Runtime(dataclasses.replace(loaded, contract=agreed), robot, "lean", instant).run(2.0, seen.append)
    assert found.startswith(reason)
    assert len(seen) == ticks
    assert seen[-1].order.mode == "damping"


def test_slow_inference_stops(loaded):
    times = iter(np.arange(1000) * 0.03)
    reason = Runtime(loaded, simulation(loaded), "lean", lambda: next(times)).run(2.0)
    assert reason.startswith("late: 2 inferences in a row")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "quadruped"}, "robot: is a 'quadruped', the bundle is for 'biped'"),
        ({"joints": ("left_hip",)}, "has 1 driven joints, the bundle is for 2"),
        ({"joints": ("right_hip", "left_hip")}, "joint 'right_hip' stands where the bundle expects 'left_hip'"),
        ({"hardware_mode": "C"}, "hardware mode 'C' is none of the accepted A, B"),
        ({"readings": ("sensor/gyro",)}, "does not measure 'joint_position/left_hip'"),
    ],
)
def test_another_robot_is_refused_before_anything_moves(loaded, change, message):
    robot = simulation(loaded)
    identity = dataclasses.replace(robot.identity(), **change)
    robot.identity = lambda: identity
    with pytest.raises(InputError, match=message):
        Runtime(loaded, robot, "lean")


def test_rising_takes_limp_joints_evenly_to_the_pose_of_action_zero(loaded):
    start = robots.start()
    start[8:10] = 0.4, -0.3
    robot = Simulation(loaded.contract, load_model(loaded), start)
    runtime, orders, send = Runtime(loaded, robot, "lean", instant), [], robot.send
    robot.send = lambda order: (orders.append(order.target), send(order))
    assert runtime.rise(0.5) == ""
    path = np.array(orders)
    assert path.shape == (25, 2)
    np.testing.assert_allclose(path[0], [0.4 - 0.3 / 25, -0.3 + 0.4 / 25], atol=1e-9)
    np.testing.assert_allclose(path[-1], [0.1, 0.1])
    assert np.abs(np.diff(path, axis=0)).max() < 0.02


def test_first_targets_count_from_where_the_joints_are(loaded):
    start = robots.start()
    start[8:10] = -0.4, 0.4
    ticks = []
    Runtime(loaded, Simulation(loaded.contract, load_model(loaded), start), "lean", instant).run(0.1, ticks.append)
    assert np.abs(ticks[0].order.target - [-0.4, 0.4]).max() <= 0.2 + 1e-9


def test_delay_keeps_an_order_from_the_motors_for_so_many_steps(loaded):
    robot, seen = simulation(loaded, delay=lambda: 3), []
    robot._each = lambda data: seen.append(data.ctrl.copy())
    runtime = Runtime(loaded, robot, "lean", instant)
    runtime.step()
    robot.wait(0.02)
    assert [bool(ctrl.any()) for ctrl in seen] == [False, False, False, True]


def test_order_that_is_overtaken_never_reaches_the_motors(loaded):
    robot, seen = simulation(loaded, delay=iter([0, 2, 1, 0, 2]).__next__), []
    for target in range(1, 6):
        robot.send(Order("target", np.full(2, target / 10)))
        robot.wait(robot.now() + robot.model.opt.timestep)
        seen.append(round(10 * robot.data.ctrl.max()))
    # 1 at once; 2 would come together with 3, and 3 with 4, which comes at once; 5 is under way.
    assert seen == [1, 1, 1, 4, 4]


def test_noise_is_that_of_the_contract(loaded):
    robot = simulation(loaded, noise=np.random.default_rng(0))
    draws = np.array([robot.read().readings for _ in range(200)])
    spread = np.ptp(draws, axis=0)
    assert (spread[:2] > 0.015).all()
    assert (spread[:2] <= 0.02).all()
    np.testing.assert_array_equal(spread[2:], 0)


def test_command_line_runs_switches_and_names_mistakes(sealed, capsys):
    assert main(["run", str(sealed), "--prompt", "lean", "--switch", "rock", "--seconds", "1"]) == 0
    assert "50 ticks" in capsys.readouterr().out
    assert main(["run", str(sealed), "--prompt", "leen"]) == 2
    assert main(["run", str(sealed), "--robot", "udp:nowhere"]) == 2
    assert main(["run", str(sealed), "--start", "7"]) == 2
    assert "start: must lie in [0, 1), got 7" in capsys.readouterr().err
