"""The Unitree G1 with 29 joints, as BFM-Zero observes and drives it: its contract, and bundles with a small network."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from embodied.deploy import bundle as layout
from embodied.deploy import contract as contracts
from embodied.deploy.contract import (
    FORMAT,
    Action,
    Command,
    Contract,
    History,
    Imu,
    Observation,
    Reading,
    Robot,
    Safety,
    Term,
    Timing,
)
from embodied.deploy.observation import Assembler, scaling
from embodied.export.onnx_graph import to_onnx

LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw")
JOINTS = tuple(
    f"{name}_joint"
    for name in (
        *(f"{side}_{part}" for side in ("left", "right") for part in LEG),
        *("waist_yaw", "waist_roll", "waist_pitch"),
        *(f"{side}_{part}" for side in ("left", "right") for part in ARM),
    )
)
# Place, in the order above, of each joint of policies that were trained with unitree_rl_lab.
JOINT_IDS_MAP = (
    *(0, 6, 12, 1, 7, 13, 2, 8, 14, 3, 9, 15, 22, 4, 10),
    *(16, 23, 5, 11, 17, 24, 18, 25, 19, 26, 20, 27, 21, 28),
)
POLICY_ORDER = tuple(JOINTS[index] for index in JOINT_IDS_MAP)

# Part of a joint's name -> (armature in kg m2, effort limit in Nm); the first that fits.
MOTORS = {
    "hip_yaw": (0.0101775, 88.0),
    "waist_yaw": (0.0101775, 88.0),
    "knee": (0.0251019, 139.0),
    "hip": (0.0251019, 88.0),
    "ankle": (0.00721945, 50.0),
    "waist": (0.00721945, 50.0),
    "wrist_pitch": (0.00425, 5.0),
    "wrist_yaw": (0.00425, 5.0),
    "_": (0.00360973, 25.0),
}
DEFAULTS = {"hip_pitch": -0.1, "knee": 0.3, "ankle_pitch": -0.2}
# Of the left side, in rad; rolls and yaws of the right side are mirrored.
RANGES = {
    "hip_pitch": (-2.5307, 2.8798),
    "hip_roll": (-0.5236, 2.9671),
    "hip_yaw": (-2.7576, 2.7576),
    "knee": (-0.0873, 2.8798),
    "ankle_pitch": (-0.8727, 0.5236),
    "ankle_roll": (-0.2618, 0.2618),
    "waist_yaw": (-2.618, 2.618),
    "waist": (-0.52, 0.52),
    "shoulder_pitch": (-3.0892, 2.6704),
    "shoulder_roll": (-1.5882, 2.2515),
    "shoulder_yaw": (-2.618, 2.618),
    "elbow": (-1.0472, 2.0944),
    "wrist_roll": (-1.9722, 1.9722),
    "wrist": (-1.6144, 1.6144),
}
FREQUENCY = 2 * np.pi * 10  # rad/s, of the servos
WIDTH, HIDDEN, STEPS = 256, 16, 8
FOUR = History(4)


def of(joint: str, table: dict):
    """The entry of a table whose name is the first that is part of the joint's."""
    return next((entry for part, entry in table.items() if part in joint), 0.0)


def position_range(joint: str) -> tuple[float, float]:
    low, high = of(joint, RANGES)
    mirrored = joint.startswith("right") and ("roll" in joint or "yaw" in joint)
    return (-high, -low) if mirrored else (low, high)


def robot() -> Robot:
    kp = {joint: of(joint, MOTORS)[0] * FREQUENCY**2 for joint in JOINTS}
    return Robot(
        name="g1_29dof",
        joints=JOINTS,
        hardware_modes=("10", "11", "12", "15", "16"),
        default_position={joint: of(joint, DEFAULTS) for joint in JOINTS},
        position_limit={joint: position_range(joint) for joint in JOINTS},
        effort_limit={joint: of(joint, MOTORS)[1] for joint in JOINTS},
        kp=kp,
        kd={joint: 4 * of(joint, MOTORS)[0] * FREQUENCY for joint in JOINTS},
        armature={joint: of(joint, MOTORS)[0] for joint in JOINTS},
    )


