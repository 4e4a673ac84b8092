"""JAX primitives as ONNX nodes: each against JAX, how few nodes there are, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax.ad_checkpoint import checkpoint_name

from embodied.export.onnx_graph import to_onnx
from embodied.types import InputError

MATRIX = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
SYMMETRIC = MATRIX @ MATRIX.T + np.eye(4, dtype=np.float32)


def whole(x):
    """Whole numbers from -9 to 9."""
    return jnp.clip(3 * x, -9, 9).astype(jnp.int32)


# name -> a function of x and y, both normal of shape [3, 4]
ELEMENTWISE = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "rem": lambda x, y: jax.lax.rem(x, y),
    "modulo": lambda x, y: x % y,
    "floor_divide": lambda x, y: x // y,
    "neg": lambda x, y: -x,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "relu": lambda x, y: jax.nn.relu(x),
    "pow": lambda x, y: jnp.abs(x) ** y,
    "cube": lambda x, y: x**3,
    "inverse": lambda x, y: x**-1,
    "square": lambda x, y: jnp.square(x),
    "sqrt": lambda x, y: jnp.sqrt(jnp.abs(x)),
    "rsqrt": lambda x, y: jax.lax.rsqrt(jnp.abs(x)),
    "times_rsqrt": lambda x, y: y * jax.lax.rsqrt(jnp.abs(x)),
    "exp": lambda x, y: jnp.exp(x),
    "log": lambda x, y: jnp.log(jnp.abs(x)),
    "log1p": lambda x, y: jnp.log1p(jnp.abs(x)),
    "expm1": lambda x, y: jnp.expm1(x),
    "tanh": lambda x, y: jnp.tanh(x),
    "logistic": lambda x, y: jax.nn.sigmoid(x),
    "sin": lambda x, y: jnp.sin(x),
    "cos": lambda x, y: jnp.cos(x),
    "tan": lambda x, y: jnp.tan(jnp.tanh(x)),
    "asin": lambda x, y: jnp.arcsin(jnp.tanh(x)),
    "acos": lambda x, y: jnp.arccos(jnp.tanh(x)),
    "atan": lambda x, y: jnp.arctan(x),
    "sinh": lambda x, y: jnp.sinh(x),
    "cosh": lambda x, y: jnp.cosh(x),
    "asinh": lambda x, y: jnp.arcsinh(x),
    "acosh": lambda x, y: jnp.arccosh(1.5 + jnp.abs(x)),
    "atanh": lambda x, y: jnp.arctanh(0.9 * jnp.tanh(x)),
    "erf": lambda x, y: jax.scipy.special.erf(x),
    "gelu": lambda x, y: jax.nn.gelu(x, approximate=False),
    "softplus": lambda x, y: jax.nn.softplus(x),
    "elu": lambda x, y: jax.nn.elu(x),
    "abs": lambda x, y: jnp.abs(x),
    "sign": lambda x, y: jnp.sign(x),
    "floor": lambda x, y: jnp.floor(x),
    "ceil": lambda x, y: jnp.ceil(x),
    "round": lambda x, y: jnp.round(jnp.round(4 * x) / 2),  # halves among them
    "clamp": lambda x, y: jax.lax.clamp(-0.5, x, 0.5),
    "clip": lambda x, y: jnp.clip(x, -0.5, jnp.abs(y)),
    "where": lambda x, y: jnp.where(x > y, x, 0.0),
    "eq": lambda x, y: whole(x) == whole(y),
    "ne": lambda x, y: whole(x) != whole(y),
    "lt": lambda x, y: whole(x) < whole(y),
    "le": lambda x, y: whole(x) <= whole(y),
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: whole(x) >= whole(y),
    "logic": lambda x, y: ((x > 0) & (y > 0)) | ~(x > y) ^ (x > 1),
    "is_finite": lambda x, y: jnp.isfinite(jnp.where(x > 0, y, jnp.where(y > 0, jnp.nan, -jnp.inf))),
    "convert": lambda x, y: whole(x).astype(jnp.float32) + (y > 0).astype(jnp.float32),
    "passed_on": lambda x, y: jax.lax.stop_gradient(jax.lax.optimization_barrier((jnp.copy(x), y))[0]),
    "named": lambda x, y: checkpoint_name(x, "x") * y,
    "round_away": lambda x, y: jax.lax.round(jnp.round(4 * x) / 2 + jnp.array([0.0, 2.0**-25, -(2.0**-25), 0.0])[None]),
    "whole_numbers": lambda x, y: jnp.maximum(whole(x) * 2 - whole(y), -whole(y)) // 3,
}
SHAPES = {
    "sum": lambda x, y: x.sum(),
    "sum_of_no_axes": lambda x, y: jax.lax.reduce_sum_p.bind(x, axes=(), out_sharding=None),
    "mean": lambda x, y: x.mean(0) * y[0],
    "variance": lambda x, y: x.var(-1, keepdims=True),
    "sum_over_other_number": lambda x, y: x.sum(-1) / 3,
    "maximum": lambda x, y: x.max(1),
    "minimum": lambda x, y: x.min((0, 1)),
    "product": lambda x, y: x.prod(-1),
    "argmax": lambda x, y: jnp.argmax(x, -1),
    "argmin": lambda x, y: jnp.argmin(x, 0),
    "top_k": lambda x, y: jax.lax.top_k(x, 2)[0],
    "top_k_places": lambda x, y: jax.lax.top_k(x, 3)[1],
    "top_k_both": lambda x, y: jnp.concatenate(jax.lax.top_k(x, 2)),
    "softmax": lambda x, y: jax.nn.softmax(x),
    "one_hot": lambda x, y: jax.nn.one_hot(jnp.argmax(x, -1), 4),
    "broadcast": lambda x, y: jnp.broadcast_to(x[:, None], (3, 2, 4)) + y[None, :2].swapaxes(0, 1)[None, 0],
    "broadcast_kept": lambda x, y: jnp.broadcast_to(jnp.tanh(x[:1]), (5, 4)),
    "broadcast_then_reduced": lambda x, y: jnp.broadcast_to(x[:1], (5, 4)).sum(0),
    "broadcast_columns": lambda x, y: jax.lax.broadcast_in_dim(x[:, 0], (3, 4), (0,)) * y,
    "outer": lambda x, y: jnp.outer(x[0], y[0]),
    "reshape": lambda x, y: x.reshape(2, 6).reshape(4, 3),
    "squeeze": lambda x, y: x[0] + y[None].squeeze(0)[1],
    "expand_dims": lambda x, y: jax.lax.expand_dims(x, (0, 3)),
    "transpose": lambda x, y: x.T,
    "transpose_of_short_axes": lambda x, y: x[:1].T * 2,
    "concatenate": lambda x, y: jnp.concatenate([x, jnp.ones((3, 1)), y[:, :0], y], 1),
    "stack": lambda x, y: jnp.stack([x, y], 1),
    "tile": lambda x, y: jnp.tile(x, (2, 1)),
    "slice": lambda x, y: x[1:, ::2] * y[:2, 1:3],
    "negative_index": lambda x, y: x[..., -1],
    "dynamic_slice": lambda x, y: jax.lax.dynamic_slice(x, (1, 9), (2, 2)),
    "split": lambda x, y: jnp.split(x, [1, 3], axis=1)[1],
    "pad": lambda x, y: jnp.pad(x, ((0, 1), (2, 0)), constant_values=7),
    "take": lambda x, y: jnp.take(x, jnp.array([[0, 2], [1, -1]]), axis=1),
    "take_rows": lambda x, y: x[jnp.array([2, 0, 2])],
    "matmul": lambda x, y: x @ y.T,
    "dense": lambda x, y: x @ MATRIX + MATRIX[0][None],
    "dense_of_column_bias": lambda x, y: x @ MATRIX + y[:, :1],
    "dense_and_product": lambda x, y: jnp.concatenate([x @ MATRIX, x @ MATRIX + 1], 1),
    "vector_matrix": lambda x, y: x[0] @ MATRIX + 1,
    "matrix_vector": lambda x, y: MATRIX @ x[0],
    "dot": lambda x, y: x[0] @ y[0],
    "batched_matmul": lambda x, y: jnp.stack([x, y]) @ jnp.stack([y.T, x.T]),
    "many_axes": lambda x, y: jnp.einsum("abc,cbd->ad", jnp.stack([x, y]), jnp.stack([x.T, y.T], -1)),
    "free_axes": lambda x, y: jnp.einsum("bi,ijk->bkj", x, jnp.ones((4, 2, 3)) * MATRIX[:, :2, None]),
    "batch_last": lambda x, y: jnp.einsum("ab,cb->bac", x, y),
    "solve": lambda x, y: jnp.linalg.solve(SYMMETRIC, x[0]),
    "solve_many": lambda x, y: jnp.linalg.solve(SYMMETRIC, x.T),
    "solve_triangular": lambda x, y: jax.scipy.linalg.solve_triangular(SYMMETRIC, x.T, trans=1, lower=True),
    "cho_solve": lambda x, y: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(SYMMETRIC), x.T),
    "calls": lambda x, y: jax.checkpoint(jax.jit(jnp.sin))(x) + jax.jit(jnp.sin)(y),
    "scan": lambda x, y: jax.lax.scan(lambda now, row: (now * row + x[0], None), y[0], x)[0],
    "scan_backwards": lambda x, y: jax.lax.scan(lambda now, row: (row - now, None), x[0], MATRIX, reverse=True)[0],
    "scan_of_random": lambda x, y: jax.lax.scan(
        lambda now, key: (now + jax.random.normal(key, (4,)), None), x[0], jax.random.split(jax.random.key(0), 3)
    )[0],
    "random": lambda x, y: x + jax.random.normal(jax.random.key(0), (3, 4)),
}


def run(model, *arrays):
    """The outputs of a model; its bytes alone must do."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def convert(function, *arrays):
    """The model of a function with one result."""
    inputs = {f"x{i}": jax.ShapeDtypeStruct(array.shape, array.dtype) for i, array in enumerate(arrays)}
    return to_onnx(lambda *given: (function(*given),), inputs, ["result"])


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", [*ELEMENTWISE, *SHAPES])
def test_model_of_a_primitive_gives_what_jax_gives(name):
    function = (ELEMENTWISE | SHAPES)[name]
    x, y = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    wanted = np.asarray(jax.jit(function)(x, y))
    (got,) = run(convert(function, x, y), x, y)
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_primitive_without_an_onnx_form_is_named():
    x = np.ones((1, 4), np.float32)
    with pytest.raises(InputError, match=r"^export: there is no ONNX form of the primitive 'cumsum'; the agent cannot"):
        convert(lambda x: jnp.cumsum(x, 1), x)
    with pytest.raises(InputError, match="primitive 'dynamic_slice' at computed places;"):
        convert(lambda x: jax.lax.dynamic_slice(x, (0, x[0, 0].astype(jnp.int32)), (1, 2)), x)
    with pytest.raises(InputError, match="primitive 'scan' that collects something of each step;"):
        convert(lambda x: jax.lax.scan(lambda now, row: (now, row + now), x[0], MATRIX)[1], x)
    with pytest.raises(InputError, match="primitive 'top_k' along another axis than the last;"):
        convert(lambda x: jax.lax.top_k(x, 1, axis=0)[0], x)
    with pytest.raises(InputError, match="primitive 'lu'"):
        convert(lambda x: jnp.linalg.solve(x.T @ x, x[0]), x)
    with pytest.raises(InputError, match="primitive 'triangular_solve' with a singular matrix"):
        convert(lambda x: jax.scipy.linalg.solve_triangular(jnp.zeros((4, 4)), x[0]), x)
    with pytest.raises(InputError, match="ONNX has no Max of truth values"):
        convert(lambda x: jnp.maximum(x > 0, x > 1), x)


