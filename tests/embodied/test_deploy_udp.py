"""The robot in another process: real time, identity, and damping when the policy's process is gone."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from embodied.deploy import bundle, udp
from embodied.deploy.errors import InputError
from embodied.deploy.robot import Order
from embodied.deploy.runtime import Runtime
from embodied.deploy.udp import UdpRobot
from tests.embodied import robots

TICK = 0.02


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    # Time is real here, and the machine may be busy.
    patient = robots.contract(stale_ms=5000.0, deadline_ms=5000.0)
    return robots.write_bundle(tmp_path_factory.mktemp("bundle") / "biped", patient)


@pytest.fixture
def simulator(sealed):
    """(process, port) of a simulator of the bundle's robot."""
    command = [sys.executable, "-m", "embodied.deploy", "simulate", str(sealed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process, json.loads(process.stdout.readline())["port"]
        process.kill()


def test_runtime_closes_the_loop_over_the_loopback(sealed, simulator):
    robot, ticks = UdpRobot(("127.0.0.1", simulator[1])), []
    reason = Runtime(bundle.load(sealed), robot, "lean").run(1.0, ticks.append)
    robot.close()
    assert reason == ""
    positions = np.array([tick.state.readings[0] for tick in ticks])
    assert len(ticks) == 50
    assert len(set(positions)) > 25  # new states kept coming
    assert np.abs(positions[-10:] - ticks[-1].order.target[0]).max() < 0.3  # and the joint follows


def test_killed_policy_leaves_a_damped_robot(sealed, simulator):
    process, port = simulator
    command = [sys.executable, "-m", "embodied.deploy", "run", str(sealed), "--robot", f"udp:127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as policy:
        assert json.loads(process.stdout.readline()) == {"event": "driven"}
        time.sleep(0.1)
        assert policy.poll() is None
        os.kill(policy.pid, signal.SIGKILL)
    event = json.loads(process.stdout.readline())
    assert event["event"] == "damping"
    assert event["silent_ms"] >= 1000 * 1.75 * TICK


def test_nobody_at_the_port_is_told_in_one_line():
    with pytest.raises(InputError, match="nobody answers at"):
        UdpRobot(("127.0.0.1", 9))


def test_foreign_datagrams_are_ignored(sealed):
    simulator = udp.Simulator(bundle.load(sealed))
    robot = udp.socket.socket(udp.socket.AF_INET, udp.socket.SOCK_DGRAM)
    good = udp.pack(udp.TARGET, 1, np.array([0.2, 0.2]))
    for datagram in (b"", b"x", good[:9], good[:-1], b"EVIL" + good[4:], good, os.urandom(200)):
        robot.sendto(datagram, simulator.address)
    simulator._receive()
    assert simulator._heard is None  # nobody said hello: no order is taken
    robot.sendto(udp.pack(udp.HELLO, 0, np.zeros(0)), simulator.address)
    robot.sendto(udp.pack(udp.TARGET, 1, np.array([0.2])), simulator.address)
    simulator._receive()
    assert simulator._heard is None  # one number for two joints
    robot.sendto(good, simulator.address)
    simulator._receive()
    assert simulator._heard is not None
    assert json.loads(robot.recv(2000)[udp.HEAD.size :])["name"] == "biped"


def test_old_orders_do_not_overtake_newer_ones(sealed):
    simulator = udp.Simulator(bundle.load(sealed))
    robot = udp.socket.socket(udp.socket.AF_INET, udp.socket.SOCK_DGRAM)
    robot.sendto(udp.pack(udp.HELLO, 0, np.zeros(0)), simulator.address)
    for count, value in ((2, 0.2), (1, -0.4)):
        robot.sendto(udp.pack(udp.TARGET, count, np.array([value, value])), simulator.address)
    simulator._receive()
    np.testing.assert_allclose(simulator._robot.data.ctrl, 0.2)


def test_damping_is_an_order_like_any_other():
    kind, count, payload = udp.unpack(udp.pack(udp.DAMPING, 2**32 + 5, np.array([1.5])))
    assert (kind, count) == (udp.DAMPING, 5)
    assert udp.numbers_of(payload, 1).tolist() == [1.5]
    assert udp.numbers_of(payload, 2) is None
    assert Order("damping", np.zeros(0)).mode == "damping"
