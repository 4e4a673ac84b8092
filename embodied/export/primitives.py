"""What JAX primitives become in an ONNX graph: two tables from a name to a function of (graph, equation, *operands).

The functions return the operand that stands for the result (a list of them where the primitive has several).
`BROADCASTING` ones take operands whose axes of length 1 may stand for longer ones, as NumPy does, and may return such
an operand; so a broadcast bias costs no node. `EXACT` ones take and return operands of exactly the equation's shapes.
Operands that are all constant never come here. A number that is not finite goes through as in JAX, except that the
reductions of some runtimes (onnxruntime's ReduceMax) pass over NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from embodied.export.graph import Graph, Operand, Value, element_type, indices
from embodied.export.linear import add, dot_general, triangular_solve, unsupported

Handler = Callable[..., Any]

# Primitives that are one operator of the same operands.
NAMED = {
    **{"sub": "Sub", "neg": "Neg", "abs": "Abs", "sign": "Sign", "sqrt": "Sqrt", "exp": "Exp", "log": "Log"},
    **{"tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "min": "Min"},
    **{"sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan"},
    **{"sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "pow": "Pow"},
}
COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}
LOGIC = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}
REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd"}


def _named(op: str) -> Handler:
    return lambda graph, eqn, *operands: graph.elementwise(op, *operands)


def _comparison(op: str) -> Handler:
    return lambda graph, eqn, a, b: graph.elementwise(op, a, b, dtype=np.bool_)


def _logic(op: str) -> Handler:
    def convert(graph: Graph, eqn: Any, *operands: Operand) -> Value:
        if operands[0].dtype != np.bool_:
            raise unsupported(eqn, "of whole numbers")
        return graph.elementwise(op, *operands)

    return convert


def _reduction(op: str) -> Handler:
    def convert(graph: Graph, eqn: Any, x: Operand) -> Operand:
        axes = eqn.params["axes"]
        # Without axes ONNX would reduce all of them.
        return graph.node(op, x, axes=axes, keepdims=0, **_result(eqn)) if axes else x

    return convert


def _result(eqn: Any) -> dict[str, Any]:
    """Shape and element type of an equation's result, as `Graph.node` takes them."""
    aval = eqn.outvars[0].aval
    return {"shape": aval.shape, "dtype": aval.dtype}


def _same(graph: Graph, eqn: Any, x: Operand, *_: Operand) -> Operand:
    return x


def _one(x: Operand) -> np.ndarray:
    return np.ones((), x.dtype)


