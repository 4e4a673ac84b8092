"""Checks of configuration fields: one line that names the field, what was expected and what came."""

from collections.abc import Sequence
from typing import Any

from embodied.types import InputError, nearest


def check_ranges(owner: str, config: Any, fields: dict[str, Sequence[str]]) -> None:
    """Nothing; raises InputError naming the first field outside its interval.

    Intervals are written as in mathematics and lead to the names of the fields that must lie in them, for example
    {"[0, 1)": ["discount"], "[1, inf)": ["hidden", "layers"]}. NaN lies in none.
    """
    for interval, names in fields.items():
        low, high = (float(bound) for bound in interval[1:-1].split(","))
        for name in names:
            value = getattr(config, name)
            above = value >= low if interval[0] == "[" else value > low
            below = value <= high if interval[-1] == "]" else value < high
            if not (above and below):
                raise InputError(f"{owner}: {name} must be in {interval}, got {value}")


def join_ranges(fields: dict[str, Sequence[str]], more: dict[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The intervals of both, each with the fields of both."""
    return {interval: (*fields.get(interval, ()), *more.get(interval, ())) for interval in fields | more}


def check_choice(owner: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Nothing; raises InputError naming the nearest choice where `value` is none of them."""
    if value not in choices:
        raise InputError(f"{owner}: unknown {name} '{value}'; {nearest(value, choices)}")
