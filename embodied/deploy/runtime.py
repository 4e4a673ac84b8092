"""The loop on the robot: read, assemble, infer, check, command; prompts may be switched while it runs."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from .bundle import Bundle, check_latent
from .contract import columns
from .network import Network
from .observation import Assembler
from .robot import Order, RobotInterface, State, check_identity
from .safety import Proposal, Safety


@dataclasses.dataclass(frozen=True)
class Tick:
    """What happened at one control tick."""

    state: State
    obs: np.ndarray  # [N], as the graph gets it
    action: np.ndarray  # [A]
    order: Order
    seconds: float  # of the inference
    reason: str  # why the runtime has stopped, or ""


class Latent:
    """The latent of each tick: a prompt, a motion that is walked along, and the way from one to the next."""

    def __init__(self, z: np.ndarray, blend_ticks: int):
        self._ticks, self._blend = 0, blend_ticks
        self._motion = np.atleast_2d(z)
        self._from: np.ndarray | None = None
        self._last = self._motion[0]

    def switch(self, z: np.ndarray) -> None:
        """Nothing; from the next tick on the latent moves to `z`, on the sphere."""
        self._from, self._motion, self._ticks = self._last, np.atleast_2d(z), 0

    def next(self) -> np.ndarray:
        """The latent [D] of this tick."""
        wanted = self._motion[min(self._ticks, len(self._motion) - 1)]
        self._ticks += 1
        share = self._ticks / self._blend if self._blend else 1.0
        self._last = wanted if self._from is None or share >= 1 else between(self._from, wanted, share)
        return self._last


def between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """The point at `share` of the way from one latent to another on their sphere; opposite ones meet at `end`."""
    norm = np.linalg.norm(end)
    if not norm:
        return end
    point = (1 - share) * start + share * end
    length = np.linalg.norm(point)
    return end if length < 1e-6 * norm else (point * (norm / length)).astype(np.float32)


class Runtime:
    """A bundle on a robot. Raises InputError where the robot is not the bundle's."""

    def __init__(
        self,
        bundle: Bundle,
        robot: RobotInterface,
        prompt: str | np.ndarray,
        clock: Callable[[], float] = time.perf_counter,  # what inferences are timed with
    ):
        check_identity(robot.identity(), bundle.contract)
        contract = bundle.contract
        self.bundle, self.robot = bundle, robot
        self._clock = clock
        self._network, self._assembler = Network(bundle), Assembler(contract)
        self._control_dt = contract.timing.control_dt
        self._rescaled = contract.action.last_action == "clipped"
        self._offset = np.array([contract.action.offset[name] for name in contract.action.names])
        self.safety = Safety(contract, self._pose(robot.read()))
        self._last_action = np.zeros(len(self._offset))
        self._latent = Latent(self._z(prompt), round(contract.safety.blend / self._control_dt))
        self._network(np.zeros(contract.width), self._latent.next())  # the first inference takes longest
        self._latent = Latent(self._z(prompt), round(contract.safety.blend / self._control_dt))

    def switch(self, prompt: str | np.ndarray) -> None:
        """Nothing; does what another prompt says from the next tick on. Raises InputError for one that does not fit."""
        self._latent.switch(self._z(prompt))

    def rise(self, seconds: float) -> str:
        """Why it stopped by itself, or ""; moves from where the joints are to the targets of action 0, evenly.

        What a robot does between lying limp and its policy; it may lie tilted, so only old states stop it.
        """
        ticks = round(seconds / self._control_dt)
        start, begin = self._pose(self.robot.read()), self.robot.now()
        for index in range(ticks):
            self.robot.wait(begin + index * self._control_dt)
            self.safety.check_age(self.robot.read(), self.robot.now())
            share = (index + 1) / ticks
            target = (1 - share) * start + share * self._offset
            self.robot.send(self.safety.order(Proposal(target, True, 0.0)))
            if self.safety.reason:
                break
        self.robot.wait(begin + ticks * self._control_dt)
        return self.safety.reason

    def step(self) -> Tick:
        """One control tick: its order has been sent."""
        state = self.robot.read()
        self.safety.check(state, self.robot.now())
        obs = self._assembler.observe(state.readings, self._last_action)
        start = self._clock()
        action, target, finite = self._network(obs, self._latent.next())
        seconds = self._clock() - start
        order = self.safety.order(Proposal(target, finite and bool(np.isfinite(obs).all()), seconds))
        self.robot.send(order)
        self._last_action = action if self._rescaled else order.target
        return Tick(state, obs, action, order, seconds, self.safety.reason)

    def run(self, seconds: float, each: Callable[[Tick], None] = lambda tick: None) -> str:
        """Why it stopped by itself, or "" after `seconds` on the robot's clock; damps the robot at the end."""
        ticks = round(seconds / self._control_dt)
        start = self.robot.now()
        try:
            for index in range(ticks):
                self.robot.wait(start + index * self._control_dt)
                each(self.step())
                if self.safety.reason:
                    break
        finally:
            self.robot.send(Order("damping", np.zeros(len(self._last_action))))
        return self.safety.reason

    def _pose(self, state: State) -> np.ndarray:
        """Targets [A] that keep the joints where they are; those of action 0 where targets are no positions."""
        contract = self.bundle.contract
        places, names = columns(contract), [f"joint_position/{name}" for name in contract.action.names]
        if contract.action.target != "joint_position" or not all(name in places for name in names):
            return self._offset
        return np.array([state.readings[places[name]][0] for name in names])

    def _z(self, prompt: str | np.ndarray) -> np.ndarray:
        if isinstance(prompt, str):
            return self.bundle.prompt(prompt)
        z = np.asarray(prompt, np.float32)
        check_latent(self.bundle.contract, z, "prompt")
        return z
