"""Every registered agent keeps the contract of `embodied.types.Agent`, on a large and on a small world."""

import ast
import dataclasses
import importlib
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from embodied.prompts import VARIANTS
from embodied.types import Agent, Batch, Demos, Goal, InputError, Language, Motion, Prior, Reward, Spec

SPECS = {
    "walker": Spec(obs={"state": (24,)}, action=6),
    "maze": Spec(obs={"state": (4,)}, action=2),
}
ROWS, WORLDS, STEPS = 16, 3, 5


class Case(NamedTuple):
    """An agent that has been updated once, and what it may be called with."""

    agent: Agent
    spec: Spec
    state: Any
    batch: Batch
    metrics: Any
    z: Any


def random_batch(spec: Spec, seed: int) -> Batch:
    """Transitions that terminate now and then."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    obs, next_obs = ({"state": draw(ROWS, *spec.obs["state"])} for _ in range(2))
    action = rng.uniform(-1, 1, (ROWS, spec.action)).astype(np.float32)
    return Batch(obs, action, next_obs, draw(ROWS), (rng.uniform(size=ROWS) < 0.9).astype(np.float32))


def tiny(name: str, spec: Spec) -> Agent:
    module = importlib.import_module(agents.AGENTS[name])
    return module.make(module.Config().tiny(), spec)


@pytest.fixture(scope="module", params=[(name, spec) for name in agents.AGENTS for spec in SPECS], ids="-".join)
def case(request):
    name, spec = request.param[0], SPECS[request.param[1]]
    agent, batch = tiny(name, spec), random_batch(spec, 0)
    state = jax.jit(agent.init)(jax.random.key(0), spec.example())
    state, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    z = jax.jit(lambda params: agent.prompt(params, Prior(), jax.random.key(2)))(state.params)
    return Case(agent, spec, state, batch, metrics, z)


def observations(case: Case, *leading: int) -> dict:
    shape = (*leading, *case.spec.obs["state"])
    return {"state": jnp.asarray(np.random.default_rng(5).normal(size=shape), jnp.float32)}


def reward_prompt(case: Case, inference: str = "plain") -> Reward:
    reward = np.random.default_rng(6).uniform(size=40).astype(np.float32)
    return Reward(observations(case, 40), jnp.asarray(reward), inference)


def shapes(tree: Any) -> list:
    return [(str(path), leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def counted(function):
    """The function and the list of its calls; under jit, a call is a trace."""
    calls = []

    def wrapper(*arguments):
        calls.append(None)
        return function(*arguments)

    return wrapper, calls


def test_update_and_act_promise_the_shapes_they_were_given(case):
    key = jax.random.key(0)
    state = jax.eval_shape(case.agent.init, key, case.spec.example())
    after, metrics = jax.eval_shape(case.agent.update, state, case.batch, key)
    assert shapes(after) == shapes(state)
    assert all(leaf.shape == () and leaf.dtype == jnp.float32 for leaf in metrics.values())
    carry = case.agent.carry(WORLDS)
    for act_key in (None, key):
        action, after = jax.eval_shape(case.agent.act, state.params, observations(case, WORLDS), case.z, carry, act_key)
        assert (action.shape, action.dtype) == ((WORLDS, case.spec.action), jnp.float32)
        assert shapes(after) == shapes(carry)


def test_update_and_act_are_traced_once_over_several_calls(case):
    update, updates = counted(case.agent.update)
    act, acts = counted(case.agent.act)
    update, act = jax.jit(update), jax.jit(act)
    state, carry = case.state, case.agent.carry(WORLDS)
    for i in range(3):
        state, _ = update(state, random_batch(case.spec, i), jax.random.key(i))
        _, carry = act(state.params, observations(case, WORLDS), case.z, carry, jax.random.key(i))
    assert (len(updates), len(acts)) == (1, 1)


def test_metrics_are_finite_and_named_part_slash_name(case):
    assert case.metrics
    assert all(np.isfinite(value) for value in case.metrics.values())
    assert all(len(name.split("/")) == 2 for name in case.metrics)


def test_seeds_side_by_side_learn_what_each_learns_alone(case):
    def learn(key):
        state = case.agent.init(key, case.spec.example())
        return case.agent.update(state, case.batch, key)

    keys = jax.random.split(jax.random.key(3), 3)
    together = jax.jit(jax.vmap(learn))(keys)
    learn = jax.jit(learn)
    for i, key in enumerate(keys):
        same = lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5)  # noqa: E731
        jax.tree.map(same, together, learn(key))


def test_every_declared_prompt_gives_latents_on_the_sphere(case):
    prompts = {
        Reward: [reward_prompt(case, inference) for inference in VARIANTS],
        Goal: [Goal(observations(case))],
        Motion: [Motion(observations(case, STEPS))],
        Prior: [Prior()],
    }
    assert Prior in case.agent.prompts
    (width,) = case.z.shape
    for kind in case.agent.prompts:
        for prompt in prompts[kind]:
            z = np.asarray(jax.jit(case.agent.prompt)(case.state.params, prompt, jax.random.key(4)))
            assert z.shape == ((STEPS, width) if kind is Motion else (width,))
            np.testing.assert_allclose(np.linalg.norm(z, axis=-1), width**0.5, rtol=1e-4)


def test_prompts_that_are_not_declared_are_refused_by_naming_those_that_are(case):
    tokens = jnp.zeros(4, jnp.int32)
    prompts = [
        reward_prompt(case),
        Goal(observations(case)),
        Motion(observations(case, STEPS)),
        Language(tokens, tokens),
        Demos(observations(case, 4), jnp.zeros((4, case.spec.action))),
    ]
    refused = [prompt for prompt in prompts if type(prompt) not in case.agent.prompts]
    assert refused
    for prompt in refused:
        with pytest.raises(TypeError, match=type(prompt).__name__) as caught:
            case.agent.prompt(case.state.params, prompt, jax.random.key(0))
        taken = str(caught.value).partition(" got ")[0]
        assert all(kind.__name__ in taken for kind in case.agent.prompts)


def test_act_is_deterministic_without_a_key_explores_with_one_and_stays_in_range(case):
    act = jax.jit(case.agent.act)
    inputs = case.state.params, observations(case, WORLDS), case.z, case.agent.carry(WORLDS)
    plain, again, one, same, other = (
        np.asarray(act(*inputs, key)[0]) for key in (None, None, *map(jax.random.key, (7, 7, 8)))
    )
    np.testing.assert_array_equal(plain, again)
    np.testing.assert_array_equal(one, same)
    assert (one != plain).any()
    assert (one != other).any()
    assert max(np.abs(action).max() for action in (plain, one, other)) <= 1.0


def test_one_latent_acts_as_the_same_latent_repeated_for_each_world(case):
    act = jax.jit(case.agent.act)
    rest = case.agent.carry(WORLDS), None
    one, _ = act(case.state.params, observations(case, WORLDS), case.z, *rest)
    each, _ = act(case.state.params, observations(case, WORLDS), jnp.tile(case.z, (WORLDS, 1)), *rest)
    np.testing.assert_allclose(one, each, rtol=1e-6, atol=1e-6)


def test_update_changes_none_of_its_arguments(case):
    given = case.state, case.batch
    before = shapes(given)
    values = [np.array(leaf) for leaf in jax.tree.leaves(given)]
    # As constants of a trace, so that a mutated dictionary would be the caller's own.
    jax.eval_shape(lambda: case.agent.update(*given, jax.random.key(0)))
    assert shapes(given) == before
    for leaf, value in zip(jax.tree.leaves(given), values, strict=True):
        np.testing.assert_array_equal(leaf, value)


def test_update_learns_from_the_batch_and_the_key(case):
    update = jax.jit(case.agent.update)
    leaves = lambda batch, key: np.concatenate(  # noqa: E731
        [np.ravel(leaf) for leaf in jax.tree.leaves(update(case.state, batch, jax.random.key(key))[0].params)]
    )
    reference = leaves(case.batch, 1)
    assert (reference != leaves(random_batch(case.spec, 9), 1)).any()
    assert (reference != leaves(case.batch, 2)).any()


def test_value_is_one_finite_number_for_each_observation(case):
    assert (case.agent.value is not None) == (Reward in case.agent.prompts)
    if case.agent.value:
        arguments = case.state.params, reward_prompt(case), case.z, observations(case, WORLDS)
        value = np.asarray(jax.jit(case.agent.value)(*arguments))
        assert value.shape == (WORLDS,)
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_config_field_is_read_where_the_agent_is_made(name):
    module = importlib.import_module(agents.AGENTS[name])
    reads = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config"
    }
    assert {field.name for field in dataclasses.fields(module.Config)} - reads == set()


@pytest.mark.parametrize("name", agents.AGENTS)
def test_tiny_keeps_every_choice_that_is_not_a_size_or_a_rate(name):
    config = importlib.import_module(agents.AGENTS[name]).Config()
    small = config.tiny()
    assert type(small) is type(config)
    kept = [f.name for f in dataclasses.fields(config) if isinstance(getattr(config, f.name), str | bool)]
    assert all(getattr(config, field) == getattr(small, field) for field in kept)
    assert small.tiny() == small


def test_unknown_agent_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown agent 'td_jep'; did you mean 'td_jepa'"):
        agents.module("td_jep")
