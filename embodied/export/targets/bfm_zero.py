"""BFM-Zero's deployment code: one graph that takes the observation and, behind it, the latent; YAML; prompt files.

    model/exported/FBcprAuxModel.onnx              the graph
    model/KIND_inference/*.pkl                     latents, as the runtime unpickles them
    config/policy/policy.yaml, config/robot/robot.yaml
    config/exp/KIND/*.yaml                         what to run, KIND one of reward, goal, tracking

The runtime keeps frames newest first, the current one included, zeros before the first. Its scales are 1 here; the
graph scales. It clips the output to [-1, 1], multiplies it by action_rescale (that is its last action), then by the
scale of the joint, adds the default position and clips to the limits.
"""

import io
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.deploy.bundle import POLICY, Bundle
from embodied.deploy.contract import Contract
from embodied.deploy.errors import InputError
from embodied.export.targets import terms
from embodied.export.targets.demands import check_joints, check_last_action, check_offset, check_rate, complete
from embodied.export.targets.replay import Foreign, Frames
from embodied.export.targets.surgery import Wiring, rewired
from embodied.export.targets.terms import Stretch
from embodied.export.targets.text import read_yaml, write_yaml

FILL = "zeros"
CONTROL_DT = 0.02  # s; fixed in the runtime
LACKS = (
    "The runtime does not stop by itself when the robot tilts, when states stop coming or when inference is late; "
    "it clips targets to the limits in robot.yaml.",
    "Frames are those of revision de9e248, which takes the newest one in before it assembles the observation.",
    "robot.yaml does not say how your machine is connected: add INTERFACE, DOMAIN_ID and USE_JOYSTICK, and set "
    "ROBOT_TYPE to what the runtime calls your robot.",
    "Prompt files are pickles, because the runtime unpickles them: load none that you did not write or check yourself.",
)
NOW = {
    terms.POSITION: "dof_pos_minus_default",
    terms.VELOCITY: "dof_vel",
    terms.GRAVITY: "projected_gravity",
    terms.RATE: "base_ang_vel",
    terms.ACTION: "prev_actions",
}
PAST = {  # in the order of the runtime's own policy
    terms.ACTION: "prev_actions_history",
    terms.RATE: "base_ang_vel_history",
    terms.POSITION: "dof_pos_minus_default_history",
    terms.VELOCITY: "dof_vel_history",
    terms.GRAVITY: "projected_gravity_history",
}
QUANTITIES = {name: quantity for names in (NOW, PAST) for quantity, name in names.items()}
GOALS = ("state", "row")  # kinds of requests that are goals given as observations
MODEL, POLICY_YAML, ROBOT_YAML = (
    "model/exported/FBcprAuxModel.onnx",
    "config/policy/policy.yaml",
    "config/robot/robot.yaml",
)


def check(contract: Contract) -> None:
    """Nothing; raises InputError for what the files cannot say."""
    if not contract.command.width:
        raise InputError("command: the policy takes no latent; this runtime is for policies that do")
    check_joints(contract)
    terms.frames_needed(contract)
    check_offset(contract)
    check_last_action(contract)
    check_rate(contract, CONTROL_DT)
    for field in ("kp", "kd"):
        complete(contract, field)


def write(bundle: Bundle, out: Path) -> tuple[str, ...]:
    """Writes the graph, the YAML files and the prompts; gives what the contract leaves open."""
    contract = bundle.contract
    joints, action = contract.robot.joints, contract.action
    layout = _layout(contract)
    places, width = terms.columns(contract, layout, joints)
    order = np.array([action.names.index(joint) for joint in joints])
    wiring = Wiring("actor_obs", places, width, "action", order, factor=1 / _reach(contract))
    (out / MODEL).parent.mkdir(parents=True)
    (out / MODEL).write_bytes(rewired(bundle.content[POLICY], wiring, None))
    write_yaml(out / POLICY_YAML, _policy(contract, layout))
    robot, remarks = _robot(contract)
    write_yaml(out / ROBOT_YAML, robot)
    return remarks + _write_prompts(bundle, out)


def _layout(contract: Contract) -> list[Stretch]:
    """The current frames of what the policy reads, then the past ones."""
    needed = terms.frames_needed(contract)
    now = [Stretch(name, quantity, (0,)) for quantity, name in NOW.items() if quantity in needed]
    past = {quantity: needed[quantity] for quantity in PAST if needed.get(quantity, 0) > 1}
    return now + [Stretch(PAST[quantity], quantity, tuple(range(count))) for quantity, count in past.items()]


def _reach(contract: Contract) -> float:
    """The largest action that the policy gives."""
    return contract.action.rescale * contract.action.clip


