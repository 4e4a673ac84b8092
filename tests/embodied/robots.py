"""A small robot for deployment tests: a box with two servo-driven arms and an inertial unit."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import mujoco
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
from embodied.deploy.observation import Assembler
from embodied.deploy.robot import Order
from embodied.deploy.simulation import Simulation
from embodied.export.onnx_graph import to_onnx

JOINTS = ("left_hip", "right_hip")
XML = """
<mujoco model="biped">
  <compiler angle="radian"/>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="5 5 .1"/>
    <body name="base" pos="0 0 .35">
      <freejoint/>
      <geom type="box" size=".15 .15 .05" mass="4"/>
      <geom type="box" size=".3 .3 .02" pos="0 0 -.33" mass="5"/>
      <site name="imu"/>
      <body name="left_leg" pos="0 .12 -.05">
        <joint name="left_hip" axis="0 1 0" range="-1 1" limited="true" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 0 0 -.2" size=".04" mass=".5"/>
      </body>
      <body name="right_leg" pos="0 -.12 -.05">
        <joint name="right_hip" axis="0 1 0" range="-1 1" limited="true" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 0 0 -.2" size=".04" mass=".5"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="a_left" joint="left_hip" kp="20" kv="1" ctrlrange="-1 1"/>
    <position name="a_right" joint="right_hip" kp="20" kv="1" ctrlrange="-1 1"/>
  </actuator>
  <sensor><framequat name="orientation" objtype="site" objname="imu"/><gyro name="gyro" site="imu"/></sensor>
</mujoco>
"""


def contract(order: tuple[str, ...] = JOINTS, **safety) -> Contract:
    """The contract of a policy for the robot, its joints in the given order."""
    each = lambda kind: tuple(f"{kind}/{joint}" for joint in order)  # noqa: E731
    past = History(3, "newest_first", includes_current=True, reset_fill="zeros")
    return Contract(
        format=FORMAT,
        robot=Robot("biped", JOINTS, ("A", "B"), kp=dict.fromkeys(JOINTS, 20.0), kd=dict.fromkeys(JOINTS, 1.0)),
        timing=Timing(0.005, 4, 0.02),
        readings=(
            *(Reading(f"joint_position/{joint}", 1) for joint in JOINTS),
            *(Reading(f"joint_velocity/{joint}", 1) for joint in JOINTS),
            Reading("sensor/orientation", 4),
            Reading("sensor/gyro", 3),
        ),
        observation=Observation(
            (
                Term("position", each("joint_position"), "rad", "joint", offset=(0.1, 0.1), noise=(0.01,)),
                Term("velocity", each("joint_velocity"), "rad/s", "joint", scale=(0.05,), clip=4.0),
                Term("gravity", ("sensor/orientation",), "1", "body", "projected_gravity"),
                Term("rate", ("sensor/gyro",), "rad/s", "body", scale=(0.25,), history=past),
                Term("action", ("last_action",), "1", "joint", history=past),
            )
        ),
        action=Action(
            names=order,
            target="joint_position",
            scale={"left_hip": 0.5, "right_hip": 0.4},
            offset={"left_hip": 0.1, "right_hip": 0.1},
            limit=dict.fromkeys(JOINTS, (-0.45, 0.45)),
        ),
        command=Command(2, 2**0.5),
        safety=Safety(**{"tilt": 1.0, "slew": dict.fromkeys(JOINTS, 0.2), "passive_kd": 1.0, "blend": 0.1, **safety}),
        imu=Imu("sensor/orientation", "sensor/gyro"),
    )


def network(agreed: Contract) -> Callable:
    """(obs, z) -> (action, target, finite): a fixed policy in which every term and the latent matter."""
    by_name = {name: np.sin(np.arange(40) + 17 * i).astype(np.float32) for i, name in enumerate(JOINTS)}
    columns = []  # weights that belong to what a component is, not to where it stands
    for term in agreed.observation.terms:
        for frame in range(term.history.length):
            for k in range(contracts.term_width(agreed, term)):
                jointwise = contracts.term_width(agreed, term) == 2
                which = 2 * JOINTS.index(agreed.action.names[k]) if jointwise else k
                columns.append(3 * len(term.name) % 11 + 7 * frame + which)
    weights = np.stack([by_name[name][np.array(columns) % 40] for name in agreed.action.names], axis=1)
    latent = np.stack([[1.0, -0.5] if name == "left_hip" else [0.3, 0.8] for name in agreed.action.names], axis=1)
    scale, offset = (
        np.array([p[n] for n in agreed.action.names], np.float32) for p in (agreed.action.scale, agreed.action.offset)
    )

    def run(obs, z):
        raw = jnp.tanh(0.3 * (obs @ jnp.asarray(weights)) + z @ jnp.asarray(latent, jnp.float32))
        finite = jnp.where(jnp.isfinite(raw), 1.0, 0.0).min(axis=1)
        action = jnp.clip(jnp.where(finite[:, None] > 0, raw, 0.0), -1.0, 1.0)
        return action, jnp.clip(offset[None] + scale[None] * action, -0.45, 0.45), finite

    return run


def write_bundle(folder: Path, agreed: Contract | None = None) -> Path:
    """A sealed bundle for the robot, with golden vectors of two short episodes."""
    agreed = agreed or contract()
    for part in ("prompts", "golden", "robot"):
        (folder / part).mkdir(parents=True)
    (folder / layout.CONTRACT).write_text(contracts.write(agreed))
    (folder / layout.MODEL).write_text(XML)
    run = network(agreed)
    graph = to_onnx(run, {"obs": (1, agreed.width), "z": (1, 2)}, ("action", "target", "finite"))
    (folder / layout.POLICY).write_bytes(graph.SerializeToString())
    latents = {"lean": np.array([1, 1], np.float32), "rock": np.array([-1, 1], np.float32)}
    for name, z in latents.items():
        np.savez(folder / "prompts" / f"{name}.npz", z=z, provenance=json.dumps({"by": "hand"}))
    np.savez(folder / layout.GOLDEN, **golden(agreed, run, latents["lean"]))
    np.savez(folder / layout.STARTS, physics=start()[None])
    layout.seal(folder, {"robot": "biped"})
    return folder


def start() -> np.ndarray:
    """A full physics state: standing, at rest."""
    model = mujoco.MjModel.from_xml_string(XML)
    return np.concatenate([[0.0], model.qpos0, np.zeros(model.nv)])


def golden(agreed: Contract, run: Callable, z: np.ndarray, steps: int = 12) -> dict[str, np.ndarray]:
    """Recorded steps of two episodes in simulation."""
    rows: list[tuple] = []
    for _ in range(2):
        robot, assembler = Simulation(agreed, mujoco.MjModel.from_xml_string(XML), start()), Assembler(agreed)
        last = np.zeros(2)
        for step in range(steps):
            readings = robot.read().readings
            obs = assembler.observe(readings, last)
            action, target, _ = (np.asarray(part) for part in run(obs[None], z[None]))
            rows.append((readings, last, obs, z, action[0], target[0], step == 0))
            last = action[0]
            robot.send(Order("target", target[0]))
            robot.wait((step + 1) * agreed.timing.control_dt)
    names = ("readings", "last_action", "obs", "z", "action", "target", "reset")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def permuted(agreed: Contract) -> Contract:
    """The same robot with the policy's joints in the opposite order."""
    return dataclasses.replace(contract(JOINTS[::-1]), safety=agreed.safety)
