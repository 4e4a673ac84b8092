"""Matrix products and triangular solves of JAX in ONNX."""

import math
from typing import Any

import numpy as np

from embodied.export.graph import Graph, Operand, Value
from embodied.types import InputError


def unsupported(eqn: Any, how: str = "") -> InputError:
    """The error for an equation that has no ONNX form here; `how` says which use of its primitive that is."""
    primitive = f"primitive '{eqn.primitive.name}'" + (f" {how}" if how else "")
    return InputError(f"export: there is no ONNX form of the {primitive}; the agent cannot be exported with it")


def add(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Value:
    """a + b; one Gemm where this adds a constant that broadcasts to a product of matrices."""
    for product, bias in ((a, b), (b, a)):
        node = graph.producer(product, "MatMul")
        if not node or product.dtype != np.float32 or not isinstance(bias, np.ndarray):
            continue
        matrices = all(len(operand.shape) == 2 for operand in node.operands)
        if matrices and np.broadcast_shapes(product.shape, bias.shape) == product.shape:
            return graph.node("Gemm", *node.operands, bias, shape=product.shape)
    return graph.elementwise("Add", a, b)


def dot_general(graph: Graph, eqn: Any, a: Operand, b: Operand) -> Operand:
    """The product over any axes: [batch..., M, K] @ [batch..., K, N], and x @ W without anything around it."""
    (a_sum, b_sum), (a_batch, b_batch) = eqn.params["dimension_numbers"]
    a_free = [axis for axis in range(len(a.shape)) if axis not in (*a_sum, *a_batch)]
    b_free = [axis for axis in range(len(b.shape)) if axis not in (*b_sum, *b_batch)]
    lengths = lambda operand, axes: tuple(operand.shape[axis] for axis in axes)  # noqa: E731
    merged = lambda operand, axes: (math.prod(lengths(operand, axes)),)  # noqa: E731
    batch, rows, columns = lengths(a, a_batch), lengths(a, a_free), lengths(b, b_free)
    # MatMul itself takes vectors, and several axes of rows where there is no batch.
    if batch:
        rows, columns = (math.prod(rows),), (math.prod(columns),)
    elif len(columns) > 1:
        columns = (math.prod(columns),)
    left = graph.transpose(a, [*a_batch, *a_free, *a_sum])
    right = graph.transpose(b, [*b_batch, *b_sum, *b_free])
    left = graph.reshape(left, (*batch, *rows, *merged(a, a_sum)))
    right = graph.reshape(right, (*batch, *merged(b, b_sum), *columns))
    aval = eqn.outvars[0].aval
    product = graph.node("MatMul", left, right, shape=(*batch, *rows, *columns), dtype=aval.dtype)
    return graph.reshape(product, aval.shape)


def triangular_solve(graph: Graph, eqn: Any, matrix: Operand, b: Operand) -> Value:
    """x of matrix x = b (or x matrix = b) for a constant triangular matrix: the product with its inverse.

    The inverse is computed in float64 and rounded once.
    """
    if not isinstance(matrix, np.ndarray):
        raise unsupported(eqn, "with a computed matrix")
    options = eqn.params
    wide = (np.tril if options["lower"] else np.triu)(matrix.astype(np.float64))
    if options["unit_diagonal"]:
        wide = np.where(np.eye(wide.shape[-1], dtype=bool), 1.0, wide)
    if not np.diagonal(wide, axis1=-2, axis2=-1).all():
        raise unsupported(eqn, "with a singular matrix")
    inverse = np.linalg.inv(wide.swapaxes(-1, -2) if options["transpose_a"] else wide).astype(matrix.dtype)
    factors = (inverse, b) if options["left_side"] else (b, inverse)
    return graph.node("MatMul", *factors, shape=b.shape, dtype=b.dtype)