def _mul(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Value:
    for x, inverse in ((a, b), (b, a)):
        if node := graph.producer(inverse, "Reciprocal"):  # x rsqrt(y)
            return graph.elementwise("Div", x, node.operands[0])
    return graph.elementwise("Mul", a, b)


def _div(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Value:
    total = graph.producer(a, "ReduceSum")
    if total and isinstance(b, np.ndarray) and b.size == 1 and a.dtype == np.float32:
        x, axes = total.operands
        assert isinstance(axes, np.ndarray)
        if b.item() * math.prod(a.shape) == math.prod(x.shape):
            return graph.node("ReduceMean", x, axes=tuple(axes.tolist()), keepdims=0, shape=a.shape)
    return graph.elementwise("Div", a, b)


def _max(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Value:
    for x, bound in ((a, b), (b, a)):
        if isinstance(bound, np.ndarray) and bound.size == 1 and not bound.any() and x.dtype == np.float32:
            return graph.elementwise("Relu", x)
    return graph.elementwise("Max", a, b)


def _rsqrt(graph: Graph, eqn: Any, x: Operand) -> Value:
    return graph.elementwise("Reciprocal", graph.elementwise("Sqrt", x))


def _square(graph: Graph, eqn: Any, x: Operand) -> Value:
    return graph.elementwise("Mul", x, x)


def _integer_pow(graph: Graph, eqn: Any, x: Operand) -> Value:
    exponent = eqn.params["y"]
    return _square(graph, eqn, x) if exponent == 2 else graph.elementwise("Pow", x, np.array(exponent, x.dtype))


def _log1p(graph: Graph, eqn: Any, x: Operand) -> Value:
    # ONNX has no log1p and no expm1: near zero their absolute error is that of rounding 1, 6e-8.
    return graph.elementwise("Log", graph.elementwise("Add", x, _one(x)))


def _expm1(graph: Graph, eqn: Any, x: Operand) -> Value:
    return graph.elementwise("Sub", graph.elementwise("Exp", x), _one(x))


def _erfc(graph: Graph, eqn: Any, x: Operand) -> Value:
    return graph.elementwise("Sub", _one(x), graph.elementwise("Erf", x))


def _rem(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Value:
    return graph.elementwise("Mod", a, b, fmod=1)


def _round(graph: Graph, eqn: Any, x: Operand) -> Value:
    if eqn.params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        return graph.elementwise("Round", x)
    size = graph.elementwise("Abs", x)
    low = graph.elementwise("Floor", size)
    far = graph.elementwise(
        "GreaterOrEqual", graph.elementwise("Sub", size, low), np.array(0.5, x.dtype), dtype=np.bool_
    )
    up = graph.elementwise("Add", low, _one(x))
    away = graph.elementwise("Where", far, up, low, dtype=x.dtype)
    return graph.elementwise("Mul", graph.elementwise("Sign", x), away)


def _clamp(graph: Graph, eqn: Any, low: Operand, x: Operand, high: Operand) -> Value:
    return graph.elementwise("Min", graph.elementwise("Max", x, low), high)


def _select(graph: Graph, eqn: Any, which: Operand, *cases: Operand) -> Value:
    if which.dtype != np.bool_ or len(cases) != 2:
        raise unsupported(eqn, "between more than two cases")
    return graph.elementwise("Where", which, cases[1], cases[0], dtype=cases[0].dtype)


def _not_equal(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Value:
    return graph.elementwise("Not", graph.elementwise("Equal", a, b, dtype=np.bool_))


def _is_finite(graph: Graph, eqn: Any, x: Operand) -> Value:
    size = graph.elementwise("Abs", x)
    return graph.elementwise("Less", size, np.array(np.inf, x.dtype), dtype=np.bool_)


def _cast(graph: Graph, eqn: Any, x: Operand) -> Operand:
    dtype = eqn.outvars[0].aval.dtype
    return x if x.dtype == dtype else graph.elementwise("Cast", x, dtype=dtype, to=element_type(dtype))


def _broadcast(graph: Graph, eqn: Any, x: Operand, *_: Operand) -> Operand:
    shape = [1] * len(eqn.outvars[0].aval.shape)
    # Fewer axes than the result are fine if those that are there are the last.
    for axis, length in zip(reversed(eqn.params["broadcast_dimensions"]), reversed(x.shape), strict=False):
        shape[axis] = length
    if (1,) * (len(shape) - len(x.shape)) + x.shape == tuple(shape):
        return x
    return graph.reshape(x, tuple(shape))


def _reduce_sum(graph: Graph, eqn: Any, x: Operand) -> Operand:
    axes = eqn.params["axes"]
    return graph.node("ReduceSum", x, indices(axes), keepdims=0, **_result(eqn)) if axes else x


def _argument(op: str) -> Handler:
    def convert(graph: Graph, eqn: Any, x: Operand) -> Value:
        (axis,) = eqn.params["axes"]
        place = graph.node(op, x, axis=axis, keepdims=0, shape=eqn.outvars[0].aval.shape, dtype=np.int64)
        dtype = eqn.params["index_dtype"]
        return graph.elementwise("Cast", place, dtype=dtype, to=element_type(dtype))

    return convert


def _top_k(graph: Graph, eqn: Any, x: Operand) -> list[Value]:
    if eqn.params["axis"] != len(x.shape) - 1:
        raise unsupported(eqn, "along another axis than the last")
    high, place = (variable.aval for variable in eqn.outvars)
    options = {"axis": -1, "largest": 1, "sorted": 1, "shape": high.shape, "outputs": 2}
    count = indices([eqn.params["k"]])
    index = graph.node("TopK", x, count, dtype=np.int64, output=1, **options)
    dtype = place.dtype
    whole = graph.elementwise("Cast", index, dtype=dtype, to=element_type(dtype))
    return [graph.node("TopK", x, count, dtype=high.dtype, **options), whole]


def _reshape(graph: Graph, eqn: Any, x: Operand, *_: Operand) -> Operand:
    return graph.reshape(x, eqn.outvars[0].aval.shape)


def _transpose(graph: Graph, eqn: Any, x: Operand) -> Operand:
    return graph.transpose(x, eqn.params["permutation"])


def _concatenate(graph: Graph, eqn: Any, *operands: Operand) -> Operand:
    full = [operand for operand in operands if math.prod(operand.shape)]
    if len(full) == 1:
        return full[0]
    return graph.node("Concat", *full, axis=eqn.params["dimension"], **_result(eqn))


def _stack(graph: Graph, eqn: Any, *operands: Operand) -> Operand:
    axis, shape = eqn.params["axis"], operands[0].shape
    parts = [graph.reshape(operand, (*shape[:axis], 1, *shape[axis:])) for operand in operands]
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=axis, **_result(eqn))


def _tile(graph: Graph, eqn: Any, x: Operand) -> Operand:
    return graph.node("Tile", x, indices(eqn.params["reps"]), **_result(eqn))


def _slice(graph: Graph, eqn: Any, x: Operand) -> Operand:
    steps = eqn.params["strides"] or (1,) * len(x.shape)
    return graph.cut(x, eqn.params["start_indices"], eqn.params["limit_indices"], steps)


def _dynamic_slice(graph: Graph, eqn: Any, x: Operand, *starts: Operand) -> Operand:
    places = [start.item() for start in starts if isinstance(start, np.ndarray)]
    if len(places) < len(starts):
        raise unsupported(eqn, "at computed places")
    lengths = eqn.params["slice_sizes"]
    # JAX moves a slice that would leave the array.
    first = [min(max(place, 0), n - k) for place, n, k in zip(places, x.shape, lengths, strict=True)]
    return graph.cut(x, first, [s + k for s, k in zip(first, lengths, strict=True)], (1,) * len(lengths))


def _split(graph: Graph, eqn: Any, x: Operand) -> list[Operand]:
    axis, place, parts = eqn.params["axis"], 0, []
    for length in eqn.params["sizes"]:
        starts, ends = [0] * len(x.shape), list(x.shape)
        starts[axis], ends[axis] = place, place + length
        parts.append(graph.cut(x, starts, ends, [1] * len(ends)))
        place += length
    return parts


def _pad(graph: Graph, eqn: Any, x: Operand, value: Operand) -> Operand:
    low, high, between = zip(*eqn.params["padding_config"], strict=True)
    if any(between) or min(*low, *high) < 0:
        raise unsupported(eqn, "between elements or by a negative number")
    return graph.node("Pad", x, indices([*low, *high]), value, **_result(eqn))


def _gather(graph: Graph, eqn: Any, x: Operand, places: Operand) -> Value:
    """jnp.take(x, places, axis) with constant places inside of the array."""
    dims, lengths = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axis, *more = dims.start_index_map
    rank = len(places.shape) - 1
    whole = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    kept = tuple(i for i in range(len(x.shape) - 1 + rank) if not axis <= i < axis + rank)
    take = not more and dims.collapsed_slice_dims == (axis,) and dims.offset_dims == kept and lengths == whole
    if not take or dims.operand_batching_dims or not isinstance(places, np.ndarray):
        raise unsupported(eqn, "at computed places or of more than whole rows")
    if (places < 0).any() or (places >= x.shape[axis]).any():
        raise unsupported(eqn, "outside of the array")
    return graph.node("Gather", x, places[..., 0].astype(np.int64), axis=axis, **_result(eqn))


BROADCASTING: dict[str, Handler] = {
    **{name: _named(op) for name, op in NAMED.items()},
    **{name: _comparison(op) for name, op in COMPARISONS.items()},
    **{name: _logic(op) for name, op in LOGIC.items()},
    **{"add": add, "mul": _mul, "div": _div, "max": _max, "rsqrt": _rsqrt, "square": _square, "rem": _rem},
    **{"integer_pow": _integer_pow, "log1p": _log1p, "expm1": _expm1, "erfc": _erfc, "round": _round, "clamp": _clamp},
    **{"select_n": _select, "ne": _not_equal, "is_finite": _is_finite, "convert_element_type": _cast},
    **{"stop_gradient": _same, "copy": _same, "name": _same, "broadcast_in_dim": _broadcast},
    "optimization_barrier": lambda graph, eqn, *operands: list(operands),
}
EXACT: dict[str, Handler] = {
    **{name: _reduction(op) for name, op in REDUCTIONS.items()},
    **{"reduce_sum": _reduce_sum, "argmax": _argument("ArgMax"), "argmin": _argument("ArgMin")},
    **{"reshape": _reshape, "squeeze": _reshape, "transpose": _transpose},
    **{"concatenate": _concatenate, "stack": _stack, "tile": _tile, "slice": _slice, "split": _split, "pad": _pad},
    **{"dynamic_slice": _dynamic_slice, "gather": _gather, "top_k": _top_k},
    **{"dot_general": dot_general, "triangular_solve": triangular_solve},
}
