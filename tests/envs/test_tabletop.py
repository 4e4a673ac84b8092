"""The tabletop: hands go where they are sent, objects are pushed and carried, and every limit of safety can be felt."""

import functools

import jax
import numpy as np
import pytest

import envs
from envs.tabletop import COSTS, LEAST, MOST, OBJECTS, WORKSPACE

NAMES = [name for name in envs.WORLDS if name.startswith("tabletop")]
COUNT = 3


@functools.cache
def made(name, form="host"):
    return envs.make(name, form, **({"threads": 1} if form == "host" else {}))


@pytest.fixture(params=NAMES)
def table(request):
    return made(request.param)


def place(env, ts, joint, position, quaternion=None):
    """The worlds with the free body of that joint at a position [3] or [E, 3], turned by a quaternion."""
    physics = np.array(ts.physics)
    at = 1 + int(env.world.model.joint(joint).qposadr[0])
    physics[:, at : at + 3] = position
    if quaternion is not None:
        physics[:, at + 3 : at + 7] = quaternion
    return env.reset_to(physics)


def go(env, ts, target, decisions, fingers=-1.0):
    """The worlds after steering the fingertips towards `target` [E, 3], and the quantities on the way."""
    seen = []
    for _ in range(decisions):
        move = (target - ts.quantities["gripper_position"]) / 0.03
        action = np.concatenate([move, np.full((len(move), 1), fingers)], axis=1)[:, : env.spec.action]
        ts = env.step(ts, action)
        seen.append(ts.quantities)
    return ts, {name: np.stack([one[name] for one in seen], axis=1) for name in ts.quantities}


def grasped(env, count):
    """Worlds with the closed fingers around the object."""
    ts = env.reset(jax.random.key(0), count)
    where = ts.quantities["object_position"]
    ts, _ = go(env, ts, where + np.array([0, 0, 0.08]), 12, fingers=1)
    ts, _ = go(env, ts, where, 6, fingers=1)
    return go(env, ts, where, 4)[0]


def test_without_action_nothing_moves(table):
    first = ts = table.reset(jax.random.key(1), 8)
    for _ in range(table.spec.decisions):
        ts = table.step(ts, np.zeros((8, table.spec.action)))
    assert ts.last.all()
    np.testing.assert_allclose(ts.physics[:, table.world.qpos], first.physics[:, table.world.qpos], atol=2e-3)
    for name in ("object_position", "gripper_position"):
        np.testing.assert_allclose(ts.quantities[name], first.quantities[name], atol=3e-4)
    np.testing.assert_allclose(ts.quantities["object_height"], 0, atol=3e-4)
    # What lies on the table weighs on it: 0.1 kg each.
    weight = 0.981 * (3 if table.spec.name.endswith("three") else 1)
    np.testing.assert_allclose(ts.quantities["contact_force"], weight, rtol=1e-3)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_decision_moves_the_hand_by_three_centimetres_and_then_it_stays(table, axis, sign):
    ts = table.reset(jax.random.key(2), 1)
    begin = ts.quantities["gripper_position"]
    action = np.zeros((1, table.spec.action))
    action[0, axis] = sign
    for _ in range(3):
        ts = table.step(ts, action)
    for _ in range(4):
        ts = table.step(ts, 0 * action)
    expected = np.zeros(3)
    expected[axis] = 0.09 * sign
    np.testing.assert_allclose(ts.quantities["gripper_position"] - begin, expected[None], atol=1e-3)
    np.testing.assert_allclose(ts.quantities["gripper_velocity"], 0, atol=0.01)


@pytest.mark.parametrize(("command", "opening"), [(-1, 0.0), (0, 0.04), (1, 0.08)])
def test_fingers_open_as_commanded(command, opening):
    env = made("tabletop_pick")
    ts, _ = go(env, env.reset(jax.random.key(3), 2), [0, 0, 0.15], 10, fingers=command)
    np.testing.assert_allclose(ts.quantities["opening"], opening, atol=1e-3)


def test_hand_pushes_the_object_along(table):
    ts = table.reset(jax.random.key(4), 4)
    ts = place(table, ts, "cube", [[0.12, 0, 0.025], [-0.12, 0, 0.025], [0, 0.12, 0.025], [0, -0.12, 0.025]])
    if table.spec.name.endswith("three"):
        for other in ("slab", "tower"):
            ts = place(table, ts, other, [0.3, {"slab": -0.3, "tower": 0.3}[other], 0.04])
        physics = np.array(ts.physics)
        physics[:, 1 + int(table.world.model.joint("pointer").qposadr[0])] = -0.1
        ts = table.reset_to(physics)
    begin = ts.quantities["object_position"]
    ts, _ = go(table, ts, begin * [0, 0, 1], 6)
    ts, seen = go(table, ts, begin * [1.5, 1.5, 1], 10)
    moved = (ts.quantities["object_position"] - begin)[:, :2]
    outward = begin[:, :2] / 0.12
    assert ((moved * outward).sum(axis=1) > 0.05).all()
    assert np.abs(moved - (moved * outward).sum(axis=1, keepdims=True) * outward).max() < 0.03
    assert (seen["contact"].max(axis=1) == 1).all()
    np.testing.assert_array_equal(seen["contact"][:, 0], 0)


