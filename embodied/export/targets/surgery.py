"""A policy's graph connected to another runtime: its input re-ordered, its latent a constant, its output renamed."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass(frozen=True)
class Wiring:
    """Where the N numbers that a policy takes and the A numbers that it gives lie in another runtime's vectors."""

    input: str  # name of the only input of the new graph
    columns: np.ndarray  # [N], place of each of the policy's numbers in it
    width: int  # its length, without a latent
    output: str  # name of the only output
    order: np.ndarray  # [A], which of the policy's numbers come out, one after the other
    source: str = "action"  # the output of the policy that they are taken from
    factor: float = 1.0  # what they are multiplied by


def rewired(policy: bytes, wiring: Wiring, z: np.ndarray | None, metadata: Mapping[str, str] = {}) -> bytes:
    """The new model. `z` [D] becomes a constant of it; with None the latent is read from the end of the input."""
    model = onnx.load_model_from_string(policy)
    old = model.graph
    inner = {value.name: f"policy/{value.name}" for value in [*old.input, *old.output]}
    constants = {"columns": wiring.columns, "order": wiring.order}
    nodes = [helper.make_node("Gather", [wiring.input, "columns"], [inner["obs"]], axis=1)]
    width = wiring.width
    latent = next((value for value in old.input if value.name == "z"), None)
    if latent is not None and z is None:
        size = latent.type.tensor_type.shape.dim[1].dim_value
        constants["latent"] = np.arange(width, width + size)
        nodes.append(helper.make_node("Gather", [wiring.input, "latent"], [inner["z"]], axis=1))
        width += size
    elif latent is not None:
        constants[inner["z"]] = np.asarray(z, np.float32)[None]
    for node in old.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
        nodes.append(node)
    given = inner[wiring.source]
    if wiring.factor != 1:
        constants["factor"] = np.array(wiring.factor, np.float32)
        nodes.append(helper.make_node("Mul", [given, "factor"], ["scaled"]))
        given = "scaled"
    nodes.append(helper.make_node("Gather", [given, "order"], [wiring.output], axis=1))
    nodes = _needed(nodes, wiring.output)
    used = {name for node in nodes for name in node.input}
    made = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info(wiring.input, TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info(wiring.output, TensorProto.FLOAT, [1, len(wiring.order)])],
        [
            *(numpy_helper.from_array(array, name) for name, array in constants.items()),
            *(one for one in old.initializer if one.name in used),
        ],
    )
    changed = helper.make_model(made, opset_imports=model.opset_import)
    changed.ir_version = model.ir_version
    helper.set_model_props(changed, dict(metadata))
    onnx.checker.check_model(changed)
    return changed.SerializeToString(deterministic=True)


def _needed(nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """The nodes that an output rests on, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
