"""Every registered agent's Config: all of it is read, it can be made tiny, and its numbers have ranges."""

import ast
import dataclasses
import importlib
import inspect

import pytest

import agents
from embodied.types import InputError


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_config_field_is_read_where_the_agent_is_made(name):
    module = importlib.import_module(agents.AGENTS[name])
    # What agents share is made in the module that brings the shared part of their Config.
    places = {one.__module__ for one in module.Config.__mro__ if dataclasses.is_dataclass(one)}
    # A part that is an agent's own Config is asked for under that agent's name.
    parts = [f.type for f in dataclasses.fields(module.Config) if f.type.__module__.startswith("embodied.")]
    places |= {part.__module__ for part in parts}
    sources = [inspect.getsource(importlib.import_module(place)) for place in places]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    reads = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "config"}
    assert {field.name for field in dataclasses.fields(module.Config)} - reads == set()
    assert {field.name for part in parts for field in dataclasses.fields(part)} - {node.attr for node in nodes} == set()


@pytest.mark.parametrize("name", agents.AGENTS)
def test_tiny_keeps_every_choice_that_is_not_a_size_or_a_rate(name):
    config = importlib.import_module(agents.AGENTS[name]).Config()
    small = config.tiny()
    assert type(small) is type(config)
    kept = [f.name for f in dataclasses.fields(config) if isinstance(getattr(config, f.name), str | bool)]
    assert all(getattr(config, field) == getattr(small, field) for field in kept)
    assert small.tiny() == small


@pytest.mark.parametrize("name", agents.AGENTS)
def test_numbers_out_of_range_are_refused_by_naming_field_and_interval(name):
    module = importlib.import_module(agents.AGENTS[name])
    numbers = {f.name: f.type for f in dataclasses.fields(module.Config) if f.type in (int, float)}
    assert {field for fields in module.RANGES.values() for field in fields} == set(numbers)
    for field, kind in numbers.items():
        with pytest.raises(InputError, match=rf"{name}: {field} must be in [\[(]\d, .*, got -1"):
            module.Config(**{field: kind(-1)})


def test_unknown_agent_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown agent 'td_jep'; did you mean 'td_jepa'"):
        agents.module("td_jep")
