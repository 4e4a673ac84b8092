"""Whether the files of a target do what the policy does: its runtime, emulated, on the golden vectors of the bundle.

What is emulated is read from the files alone. The observation that the policy gets inside the graph must be that of the
golden vectors, bit for bit, except for frames before the first where the runtime fills them in another way.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime

from embodied.deploy.bundle import GOLDEN, Bundle
from embodied.deploy.contract import Contract, columns
from embodied.deploy.network import Network
from embodied.deploy.observation import projected_gravity
from embodied.deploy.verify import Verdict
from embodied.export.targets.terms import ACTION, GRAVITY, POSITION, RATE, VELOCITY, filled_otherwise


@dataclasses.dataclass(frozen=True)
class Frames:
    """A stretch of the vector that a runtime assembles, as its files say."""

    quantity: str
    ages: tuple[int, ...]
    scale: np.ndarray  # [W] or one number


@dataclasses.dataclass(frozen=True)
class Foreign:
    """What a runtime makes of the files of a target. J joints, in the order of its own vectors."""

    model: bytes
    prompt: str | None  # whose latent is in the model; None: latents are the end of its input
    frames: tuple[Frames, ...]
    fill: str  # what stands for frames before the first
    joints: tuple[str, ...]
    default: np.ndarray  # [J], subtracted from positions
    scale: np.ndarray  # [J], of actions
    offset: np.ndarray  # [J], of targets
    limit: np.ndarray  # [2, J], of targets, low and high
    rescale: float | None = None  # of what the model gives, clipped to [-1, 1]; None: that is the action

    def act(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(action, target), each [T, J], for what the model gives [T, J]."""
        action = given if self.rescale is None else self.rescale * np.clip(given, -1, 1)
        return action, np.clip(self.scale * action + self.offset, *self.limit)


def replay(bundle: Bundle, foreign: Foreign) -> Verdict:
    """What the golden vectors say of a target."""
    contract, golden = bundle.contract, bundle.arrays(GOLDEN)
    order = [foreign.joints.index(name) for name in contract.action.names]
    vector, z = assemble(contract, foreign, golden), golden["z"]
    if foreign.prompt is None:
        vector = np.concatenate([vector, z], axis=1)
    else:
        z = np.broadcast_to(bundle.prompt(foreign.prompt), z.shape)
    obs, output = infer(foreign.model, vector)
    last, target = (part[:, order] for part in foreign.act(output))
    since = np.arange(len(z)) - episodes(golden["reset"])
    filled = since[:, None] < filled_otherwise(contract, foreign.fill)
    unequal = ((obs.view(np.int32) != golden["obs"].view(np.int32)) & ~filled).any(axis=1)
    recorded = (z == golden["z"]).all(axis=1) & ~filled.any(axis=1)
    network = Network(bundle)
    expected = [golden["target"][t] if recorded[t] else network(obs[t], z[t])[1] for t in range(len(z))]
    # What the runtime shows as the last action must be what the golden vectors call so.
    follows = recorded[:-1] & ~golden["reset"][1:]
    unit = contract.action.rescale * contract.action.clip if contract.action.last_action == "clipped" else 1.0
    apart = np.abs(last[:-1] - golden["last_action"][1:])[follows] / unit
    return Verdict(
        steps=len(z),
        unequal=int(unequal.sum()),
        action_error=float(apart.max(initial=0)),
        target_error=float(np.abs(target - np.array(expected)).max(initial=0)),
    )


def episodes(reset: np.ndarray) -> np.ndarray:
    """For each step [T] the first step of its episode."""
    return np.maximum.accumulate(np.where(reset, np.arange(len(reset)), 0))


def assemble(contract: Contract, foreign: Foreign, golden: Mapping[str, np.ndarray]) -> np.ndarray:
    """The vectors [T, M] that the runtime assembles of the golden readings, in float32."""
    readings, where = golden["readings"], columns(contract)
    jointwise = lambda kind: np.concatenate([readings[:, where[f"{kind}/{j}"]] for j in foreign.joints], axis=1)  # noqa: E731
    values = {ACTION: lambda: golden["last_action"][:, [contract.action.names.index(name) for name in foreign.joints]]}
    values[POSITION] = lambda: jointwise("joint_position") - foreign.default
    values[VELOCITY] = lambda: jointwise("joint_velocity")
    if contract.imu is not None:
        imu = contract.imu
        values[RATE] = lambda: readings[:, where[imu.angular_velocity]]
        values[GRAVITY] = lambda: projected_gravity(readings[:, where[imu.quaternion]])
    begin, now = episodes(golden["reset"]), np.arange(len(readings))
    parts = []
    for frames in foreign.frames:
        every = values[frames.quantity]()
        for age in frames.ages:
            past = every[np.maximum(now - age, begin)]
            if foreign.fill == "zeros":
                past = np.where((now - age >= begin)[:, None], past, 0.0)
            parts.append(past * frames.scale)
    return np.concatenate(parts, axis=1).astype(np.float32)


def infer(model: bytes, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(what the policy inside the graph takes [T, N], what the graph gives [T, A]) for the runtime's vectors [T, M]."""
    probed = onnx.load_model_from_string(model)
    inner = probed.graph.node[0].output[0]  # of the Gather in front
    probed.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [inner, session.get_outputs()[0].name]
    taken = session.get_inputs()[0].name
    results = [session.run(names, {taken: row[None]}) for row in vector]
    return tuple(np.concatenate(column) for column in zip(*results, strict=True))  # type: ignore[return-value]
