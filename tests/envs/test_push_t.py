"""The pusher and the T: what moves what and how far, where it stays, which goals are reached, what is seen."""

import dataclasses

import jax
import numpy as np
import pytest

import envs
from embodied.data import collect, store
from embodied.rollout import rollout
from embodied.types import InputError
from envs.push_t import AROUND, BOXES, LIMIT, POSES, RADIUS, at_pose
from envs.push_t_play import carry, pushes
from experiments import collect as collecting
from experiments.experiment import Collect

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def table():
    return envs.make("push_t", threads=1)


def at(env, pusher, block=(0.0, 0.0, 0.0)):
    """A timestep with one world: the pusher at (x, y), the block at (x, y, angle)."""
    physics = np.zeros((1, env.spec.physics))
    physics[0, env.world.qpos] = [*pusher, *block]
    return env.reset_to(physics)


def push(env, ts, action, decisions):
    for _ in range(decisions):
        ts = env.step(ts, np.array([action], float))
    return ts


def test_action_of_one_moves_the_pusher_by_four_centimetres_and_none_keeps_it(table):
    assert table.spec.decisions == 50
    assert table.spec.hold * table.spec.control_dt == pytest.approx(0.1)
    first = push(table, at(table, (-0.15, -0.15)), (1.0, 0.25), 1)
    later = push(table, first, (1.0, 0.25), 2)
    moved = later.quantities["pusher_position"] - first.quantities["pusher_position"]
    np.testing.assert_allclose(moved, [[0.08, 0.02]], atol=1e-4)
    np.testing.assert_allclose(first.quantities["pusher_position"], [[-0.11, -0.14]], atol=2e-3)
    stopped = push(table, push(table, later, (0.0, 0.0), 1), (0.0, 0.0), 5)
    np.testing.assert_allclose(stopped.quantities["pusher_position"], later.quantities["pusher_position"], atol=2e-3)
    assert np.abs(stopped.physics[:, table.world.qvel]).max() < 1e-6


def test_origin_of_the_block_is_its_middle_and_damping_that_of_its_footprint(table):
    model = table.world.model
    areas = [4 * half[0] * half[1] for _, half in BOXES]
    middle = sum(area * np.array(at) for area, (at, _) in zip(areas, BOXES, strict=True)) / sum(areas)
    np.testing.assert_allclose(middle, 0, atol=1e-7)
    np.testing.assert_allclose(model.body("block").ipos, 0, atol=1e-6)
    spread = [
        area * (at[1] ** 2 + (half[0] ** 2 + half[1] ** 2) / 3) for area, (at, half) in zip(areas, BOXES, strict=True)
    ]
    damping = [model.joint(f"block_{part}").damping[0] for part in ("x", "y", "turn")]
    np.testing.assert_allclose(damping, [5, 5, 5 * sum(spread) / sum(areas)], rtol=2e-3)


def test_block_follows_a_push_through_its_middle_and_rests_when_it_ends(table):
    ts = push(table, at(table, (0.0, 0.08)), (0.0, -1.0), 3)  # from over the bar, whose upper edge is 4.4 cm up
    # The way of 12 cm less the 1.6 cm to the edge; the load slows the servos down a little.
    np.testing.assert_allclose(ts.quantities["block_position"], [[0.0, -0.104]], atol=8e-3)
    np.testing.assert_allclose(ts.quantities["block_angle"], 0, atol=1e-6)
    assert ts.quantities["gap"][0] == 0
    rest = push(table, ts, (0.0, 1.0), 2)
    np.testing.assert_allclose(rest.quantities["block_position"], ts.quantities["block_position"], atol=0.02)
    assert np.abs(rest.quantities["block_velocity"]).max() < 1e-2
    assert np.abs(push(table, rest, (0.0, 0.0), 2).quantities["block_velocity"]).max() < 1e-4


def test_push_at_the_end_of_the_bar_turns_the_block(table):
    left, right = (push(table, at(table, (x, 0.08)), (0.0, -1.0), 2).quantities for x in (-0.05, 0.05))
    assert left["block_angle"][0] > 0.3  # the left end goes down: counter-clockwise
    np.testing.assert_allclose(left["block_angle"], -right["block_angle"], atol=1e-6)
    for quantities in (left, right):
        angle = quantities["block_angle"]
        np.testing.assert_allclose(quantities["block_cosine"], np.cos(angle), atol=1e-9)
        np.testing.assert_allclose(quantities["block_sine"], np.sin(angle), atol=1e-9)


def test_nothing_leaves_the_table_however_hard_it_is_pushed(table):
    ts = table.reset(KEY, 60)
    for seed in range(50):
        towards = ts.quantities["block_position"] - ts.quantities["pusher_position"]
        noise = np.random.default_rng(seed).normal(size=towards.shape)
        ts = table.step(ts, np.clip(20 * towards + 0.5 * noise, -1, 1))
        corners = []
        for middle, half in BOXES:
            for sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                x, y = np.array(middle) + np.array(half) * sign
                c, s = ts.quantities["block_cosine"], ts.quantities["block_sine"]
                corners.append(ts.quantities["block_position"] + np.stack([c * x - s * y, s * x + c * y], 1))
        assert np.abs(corners).max() < 0.205  # walls are a little soft
        assert np.abs(ts.quantities["pusher_position"]).max() < LIMIT + 0.002
    assert np.abs(corners).max() > 0.195  # some were pushed to the wall
    back = push(table, at(table, (0.0, 0.18), (0.0, 0.1, 0.0)), (0.0, 0.0), 1)
    assert np.isfinite(back.physics).all()


