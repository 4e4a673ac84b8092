"""An ONNX graph that grows node by node: equal nodes and equal constants exist once, unused ones are left out.

Only operators of ONNX's default domain whose form is the same in opsets 13 to 17 may be added. The bytes of a finished
model depend on nothing but its nodes: names are counted, and there are no times, versions or doc strings in it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.types import InputError

IR_VERSION = 8  # of the file format; onnxruntime 1.10 reads it, 1.8 does not
OPSETS = range(13, 18)  # in opset 18 the axes of reductions became inputs
# The element types that a graph may hold -> their numbers in onnx.TensorProto.DataType
ELEMENT_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int32): 6, np.dtype(np.int64): 7, np.dtype(np.bool_): 9}
# Operators that take truth values as data.
TRUTH = {
    *("And", "Or", "Xor", "Not", "Equal", "Cast", "Concat", "Slice", "Reshape", "Transpose", "Expand", "Tile", "Pad"),
    "Gather",
}


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that is known only when the model runs."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


Operand = Value | np.ndarray  # an array is a constant


@dataclasses.dataclass(frozen=True)
class Node:
    """One operator with what it reads, and the one of its outputs that is read."""

    op: str
    operands: tuple[Operand, ...]
    attributes: tuple[tuple[str, Any], ...]
    output: Value
    place: int = 0  # of that output among all of the operator
    outputs: int = 1


class Graph:
    """Nodes in the order in which they may run."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self._nodes: dict[Any, Node] = {}  # by operator, operands and attributes, so that equal ones are one
        self._producers: dict[str, Node] = {}  # by the name of the output

    def input(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Value:
        """A new input of the model."""
        element_type(dtype)
        self.inputs.append(Value(name, shape, dtype))
        return self.inputs[-1]

    def node(
        self,
        op: str,
        *operands: Operand,
        shape: tuple[int, ...],
        dtype: Any = np.float32,
        output: int = 0,
        outputs: int = 1,
        **attributes: Any,
    ) -> Value:
        """The output of an operator with the given shape and element type; of an earlier equal node where there is one.

        Of an operator with several `outputs` each is a node of its own, `output` says which.

        Raises InputError for an element type that the model or the operator does not take.
        """
        key = op, tuple(map(_identity, operands)), tuple(sorted(attributes.items())), output
        if key not in self._nodes:
            for kind in (np.dtype(dtype), *(operand.dtype for operand in operands)):
                element_type(kind)
            data = operands[1:] if op == "Where" else operands  # without the condition
            if op not in TRUTH and any(operand.dtype == np.bool_ for operand in data):
                raise InputError(f"export: ONNX has no {op} of truth values, only of numbers; cast them first")
            value = Value(f"/{op}_{len(self._nodes)}", shape, np.dtype(dtype))
            node = Node(op, operands, key[2], value, output, outputs)
            self._nodes[key] = self._producers[value.name] = node
        return self._nodes[key].output

    def elementwise(self, op: str, *operands: Operand, dtype: Any = None, **attributes: Any) -> Value:
        """The output of an operator that broadcasts its operands as NumPy does; of the first one's type by default."""
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
        return self.node(op, *operands, shape=shape, dtype=dtype or operands[0].dtype, **attributes)

    def producer(self, operand: Operand, op: str) -> Node | None:
        """The node that computes an operand, if it is an `op`."""
        node = self._producers.get(operand.name) if isinstance(operand, Value) else None
        return node if node and node.op == op else None

    def reshape(self, operand: Operand, shape: tuple[int, ...]) -> Operand:
        """The elements in another shape; no node where nothing changes, one where several reshapes meet."""
        if isinstance(operand, np.ndarray):
            return operand.reshape(shape)
        if before := self.producer(operand, "Reshape"):
            operand = before.operands[0]
        if operand.shape == shape:
            return operand
        return self.node("Reshape", operand, indices(shape), shape=shape, dtype=operand.dtype)

    def transpose(self, operand: Operand, order: Sequence[int]) -> Operand:
        """Axis i of the result is axis order[i] of the operand; moving axes of length 1 is a reshape."""
        if isinstance(operand, np.ndarray):
            return operand.transpose(order)
        shape = tuple(operand.shape[axis] for axis in order)
        long = [axis for axis in order if operand.shape[axis] != 1]
        if long == sorted(long):
            return self.reshape(operand, shape)
        return self.node("Transpose", operand, shape=shape, dtype=operand.dtype, perm=tuple(order))

    def cut(self, operand: Operand, starts: Sequence[Any], ends: Sequence[Any], steps: Sequence[Any]) -> Operand:
        """operand[starts[0]:ends[0]:steps[0], ...]."""
        places = list(zip(starts, ends, steps, strict=True))
        if isinstance(operand, np.ndarray):
            return operand[tuple(slice(*place) for place in places)]
        axes = [i for i, n in enumerate(operand.shape) if places[i] != (0, n, 1)]
        if not axes:
            return operand
        shape = tuple(len(range(*place)) for place in places)
        first, behind, step = (indices([places[axis][i] for axis in axes]) for i in range(3))
        return self.node("Slice", operand, first, behind, indices(axes), step, shape=shape, dtype=operand.dtype)

    def expand(self, operand: Operand, shape: tuple[int, ...]) -> Operand:
        """An operand that broadcasts to `shape`, written out in it."""
        if math.prod(operand.shape) == math.prod(shape):
            return self.reshape(operand, shape)
        return self.node("Expand", operand, indices(shape), shape=shape, dtype=operand.dtype)

    def model(self, outputs: Mapping[str, Operand], metadata: Mapping[str, str], opset: int) -> Any:
        """The onnx.ModelProto with the named outputs. Raises InputError where the package onnx is missing."""
        try:
            import onnx
            from onnx import helper, numpy_helper
        except ImportError as error:
            raise InputError('export: the package onnx is missing; pip install "embodied-stack[export]"') from error
        nodes, names = self._finish(outputs)
        constants = {
            _identity(operand): operand
            for node in nodes
            for operand in node.operands
            if isinstance(operand, np.ndarray)
        }
        names |= {key: f"/constant_{i}" for i, key in enumerate(constants)}
        information = lambda name, value: helper.make_tensor_value_info(  # noqa: E731
            name, element_type(value.dtype), value.shape
        )
        made = helper.make_graph(
            [
                helper.make_node(
                    node.op,
                    [names[_identity(operand)] for operand in node.operands],
                    _named(names[node.output.name], node),
                    name=names[node.output.name],
                    **dict(node.attributes),
                )
                for node in nodes
            ],
            "function",
            [information(value.name, value) for value in self.inputs],
            [information(name, value) for name, value in outputs.items()],
            [numpy_helper.from_array(array, names[key]) for key, array in constants.items()],
        )
        model = helper.make_model(made, opset_imports=[onnx.OperatorSetIdProto(domain="", version=opset)])
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return model

    def _finish(self, outputs: Mapping[str, Operand]) -> tuple[list[Node], dict[Any, str]]:
        """The nodes that outputs rest on, and the names of all inputs and outputs of nodes in the finished model."""
        names: dict[Any, str] = {value.name: value.name for value in self.inputs}
        ends = []
        for name, operand in outputs.items():
            if isinstance(operand, np.ndarray) or operand.name in names:
                # A constant, an input or a value that has a name already.
                copied = Value(name, operand.shape, operand.dtype)
                ends.append(Node("Identity", (operand,), (), copied))
                names[name] = name
            else:
                names[operand.name] = name
        nodes, needed = [], set(names)
        needed |= {operand.name for node in ends for operand in node.operands if isinstance(operand, Value)}
        for node in reversed(self._nodes.values()):
            if node.output.name in needed:
                nodes.append(node)
                needed |= {operand.name for operand in node.operands if isinstance(operand, Value)}
        nodes = [*reversed(nodes), *ends]
        for i, node in enumerate(nodes):
            names.setdefault(node.output.name, f"/{node.op}_{i}")
        return nodes, names


def _named(name: str, node: Node) -> list[str]:
    """The names of all outputs of a node, of which one is read."""
    return [name if i == node.place else f"{name}/unread_{i}" for i in range(node.outputs)]


def element_type(dtype: Any) -> int:
    """ONNX's number for an element type; raises InputError for one that exported models do not hold."""
    if np.dtype(dtype) in ELEMENT_TYPES:
        return ELEMENT_TYPES[np.dtype(dtype)]
    raise InputError(f'export: models are computed in float32, the function uses {dtype}; set matmul="float32"')


def indices(values: Sequence[Any]) -> np.ndarray:
    """Integers as ONNX takes shapes, axes and positions: int64."""
    return np.array(values, np.int64)


def _identity(operand: Operand) -> Any:
    """What tells operands apart: the name of a value, the content of a constant."""
    if isinstance(operand, Value):
        return operand.name
    return operand.dtype.str, operand.shape, operand.tobytes()