def _policy(contract: Contract, layout: Iterable[Stretch]) -> dict[str, Any]:
    """The content of the policy's YAML file."""
    robot, start = contract.robot, terms.defaults(contract)
    content: dict[str, dict[str, Any]] = {}
    for stretch in layout:
        content[stretch.name] = {"scale": 1.0}
        if stretch.name in PAST.values():
            content[stretch.name]["steps"] = len(stretch.ages)
        if stretch.quantity == terms.POSITION:
            content[stretch.name]["default_pos"] = [start[joint] for joint in robot.joints]
    exactly = lambda numbers: {re.escape(joint): numbers[joint] for joint in robot.joints}  # noqa: E731
    return {
        "observation": {"policy": content},
        "action_rescale": _reach(contract),
        "action_scale": {joint: contract.action.scale[joint] for joint in robot.joints},
        "isaac_joint_names": list(robot.joints),
        "policy_joint_names": list(robot.joints),
        "joint_kp": exactly(robot.kp),
        "joint_kd": exactly(robot.kd),
        "default_joint_pos": exactly(start),
    }


def _robot(contract: Contract) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the content of the robot's YAML file, what is open in it)."""
    robot, limit = contract.robot, contract.action.limit
    content: dict[str, Any] = {
        "ROBOT_TYPE": robot.name,
        "UNITREE_LEGGED_CONST": {"MODE_PR": 0},
        "joint_pos_lower_limit": {joint: limit[joint][0] for joint in robot.joints},
        "joint_pos_upper_limit": {joint: limit[joint][1] for joint in robot.joints},
        "joint_velocity_limit": dict(robot.velocity_limit),
        "joint_effort_limit": dict(robot.effort_limit),
    }
    remarks = []
    for field in ("velocity_limit", "effort_limit"):
        unknown = [joint for joint in robot.joints if joint not in getattr(robot, field)]
        if unknown:
            those = "any joint" if len(unknown) == len(robot.joints) else ", ".join(unknown)
            remarks.append(f"joint_{field} in robot.yaml is not known for {those}.")
    if robot.hardware_modes and all(mode.isdecimal() for mode in robot.hardware_modes):
        content["UNITREE_LEGGED_CONST"]["MODE_MACHINE"] = int(robot.hardware_modes[0])
        accepted = ", ".join(robot.hardware_modes)
        remarks.append(f"The policy is for hardware modes {accepted}: set MODE_MACHINE in robot.yaml to your robot's.")
    else:
        remarks.append("The contract names no number for MODE_MACHINE in robot.yaml.")
    return content, tuple(remarks)


def _write_prompts(bundle: Bundle, out: Path) -> tuple[str, ...]:
    """Writes the latents and what to run; gives what is different for motions."""
    latents: dict[str, dict[str, Any]] = {"reward": {}, "goal": {}}
    remarks = []
    for name in bundle.prompts:
        z = bundle.prompt(name)
        if z.ndim > 1:
            path = f"tracking_inference/{name}.pkl"
            _write_pickle(out / "model" / path, z)
            # A window of one frame is the latent of that frame.
            run = {"type": "tracking", "start": 0, "end": len(z) - 1, "stop": 0, "ctx_path": f"../{path}"}
            write_yaml(out / f"config/exp/tracking/{name}.yaml", run | {"gamma": 1.0, "window_size": 1})
            remarks.append(
                f"At the end of motion '{name}' the runtime goes back to its first latent; ours holds the last."
            )
            continue
        request = json.loads(str(bundle.arrays(f"prompts/{name}.npz")["provenance"])).get("request", {})
        if request.get("kind") in GOALS:
            latents["goal"][name] = z[None]
        else:
            latents["reward"][name] = [z[None]]
    chosen: Mapping[str, Any] = {
        "reward": {"selected_rewards_filter_z": [{"reward": name, "z_ids": [0]} for name in latents["reward"]]},
        "goal": {"selected_goals": list(latents["goal"])},
    }
    for kind, found in latents.items():
        if found:
            path = f"{kind}_inference/prompts.pkl"
            _write_pickle(out / "model" / path, found)
            write_yaml(out / f"config/exp/{kind}/prompts.yaml", {"type": kind, "ctx_path": f"../{path}"} | chosen[kind])
    return tuple(remarks)


class _Pickler(pickle.Pickler):
    """Writes arrays as calls of numpy.array: both NumPy 1 and NumPy 2 read that."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.array, (value.tolist(), value.dtype.name)
        return NotImplemented


def _write_pickle(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(value)
    path.write_bytes(buffer.getvalue())


def read(out: Path, contract: Contract, prompts: Iterable[str]) -> Iterable[Foreign]:
    """What the runtime makes of the files; latents are given to it."""
    policy, robot = read_yaml(out / POLICY_YAML), read_yaml(out / ROBOT_YAML)
    joints = tuple(policy["isaac_joint_names"])
    scale = np.array([policy["action_scale"][joint] for joint in joints])
    default = np.array(
        [next(v for pattern, v in policy["default_joint_pos"].items() if re.fullmatch(pattern, j)) for j in joints]
    )
    limit = np.array([[robot[f"joint_pos_{side}_limit"][joint] for joint in joints] for side in ("lower", "upper")])
    frames = [
        Frames(QUANTITIES[name], tuple(range(term.get("steps", 1))), np.array(term["scale"]))
        for name, term in policy["observation"]["policy"].items()
    ]
    yield Foreign(
        model=(out / MODEL).read_bytes(),
        prompt=None,
        frames=tuple(frames),
        fill=FILL,
        joints=joints,
        default=default,
        scale=scale,
        offset=default,
        limit=limit,
        rescale=policy["action_rescale"],
    )
