"""Small emulations of other runtimes, from the descriptions of their files: each reads what was written for it alone.

They measure a robot (`Body`), assemble their own vector, run their graph and give a target per joint, by name.
"""

import dataclasses
import pickle
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import yaml

from embodied.deploy.bundle import GOLDEN, Bundle
from embodied.deploy.contract import term_width


@dataclasses.dataclass(frozen=True)
class Body:
    """What a robot measures, joints in the order of its own interface."""

    position: np.ndarray
    velocity: np.ndarray
    quaternion: np.ndarray  # w x y z
    gyro: np.ndarray

    @property
    def gravity(self) -> np.ndarray:
        """R^T (0, 0, -1), R from the body to the world."""
        w, x, y, z = self.quaternion
        return -np.array([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])


class Session:
    """A graph, and a look at what the policy in it gets: the vector after the Gather in front."""

    def __init__(self, path: Path):
        model = onnx.load(path)
        assert not any(entry.external_data for entry in model.graph.initializer)
        (first,) = [node for node in model.graph.node if model.graph.input[0].name in node.input][:1]
        self.model, self.sorted = model, first.output[0]
        model.graph.output.append(onnx.helper.make_tensor_value_info(self.sorted, onnx.TensorProto.FLOAT, None))
        self.ort = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.input, self.output = self.ort.get_inputs()[0].name, self.ort.get_outputs()[0].name
        self.width = self.ort.get_inputs()[0].shape[1]
        self.constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        self.seen = np.zeros(0, np.float32)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        given, seen = self.ort.run([self.output, self.sorted], {self.input: vector.astype(np.float32)[None]})
        self.seen = seen[0]
        return given[0]


class UnitreeRl:
    """unitree_rl_lab: frames oldest first, the first one repeated; clip, then scale; scale * a + offset, then clip."""

    def __init__(self, folder: Path, joints: Sequence[str], number: type = np.float64):
        text = (folder / "params" / "deploy.yaml").read_text()
        assert "!!" not in text
        self.config, self.number = yaml.safe_load(text), number
        self.session = Session(folder / "exported" / "policy.onnx")
        assert (self.session.input, self.session.output) == ("obs", "actions")
        self.map = self.config["joint_ids_map"]
        self.order = [joints[index] for index in self.map]
        self.reset()

    def reset(self) -> None:
        self.last = np.zeros(len(self.map))
        self.frames: dict[str, deque] = {}

    def measure(self, term: str, body: Body) -> np.ndarray:
        default = self.number(self.config["default_joint_pos"])
        return {
            "base_ang_vel": lambda: body.gyro,
            "projected_gravity": lambda: body.gravity,
            "joint_pos_rel": lambda: self.number(body.position[self.map]) - default,
            "joint_vel_rel": lambda: body.velocity[self.map],
            "last_action": lambda: self.last,
        }[term]()

    def step(self, body: Body) -> dict[str, float]:
        vector = []
        for name, term in self.config["observations"].items():
            now = np.asarray(self.measure(name, body), self.number)
            frames = self.frames.setdefault(name, deque([now] * term["history_length"], maxlen=term["history_length"]))
            frames.append(now)
            for frame in frames:
                kept = frame if term["clip"] is None else np.clip(frame, *term["clip"])
                vector.extend(kept * self.number(term["scale"]))
        self.last = self.session(np.array(vector))
        action = self.config["actions"]["JointPositionAction"]
        assert action["joint_ids"] is None
        low, high = np.array(action["clip"]).T
        target = np.clip(self.last * np.array(action["scale"]) + np.array(action["offset"]), low, high)
        return dict(zip(self.order, target, strict=True))


