"""What a robot could read of a MuJoCo model, by the names that observation terms and deployment contracts use.

'joint_position/<joint>' and 'joint_velocity/<joint>' of hinges and slides, 'activation/<actuator>', 'sensor/<sensor>'.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

from embodied.deploy.contract import LAST_ACTION, Term, columns_of
from embodied.deploy.errors import InputError
from embodied.deploy.observation import apply, scaled

# MuJoCo's sensors that robots have as well; the others (positions in the world, velocities of bodies) are estimates.
MEASURED = ("TOUCH", "ACCELEROMETER", "GYRO", "FORCE", "TORQUE", "MAGNETOMETER", "RANGEFINDER", "JOINTPOS", "JOINTVEL")
MEASURED += ("ACTUATORPOS", "ACTUATORVEL", "ACTUATORFRC", "FRAMEQUAT")


def places(model: mujoco.MjModel) -> dict[str, slice]:
    """Where each reading lies in a physics state (time, qpos, qvel, act) followed by all sensor values."""
    found = {}
    qpos, qvel, act = 1, 1 + model.nq, 1 + model.nq + model.nv
    for index in np.flatnonzero(model.jnt_type >= int(mujoco.mjtJoint.mjJNT_SLIDE)):
        name = model.joint(index).name
        found[f"joint_position/{name}"] = _from(qpos + model.jnt_qposadr[index], 1)
        found[f"joint_velocity/{name}"] = _from(qvel + model.jnt_dofadr[index], 1)
    for index in np.flatnonzero(model.actuator_actadr >= 0):
        found[f"activation/{model.actuator(index).name}"] = _from(act + model.actuator_actadr[index], 1)
    sensors = act + model.na
    for index in range(model.nsensor):
        start = sensors + model.sensor_adr[index]
        found[f"sensor/{model.sensor(index).name}"] = _from(start, model.sensor_dim[index])
    return found


def columns(model: mujoco.MjModel, term: Term) -> np.ndarray:
    """Columns of (physics, sensor values) that a term reads, in its order. Raises InputError for an unknown source."""
    return np.array(columns_of(term, places(model)), int)


def frame(term: Term, values: Any, numpy: ModuleType) -> Any:
    """A term [..., W] of its readings [..., S], as networks get it."""
    values = values - np.broadcast_to(np.array(term.offset), values.shape) if term.offset else values
    return scaled(term, apply(term.function, values, numpy), numpy)


def check_privileged(model: mujoco.MjModel, terms: Sequence[Term]) -> None:
    """Nothing; raises InputError for a privileged term with an unknown source, with noise, or that needs a memory."""
    for term in terms:
        columns(model, term)
        if term.noise:
            raise InputError(f"privileged: term '{term.name}' must be without noise, got {term.noise}")
        if term.source == (LAST_ACTION,) or term.history.length > 1:
            raise InputError(f"privileged: term '{term.name}' needs a memory, which only an observation may have")
        if term.function == "projected_gravity":
            raise InputError(f"privileged: term '{term.name}' must be a function of each reading alone")


def measured(model: mujoco.MjModel, name: str) -> bool:
    """Whether a robot of this kind has a sensor for a reading: encoders of driven joints, inertial units, forces."""
    kind, _, part = name.partition("/")
    if kind == "sensor":
        return mujoco.mjtSensor(model.sensor(part).type[0]).name.removeprefix("mjSENS_") in MEASURED
    return kind == "activation" or model.joint(part).id in driven(model)


def driven(model: mujoco.MjModel) -> list[int]:
    """Joints that an actuator moves, itself or through a tendon, in the model's order."""
    kinds, found = mujoco.mjtTrn, set()
    for index in range(model.nu):
        target = int(model.actuator_trnid[index, 0])
        if model.actuator_trntype[index] == int(kinds.mjTRN_TENDON):
            path = np.arange(model.tendon_adr[target], model.tendon_adr[target] + model.tendon_num[target])
            on_joint = model.wrap_type[path] == int(mujoco.mjtWrap.mjWRAP_JOINT)
            found |= set(model.wrap_objid[path[on_joint]].tolist())
        elif model.actuator_trntype[index] in (int(kinds.mjTRN_JOINT), int(kinds.mjTRN_JOINTINPARENT)):
            found.add(target)
    return sorted(found)


def check_terms(model: mujoco.MjModel, terms: Sequence[Term]) -> None:
    """Nothing; raises InputError for a term whose source is unknown, or measured by no sensor and not marked so."""
    for term in terms:
        columns(model, term)
        sources = [source.partition("[")[0] for source in term.source if source != LAST_ACTION]
        unseen = [source for source in sources if not measured(model, source)]
        if unseen and not term.estimated:
            raise InputError(
                f"observation: no sensor of a robot gives '{unseen[0]}' of term '{term.name}'; "
                "choose another source, or mark the term with estimated=True"
            )


def _from(start: Any, size: Any) -> slice:
    return slice(int(start), int(start + size))
