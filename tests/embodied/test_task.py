"""Tasks: terms, previous values, constants and the dry run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.rewards import RewardPiece, Task, dry_run, is_constant
from embodied.types import InputError, Quantity

QUANTITIES = {
    "height": Quantity((), "m", "height"),
    "speed": Quantity((), "m/s", "speed"),
    "position": Quantity((2,), "m", "position"),
}
WALK = "stand = tol(height, 1, inf, 0.5)\nmove = tol(speed, 1, inf, 1, linear, 0)\nstand * (5*move + 1) / 6"


def sample(count=200):
    rng = np.random.default_rng(0)
    return {
        "height": rng.uniform(0, 2, count),
        "speed": rng.uniform(-1, 2, count),
        "position": rng.normal(size=(count, 2)),
    }


def test_terms_are_reported_and_reward_is_the_weighted_sum_of_the_pieces():
    task = Task.of("walk", WALK, QUANTITIES, about="walk upright")
    after = {"height": np.array([1.5, 0.5, 1.0]), "speed": np.array([1.0, 2.0, 0.25])}
    terms = task.terms(None, None, after)
    assert list(terms) == [piece.name for piece in task.pieces] == ["stand", "move", "reward"]
    assert (task.name, task.text, task.about) == ("walk", WALK, "walk upright")
    np.testing.assert_allclose(terms["stand"], [1, 0.1, 1], rtol=1e-12)
    np.testing.assert_allclose(terms["move"], [1, 1, 0.25], rtol=1e-12)
    np.testing.assert_allclose(terms["reward"], [1, 0.1, 2.25 / 6], rtol=1e-12)
    total = sum(piece.weight * piece.fn(None, None, after) for piece in task.pieces)
    np.testing.assert_array_equal(task(None, None, after), total)
    np.testing.assert_array_equal(task(None, None, after), terms["reward"])


def test_pieces_written_in_python_are_summed_with_their_weights():
    near = RewardPiece("near", lambda before, action, after: -abs(after["height"]))
    cheap = RewardPiece("cheap", lambda before, action, after: -(action**2).sum(-1), 0.5)
    task = Task("reach", "", "", (near, cheap))
    value = task(None, np.array([[1.0, 2.0], [0.0, 2.0]]), {"height": np.array([3.0, -1.0])})
    np.testing.assert_array_equal(value, [-3 - 2.5, -1 - 2.0])


def test_named_constants_are_not_terms():
    task = Task.of("fast", "limit = 2 * 0.5; gain = limit + 1; gain * tol(speed, limit, inf, limit)", QUANTITIES)
    assert [piece.name for piece in task.pieces] == ["reward"]
    assert task(None, None, {"speed": np.array(5.0)}) == 2.0


def test_vector_terms_keep_their_axis():
    task = Task.of("still", "moved = position - previous_position; -norm(moved)", QUANTITIES)
    before, after = {"position": np.zeros((4, 2))}, {"position": np.tile([3.0, 4.0], (4, 1))}
    terms = task.terms(before, None, after)
    np.testing.assert_array_equal(terms["moved"], after["position"])
    np.testing.assert_array_equal(terms["reward"], np.full(4, -5.0))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (2, 3, 4)])
def test_leading_axes_are_kept(batch):
    task = Task.of("t", "height * norm(position) - previous_speed + norm(height * action)", QUANTITIES, action=3)
    values = {name: np.full((*batch, *q.shape), 2.0, np.float32) for name, q in QUANTITIES.items()}
    for convert in (np.asarray, jnp.asarray):
        quantities, action = jax.tree.map(convert, values), convert(np.ones((*batch, 3), np.float32))
        reward = task(quantities, action, quantities)
        assert reward.shape == batch
        assert isinstance(reward, jax.Array) == (convert is jnp.asarray)
        np.testing.assert_allclose(reward, 2 * np.sqrt(8) - 2 + np.sqrt(12), rtol=1e-6)


def test_action_is_known_when_its_size_or_its_quantity_is_declared():
    action = np.array([3.0, 4.0])
    declared = QUANTITIES | {"action": Quantity((2,), "1", "action")}
    for task in (
        Task.of("t", "norm(action)", QUANTITIES, action=2),
        Task.of("t", "norm(action)", declared),
    ):
        assert task(None, action, {"action": np.zeros(2)}) == 5.0
    with pytest.raises(InputError, match="unknown quantity 'action'"):
        Task.of("t", "norm(action)", QUANTITIES)
    with pytest.raises(InputError, match="unknown quantity 'previous_action'"):
        Task.of("t", "norm(previous_action)", declared)


def test_jitted_task_relabels_stored_states_without_before_and_action():
    task = Task.of("walk", WALK, QUANTITIES)
    after = jax.tree.map(lambda leaf: leaf.astype(np.float32), sample())
    relabelled = jax.jit(lambda after: task(None, None, after))(jax.tree.map(jnp.asarray, after))
    np.testing.assert_allclose(relabelled, task(None, None, after), rtol=0, atol=1e-6)


def test_whole_number_and_truth_quantities_are_read_as_numbers():
    task = Task.of("t", "height / 2 + (speed > 0)", QUANTITIES)
    for convert in (np.asarray, jnp.asarray):
        after = {"height": convert([3, 4]), "speed": convert([True, False])}
        np.testing.assert_array_equal(task(None, None, after), [2.5, 2.0])


def test_task_names_what_its_reward_reads_of_the_state_before():
    text = "still = norm(position - previous_position); unused = previous_height; speed - previous_speed - still"
    assert Task.of("t", text, QUANTITIES).previous == ("previous_position", "previous_speed")
    assert Task.of("walk", WALK, QUANTITIES).previous == ()


@pytest.mark.parametrize("scale", [1e-300, 1e-10, 1.0, 1e10])
def test_constant_is_what_rounding_leaves_whatever_its_size(scale):
    assert is_constant(scale * np.full(10_000, 0.1))
    assert is_constant(scale * (0.1 + 1e-9 * np.arange(10)))
    assert not is_constant(scale * np.linspace(0.1, 0.2, 10))
    assert is_constant(np.zeros(3))


def test_dry_run_of_a_sound_task_is_silent():
    assert dry_run(Task.of("walk", WALK, QUANTITIES), sample()) == []


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("tol(height, 0, 2)", ["reward is constant on the sample (1)"]),
        (
            "up = tol(height, 5, inf, 0.1); fast = tol(speed, 1, inf, 1); up + fast",
            [
                "term 'up' never activates on the sample (at most 0)",
                "term 'fast' alone explains 100% of the variance of the reward",
            ],
        ),
        ("on = height >= 0; on * speed", ["term 'on' is constant on the sample (1)"]),
        (
            "small = 0.01 * height; large = speed; small + large",
            ["term 'large' alone explains 100% of the variance of the reward"],
        ),
        (
            "(height**3)**3",
            [f"reward or its gradient is not finite where every quantity is {x}" for x in ("1e+06", "-1e+06")],
        ),
    ],
)
def test_dry_run_warns_of(text, warnings):
    assert dry_run(Task.of("t", text, QUANTITIES), sample()) == warnings


def test_dry_run_refuses_values_that_are_not_finite():
    after = sample()
    after["speed"][3] = np.nan
    with pytest.raises(InputError, match="task 'walk': 1 of 200 values of 'move' are not finite"):
        dry_run(Task.of("walk", WALK, QUANTITIES), after)


def test_dry_run_reports_gradients_that_are_not_finite():
    root = RewardPiece("root", lambda before, action, after: abs(after["height"]) ** 0.5)
    found = dry_run(Task("t", "", "", (root,)), {"height": np.array([0.0, 1.0])})
    assert found[0] == "gradient is not finite on the sample"


def test_dry_run_takes_the_action_and_the_state_before():
    task = Task.of("t", "effort = norm(action); speed - previous_speed - effort", QUANTITIES, action=2)
    action = np.random.default_rng(1).normal(size=(200, 2))
    before = jax.tree.map(np.zeros_like, sample())
    assert dry_run(task, sample(), action, before) == []
    with pytest.raises(InputError, match="action: expected a value"):
        dry_run(task, sample())