@pytest.mark.parametrize("name", [name for name in NAMES if "pick" in name])
def test_scripted_hand_grasps_lifts_holds_and_drops_the_object_however_it_is_turned(name):
    env = made(name)
    ts = grasped(env, 16)
    assert (ts.quantities["grasp"] == 1).mean() >= 0.9
    ts, _ = go(env, ts, ts.quantities["gripper_position"] + [0, 0, 0.14], 8)
    held = ts.quantities["object_height"] > 0.1
    assert held.mean() >= 0.9
    np.testing.assert_allclose(env.tasks["lift"](None, None, ts.quantities)[held], 1)
    offset = ts.quantities["object_position"] - ts.quantities["gripper_position"]
    ts, _ = go(env, ts, ts.quantities["gripper_position"], 20)
    slip = ts.quantities["object_position"] - ts.quantities["gripper_position"] - offset
    assert np.abs(slip[held]).max() < 2e-3
    ts, seen = go(env, ts, ts.quantities["gripper_position"], 10, fingers=1)
    assert (ts.quantities["object_height"][held] < 0.03).all()
    assert (seen["grasp"][:, -1] == 0).all()


def test_starts_lie_in_a_ring_around_the_hand_and_apart():
    env = made("tabletop_push_three")
    quantities = env.reset(jax.random.key(5), 2000).quantities
    positions = np.stack([quantities[f"{name}_position"] for name in OBJECTS], axis=1)
    radius = np.linalg.norm(positions[..., :2], axis=-1)
    assert radius.min() >= LEAST
    assert radius.max() <= MOST
    np.testing.assert_allclose(positions[..., 2], np.tile([half[2] for half in OBJECTS.values()], (2000, 1)), atol=1e-9)
    apart = np.linalg.norm(positions - np.roll(positions, 1, axis=1), axis=-1)
    assert apart.min() > 0.07
    assert np.abs(positions[..., :2].mean(axis=0)).max() < 0.015
    values, counts = np.unique(quantities["pointer"], return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert abs(counts - 2000 / 3).max() < 100
    for cost in COSTS:
        assert (env.tasks[cost](None, None, quantities) == 0).all(), cost


def test_object_of_an_episode_is_the_one_that_the_pointer_shows():
    env = made("tabletop_pick_three")
    ts = env.reset(jax.random.key(6), 30)
    at = 1 + int(env.world.model.joint("pointer").qposadr[0])
    meant = np.rint(ts.physics[:, at] / 0.1).astype(int)
    names = list(OBJECTS)
    expected = np.stack([ts.quantities[f"{names[which + 1]}_position"][i] for i, which in enumerate(meant)])
    np.testing.assert_allclose(ts.quantities["object_position"], expected)
    np.testing.assert_array_equal(ts.quantities["pointer"], meant)
    np.testing.assert_allclose(ts.obs["state"][:, -1], meant, atol=1e-6)
    after = env.step(ts, np.random.default_rng(0).uniform(-1, 1, (30, 4)))
    np.testing.assert_allclose(after.physics[:, at], ts.physics[:, at], atol=1e-9)


def test_quantities_of_a_tilted_cube_by_hand():
    env = made("tabletop_push")
    # An eighth of a turn about x: the lowest edge is sqrt(2) half sizes below the centre.
    turn = [np.cos(np.pi / 8), np.sin(np.pi / 8), 0, 0]
    ts = place(env, env.reset(jax.random.key(7), 1), "cube", [0.1, 0.2, 0.1], turn)
    found = {name: value[0] for name, value in ts.quantities.items()}
    np.testing.assert_allclose(found["object_height"], 0.1 - 0.025 * np.sqrt(2), atol=1e-9)
    np.testing.assert_allclose(found["object_upright"], np.cos(np.pi / 4), atol=1e-9)
    distance = np.sqrt(0.1**2 + 0.2**2 + 0.05**2)
    np.testing.assert_allclose(found["distance"], distance, atol=1e-9)
    reach = env.tasks["reach"](None, None, ts.quantities)[0]
    np.testing.assert_allclose(reach, 1 - np.tanh(5 * distance), atol=1e-9)


@pytest.mark.parametrize(("gap", "contact"), [(0.002, 0), (0.0005, 1), (-0.0002, 1)])
def test_contact_is_felt_where_a_finger_is_at_the_object(gap, contact):
    # The lower pads of the closed fingers: spheres of 9 mm, 3 mm below the point between the fingertips, at y +-9 mm.
    env = made("tabletop_push")
    ts = env.reset(jax.random.key(8), 1)
    flat = place(env, ts, "cube", [0.025 + 0.009 + gap, 0.009, 0.147], [1, 0, 0, 0])
    turn = [np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)]
    edge = place(env, ts, "cube", [0.025 * np.sqrt(2) + 0.009 + gap, 0.009, 0.147], turn)
    assert [one.quantities["contact"].tolist() for one in (flat, edge)] == [[contact], [contact]]


