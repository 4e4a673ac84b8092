"""unitree_rl_lab's C++ runtime: NAME/params/deploy.yaml and NAME/exported/policy.onnx for each prompt NAME.

The runtime takes a graph "obs" -> "actions", keeps frames oldest first, filled with the first observation, clips and
scales them (here it is told to do neither; the graph does), and commands clip(scale * actions + offset). Its last
action is what the graph gave. In deploy.yaml gains are in the order of the robot's interface, all else in the policy's.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from embodied.deploy.bundle import POLICY, Bundle
from embodied.deploy.contract import Contract
from embodied.export.targets import terms
from embodied.export.targets.demands import baked, check_joints, complete
from embodied.export.targets.replay import Foreign, Frames
from embodied.export.targets.surgery import Wiring, rewired
from embodied.export.targets.terms import Stretch
from embodied.export.targets.text import read_yaml, write_yaml

FILL = "repeat_first"
LACKS = (
    "The runtime does not stop by itself when the robot tilts, when states stop coming or when inference is late.",
    "It clips targets to the limits in deploy.yaml, and does not limit how fast they change.",
    "It subtracts default positions in single precision: observations differ by rounding, about 1e-7 rad.",
    "Give it the folder of one prompt: pointed at this one it takes the prompt whose name sorts last.",
)
TERMS = {  # of those that the runtime registers; it has no estimator, and commands and gait are not for latents
    terms.RATE: "base_ang_vel",
    terms.GRAVITY: "projected_gravity",
    terms.POSITION: "joint_pos_rel",
    terms.VELOCITY: "joint_vel_rel",
    terms.ACTION: "last_action",
}
QUANTITIES = {name: quantity for quantity, name in TERMS.items()}


def check(contract: Contract) -> None:
    """Nothing; raises InputError for what deploy.yaml cannot say."""
    check_joints(contract)
    terms.frames_needed(contract)
    terms.defaults(contract)
    for field in ("kp", "kd"):
        complete(contract, field)


def write(bundle: Bundle, out: Path) -> tuple[str, ...]:
    """Writes one folder per prompt. Raises InputError for a prompt that no graph can hold."""
    contract = bundle.contract
    layout = [
        Stretch(TERMS[name], name, terms.oldest_first(count)) for name, count in terms.frames_needed(contract).items()
    ]
    places, width = terms.columns(contract, layout, contract.action.names)
    order = np.arange(len(contract.action.names))
    # The last action that the policy sees is what the graph gave, in either unit.
    source = "action" if contract.action.last_action == "clipped" else "target"
    wiring = Wiring("obs", places, width, "actions", order, source)
    for prompt, z in baked(bundle).items():
        write_yaml(out / prompt / "params" / "deploy.yaml", _config(contract, layout))
        (out / prompt / "exported").mkdir()
        (out / prompt / "exported" / "policy.onnx").write_bytes(rewired(bundle.content[POLICY], wiring, z))
    return ()


def _config(contract: Contract, layout: Iterable[Stretch]) -> dict[str, Any]:
    """The content of deploy.yaml."""
    robot, action, start = contract.robot, contract.action, terms.defaults(contract)
    plain = action.last_action == "clipped"  # otherwise the graph gives targets
    still = [0.0, 0.0]
    return {
        "joint_ids_map": [robot.joints.index(name) for name in action.names],
        "step_dt": contract.timing.control_dt,
        "stiffness": [robot.kp[joint] for joint in robot.joints],
        "damping": [robot.kd[joint] for joint in robot.joints],
        "default_joint_pos": [start[name] for name in action.names],
        "commands": {
            "base_velocity": {
                "ranges": {"lin_vel_x": still[:], "lin_vel_y": still[:], "ang_vel_z": still[:], "heading": None}
            }
        },
        "actions": {
            "JointPositionAction": {
                "clip": [list(action.limit[name]) for name in action.names],
                "joint_names": [".*"],
                "scale": [action.scale[name] if plain else 1.0 for name in action.names],
                "offset": [action.offset[name] if plain else 0.0 for name in action.names],
                "joint_ids": None,
            }
        },
        "observations": {
            stretch.name: {
                "params": {},
                "clip": None,
                "scale": [1.0] * len(terms.elements(stretch.quantity, action.names)),
                "history_length": len(stretch.ages),
            }
            for stretch in layout
        },
    }


def read(out: Path, contract: Contract, prompts: Iterable[str]) -> Iterable[Foreign]:
    """What the runtime makes of the folder of each prompt."""
    for prompt in prompts:
        config = read_yaml(out / prompt / "params" / "deploy.yaml")
        action = config["actions"]["JointPositionAction"]
        yield Foreign(
            model=(out / prompt / "exported" / "policy.onnx").read_bytes(),
            prompt=prompt,
            frames=tuple(
                Frames(QUANTITIES[name], terms.oldest_first(term["history_length"]), np.array(term["scale"]))
                for name, term in config["observations"].items()
            ),
            fill=FILL,
            joints=tuple(contract.robot.joints[index] for index in config["joint_ids_map"]),
            default=np.array(config["default_joint_pos"]),
            scale=np.array(action["scale"]),
            offset=np.array(action["offset"]),
            limit=np.array(action["clip"]).T,
        )
