"""MuJoCo Playground's sim-to-sim scripts: NAME.onnx for each prompt NAME, "obs" -> "continuous_actions", and a note.

The scripts assemble their vector in Python, without history, joints in the order of the model, and set
ctrl = action_scale * continuous_actions + default. The note, contract.yaml, says what to put in and with which numbers.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from embodied.deploy.bundle import POLICY, Bundle
from embodied.deploy.contract import Contract
from embodied.deploy.errors import InputError
from embodied.export.targets import terms
from embodied.export.targets.demands import baked, check_joints, check_last_action, check_offset, check_reach
from embodied.export.targets.replay import Foreign, Frames
from embodied.export.targets.surgery import Wiring, rewired
from embodied.export.targets.terms import Stretch
from embodied.export.targets.text import read_yaml, write_yaml

FILL = "zeros"  # there are no frames before the first
LACKS = (
    "The scripts are for simulation: nothing stops the robot, and only the model's own control ranges clip targets.",
    "Each script is made for one robot: change its observation and numbers to those in contract.yaml.",
)
# In the order of the scripts for legged robots; velocity, command and phase of the gait are not for latents.
TERMS = {
    terms.RATE: "gyro",
    terms.GRAVITY: "gravity",
    terms.POSITION: "joint_angles",
    terms.VELOCITY: "joint_velocities",
    terms.ACTION: "last_action",
}
QUANTITIES = {name: quantity for quantity, name in TERMS.items()}
NOTE = "contract.yaml"


def check(contract: Contract) -> None:
    """Nothing; raises InputError for what the scripts do not do."""
    check_joints(contract)
    for component, term in terms.components(contract):
        if component.age:
            raise InputError(f"term '{term.name}' looks back {component.age} ticks; this runtime remembers none")
    check_offset(contract)
    check_last_action(contract)
    check_reach(contract)


def write(bundle: Bundle, out: Path) -> tuple[str, ...]:
    """Writes one graph per prompt and the note. Raises InputError for a prompt that no graph can hold."""
    contract = bundle.contract
    joints, start = contract.robot.joints, terms.defaults(contract)
    needed = terms.frames_needed(contract)
    layout = [Stretch(name, quantity, (0,)) for quantity, name in TERMS.items() if quantity in needed]
    places, width = terms.columns(contract, layout, joints)
    order = np.array([contract.action.names.index(joint) for joint in joints])
    wiring = Wiring("obs", places, width, "continuous_actions", order)
    for prompt, z in baked(bundle).items():
        (out / f"{prompt}.onnx").write_bytes(rewired(bundle.content[POLICY], wiring, z))
    note = {
        "ctrl_dt": contract.timing.control_dt,
        "sim_dt": contract.timing.sim_dt,
        "obs": [{"name": stretch.name, "size": len(terms.elements(stretch.quantity, joints))} for stretch in layout],
        "joints": list(joints),
        "default_pose": [start[joint] for joint in joints],
        "action_scale": [contract.action.scale[joint] for joint in joints],
    }
    write_yaml(out / NOTE, note)
    return ()


def read(out: Path, contract: Contract, prompts: Iterable[str]) -> Iterable[Foreign]:
    """What a script makes of the graph of each prompt, with the numbers of the note."""
    note = read_yaml(out / NOTE)
    scale, default = np.array(note["action_scale"]), np.array(note["default_pose"])
    for prompt in prompts:
        yield Foreign(
            model=(out / f"{prompt}.onnx").read_bytes(),
            prompt=prompt,
            frames=tuple(Frames(QUANTITIES[one["name"]], (0,), np.array(1.0)) for one in note["obs"]),
            fill=FILL,
            joints=tuple(note["joints"]),
            default=default,
            scale=scale,
            offset=default,
            limit=np.full((2, len(scale)), [[-np.inf], [np.inf]]),
        )
