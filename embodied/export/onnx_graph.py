"""A JAX function as a self-contained ONNX model of opset 13, by walking its jaxpr.

Parameters that the function closes over become initializers. Equations of constants are computed now, by JAX; calls are
inlined; equations that no output needs are left out. What the others become is in `embodied.export.primitives`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from embodied.export.graph import OPSETS, Graph, Operand, Value
from embodied.export.linear import unsupported
from embodied.export.primitives import BROADCASTING, EXACT
from embodied.types import InputError

# Primitives that only run an inner jaxpr -> the parameter that holds it.
CALLS = {
    **{"jit": "jaxpr", "remat2": "jaxpr", "closed_call": "call_jaxpr", "custom_vmap_call": "call"},
    **{"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"},
}


def to_onnx(
    function: Callable[..., Sequence[Any]],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    metadata: Mapping[str, str] = {},
    opset: int = 13,
) -> Any:
    """The onnx.ModelProto of a function of arrays with fixed shapes that returns a tuple of arrays.

    `inputs` names the arguments in their order, with a jax.ShapeDtypeStruct or the shape of a float32 array for each;
    `outputs` names the results. Equal functions give equal bytes. Raises InputError for a primitive that has no ONNX
    form here, for numbers other than float32, int32, int64 and bool, and where the package onnx is missing.
    """
    if opset not in OPSETS:
        raise InputError(f"export: opset must be in [{OPSETS[0]}, {OPSETS[-1]}], got {opset}")
    shapes = input_shapes(inputs)
    closed = jax.make_jaxpr(function)(*shapes.values())
    results: list[Any] = closed.jaxpr.outvars
    names = [*inputs, *outputs]
    if len(outputs) != len(results) or len(set(names)) != len(names):
        wanted = f"a different name for each of {len(results)} outputs and {len(inputs)} inputs"
        raise InputError(f"export: outputs must hold {wanted}, got {', '.join(names)}")
    graph = Graph()
    arguments = [_argument(graph, name, shape) for name, shape in shapes.items()]
    with jax.default_device(_host()):
        values = _call(graph, closed, arguments)
    full = [_exact(graph, value, variable) for value, variable in zip(values, results, strict=True)]
    return graph.model(dict(zip(outputs, full, strict=True)), metadata, opset)


def input_shapes(inputs: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Each input as a jax.ShapeDtypeStruct; a bare shape is that of a float32 array."""
    return {
        name: jax.ShapeDtypeStruct(shape, np.float32) if isinstance(shape, Sequence) else shape
        for name, shape in inputs.items()
    }


def _argument(graph: Graph, name: str, shape: jax.ShapeDtypeStruct) -> Operand:
    value = graph.input(name, shape.shape, shape.dtype)
    # An array without elements is known already.
    return value if math.prod(shape.shape) else np.zeros(shape.shape, shape.dtype)


def _walk(graph: Graph, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr, as values of the graph or as arrays."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom: Any) -> Any:
        if not isinstance(atom, Literal):
            return known[atom]
        aval: Any = atom.aval
        return np.asarray(atom.val, aval.dtype)

    for eqn in _needed(jaxpr):
        results = _convert(graph, eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the outputs rest on."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(eqn.outvars):
            wanted |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
            kept.append(eqn)
    return kept[::-1]


def _convert(graph: Graph, eqn: Any, operands: list[Any]) -> list[Any]:
    """The results of one equation."""
    name = eqn.primitive.name
    if name in CALLS:
        return _call(graph, eqn.params[CALLS[name]], operands)
    if name == "custom_linear_solve":
        # The constants of four functions, then the right-hand sides; only the function that solves is wanted.
        lengths = eqn.params["const_lengths"]
        start = lengths.matvec + lengths.vecmat
        constants = operands[start : start + lengths.solve]
        return _call(graph, eqn.params["jaxprs"].solve, [*constants, *operands[sum(lengths) :]])
    if not any(isinstance(operand, Value) for operand in operands):
        results = eqn.primitive.bind(*operands, **eqn.params)
        return list(results) if eqn.primitive.multiple_results else [results]
    if name == "scan":
        return _unrolled(graph, eqn, operands)
    if all(variable.aval.size == 0 for variable in eqn.outvars):
        return [np.zeros(variable.aval.shape, variable.aval.dtype) for variable in eqn.outvars]
    operands = [operand if isinstance(operand, Value) else np.asarray(operand) for operand in operands]
    if name in BROADCASTING:
        results = BROADCASTING[name](graph, eqn, *operands)
    elif name in EXACT:
        exact = [_exact(graph, operand, atom) for operand, atom in zip(operands, eqn.invars, strict=True)]
        results = EXACT[name](graph, eqn, *exact)
    else:
        raise unsupported(eqn)
    return results if eqn.primitive.multiple_results else [results]


def _unrolled(graph: Graph, eqn: Any, operands: list[Any]) -> list[Any]:
    """What a scan carries after its last step, the steps written one after the other."""
    start = eqn.params["num_consts"]
    fixed, carried, given = operands[:start], operands[start:], operands[start + eqn.params["num_carry"] :]
    carried = carried[: eqn.params["num_carry"]]
    if len(eqn.outvars) > len(carried):
        raise unsupported(eqn, "that collects something of each step")
    order = range(eqn.params["length"])
    for i in reversed(order) if eqn.params["reverse"] else order:
        carried = _call(graph, eqn.params["jaxpr"], [*fixed, *carried, *(_row(graph, one, i) for one in given)])
    return carried


def _row(graph: Graph, x: Any, place: int) -> Any:
    """x[place], also of constants that are no numbers, such as random keys."""
    if not isinstance(x, Value):
        return x[place]
    rest = x.shape[1:]
    return graph.reshape(graph.cut(x, [place, *[0] * len(rest)], [place + 1, *rest], [1] * len(x.shape)), rest)


def _call(graph: Graph, inner: Any, operands: list[Any]) -> list[Any]:
    if isinstance(inner, ClosedJaxpr):
        return _walk(graph, inner.jaxpr, jax.device_put(inner.consts, _host()), operands)
    return _walk(graph, inner, (), operands)


def _host() -> jax.Device:
    """Where constants are computed: not where the parameters are, so that the bytes do not depend on it."""
    return jax.local_devices(backend="cpu")[0]


def _exact(graph: Graph, operand: Any, atom: Any) -> Operand:
    """An operand in the shape that its atom in the jaxpr has."""
    return graph.expand(operand, atom.aval.shape) if isinstance(operand, Value) else np.asarray(operand)
