"""Agents as ONNX models and as StableHLO: they act as before, in few nodes, and in the same bytes each time."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import agents
import embodied.policy
from embodied.actor import Imitation
from embodied.export.onnx_graph import to_onnx
from embodied.export.stablehlo import from_stablehlo, to_stablehlo
from embodied.types import Goal, InputError, Prior, Spec
from experiments.models import MODELS

STATES = np.random.default_rng(1).normal(size=(1000, 24)).astype(np.float32)
SPEC = Spec(
    obs={"state": (24,)},
    action=6,
    mean={"state": tuple(np.linspace(-1.0, 1.0, 24).tolist())},
    std={"state": tuple(np.linspace(0.5, 2.0, 24).tolist())},
)


def tiny(name, **choices):
    """A small agent, random parameters for it, and the width of its latent."""
    module = agents.module(name)
    config = module.Config().tiny()
    if name == "rnd":
        config = dataclasses.replace(config, explorer=dataclasses.replace(config.explorer, **choices))
    else:
        config = dataclasses.replace(config, **choices)
    agent = module.make(config, SPEC)
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key == "kernel":
            return jnp.asarray(rng.normal(size=leaf.shape, scale=leaf.shape[-2] ** -0.5), jnp.float32)
        if path[-1].key == "covariance":
            return jnp.eye(*leaf.shape) + 0.1
        return jnp.asarray(rng.uniform(0.2, 0.8, leaf.shape), jnp.float32)

    shapes = jax.eval_shape(agent.init, jax.random.key(0), SPEC.example()).params
    (width,) = jax.eval_shape(agent.prompt, shapes, Prior(), jax.random.key(0)).shape
    return agent, jax.tree_util.tree_map_with_path(value, shapes), width


def acting(agent, params):
    """What is exported of an agent: (state, z) -> (action,)."""
    return lambda state, z: (agent.act(params, {"state": state}, z, agent.carry(1), None)[0],)


def exported(name, metadata=(), **choices):
    agent, params, dim = tiny(name, **choices)
    return to_onnx(acting(agent, params), {"state": (1, 24), "z": (1, dim)}, ["action"], dict(metadata))


def latents(dim):
    """As many random latents as there are states, on the sphere of radius sqrt(dim)."""
    z = np.random.default_rng(2).normal(size=(len(STATES), dim)).astype(np.float32)
    return z * (dim**0.5 / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-6)).astype(np.float32)


def worst(model, wanted, *columns):
    """The largest difference between the wanted results and those of a model of one row, and what its nodes are."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes = {one.name: one.shape for one in session.get_inputs()}
    rows = [
        session.run(None, {name: c.reshape(shape) for (name, shape), c in zip(shapes.items(), row, strict=True)})[0]
        for row in zip(*columns, strict=True)
    ]
    operators = [node.op_type for node in model.graph.node]
    return np.abs(np.stack(rows).reshape(wanted.shape) - np.asarray(wanted)).max(), operators


@pytest.mark.parametrize("inputs", ["raw", "standardized"])
@pytest.mark.parametrize("name", agents.AGENTS)
def test_exported_agent_acts_as_the_agent_does(name, inputs):
    agent, params, dim = tiny(name, inputs=inputs)
    wanted = jax.jit(acting(agent, params))(STATES, latents(dim))[0]
    assert wanted.std() > 0.1
    difference, operators = worst(exported(name, inputs=inputs), wanted, STATES, latents(dim))
    assert difference <= 1e-5, f"{difference} with {len(operators)} nodes"
    # One that goes to places asks its features, of here and of there, for the skill that leads there. Those that plan
    # ask their networks in 2 rounds what is 2 decisions, or blocks of them, ahead.
    plans = {"planner": 250, "jepa": 280, "tdmpc2": 750}
    most = ({"multi_critic": 55, "multi_critic_sac": 55, "mrq": 50} | plans).get(name, 45)
    assert len(operators) <= most, f"{len(operators)} nodes: {operators}"


@pytest.mark.parametrize("name", ["td_jepa", "fb", "onestep_fb", "byol", "td3"])
def test_actor_that_is_held_to_the_data_is_exported_without_flow_and_noise(name):
    held = {"imitation": Imitation(weight=3.0).tiny()}
    agent, params, dim = tiny(name, **held)
    wanted = jax.jit(acting(agent, params))(STATES, latents(dim))[0]
    model = exported(name, **held)
    difference, operators = worst(model, wanted, STATES, latents(dim))
    assert difference <= 1e-5, f"{difference} with {len(operators)} nodes"
    assert not [name for name in operators if name.startswith("Random")]
    kept = sum(np.prod(one.dims) for one in model.graph.initializer)
    assert kept < sum(leaf.size for leaf in jax.tree.leaves(params["actor"])) + 200