def contract(order: Sequence[str] = POLICY_ORDER, rescale: float = 5.0, past: History | None = FOUR) -> Contract:
    """The 465 numbers that BFM-Zero observes, joints in the given order; without `past` only the newest 93."""
    body = robot()
    position = tuple(f"joint_position/{joint}" for joint in order)
    velocity = tuple(f"joint_velocity/{joint}" for joint in order)
    offset = tuple(body.default_position[joint] for joint in order)
    now = (
        Term("dof_pos", position, "rad", "joint", offset=offset),
        Term("dof_vel", velocity, "rad/s", "joint"),
        Term("gravity", ("sensor/imu_quat",), "1", "body", "projected_gravity"),
        Term("ang_vel", ("sensor/imu_gyro",), "rad/s", "body", scale=(0.25,)),
        Term("last", ("last_action",), "1", "joint"),
    )
    before = tuple(
        dataclasses.replace(now[index], name=f"{now[index].name}_history", history=past or History())
        for index in (4, 3, 0, 1, 2)
    )
    gain = {joint: 0.25 * body.effort_limit[joint] / body.kp[joint] for joint in JOINTS}
    return Contract(
        format=FORMAT,
        robot=body,
        timing=Timing(0.005, 4, 0.02),
        readings=(
            *(Reading(f"joint_position/{joint}", 1) for joint in JOINTS),
            *(Reading(f"joint_velocity/{joint}", 1) for joint in JOINTS),
            Reading("sensor/imu_quat", 4),
            Reading("sensor/imu_gyro", 3),
        ),
        observation=Observation(now + before if past else now),
        action=Action(
            names=tuple(order),
            target="joint_position",
            scale=gain,
            offset=body.default_position,
            limit=body.position_limit,
            rescale=rescale,
        ),
        command=Command(WIDTH, WIDTH**0.5),
        safety=Safety(tilt=1.0, passive_kd=3.0),
        imu=Imu("sensor/imu_quat", "sensor/imu_gyro"),
    )


def places(agreed: Contract) -> list[int]:
    """For each number of the observation its place where joints stand in the robot's own order."""
    found: list[int] = []
    for term in agreed.observation.terms:
        width = contracts.term_width(agreed, term)
        order = [JOINTS.index(name) for name in agreed.action.names] if width == len(JOINTS) else range(width)
        for _ in range(term.history.length):
            start = len(found)
            found += [start + index for index in order]
    return found


def network(agreed: Contract):
    """(obs [B, N], z [B, D]) -> (action, target, finite): two random layers that know joints by name, not by place."""
    rng, joints = np.random.default_rng(5), [JOINTS.index(name) for name in agreed.action.names]
    draw = lambda *shape: (rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32)  # noqa: E731
    first, latent, last = draw(agreed.width, HIDDEN)[places(agreed)], draw(WIDTH, HIDDEN), draw(HIDDEN, 29)[:, joints]
    low, scale, high = (part.astype(np.float32)[None] for part in scaling(agreed))
    action = agreed.action
    unit, offset = (
        np.array([part[n] for n in action.names], np.float32)[None] for part in (action.scale, action.offset)
    )
    least, most = np.array([action.limit[name] for name in action.names], np.float32).T[:, None]

    def run(obs, z):
        hidden = jnp.tanh((jnp.clip(obs, low, high) * scale) @ first + z @ latent)
        raw = 0.6 * hidden @ last
        finite = jnp.where(jnp.isfinite(raw), 1.0, 0.0).min(axis=1)
        given = action.rescale * jnp.clip(jnp.where(finite[:, None] > 0, raw, 0.0), -1.0, 1.0)
        return given, jnp.clip(offset + unit * given, least, most), finite

    return run


def latents() -> dict[str, np.ndarray]:
    """Two prompts on the sphere of radius 16."""
    draws = np.random.default_rng(6).normal(size=(2, WIDTH))
    spheres = (16 * draws / np.linalg.norm(draws, axis=1, keepdims=True)).astype(np.float32)
    return {"move-ego-0-0.7": spheres[0], "stand": spheres[1]}


def golden(agreed: Contract, run) -> dict[str, np.ndarray]:
    """Random readings of two episodes, one per prompt, and what the policy does with them."""
    rng, rows = np.random.default_rng(7), []
    for z in latents().values():
        assembler, last = Assembler(agreed), np.zeros(29)
        for step in range(STEPS):
            turned = np.array([1.0, 0.0, 0.0, 0.0]) + 0.2 * rng.normal(size=4)
            parts = [
                0.3 * rng.normal(size=29),
                rng.normal(size=29),
                turned / np.linalg.norm(turned),
                rng.normal(size=3),
            ]
            readings = np.concatenate(parts)
            obs = assembler.observe(readings, last)
            action, target, _ = (np.asarray(part)[0] for part in run(obs[None], z[None]))
            rows.append((readings, last, obs, z, action, target, step == 0))
            last = action
    names = ("readings", "last_action", "obs", "z", "action", "target", "reset")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def write_bundle(folder: Path, agreed: Contract, prompts: dict[str, np.ndarray] | None = None) -> layout.Bundle:
    """A sealed bundle, loaded. Its prompts are the two above, "stand" a goal, unless others are given."""
    (folder / "prompts").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / layout.CONTRACT).write_text(contracts.write(agreed))
    run = network(agreed)
    graph = to_onnx(run, {"obs": (1, agreed.width), "z": (1, WIDTH)}, ("action", "target", "finite"))
    (folder / layout.POLICY).write_bytes(graph.SerializeToString())
    for name, z in (prompts or latents()).items():
        asked = {"request": {"kind": "row" if name == "stand" else "reward"}}
        np.savez(folder / "prompts" / f"{name}.npz", z=z, provenance=json.dumps(asked))
    np.savez(folder / layout.GOLDEN, **golden(agreed, run))
    layout.seal(folder, {"robot": agreed.robot.name, "model_sha256": "0" * 64})
    return layout.load(folder)