class BfmZero:
    """BFM-Zero: history newest first, zeros at the start; clip to 1, rescale, scale, add defaults, clip to limits."""

    def __init__(self, folder: Path, kind: str, name: str = "prompts"):
        read = lambda part: yaml.safe_load((folder / "config" / part).read_text())  # noqa: E731
        self.policy, self.robot = read("policy/policy.yaml"), read("robot/robot.yaml")
        self.exp = read(f"exp/{kind}/{name}.yaml")
        path = folder / "model" / "exported" / "FBcprAuxModel.onnx"
        self.session = Session(path)
        self.latents = pickle.loads((path.parent / self.exp["ctx_path"]).read_bytes())
        self.order = self.policy["isaac_joint_names"]
        self.default = self.by_pattern("default_joint_pos")
        self.reset()

    def reset(self) -> None:
        self.last = np.zeros(len(self.order))
        self.history: dict[str, deque] = {}

    def by_pattern(self, field: str) -> np.ndarray:
        """Numbers [J] of a table whose keys are regular expressions; 0 where none fits."""
        table = self.policy[field].items()
        found = [[value for pattern, value in table if re.fullmatch(pattern, name)] for name in self.order]
        assert all(len(values) < 2 for values in found)
        return np.array([values[0] if values else 0.0 for values in found])

    def z(self, tick: int = 0) -> np.ndarray:
        """The latent [1, D] of a tick: that of the first chosen prompt, or the mean over a window of a motion."""
        match self.exp["type"]:
            case "reward":
                chosen = self.exp["selected_rewards_filter_z"][0]
                return np.concatenate([self.latents[chosen["reward"]][i] for i in chosen["z_ids"]])[:1]
            case "goal":
                return self.latents[self.exp["selected_goals"][0]]
        window = self.latents[tick : tick + self.exp["window_size"]]
        mean = (window * (self.exp["gamma"] ** np.arange(len(window)))[:, None]).sum(axis=0, keepdims=True)
        return mean / np.linalg.norm(mean) * np.linalg.norm(self.latents[0])

    def measure(self, quantity: str, body: Body) -> np.ndarray:
        return {
            "dof_pos_minus_default": lambda: body.position - self.default,
            "dof_vel": lambda: body.velocity,
            "projected_gravity": lambda: body.gravity,
            "base_ang_vel": lambda: body.gyro,
            "prev_actions": lambda: self.last,
        }[quantity]()

    def step(self, body: Body, tick: int = 0) -> dict[str, float]:
        vector = []
        for name, term in self.policy["observation"]["policy"].items():
            now = self.measure(name.removesuffix("_history"), body)
            if "default_pos" in term:
                np.testing.assert_array_equal(term["default_pos"], self.default)
            if name.endswith("_history"):
                frames = self.history.setdefault(name, deque(np.zeros((term["steps"], len(now))), maxlen=term["steps"]))
                frames.appendleft(now)
                now = np.concatenate(list(frames))
            vector.extend(now * term.get("scale", 1.0))
        given = self.session(np.concatenate([vector, self.z(tick)[0]]))
        self.last = self.policy["action_rescale"] * np.clip(given, -1, 1)
        order = [self.order.index(name) for name in self.policy["policy_joint_names"]]
        full = np.zeros(len(self.order))
        full[order] = self.last
        target = full * np.array([self.policy["action_scale"][name] for name in self.order]) + self.default
        low, high = ([self.robot[f"joint_pos_{side}_limit"][n] for n in self.order] for side in ("lower", "upper"))
        return dict(zip(self.order, np.clip(target, low, high), strict=True))