def test_pusher_that_was_held_up_turns_around_at_once(table):
    pressed = push(table, at(table, (0.0, -0.02), (0.0, -0.14, np.pi)), (0.0, -1.0), 10)
    y = pressed.quantities["pusher_position"][0, 1]
    away = push(table, pressed, (0.0, 1.0), 1).quantities["pusher_position"][0, 1]
    assert away - y > 0.03


def test_starts_are_drawn_anywhere_with_the_pusher_beside_the_block(table):
    quantities = table.reset(KEY, 2000).quantities
    assert quantities["gap"].min() >= RADIUS
    assert 0.098 < np.abs(quantities["block_position"]).max() <= AROUND
    assert 0.175 < np.abs(quantities["pusher_position"]).max() <= LIMIT
    np.testing.assert_allclose(quantities["block_cosine"].mean(), 0, atol=0.05)


def test_gap_is_the_distance_from_the_rim_to_the_nearer_box(table):
    turned = np.pi / 2  # the bar stands upright, left of the middle
    cases = [((0.0, 0.1), (0, 0, 0), 0.1 - 0.044), ((-0.1, 0.0), (0, 0, turned), 0.1 - 0.044)]
    cases += [((0.08, 0.059), (0, 0, 0), np.hypot(0.02, 0.015)), ((0.07, -0.05), (0, 0, 0), 0.05)]
    for pusher, block, distance in cases:
        gap = at(table, pusher, block).quantities["gap"][0]
        np.testing.assert_allclose(gap, max(distance - RADIUS, 0), atol=1e-6)


def test_goal_is_reached_within_three_centimetres_and_fifteen_degrees():
    def pose(x, y, degrees):
        angle = np.radians(degrees)
        return {"block_x": x, "block_y": y, "block_cosine": np.cos(angle), "block_sine": np.sin(angle)}

    goal = pose(0.05, -0.02, 175)
    near = [(0.05, -0.02, 175), (0.07, 0.0, 175), (0.05, -0.02, -171), (0.05, 0.0099, 161)]
    far = [(0.05, -0.02, -169), (0.075, 0.0, 175), (0.05, -0.02, 159)]
    assert [bool(at_pose(goal, pose(*case))) for case in near + far] == [True] * 4 + [False] * 3


def test_each_pose_is_judged_by_itself_and_pays_most_where_it_is_reached(table):
    assert set(table.trials) == set(POSES) < set(table.tasks)
    begun = table.begin(table.tasks["left"], KEY, 3)
    np.testing.assert_array_equal(begun.physics, table.reset(KEY, 3).physics)
    for name, (x, y, degrees) in POSES.items():
        there = at(table, (-0.18, -0.18), (x, y, np.radians(degrees))).quantities
        close = at(table, (-0.18, -0.18), (x + 0.02, y, np.radians(degrees + 14))).quantities
        away = at(table, (-0.18, -0.18), (x, y + 0.13, np.radians(degrees + 180))).quantities
        pay = [table.tasks[name](None, None, case)[0] for case in (there, close, away)]
        np.testing.assert_allclose(pay[:2], 1, atol=1e-6)
        # 10 of 20 cm beyond the margin, and as far from cos 15 degrees as -1 is: 1.966 of 2.
        np.testing.assert_allclose(pay[2], 0.5 * (1 - 1.965926 / 2), atol=1e-5)
        met = [bool(table.trials[name].met(case)[0]) for case in (there, close, away)]
        assert met == [True, True, False]


def test_exploration_moves_the_block_where_noise_mostly_leaves_it(table):
    moved, quiet = {}, collect.noise_carry(2, 60)
    explorers = {"noise": (collect.coloured_noise(5.0, 0.5), quiet), "pushes": (pushes(5.0, 0.5), carry(60))}
    for name, (behave, start) in explorers.items():
        blocks = rollout(table, behave, table.reset(KEY, 60), start, 50, KEY).quantities["block_position"]
        moved[name] = np.linalg.norm(np.diff(blocks, axis=1), axis=-1) > 1e-3
        assert np.abs(blocks).max() < 0.17
    # Decisions in which the block moves by more than a millimetre, and episodes with some of them.
    assert moved["pushes"].mean() > 0.2 > 0.12 > moved["noise"].mean()
    assert moved["pushes"].any(1).mean() > 0.9


def test_explorer_that_pushes_writes_data_of_this_world_alone(tmp_path):
    config = Collect("push_t", "pushes", episodes=4, decisions=6, worlds=2)
    episodes = store.read_episodes(collecting.run(config, tmp_path / "data", quiet=True))
    assert [episode["state"].shape for episode in episodes] == [(7, 11)] * 4
    with pytest.raises(InputError, match="explorer 'pushes' needs world 'push_t', got 'walker'"):
        collecting.run(dataclasses.replace(config, world="walker"), tmp_path / "walker", quiet=True)
