"""JSON against the dataclasses that it fills: each way to be wrong is one line that names file and field."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest

import agents
from agents import rnd
from embodied.deploy.files import from_json, read_json
from embodied.types import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    """Nested."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise InputError(f"inner: rate must be at least 0, got {self.rate}")


@dataclasses.dataclass(frozen=True)
class Outer:
    """One field of each kind."""

    count: int
    choice: Literal["left", "right"] = "left"
    flag: bool = False
    path: tuple[float, ...] = ()
    goal: Mapping[str, float] = dataclasses.field(default_factory=dict)
    inner: Inner = Inner()
    free: Any = None


def test_fields_are_filled_with_values_of_their_kinds():
    values = {"count": 1, "path": [1, 2.5], "inner": {"rate": 0}, "goal": {"x": 1}, "free": [{}]}
    made = from_json(Outer, values, "here")
    assert made == Outer(1, path=(1.0, 2.5), goal={"x": 1.0}, inner=Inner(0.0), free=[{}])
    assert {type(number) for number in (*made.path, *made.goal.values(), made.inner.rate)} == {float}


@pytest.mark.parametrize("name", agents.AGENTS)
def test_config_of_every_agent_comes_back(name):
    config = agents.module(name).Config().tiny()
    assert from_json(type(config), dataclasses.asdict(config), "here") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"must be an object with named fields, got \[\]"),
        ({}, "field 'count' is missing; expected count, choice, flag"),
        ({"count": 1, "chioce": "left"}, r"unknown field 'chioce' of .*\.Outer; did you mean 'choice'"),
        ({"count": "40"}, "field 'count' must be a whole number, got \"40\""),
        ({"count": True}, "field 'count' must be a whole number, got true"),
        ({"count": 40.0}, "field 'count' must be a whole number, got 40.0"),
        ({"count": 1, "choice": "rigth"}, "field 'choice' is \"rigth\"; did you mean 'right'"),
        ({"count": 1, "choice": []}, r"field 'choice' is \[\]; choose one of: left, right"),
        ({"count": 1, "flag": 0}, "field 'flag' must be true or false, got 0"),
        ({"count": 1, "path": None}, "field 'path' must be a list, got null"),
        ({"count": 1, "path": [1, "2"]}, r"field 'path\[1\]' must be a number, got \"2\""),
        ({"count": 1, "goal": {"x": "far"}}, r"field 'goal\.x' must be a number, got \"far\""),
        ({"count": 1, "goal": [1]}, r"field 'goal' must be an object with named fields, got \[1\]"),
        ({"count": 1, "inner": 3}, "field 'inner' must be an object with named fields, got 3"),
        ({"count": 1, "inner": {"rate": "x" * 99}}, r"field 'inner\.rate' must be a number, got \"x{36}\.\.\.$"),
        ({"count": 1, "inner": {"rate": -1}}, "inner: rate must be at least 0, got -1.0"),
        ({"count": 1, "inner": {"rat": 1}}, r"unknown field 'inner\.rat' of .*\.Inner; did you mean 'rate'"),
    ],
)
def test_value_of_a_wrong_kind_is_refused_naming_the_field(values, message):
    with pytest.raises(InputError, match=f"^here: {message}"):
        from_json(Outer, values, "here")


def test_unknown_field_of_a_nested_config_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"here: unknown field 'explorer\.hiden' of agents\.td3\.Config; .*'hidden'"):
        from_json(rnd.Config, {"explorer": {"hiden": 3}}, "here")


def test_file_that_holds_no_json_is_named(tmp_path):
    path = tmp_path / "some.json"
    with pytest.raises(InputError, match=r"some\.json: no such file; expected a wish"):
        read_json(path, "a wish")
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"some\.json: not valid JSON \(.*\); expected a wish"):
            read_json(path, "a wish")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); expected a wish"):
        read_json(tmp_path, "a wish")