class Mjlab:
    """mjlab: metadata in CSV; frames oldest first, the first one repeated; clip, then scale; no clip of targets."""

    def __init__(self, path: Path, joints: Sequence[str]):
        self.session, self.joints = Session(path), list(joints)
        told = {key: value.split(",") for key, value in self.session.ort.get_modelmeta().custom_metadata_map.items()}
        self.told, self.order = told, told["joint_names"]
        number = lambda key: np.array([float(text) for text in told[key]])  # noqa: E731
        self.default, self.scale = number("default_joint_pos"), number("action_scale")
        self.kp, self.kd = number("joint_stiffness"), number("joint_damping")
        flat = [bool(float(text)) for text in told["observation_terms_flatten_history_dim"]]
        assert all(flat)
        clips = [tuple(map(float, text.split(";"))) for text in told["observation_terms_clip"]]
        lengths = [int(float(text)) for text in told["observation_terms_history_length"]]
        self.terms = list(
            zip(told["observation_names"], lengths, clips, number("observation_terms_scale"), strict=True)
        )
        self.reset()

    def reset(self) -> None:
        self.last = np.zeros(len(self.order))
        self.frames: dict[str, deque] = {}

    def measure(self, term: str, body: Body) -> np.ndarray:
        order = [self.joints.index(name) for name in self.order]
        return {
            "base_ang_vel": lambda: body.gyro,
            "projected_gravity": lambda: body.gravity,
            "joint_pos": lambda: body.position[order] - self.default,
            "joint_vel": lambda: body.velocity[order],
            "actions": lambda: self.last,
        }[term]()

    def step(self, body: Body) -> dict[str, float]:
        vector = []
        for name, length, clip, scale in self.terms:
            now, length = np.clip(self.measure(name, body), *clip) * scale, max(length, 1)
            frames = self.frames.setdefault(name, deque([now] * length, maxlen=length))
            frames.append(now)
            vector.extend(np.concatenate(list(frames)))
        self.last = self.session(np.array(vector))
        return dict(zip(self.order, self.last * self.scale + self.default, strict=True))


class Playground:
    """A sim-to-sim script with the numbers of the note: no history, ctrl = scale * a + default."""

    def __init__(self, folder: Path, prompt: str, joints: Sequence[str]):
        self.note = yaml.safe_load((folder / "contract.yaml").read_text())
        self.session = Session(folder / f"{prompt}.onnx")
        assert (self.session.input, self.session.output) == ("obs", "continuous_actions")
        self.order, self.map = self.note["joints"], [list(joints).index(name) for name in self.note["joints"]]
        self.reset()

    def reset(self) -> None:
        self.last = np.zeros(len(self.order))

    def step(self, body: Body) -> dict[str, float]:
        default = np.array(self.note["default_pose"])
        parts = {
            "gyro": body.gyro,
            "gravity": body.gravity,
            "joint_angles": body.position[self.map] - default,
            "joint_velocities": body.velocity[self.map],
            "last_action": self.last,
        }
        chosen = [parts[one["name"]] for one in self.note["obs"]]
        assert [len(part) for part in chosen] == [one["size"] for one in self.note["obs"]]
        self.last = self.session(np.concatenate(chosen))
        ctrl = self.last * np.array(self.note["action_scale"]) + default
        return dict(zip(self.order, ctrl, strict=True))


def follow(reader, loaded: Bundle, told: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(what the policy inside the graph got [T, N], targets [T, A]) of a runtime on the golden readings of a bundle.

    The runtime is on its own: its last action is what it did. `told` puts that of the golden vectors in its place.
    """
    golden, names = loaded.arrays(GOLDEN), loaded.contract.action.names
    cuts, seen, targets = np.cumsum([len(names), len(names), 4]), [], []
    place = [names.index(name) for name in reader.order]
    for readings, last, first in zip(golden["readings"], golden["last_action"], golden["reset"], strict=True):
        if first:
            reader.reset()
        if told:
            reader.last = last[place]
        by_name = reader.step(Body(*np.split(readings, cuts)))
        seen.append(reader.session.seen)
        targets.append([by_name[name] for name in names])
    return np.array(seen), np.array(targets)


def actions_of(loaded: Bundle) -> np.ndarray:
    """Which numbers of the policy's observation [N] are last actions; the layout is term by term."""
    agreed = loaded.contract
    return np.concatenate(
        [
            np.full(term_width(agreed, term) * term.history.length, term.source == ("last_action",))
            for term in agreed.observation.terms
        ]
    )
