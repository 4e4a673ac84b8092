"""Numbers inside of intervals, words out of a list, and a refusal that names what was expected."""

import types

import pytest

from embodied.ranges import check_choice, check_ranges
from embodied.types import InputError


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-0.1, 1)),
        ("(0, 1]", (0.1, 1), (0, 1.1)),
        ("[2, inf)", (2, 10**9), (1, float("nan"), float("inf"))),
        ("(-1, 0.5)", (-0.9, 0.4), (-1, 0.5)),
    ],
)
def test_bounds_are_those_of_the_interval_as_written(interval, inside, outside):
    for value in inside:
        check_ranges("learner", types.SimpleNamespace(rate=value), {interval: ["rate"]})
    for value in outside:
        with pytest.raises(InputError) as caught:
            check_ranges("learner", types.SimpleNamespace(other=0, rate=value), {interval: ["rate"]})
        assert str(caught.value) == f"learner: rate must be in {interval}, got {value}"


def test_unknown_choice_is_refused_by_naming_the_nearest():
    check_choice("fb", "matmul", "bfloat16", ("float32", "bfloat16"))
    with pytest.raises(InputError, match="fb: unknown matmul 'bfloat'; did you mean 'bfloat16'"):
        check_choice("fb", "matmul", "bfloat", ("float32", "bfloat16"))
