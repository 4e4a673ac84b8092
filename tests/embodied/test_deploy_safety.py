"""The safety states: what holds, what stops for good and why, and that targets stay inside limits and slew."""

import numpy as np
import pytest

from embodied.deploy.robot import State
from embodied.deploy.safety import Proposal, Safety, tilt_of
from tests.embodied import robots

OFFSET = np.array([0.1, 0.1])


def safety(**changes) -> Safety:
    return Safety(robots.contract(**changes), OFFSET)


def state(time: float = 0.0, quaternion=(1.0, 0.0, 0.0, 0.0)) -> State:
    return State(time, np.array([0, 0, 0, 0, *quaternion, 0, 0, 0], np.float64))


def wants(*target: float, finite: bool = True, seconds: float = 0.001) -> Proposal:
    return Proposal(np.array(target, np.float32), finite, seconds)


def test_targets_move_by_the_slew_limit_towards_what_is_wanted():
    machine = safety()
    first, second = machine.order(wants(0.4, 0.15)), machine.order(wants(0.4, 0.15))
    np.testing.assert_allclose(first.target, [0.3, 0.15])
    np.testing.assert_allclose(second.target, [0.4, 0.15])
    assert first.mode == second.mode == "target"


def test_random_actions_stay_inside_limits_and_slew():
    machine, rng = safety(), np.random.default_rng(0)
    wild = rng.standard_cauchy((20_000, 2)).astype(np.float32)
    targets = np.array([machine.order(wants(*row)).target for row in wild])
    assert np.abs(targets).max() <= 0.45
    steps = np.abs(np.diff(np.vstack([OFFSET, targets]), axis=0))
    assert 0.19 < steps.max() <= 0.2 + 1e-12


def test_action_without_numbers_holds_one_tick_and_damps_on_the_second():
    machine = safety()
    held = machine.order(wants(0.2, 0.2)).target
    once = machine.order(wants(np.nan, 0.2))
    assert once.mode == "target"
    np.testing.assert_array_equal(once.target, held)
    assert machine.order(wants(0.2, 0.2, finite=False)).mode == "damping"
    assert machine.reason.startswith("not finite")


def test_one_good_tick_between_two_bad_ones_keeps_it_running():
    machine = safety()
    for finite in (False, True, False, True):
        assert machine.order(wants(0.1, 0.1, finite=finite)).mode == "target"


def test_two_late_inferences_in_a_row_stop():
    machine = safety(deadline_ms=20.0)
    modes = [machine.order(wants(0.1, 0.1, seconds=s)).mode for s in (0.03, 0.01, 0.03, 0.021)]
    assert modes == ["target", "target", "target", "damping"]
    assert machine.reason == "late: 2 inferences in a row over 20 ms, the last took 21"


@pytest.mark.parametrize(
    ("given", "now", "reason"),
    [
        (state(time=1.0), 1.09, ""),
        (state(time=1.0), 1.11, "stale: the newest state is 110 ms old, allowed are 100"),
        (state(quaternion=(np.cos(0.49), np.sin(0.49), 0, 0)), 0.0, ""),
        (state(quaternion=(np.cos(0.51), 0, np.sin(0.51), 0)), 0.0, "tilt: 1.02 rad, allowed are 1.00"),
        (state(quaternion=(np.nan, 0, 0, 0)), 0.0, "tilt: 3.14 rad, allowed are 1.00"),
    ],
)
def test_old_states_and_tilted_bodies_stop(given, now, reason):
    machine = safety()
    machine.check(given, now)
    assert machine.reason == reason
    assert machine.order(wants(0.1, 0.1)).mode == ("damping" if reason else "target")


def test_stop_is_latched_with_its_first_reason():
    machine = safety()
    machine.stop("first")
    machine.stop("second")
    machine.check(state(), 0.0)
    assert machine.order(wants(0.1, 0.1)).mode == "damping"
    assert machine.reason == "first"


def test_tilt_ignores_heading():
    heading = np.array([np.cos(0.7), 0, 0, np.sin(0.7)])
    assert tilt_of(heading) == pytest.approx(0)
    assert tilt_of(np.array([0.0, 1, 0, 0])) == pytest.approx(np.pi)
