"""The assembled observation, by hand: order of frames, first steps, layouts, scales."""

import dataclasses

import numpy as np
import pytest

from embodied.deploy.contract import Contract, History, Observation, Reading, Term
from embodied.deploy.observation import Assembler, projected_gravity, scaled, scaling
from tests.embodied import robots


def with_terms(*terms: Term, layout: str = "per_term") -> Contract:
    agreed = robots.contract()
    readings = (*agreed.readings, Reading("sensor/a", 1), Reading("sensor/b", 1))
    return dataclasses.replace(agreed, readings=readings, observation=Observation(terms, layout))


def run(agreed: Contract, pairs: list[tuple[float, float]]) -> list[list[float]]:
    """Observations of values of the readings a and b; the last action is (10 a, 10 b) of the tick before."""
    assembler, last, found = Assembler(agreed), np.zeros(2), []
    for pair in pairs:
        found.append(assembler.observe(np.array([*np.zeros(11), *pair]), last).tolist())
        last = 10 * np.array(pair)
    return found


STEPS = [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (History(3, "newest_first", True, "zeros"), [[1, 0, 0], [3, 1, 0], [5, 3, 1], [7, 5, 3]]),
        (History(3, "oldest_first", True, "zeros"), [[0, 0, 1], [0, 1, 3], [1, 3, 5], [3, 5, 7]]),
        (History(3, "newest_first", True, "repeat_first"), [[1, 1, 1], [3, 1, 1], [5, 3, 1], [7, 5, 3]]),
        (History(2, "newest_first", False, "zeros"), [[0, 0], [1, 0], [3, 1], [5, 3]]),
        (History(2, "oldest_first", False, "repeat_first"), [[1, 1], [1, 1], [1, 3], [3, 5]]),
    ],
)
def test_history_follows_order_fill_and_current_frame_rule(history, expected):
    assert run(with_terms(Term("a", ("sensor/a",), history=history)), STEPS) == expected


def test_last_action_is_the_one_held_while_the_frame_was_measured():
    action = Term("action", ("last_action",), history=History(2))
    assert run(with_terms(action), STEPS[:3]) == [[0, 0, 0, 0], [10, 20, 0, 0], [30, 40, 10, 20]]


def test_layouts_put_frames_side_by_side_or_behind_each_other():
    terms = [Term(name, (f"sensor/{name}",), history=History(2)) for name in "ab"]
    assert run(with_terms(*terms), STEPS[:2])[1] == [3, 1, 4, 2]
    assert run(with_terms(*terms, layout="per_time"), STEPS[:2])[1] == [3, 4, 1, 2]


def test_reset_forgets_all_frames():
    assembler = Assembler(with_terms(Term("a", ("sensor/a",), history=History(2))))
    first, second = (np.array([*np.zeros(11), value, 0]) for value in (1.0, 2.0))
    assembler.observe(first, np.zeros(2))
    assert assembler.observe(second, np.zeros(2)).tolist() == [2, 1]
    assembler.reset()
    assert assembler.observe(second, np.zeros(2)).tolist() == [2, 0]


def test_functions_squeeze_what_has_a_wide_range():
    terms = [Term("a", ("sensor/a",), function="arcsinh"), Term("b", ("sensor/b",), function="log1p")]
    np.testing.assert_allclose(run(with_terms(*terms), [(np.sinh(2.0), np.e - 1)]), [[2, 1]], rtol=1e-6)


def test_projected_gravity_of_known_turns():
    half = np.sqrt(0.5)
    upright, on_its_left, nose_down = [1, 0, 0, 0], [half, -half, 0, 0], [half, 0, half, 0]
    found = projected_gravity(np.array([upright, on_its_left, nose_down]))
    np.testing.assert_allclose(found, [[0, 0, -1], [0, 1, 0], [1, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("layout", ["per_term", "per_time"])
def test_scaling_of_the_whole_vector_is_that_of_each_term(before, layout):
    terms = (
        Term("a", ("sensor/a",), scale=(0.5,), clip=1.0, clip_before_scale=before, history=History(2)),
        Term("gyro", ("sensor/gyro",), scale=(1.0, -2.0, 3.0), clip=2.0, clip_before_scale=before, history=History(2)),
    )
    agreed = with_terms(*terms, layout=layout)
    rng, assembler = np.random.default_rng(0), Assembler(agreed)
    low, scale, high = scaling(agreed)
    plain = dataclasses.replace(agreed, observation=Observation(terms, "per_term"))
    other = Assembler(plain)
    for _ in range(3):
        readings = rng.normal(size=13) * 3
        vector = scale * np.clip(assembler.observe(readings, np.zeros(2)), low, high)
        raw = other.observe(readings, np.zeros(2))
        a, gyro = scaled(terms[0], raw[:2].reshape(2, 1)), scaled(terms[1], raw[2:].reshape(2, 3))
        expected = [*a.ravel(), *gyro.ravel()] if layout == "per_term" else [*a[0], *gyro[0], *a[1], *gyro[1]]
        np.testing.assert_allclose(vector, expected, rtol=1e-6)
