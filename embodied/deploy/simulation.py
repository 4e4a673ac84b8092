"""A bundle's robot in C MuJoCo: in this process on a simulated clock, stepped while the runtime waits.

Needs `mujoco`, which nothing else in this folder does. Targets are commands of the actuators of the bundle's model: of
the actuator itself, or of the one that drives the joint. Damping switches all actuators off and brakes the joints.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from .bundle import MODEL, Bundle
from .contract import Contract, Reading, source_columns
from .errors import InputError
from .robot import Identity, Order, State


def load_model(bundle: Bundle) -> Any:
    """The bundle's MuJoCo model. Raises InputError where MuJoCo is missing or refuses it."""
    import mujoco

    try:
        return mujoco.MjModel.from_xml_string(bundle.content[MODEL].decode())
    except ValueError as error:
        raise InputError(f"{bundle.directory / MODEL}: MuJoCo refuses it ({error})") from error


class Simulation:
    """The robot of a bundle. `start` is a full physics state; None begins in the model's reference pose."""

    def __init__(
        self,
        contract: Contract,
        model: Any,
        start: np.ndarray | None = None,
        delay: Callable[[], int] = lambda: 0,  # physics steps until the order being sent takes effect
        noise: np.random.Generator | None = None,  # for the noise that the contract declares; None: none
        each: Callable[[Any], None] = lambda data: None,  # called with MjData after every physics step
    ):
        import mujoco

        self._mujoco = mujoco
        self.model = copy.copy(model)  # braking changes it
        self.data = mujoco.MjData(self.model)
        self._contract, self._delay, self._each = contract, delay, each
        self._noise, self._noise_width = noise, _noise_width(contract)
        self._actuators = [_actuator(model, contract, name) for name in contract.action.names]
        self._dofs = [int(model.joint(name).dofadr[0]) for name in contract.robot.joints]
        self._damping = self.model.dof_damping[self._dofs].copy()
        self._places = [_place(model, reading) for reading in contract.readings]
        self._orders: list[tuple[float, Order]] = []  # what is under way to the motors, oldest first
        if start is not None:
            mujoco.mj_setState(model, self.data, np.asarray(start, np.float64), mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.apply(Order("damping", np.zeros(len(self._actuators))))

    def identity(self) -> Identity:
        """What this robot is."""
        robot = self._contract.robot
        modes = robot.hardware_modes
        readings = tuple(reading.name for reading in self._contract.readings)
        return Identity(robot.name, robot.joints, readings, modes[0] if modes else "")

    def now(self) -> float:
        """Simulated seconds."""
        return float(self.data.time)

    def read(self) -> State:
        """The state now; sensors are those of this state, not of the step before."""
        self._mujoco.mj_forward(self.model, self.data)
        values = np.concatenate([getattr(self.data, field)[where] for field, where in self._places])
        if self._noise is not None:
            values = values + self._noise.uniform(-1, 1, values.shape) * self._noise_width
        return State(self.now(), values)

    def send(self, order: Order) -> None:
        """Nothing; the order reaches the motors after its delay, and those that it overtakes never do."""
        due = self.now() + self._delay() * self.model.opt.timestep
        half = self.model.opt.timestep / 2
        self._orders = [*((moment, other) for moment, other in self._orders if moment < due - half), (due, order)]
        self._arrive()

    def wait(self, until: float) -> None:
        """Nothing; steps the physics until `until`."""
        half = self.model.opt.timestep / 2
        while self.data.time < until - half:
            self._arrive()
            self._mujoco.mj_step(self.model, self.data)
            self._each(self.data)

    def _arrive(self) -> None:
        while self._orders and self._orders[0][0] <= self.now() + self.model.opt.timestep / 2:
            self.apply(self._orders.pop(0)[1])

    def apply(self, order: Order) -> None:
        """Nothing; the motors follow the order from the next physics step on."""
        limp = order.mode == "damping"
        flag = int(self._mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        flags = int(self.model.opt.disableflags)
        self.model.opt.disableflags = flags | flag if limp else flags & ~flag
        self.model.dof_damping[self._dofs] = self._damping + limp * self._contract.safety.passive_kd
        if not limp:
            self.data.ctrl[self._actuators] = order.target


def _actuator(model: Any, contract: Contract, name: str) -> int:
    """The actuator that a target commands."""
    import mujoco

    if contract.action.target == "actuator_command":
        return int(model.actuator(name).id)
    joint = model.joint(name).id
    on_joint = model.actuator_trntype == int(mujoco.mjtTrn.mjTRN_JOINT)
    driven = np.flatnonzero(on_joint & (model.actuator_trnid[:, 0] == joint))
    if len(driven) != 1:
        raise InputError(f"robot: {len(driven)} actuators drive joint '{name}', expected one")
    return int(driven[0])


def _place(model: Any, reading: Reading) -> tuple[str, slice]:
    """(field of MjData, where in it) of a reading."""
    kind, _, name = reading.name.partition("/")
    try:
        match kind:
            case "joint_position":
                start, field = int(model.joint(name).qposadr[0]), "qpos"
            case "joint_velocity":
                start, field = int(model.joint(name).dofadr[0]), "qvel"
            case "activation":
                start, field = int(model.actuator(name).actadr[0]), "act"
            case _:
                start, field = int(model.sensor(name).adr[0]), "sensordata"
    except KeyError as error:
        raise InputError(f"robot: the model has no '{reading.name}'") from error
    return field, slice(start, start + reading.size)


def _noise_width(contract: Contract) -> np.ndarray:
    """Half width of the noise of each reading [R], from the terms that pass it on as it is."""
    width = np.zeros(sum(reading.size for reading in contract.readings))
    for term in contract.observation.terms:
        if term.function == "identity" and term.noise:
            width[source_columns(contract, term)] = term.noise
    return width