def test_shipped_walker_is_exported_with_few_nodes():
    policy = embodied.policy.load(MODELS / "walker")
    function = acting(policy.agent, policy.params)
    model = to_onnx(function, {"state": (1, 24), "z": (1, 50)}, ["action"])
    # Of the size that it has seen. For states of its buffer JAX itself is up to 1e-5 away from float64.
    states = (STATES * np.float32(policy.spec.std["state"]) + np.float32(policy.spec.mean["state"])).astype(np.float32)
    difference, operators = worst(model, jax.jit(function)(states, latents(50))[0], states, latents(50))
    assert difference <= 1e-5, f"{difference} with {len(operators)} nodes"
    assert len(operators) <= 45, f"{len(operators)} nodes: {operators}"
    assert operators.count("Gemm") == 7
    assert "MatMul" not in operators


@pytest.mark.parametrize("inputs", ["raw", "standardized"])
@pytest.mark.parametrize("name", ["td_jepa", "fb"])
def test_exported_goal_prompt_gives_the_latent(name, inputs):
    agent, params, dim = tiny(name, inputs=inputs)
    function = lambda state: (agent.prompt(params, Goal({"state": state}), jax.random.key(0)),)  # noqa: E731
    wanted = jax.jit(jax.vmap(lambda state: function(state)[0]))(STATES)
    assert wanted.shape == (len(STATES), dim)
    difference, operators = worst(to_onnx(function, {"state": (24,)}, ["z"]), wanted, STATES)
    assert difference <= 1e-4, f"{difference} with {len(operators)} nodes"
    assert len(operators) <= 40, f"{len(operators)} nodes: {operators}"


def test_bfloat16_is_refused_with_the_field_to_change():
    with pytest.raises(InputError, match='computed in float32, the function uses bfloat16; set matmul="float32"'):
        exported("td3", matmul="bfloat16")


def test_equal_functions_give_equal_bytes():
    first = exported("td_jepa", {"world": "walker", "agent": "td_jepa"})
    second = exported("td_jepa", {"agent": "td_jepa", "world": "walker"})
    assert first.SerializeToString() == second.SerializeToString(deterministic=True)
    assert {one.key: one.value for one in first.metadata_props} == {"agent": "td_jepa", "world": "walker"}
    assert exported("td_jepa").SerializeToString() != first.SerializeToString()


def test_model_is_self_contained_and_of_opset_13():
    model = exported("fb", inputs="standardized")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 13)]
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    assert all(one.data_location == onnx.TensorProto.DEFAULT and one.raw_data for one in model.graph.initializer)
    # Parameters, and the axes of sums.
    assert {one.data_type for one in model.graph.initializer} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert not model.graph.doc_string
    assert not model.producer_version


def test_missing_packages_are_named_with_the_command_that_brings_them(monkeypatch):
    data = to_stablehlo(lambda x: x, {"x": (1,)})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r'onnx is missing; pip install "embodied-stack\[export\]"'):
        to_onnx(lambda x: (x,), {"x": (1,)}, ["y"])
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match=r'flatbuffers is missing; pip install "embodied-stack\[export\]"'):
        to_stablehlo(lambda x: x, {"x": (1,)})
    with pytest.raises(InputError, match="flatbuffers is missing"):
        from_stablehlo(data)


def test_stablehlo_comes_back_as_the_function_for_three_platforms():
    agent, params, dim = tiny("td_jepa", inputs="standardized")
    function, arguments = acting(agent, params), (STATES[:1], latents(dim)[:1])
    data = to_stablehlo(function, {"state": (1, 24), "z": (1, dim)})
    got, wanted = from_stablehlo(data)(*arguments)[0], jax.jit(function)(*arguments)[0]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
    assert jax.export.deserialize(bytearray(data)).platforms == ("cpu", "cuda", "tpu")


def test_damaged_stablehlo_and_unknown_platforms_are_refused():
    data = to_stablehlo(lambda x: x + 1, {"x": (1,)}, ["cpu"])
    for broken in (b"", b"\0" * 100, data[: len(data) // 2]):
        with pytest.raises(InputError, match="damaged StableHLO, or not written by to_stablehlo"):
            from_stablehlo(broken)
    with pytest.raises(InputError, match="export: unknown platform 'cda'; did you mean 'cuda'"):
        to_stablehlo(lambda x: x, {"x": (1,)}, ["cda"])
