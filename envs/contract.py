"""A world as the contract of a bundle: its joints, timing, observation terms and actuators, by name."""

import mujoco
import numpy as np

from embodied.deploy.contract import FORMAT, LAST_ACTION, Action, Command, Contract, Observation, Reading, Robot, Timing
from embodied.types import InputError
from envs.model import WorldModel
from envs.readings import driven, measured, places


def contract_of(world: WorldModel, command: Command) -> Contract:
    """The contract of a policy for this world that is told what to do by `command`.

    Raises InputError where a controller stands between actions and actuators: bundles hold none.
    """
    if world.controller:
        raise InputError(f"contract: the actions of world '{world.name}' go through a controller, which bundles lack")
    model = world.model
    known = places(model)
    sources = [source.partition("[")[0] for term in world.observation for source in term.source]
    inertial = [world.imu.quaternion, world.imu.angular_velocity] if world.imu else []
    names = dict.fromkeys(name for name in [*sources, *inertial] if name != LAST_ACTION)
    return Contract(
        format=FORMAT,
        robot=robot_of(world),
        timing=Timing(
            sim_dt=float(model.opt.timestep),
            decimation=world.hold * world.substeps,
            control_dt=float(model.opt.timestep) * world.hold * world.substeps,
        ),
        readings=tuple(
            Reading(name, known[name].stop - known[name].start, "robot" if measured(model, name) else "needs_estimator")
            for name in names
        ),
        observation=Observation(world.observation),
        action=action_of(world),
        command=command,
        safety=world.safety,
        imu=world.imu,
    )


def robot_of(world: WorldModel) -> Robot:
    """The driven joints of a world and what its model says of them."""
    model = world.model
    joints = [model.joint(index) for index in driven(model)]
    pose = {joint.name: float(model.qpos0[joint.qposadr[0]]) for joint in joints}
    limited = [joint for joint in joints if model.jnt_limited[joint.id]]
    return Robot(
        name=world.name,
        joints=tuple(joint.name for joint in joints),
        default_position=pose | dict(world.default_pose),
        position_limit={joint.name: tuple(map(float, joint.range)) for joint in limited},
        armature={joint.name: float(model.dof_armature[joint.dofadr[0]]) for joint in joints},
        **servo_gains(model),
    )


def servo_gains(model: mujoco.MjModel) -> dict[str, dict[str, float]]:
    """kp, kd and effort limit of the joints that position servos drive; nothing for other actuators."""
    gains: dict[str, dict[str, float]] = {"kp": {}, "kd": {}, "effort_limit": {}}
    for index in range(model.nu):
        if is_servo(model, index):
            joint = model.joint(model.actuator_trnid[index, 0]).name
            gains["kp"][joint] = float(model.actuator_gainprm[index, 0])
            gains["kd"][joint] = float(-model.actuator_biasprm[index, 2])
            if model.actuator_forcelimited[index]:
                gains["effort_limit"][joint] = float(model.actuator_forcerange[index, 1])
    return gains


def is_servo(model: mujoco.MjModel, index: int) -> bool:
    """Whether an actuator is a position servo on a joint: force = kp (ctrl - q) - kd qvel, without a filter."""
    gain, bias = model.actuator_gainprm[index, 0], model.actuator_biasprm[index]
    on_joint = model.actuator_trntype[index] == int(mujoco.mjtTrn.mjTRN_JOINT) and model.actuator_gear[index, 0] == 1
    affine = model.actuator_biastype[index] == int(mujoco.mjtBias.mjBIAS_AFFINE)
    return bool(on_joint and affine and gain == -bias[1] and bias[0] == 0 and model.actuator_dyntype[index] == 0)


def action_of(world: WorldModel) -> Action:
    """What an action in [-1, 1] asks of each actuator; of each joint where all actuators are position servos."""
    model = world.model
    servos = all(is_servo(model, index) for index in range(model.nu))
    if servos:
        names = tuple(model.joint(model.actuator_trnid[index, 0]).name for index in range(model.nu))
    else:
        names = tuple(model.actuator(index).name for index in range(model.nu))
    # Halves of sums of limits, without the last digits that rounding leaves.
    centre, half = (np.round(part, 12).tolist() for part in world.command_range)
    return Action(
        names=names,
        target="joint_position" if servos else "actuator_command",
        scale=dict(zip(names, half, strict=True)),
        offset=dict(zip(names, centre, strict=True)),
        limit=dict(zip(names, map(tuple, model.actuator_ctrlrange.tolist()), strict=True)),
    )


def read(world: WorldModel, physics: np.ndarray, sensordata: np.ndarray, contract: Contract) -> np.ndarray:
    """The readings of a contract [..., R] of physics states and their sensor values."""
    known = places(world.model)
    everything = np.concatenate([physics[..., : world.ctrl.start], sensordata], axis=-1)
    return np.concatenate([everything[..., known[reading.name]] for reading in contract.readings], axis=-1)
