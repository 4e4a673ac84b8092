"""Every registered agent keeps the contract of `embodied.types.Agent`, on a large and on a small world."""

import dataclasses
import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from embodied.prompts import VARIANTS
from embodied.types import Agent, Batch, Demos, Goal, Language, Motion, Prior, Reward, Spec
from tests.agents.chains import AGENTS, for_agent, with_what_follows

SPECS = {
    "walker": Spec(obs={"state": (24,)}, action=6),
    "maze": Spec(obs={"state": (4,)}, action=2),
}
ROWS, WORLDS, STEPS = 16, 3, 5
# Each function runs a few times on tiny shapes: optimising it takes longer than all of its calls.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK | {"xla_cpu_use_fusion_emitters": False})


class Counted:
    """A compiled function that knows how often it was traced."""

    def __init__(self, function: Any) -> None:
        self.traces = 0
        self.function = function
        self.compiled = quick_jit(self._trace)

    def _trace(self, *arguments: Any) -> Any:
        self.traces += 1
        return self.function(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        return self.compiled(*arguments)


class Case(NamedTuple):
    """An agent that has been updated once, and what it may be called with."""

    agent: Agent
    spec: Spec
    init: Counted
    update: Counted
    act: Counted
    state: Any
    batch: Batch
    metrics: Any
    z: Any
    name: str


def random_batch(spec: Spec, seed: int) -> Batch:
    """Transitions that terminate now and then, with all that any agent needs besides."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    obs, next_obs = ({"state": draw(ROWS, *spec.obs["state"])} for _ in range(2))
    discount = jnp.asarray(rng.uniform(size=ROWS) < 0.9, jnp.float32)
    transitions = Batch(obs, jnp.clip(draw(ROWS, spec.action), -1, 1), next_obs, draw(ROWS), discount)
    return with_what_follows(transitions, spec, rng)


def tiny(name: str, spec: Spec) -> Agent:
    module = importlib.import_module(agents.AGENTS[name])
    return module.make(module.Config().tiny(), spec)


@pytest.fixture(scope="module", params=AGENTS)
def case(request):
    spec = SPECS["maze"]
    agent = tiny(request.param, spec)
    batch = for_agent(random_batch(spec, 0), agent, spec)
    init, update, act = Counted(agent.init), Counted(agent.update), Counted(agent.act)
    state, metrics = update(init(jax.random.key(0), spec.example()), batch, jax.random.key(1))
    z = agent.prompt(state.params, Prior(), jax.random.key(2))
    return Case(agent, spec, init, update, act, state, batch, metrics, z, request.param)


def observations(spec: Spec, *leading: int) -> dict:
    shape = (*leading, *spec.obs["state"])
    return {"state": jnp.asarray(np.random.default_rng(5).normal(size=shape), jnp.float32)}


def reward_prompt(spec: Spec, inference: str = "plain") -> Reward:
    reward = np.random.default_rng(6).uniform(size=40).astype(np.float32)
    return Reward(observations(spec, 40), jnp.asarray(reward), inference)


def prompts_of(spec: Spec) -> list:
    tokens = jnp.zeros(4, jnp.int32)
    return [
        *(reward_prompt(spec, inference) for inference in VARIANTS),
        Goal(observations(spec)),
        Motion(observations(spec, STEPS)),
        Language(tokens, tokens),
        Demos(observations(spec, 4), jnp.zeros((4, spec.action))),
        Prior(),
    ]


def shapes(tree: Any) -> list:
    return [(str(path), leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize("world", SPECS)
@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_function_keeps_to_the_shapes_of_the_spec(name, world):
    spec, key = SPECS[world], jax.random.key(0)
    agent = tiny(name, spec)
    state = jax.eval_shape(agent.init, key, spec.example())
    after, metrics = jax.eval_shape(agent.update, state, for_agent(random_batch(spec, 0), agent, spec), key)
    assert shapes(after) == shapes(state)
    assert all((leaf.shape, leaf.dtype) == ((), jnp.float32) for leaf in metrics.values())
    carry, z = agent.carry(WORLDS), jax.eval_shape(agent.prompt, state.params, Prior(), key)
    for act_key in (None, key):
        action, after = jax.eval_shape(agent.act, state.params, observations(spec, WORLDS), z, carry, act_key)
        assert (action.shape, action.dtype) == ((WORLDS, spec.action), jnp.float32)
        assert shapes(after) == shapes(carry)


def test_update_and_act_are_traced_once_over_several_calls(case):
    act = Counted(case.agent.act)
    state, carry = case.state, case.agent.carry(WORLDS)
    for i in range(3):
        batch = for_agent(random_batch(case.spec, i), case.agent, case.spec)
        state, _ = case.update(state, batch, jax.random.key(i))
        _, carry = act(state.params, observations(case.spec, WORLDS), case.z, carry, jax.random.key(i))
    assert (case.update.traces, act.traces) == (1, 1)


def test_metrics_are_finite_and_named_part_slash_name(case):
    assert case.metrics
    assert all(np.isfinite(value) for value in case.metrics.values())
    assert all(len(name.split("/")) == 2 for name in case.metrics)


def test_seeds_side_by_side_learn_what_each_learns_alone(case):
    key = jax.random.key(1)
    states = [case.init(seed, case.spec.example()) for seed in jax.random.split(jax.random.key(3), 3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together = quick_jit(jax.vmap(case.agent.update, (0, None, None)))(stacked, case.batch, key)
    for i, state in enumerate(states):

        def same(a, b, i=i):
            apart = np.abs(a[i] - b)
            # Where a gradient is next to nothing, Adam makes a step of what rounding leaves of it; that is rare.
            assert (apart > 1e-5 * (1 + np.abs(b))).mean() <= 0.01
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-4)

        jax.tree.map(same, together, case.update(state, case.batch, key))


def test_every_declared_prompt_gives_latents_on_the_sphere(case):
    prompts = [prompt for prompt in prompts_of(case.spec) if isinstance(prompt, case.agent.prompts)]
    assert {type(prompt) for prompt in prompts} == set(case.agent.prompts) >= {Prior}
    latents = quick_jit(lambda params, key: [case.agent.prompt(params, prompt, key) for prompt in prompts])
    (width,) = case.z.shape
    for prompt, z in zip(prompts, latents(case.state.params, jax.random.key(4)), strict=True):
        assert z.shape == ((STEPS, width) if isinstance(prompt, Motion) else (width,))
        np.testing.assert_allclose(np.linalg.norm(z, axis=-1), width**0.5, rtol=1e-4)


def test_prompts_that_are_not_declared_are_refused_by_naming_those_that_are(case):
    refused = [prompt for prompt in prompts_of(case.spec) if not isinstance(prompt, case.agent.prompts)]
    assert refused
    for prompt in refused:
        with pytest.raises(TypeError, match=type(prompt).__name__) as caught:
            case.agent.prompt(case.state.params, prompt, jax.random.key(0))
        taken = str(caught.value).partition(" got ")[0]
        assert all(kind.__name__ in taken for kind in case.agent.prompts)


def test_act_is_deterministic_without_a_key_explores_with_one_and_stays_in_range(case):
    inputs = case.state.params, observations(case.spec, WORLDS), case.z, case.agent.carry(WORLDS)
    plain, again, one, same, other = (
        np.asarray(case.act(*inputs, key)[0]) for key in (None, None, *map(jax.random.key, (7, 7, 8)))
    )
    np.testing.assert_array_equal(plain, again)
    np.testing.assert_array_equal(one, same)
    assert (one != plain).any()
    assert (one != other).any()
    # Policy gradients of whole rollouts need the draw itself, which the world then clips.
    needs = case.agent.needs
    bounded = (plain, one, other) if needs.channels is None or needs.replay else (plain,)
    assert max(np.abs(action).max() for action in bounded) <= 1.0


def test_one_latent_acts_as_the_same_latent_repeated_for_each_world(case):
    rest = case.agent.carry(WORLDS), None
    one, _ = case.act(case.state.params, observations(case.spec, WORLDS), case.z, *rest)
    each, _ = case.act(case.state.params, observations(case.spec, WORLDS), jnp.tile(case.z, (WORLDS, 1)), *rest)
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
    leaves = lambda batch, key: np.concatenate(  # noqa: E731
        [np.ravel(leaf) for leaf in jax.tree.leaves(case.update(case.state, batch, jax.random.key(key))[0].params)]
    )
    reference = leaves(case.batch, 1)
    other = for_agent(random_batch(case.spec, 9), case.agent, case.spec)
    assert (reference != leaves(other, 1)).any()
    if case.name != "gcbc":  # of vectors it draws nothing
        assert (reference != leaves(case.batch, 2)).any()


def test_value_is_one_finite_number_for_each_observation(case):
    assert (case.agent.value is not None) == (Reward in case.agent.prompts)
    if case.agent.value:
        arguments = case.state.params, reward_prompt(case.spec), case.z, observations(case.spec, WORLDS)
        value = np.asarray(quick_jit(case.agent.value)(*arguments))
        assert value.shape == (WORLDS,)
        assert np.isfinite(value).all()


def test_features_are_a_row_of_finite_numbers_for_each_observation_and_tell_observations_apart(case):
    assert (case.agent.features is not None) >= (Reward in case.agent.prompts)
    if case.agent.features:
        features = np.asarray(quick_jit(case.agent.features)(case.state.params, observations(case.spec, WORLDS)))
        assert features.shape == (WORLDS, features.shape[1])
        assert np.isfinite(features).all()
        assert len(np.unique(features.round(5), axis=0)) == WORLDS


def test_features_are_foreseen_from_what_is_seen_by_the_actions_before(case):
    if case.agent.imagine is None:
        return
    seen, rng = observations(case.spec, WORLDS), np.random.default_rng(3)
    actions = jnp.asarray(rng.uniform(-1, 1, (WORLDS, 12, case.spec.action)), jnp.float32)
    imagine = quick_jit(case.agent.imagine)
    whole, width = imagine(case.state.params, seen, actions), case.agent.features(case.state.params, seen).shape[1]
    every = 12 // whole.shape[1]
    assert whole.shape == (WORLDS, 12 // every, width)
    other = imagine(case.state.params, seen, actions.at[:, every].add(0.5))
    np.testing.assert_array_equal(whole[:, 0], other[:, 0])
    assert (whole[:, 1] != other[:, 1]).any()


def test_a_number_that_is_not_finite_in_the_batch_shows_in_the_metrics(case):
    # Clones do not look at what follows at once; latent predictions look at it at the end of a block.
    elsewhere = {"bc": {}, "gcbc": {"future": case.batch.future}, "jepa": {"chain": case.batch.chain}}
    parts = {"obs": case.batch.obs} | elsewhere.get(case.name, {"next_obs": case.batch.next_obs})
    for read, part in parts.items():
        broken = jax.tree.map(lambda leaf: leaf.at[3, 1].set(jnp.nan), part)
        _, metrics = case.update(case.state, case.batch.replace(**{read: broken}), jax.random.key(1))
        assert not all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("name", agents.AGENTS)
def test_agent_that_was_made_inside_a_traced_function_works_outside_of_it(name):
    module, kept = agents.module(name), []
    config = module.Config().tiny()
    if hasattr(config, "inputs"):
        config = dataclasses.replace(config, inputs="standardized")
    spec = dataclasses.replace(SPECS["maze"], mean={"state": (0.1,) * 4}, std={"state": (2.0,) * 4})
    jax.eval_shape(lambda: kept.append(module.make(config, spec)))
    (agent,) = kept
    state = jax.eval_shape(agent.init, jax.random.key(0), spec.example())
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), state.params)
    z = agent.prompt(params, Prior(), jax.random.key(0))
    assert np.isfinite(agent.act(params, observations(spec, 2), z, agent.carry(2), None)[0]).all()
