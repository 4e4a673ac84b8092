"""mjlab's ONNX files: NAME.onnx for each prompt NAME, "obs" -> "actions", described by metadata in CSV.

Names of joints, gains, default positions and scales are all in the order of the robot's interface, and so are the
joints in the vectors. Frames are oldest first, filled with the first observation. A reader commands
action_scale * actions + default_joint_pos, and nothing clips that.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from embodied.deploy.bundle import POLICY, Bundle
from embodied.deploy.contract import Contract
from embodied.export.targets import terms
from embodied.export.targets.demands import baked, check_joints, check_last_action, check_offset, check_reach, complete
from embodied.export.targets.replay import Foreign, Frames
from embodied.export.targets.surgery import Wiring, rewired
from embodied.export.targets.terms import Stretch
from embodied.export.targets.text import csv

FILL = "repeat_first"
LACKS = (
    "The metadata has no limits of joints: no target of this policy leaves them, and a reader checks nothing.",
    "Whether it stops when the robot tilts or states stop coming is up to the reader.",
)
TERMS = {
    terms.RATE: "base_ang_vel",
    terms.GRAVITY: "projected_gravity",
    terms.POSITION: "joint_pos",
    terms.VELOCITY: "joint_vel",
    terms.ACTION: "actions",
}
QUANTITIES = {name: quantity for quantity, name in TERMS.items()}


def check(contract: Contract) -> None:
    """Nothing; raises InputError for what the metadata cannot say."""
    check_joints(contract)
    terms.frames_needed(contract)
    check_offset(contract)
    check_last_action(contract)
    check_reach(contract)
    for field in ("kp", "kd"):
        complete(contract, field)


def write(bundle: Bundle, out: Path) -> tuple[str, ...]:
    """Writes one file per prompt. Raises InputError for a prompt that no graph can hold."""
    contract = bundle.contract
    joints = contract.robot.joints
    layout = [
        Stretch(TERMS[name], name, terms.oldest_first(count)) for name, count in terms.frames_needed(contract).items()
    ]
    places, width = terms.columns(contract, layout, joints)
    order = np.array([contract.action.names.index(joint) for joint in joints])
    wiring = Wiring("obs", places, width, "actions", order)
    metadata = _metadata(contract, layout, str(bundle.manifest.get("model_sha256", "")))
    for prompt, z in baked(bundle).items():
        (out / f"{prompt}.onnx").write_bytes(rewired(bundle.content[POLICY], wiring, z, metadata))
    return (f"The files do not say how often the policy decides: every {contract.timing.control_dt:g} s.",)


def _metadata(contract: Contract, layout: list[Stretch], run: str) -> dict[str, str]:
    robot, start = contract.robot, terms.defaults(contract)
    lengths = [len(stretch.ages) for stretch in layout]
    return {
        "run_path": run,
        "joint_names": csv(robot.joints),
        "joint_stiffness": csv(robot.kp[joint] for joint in robot.joints),
        "joint_damping": csv(robot.kd[joint] for joint in robot.joints),
        "default_joint_pos": csv(start[joint] for joint in robot.joints),
        "action_scale": csv(contract.action.scale[joint] for joint in robot.joints),
        "command_names": "",
        "observation_names": csv(stretch.name for stretch in layout),
        "observation_terms_scale": csv(1.0 for _ in layout),
        "observation_terms_clip": csv("-inf;inf" for _ in layout),
        "observation_terms_history_length": csv(0 if length == 1 else length for length in lengths),
        "observation_terms_flatten_history_dim": csv(1.0 for _ in layout),
    }


def read(out: Path, contract: Contract, prompts: Iterable[str]) -> Iterable[Foreign]:
    """What a reader makes of the file of each prompt."""
    for prompt in prompts:
        model = (out / f"{prompt}.onnx").read_bytes()
        told = {entry.key: entry.value.split(",") for entry in onnx.load_model_from_string(model).metadata_props}
        scale, default = (np.array(told[key], float) for key in ("action_scale", "default_joint_pos"))
        yield Foreign(
            model=model,
            prompt=prompt,
            frames=tuple(
                Frames(QUANTITIES[name], terms.oldest_first(max(int(float(length)), 1)), np.array(float(factor)))
                for name, length, factor in zip(
                    told["observation_names"],
                    told["observation_terms_history_length"],
                    told["observation_terms_scale"],
                    strict=True,
                )
            ),
            fill=FILL,
            joints=tuple(told["joint_names"]),
            default=default,
            scale=scale,
            offset=default,
            limit=np.full((2, len(scale)), [[-np.inf], [np.inf]]),
        )