@pytest.mark.parametrize(
    ("task", "inside", "beside"),
    [
        ("push_forward", [0.2, 0, 0.025], [0.13, 0, 0.025]),
        ("push_backward", [-0.2, 0, 0.025], [-0.13, 0, 0.025]),
        ("push_left", [0, 0.25, 0.025], [0, 0.17, 0.025]),
        ("push_right", [0, -0.25, 0.025], [0, -0.17, 0.025]),
        ("centre", [0, 0.03, 0.025], [0, 0.18, 0.025]),
        ("lift", [0.1, 0, 0.175], [0.1, 0, 0.075]),
    ],
)
def test_tasks_pay_one_inside_and_half_or_less_beside(task, inside, beside):
    env = made("tabletop_pick")
    ts = place(env, env.reset(jax.random.key(9), 2), "cube", [inside, beside], [1, 0, 0, 0])
    expected = [1, 0.1 if task == "centre" else 0.5]
    np.testing.assert_allclose(env.tasks[task](None, None, ts.quantities), expected, atol=1e-6)


def moved(env, direction):
    """The quantities while the hand goes in a direction [3] until it can go no further."""
    ts = env.reset(jax.random.key(10), 2)
    return go(env, ts, ts.quantities["gripper_position"] + np.array(direction), 20)[1]


def dropped(env):
    """The quantities while an object falls from 0.2 m beside the hand."""
    ts = place(env, env.reset(jax.random.key(10), 2), "cube", [0.1, 0, 0.2])
    return go(env, ts, ts.quantities["gripper_position"], 4)[1]


OVERSTEP = {
    "cost_joint_margin": lambda env: moved(env, [1, 1, 1]),  # where the stage ends, and the arm is stretched
    "cost_workspace": lambda env: moved(env, [0, 1, 0]),
    "cost_force": lambda env: moved(env, [0, 0, -1]),
    "cost_speed": dropped,
    "cost_penetration": lambda env: moved(env, [0, 0, -1]),
}


@pytest.mark.parametrize("cost", COSTS)
def test_every_limit_of_safety_can_be_overstepped(table, cost):
    seen = OVERSTEP[cost](table)
    value = table.tasks[cost](None, None, seen)
    assert set(np.unique(value)) == {0.0, 1.0}
    assert (value.max(axis=1) == 1).all()
    each = [table.tasks[name](None, None, seen) for name in COSTS]
    np.testing.assert_allclose(table.tasks["safety"](None, None, seen), -sum(each))


def test_limits_are_those_that_the_quantities_say():
    quantities = {
        "joint_margin": np.array([0.019, 0.021]),
        "outside": np.array([0.001, 0.0]),
        "contact_force": np.array([15.1, 14.9]),
        "fastest_object": np.array([0.41, 0.39]),
        "penetration": np.array([0.00081, 0.00079]),
    }
    env = made("tabletop_push")
    for cost in COSTS:
        assert env.tasks[cost](None, None, quantities).tolist() == [1, 0], cost
    assert env.tasks["safety"](None, None, quantities).tolist() == [-5, 0]


def test_workspace_is_left_by_hand_or_object():
    env = made("tabletop_push")
    ts = place(env, env.reset(jax.random.key(11), 3), "cube", [[0.1, 0, 0.025], [0.27, 0, 0.025], [0.1, -0.39, 0.025]])
    np.testing.assert_allclose(ts.quantities["outside"], [0, 0.03, 0.05], atol=1e-9)
    assert WORKSPACE[1][:2] == (0.24, 0.34)


def test_terms_of_the_observation_say_where_the_objects_are(table):
    ts = table.reset(jax.random.key(12), 4)
    world = table.world
    ends = np.cumsum(world.widths)
    [index] = [i for i, term in enumerate(world.observation) if term.name == "object_position"]
    names = list(OBJECTS) if table.spec.name.endswith("three") else ["object"]
    expected = np.concatenate([ts.quantities[f"{name}_position"] for name in names], axis=1)
    np.testing.assert_allclose(ts.obs["state"][:, ends[index] - world.widths[index] : ends[index]], expected, atol=1e-6)


def test_both_forms_agree_while_an_object_is_held():
    host, mjx = made("tabletop_pick"), made("tabletop_pick", "mjx")
    ts = grasped(host, COUNT)
    ts, _ = go(host, ts, ts.quantities["gripper_position"] + [0, 0, 0.1], 4)
    action = np.tile(np.float32([0.5, -0.5, 0.5, -1]), (COUNT, 1))
    state = mjx.reset(jax.random.key(0), COUNT).replace(physics=ts.physics.astype(np.float32))
    ours, theirs = mjx.step(state, action), host.step(ts, action)
    assert (theirs.quantities["grasp"] == 1).all()
    np.testing.assert_allclose(ours.physics, theirs.physics, atol=5e-3)
    for name, value in theirs.quantities.items():
        np.testing.assert_allclose(ours.quantities[name], value, atol=2e-3, err_msg=name)
