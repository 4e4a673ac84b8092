"""The point maze: doors let the ball through, walls do not, and each task pays for what it says."""

import jax
import numpy as np
import pytest

import envs
from embodied.types import InputError
from envs.point_maze import CLEARANCE, REACH, ROOMS


@pytest.fixture(scope="module")
def maze():
    return envs.make("point_maze", threads=1)


def at(env, positions, velocities=0.0):
    """A timestep with one world per position (x, y)."""
    positions = np.asarray(positions, float)
    physics = np.zeros((len(positions), env.spec.physics))
    physics[:, env.world.qpos] = positions
    physics[:, env.world.qvel] = velocities
    return env.reset_to(physics)


def follow(env, ts, waypoints, decisions):
    """The worlds after steering for `decisions` towards each of the waypoints [n, E, 2] in turn."""
    for waypoint in waypoints:
        for _ in range(decisions):
            error = np.asarray(waypoint) - ts.quantities["position"]
            ts = env.step(ts, np.clip(error * 20 - ts.quantities["velocity"] * 4, -1, 1))
    return ts


def test_straight_paths_between_neighbouring_rooms_pass_through_the_doors(maze):
    centres = np.array([(-0.15, 0.15), (0.15, 0.15), (0.15, -0.15), (-0.15, -0.15)])
    for turn in (1, -1):
        ts = follow(maze, at(maze, centres), [np.roll(centres, turn, axis=0)], decisions=30)
        assert np.abs(ts.quantities["position"] - np.roll(centres, turn, axis=0)).max() < 0.01


def test_scripted_path_reaches_every_corner_from_the_opposite_room(maze):
    goals = 0.2 * np.array(list(ROOMS.values()))
    signs = np.sign(goals)
    starts = -0.15 * signs
    between = np.stack([0.15 * signs[:, 0], -0.15 * signs[:, 1]], axis=1)
    ts = follow(maze, at(maze, starts), [between, 0.15 * signs, goals], decisions=30)
    assert np.linalg.norm(ts.quantities["position"] - goals, axis=1).max() < 0.02
    assert not ts.last.any()


def test_walls_stop_the_ball_beside_the_doors_and_at_the_border(maze):
    starts = [(-0.05, 0.05), (-0.05, 0.25), (-0.05, -0.25), (0.05, 0.05), (0.25, 0.25), (0.25, 0.25)]
    pushes = np.array([(1, 0), (1, 0), (1, 0), (0, -1), (0, -1), (1, 1)])
    ts = at(maze, starts)
    for _ in range(50):
        ts = maze.step(ts, pushes.astype(float))
    expected = [(-0.02, 0.05), (-0.02, 0.25), (-0.02, -0.25), (0.05, 0.02), (0.25, 0.02), (0.29, 0.29)]
    np.testing.assert_allclose(ts.quantities["position"], expected, atol=0.003)


def test_ball_reaches_the_speed_at_which_damping_balances_the_motor(maze):
    ts = at(maze, [(-0.25, 0.15)])
    for _ in range(10):
        ts = maze.step(ts, np.array([[1.0, 0.0]]))
    # 0.3 kg, 0.1 N, 1 N s/m: v(t) = 0.1 (1 - exp(-t / 0.3)) m/s after 2 s
    np.testing.assert_allclose(ts.quantities["speed"], 0.1 * (1 - np.exp(-2 / 0.3)), atol=2e-4)


def test_starts_are_uniform_over_the_free_space(maze):
    position = maze.reset(jax.random.key(3), 4000).quantities["position"]
    assert np.abs(position).min() >= CLEARANCE
    assert np.abs(position).max() <= REACH
    rooms, counts = np.unique(position > 0, axis=0, return_counts=True)
    assert len(rooms) == 4
    assert abs(counts - 1000).max() < 150
    np.testing.assert_allclose(np.abs(position).mean(axis=0), (CLEARANCE + REACH) / 2, atol=0.01)


def test_start_option_places_every_world_in_that_room():
    env = envs.make("point_maze", start="top_right", threads=1)
    assert (env.reset(jax.random.key(0), 100).quantities["position"] > 0).all()
    with pytest.raises(InputError, match=r"unknown start 'top_rihgt'.*'top_right'"):
        envs.make("point_maze", start="top_rihgt")


@pytest.mark.parametrize("room", ROOMS)
def test_reach_pays_one_at_the_room_centre_and_a_tenth_beyond_the_margin(maze, room):
    centre = 0.15 * np.array(ROOMS[room])
    positions = centre + np.array([(0, 0), (0.015, 0), (0, 0.065), (-0.14, 0)])
    quantities = {"position": positions}
    reward = maze.tasks[f"reach_{room}"](quantities, None, quantities)
    np.testing.assert_allclose(reward[:3], [1, 1, 0.1], atol=1e-9)
    assert reward[3] < 1e-3
    if room == "bottom_left":
        long = maze.tasks["reach_bottom_left_long"](quantities, None, quantities)
        np.testing.assert_allclose(long, reward - 1, atol=1e-12)


def test_circulating_tasks_pay_for_counter_clockwise_motion_at_their_speeds(maze):
    # In the doors of the right and left arms, going up on the right and down on the left.
    positions = [(0.15, 0.0), (0.15, 0.0), (-0.15, 0.0), (-0.15, 0.0)]
    velocities = [(0, 0.1), (0, 0.025), (0, -0.1), (0, 0.1)]
    quantities = at(maze, positions, velocities).quantities
    pay = {name: maze.tasks[name](quantities, None, quantities) for name in ("loop", "square", "fast_slow")}
    np.testing.assert_allclose(pay["loop"], [1, 0.025 / 0.08, 1, 0], atol=1e-9)
    np.testing.assert_allclose(pay["square"], [1, 0.025 / 0.06, 1, 0], atol=1e-9)
    np.testing.assert_allclose(pay["fast_slow"], [0, 1, 1, 0], atol=1e-9)


def test_path_of_a_held_action_equals_single_control_steps(maze):
    single = envs.make("point_maze", hold=1, threads=1)
    action = np.array([[0.4, -0.9], [1.0, 0.3]])
    start = at(maze, [(-0.05, 0.1), (0.2, 0.2)])
    held, ts = maze.step(start, action), at(single, [(-0.05, 0.1), (0.2, 0.2)])
    for index in range(10):
        ts = single.step(ts, action)
        for name, value in ts.quantities.items():
            np.testing.assert_allclose(held.path[name][:, index], value, atol=1e-12)
    np.testing.assert_allclose(held.physics, ts.physics, atol=1e-12)
    assert held.path["position"].shape == (2, 10, 2)