def test_what_no_output_needs_is_left_out():
    function = lambda x: (jnp.cumsum(x), jnp.tanh(x), x @ np.ones((4, 9), np.float32))[1]  # noqa: E731
    model = convert(jax.jit(function), np.ones((1, 4), np.float32))
    assert operators(model) == ["Tanh"]
    assert not model.graph.initializer


def test_dense_layer_is_one_node_and_its_product_alone_another():
    x = np.ones((1, 4), np.float32)
    bias = jnp.ones(4)
    assert operators(convert(lambda x: x @ MATRIX + jnp.broadcast_to(bias, (1, 4)), x)) == ["Gemm"]
    model = convert(lambda x: x @ MATRIX, x)
    assert operators(model) == ["MatMul"]
    assert [list(one.dims) for one in model.graph.initializer] == [[4, 4]]


def test_equal_nodes_and_constants_are_shared():
    model = convert(lambda x: (x @ MATRIX) * jnp.tanh(x @ MATRIX) + (x @ MATRIX.copy()), np.ones((1, 4), np.float32))
    assert operators(model) == ["MatMul", "Tanh", "Mul", "Add"]
    assert len(model.graph.initializer) == 1


def test_outputs_may_be_inputs_constants_and_each_other():
    x = np.array([[1.0, -2.0]], np.float32)
    model = to_onnx(lambda x: (x, jnp.tanh(x), jnp.ones(3), jnp.tanh(x)), {"x": (1, 2)}, ["a", "b", "c", "d"])
    for got, wanted in zip(run(model, x), (x, np.tanh(x), np.ones(3), np.tanh(x)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert [one.name for one in model.graph.output] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("opset", [13, 17])
def test_model_holds_for_the_whole_range_of_opsets(opset):
    x = np.array([[1.0, -2.0, 0.5]], np.float32)
    function = lambda x: (jax.nn.softmax(jax.nn.relu(x[:, ::2])), x.sum(-1))  # noqa: E731
    model = to_onnx(function, {"x": (1, 3)}, ["weights", "sum"], opset=opset)
    assert model.opset_import[0].version == opset
    weights, total = run(model, x)
    np.testing.assert_allclose(weights, np.exp([[1.0, 0.5]]) / (np.e + np.e**0.5), rtol=1e-6)
    assert total == [-0.5]


def test_state_that_is_not_a_number_shows_in_the_result():
    x = np.array([[1.0, np.nan, -1.0]], np.float32)
    (got,) = run(convert(lambda x: jnp.tanh(jax.nn.relu(jnp.clip(x, -0.5, 0.5))), x), x)
    np.testing.assert_array_equal(np.isnan(got), [[False, True, False]])


def test_wrong_names_and_opsets_are_refused():
    function = lambda x: (x + 1, x + 2)  # noqa: E731
    for outputs in (["a"], ["a", "a"], ["a", "x"]):
        with pytest.raises(InputError, match=r"export: outputs must hold a different name for each of 2 outputs and 1"):
            to_onnx(function, {"x": (1,)}, outputs)
    with pytest.raises(InputError, match=r"export: opset must be in \[13, 17\], got 18"):
        to_onnx(function, {"x": (1,)}, ["a", "b"], opset=18)
