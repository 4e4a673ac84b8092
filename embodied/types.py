"""The records that every floor shares: data, prompts, and the contracts of agents, sources and worlds.

Axes in annotations: B batch, T time, E parallel worlds, H control steps held per decision, A action,
P physics vector, D latent, N samples for a closed-form solve.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Key, PyTree, UInt8

from embodied.deploy.errors import InputError as InputError  # defined where nothing else is needed
from embodied.deploy.errors import nearest as nearest

Params = PyTree
State = PyTree
Carry = PyTree
SourceState = PyTree
# name -> array: "state" is what actors read, "privileged" what only training sees besides; or "pixels" for both, uint8
Obs = Mapping[str, Any]
Quantities = Mapping[str, Any]  # name -> array, in SI units; what rewards are written in
Metrics = Mapping[str, Any]  # "part/name" -> scalar
RandomKey = Key[Array, ""]


@no_type_check
@struct.dataclass
class Chain:
    """C transitions in a row, the first of them the batch's own."""

    action: Float[Array, "B C A"]
    next_obs: Obs  # leaves [B, C, ...]
    reward: Float[Array, "B C"]  # [B, C, K] for an agent of K channels
    discount: Float[Array, "B C"]  # 0 where the world terminated, which ends the chain
    inside: Float[Array, "B C"]  # 1 where the transition is part of the episode; 0 behind its end, the last one again


@no_type_check
@struct.dataclass
class Batch:
    """Transitions; in rollouts [B, T] for [B]. `discount` is 0 where the world terminated; time-outs keep 1."""

    obs: Obs  # leaves [B, ...]
    action: Float[Array, "B A"]
    next_obs: Obs  # leaves [B, ...]
    reward: Float[Array, " B"]  # zeros for reward-free data; [B, C] for an agent of C channels
    discount: Float[Array, " B"]
    latent: Float[Array, "B D"] | None = None  # what the actor was told; or, of stored data, is worth training on
    future: Obs | None = None  # leaves [B, ...]: a later moment of the same episode, where the agent needs one
    chain: Chain | None = None  # what follows each transition, where the agent needs it
    last: Bool[Array, "B T"] | None = None  # in rollouts: an episode ends here, for whatever reason


@no_type_check
@struct.dataclass
class Timestep:
    """The state of E worlds after a decision. Rewards are not in it: a task computes them from quantities."""

    physics: Float[Array, "E P"]  # full physics vector; all that is needed to continue, branch or relabel
    obs: Obs  # leaves [E, ...]
    quantities: Quantities  # leaves [E, ...]: named quantities now
    path: Quantities  # leaves [E, H, ...]: the same at each control step of the last decision
    discount: Float[Array, " E"]  # 0 = terminated
    last: Bool[Array, " E"]  # terminated or timed out


def obs_type(name: str) -> type:
    """The type of the numbers of observations of this name."""
    return np.uint8 if name == "pixels" else np.float32


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an agent must know of a world: shapes, and the statistics that standardise observations."""

    obs: Mapping[str, tuple[int, ...]]  # name -> shape of one observation
    action: int  # dimensions; every action component lives in [-1, 1]
    mean: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)  # per obs component
    std: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # of the state: its columns, [a, b)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the observations that critics and representations read."""
        return tuple(name for name in (*self.acted_on, "privileged") if name in self.obs)

    @property
    def acted_on(self) -> tuple[str, ...]:
        """Names of the observations that actors read: pixels where the world is seen in them, the state elsewhere."""
        return ("pixels",) if "pixels" in self.obs else ("state",)

    def example(self, batch: int = 2) -> Batch:
        """A zero-filled batch of the right shapes, for `Agent.init` and for tracing."""
        obs = {name: jnp.zeros((batch, *shape), obs_type(name)) for name, shape in self.obs.items()}
        return Batch(obs, jnp.zeros((batch, self.action)), obs, jnp.zeros(batch), jnp.ones(batch))


class Quantity(NamedTuple):
    """Declaration of one named quantity of a world."""

    shape: tuple[int, ...]  # () for a scalar
    unit: str  # "m", "m/s", "1", ...
    about: str  # one line for `embodied list`


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What is fixed about a world."""

    name: str
    obs: Mapping[str, tuple[int, ...]]
    action: int  # dimensions, each in [-1, 1]
    control_dt: float  # seconds per control step
    hold: int  # control steps per decision: an action is held that long
    episode_length: int  # control steps per episode
    quantities: Mapping[str, Quantity]
    physics: int  # length of the physics vector
    jittable: bool  # reset and step may be traced
    lengths: tuple[int, ...] = ()  # of physics vectors that `Env.complete` takes; () = `physics` alone
    parts: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # of the state: columns [a, b)

    @property
    def decisions(self) -> int:
        """Decisions per episode."""
        return self.episode_length // self.hold

    def takes(self, length: int) -> bool:
        """Whether physics vectors of that length are states of this world."""
        return length in (self.lengths or (self.physics,))


class Trial(NamedTuple):
    """How a world judges one of its tasks, where the sum of rewards from `Env.reset` on is not its measure."""

    start: Callable[[RandomKey, int], Timestep]  # so many worlds at the start of an episode of the task
    # path of episodes, leaves [E, S, ...] -> bool [E, S]: success where it ever is; None: judged by its return
    met: Callable[[Quantities], Any] | None = None


class Env(abc.ABC):
    """E worlds stepped together, as pure functions of their physics vectors. Abstract or final."""

    spec: EnvSpec
    tasks: Mapping[str, Any]  # name -> embodied.rewards.Task
    trials: Mapping[str, Trial] = MappingProxyType({})  # name of a task -> how it is judged, where the world says so
    eye: str = ""  # the camera that shows what an agent sees; "" is the world's own, which shows people the same

    @abc.abstractmethod
    def reset(self, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode."""

    def trial(self, task: Any) -> Trial | None:
        """How this world judges a task of its own; None for other rewards, and where returns from `reset` do."""
        return next((self.trials.get(name) for name, own in self.tasks.items() if own is task), None)

    def begin(self, task: Any, key: RandomKey, count: int) -> Timestep:
        """`count` worlds at the start of an episode of a task; of any, where the task is None or has no own start."""
        trial = self.trial(task)
        return trial.start(key, count) if trial else self.reset(key, count)

    @abc.abstractmethod
    def reset_to(self, physics: Float[Any, "E P"]) -> Timestep:
        """Worlds placed in the given physics states (time included)."""

    @abc.abstractmethod
    def step(self, ts: Timestep, action: Float[Any, "E A"]) -> Timestep:
        """The worlds after holding `action` for `spec.hold` control steps."""

    @abc.abstractmethod
    def observe(self, physics: Float[Any, "E P"]) -> tuple[Obs, Quantities]:
        """Observations and named quantities of stored physics states; used to relabel and to set goals."""

    def complete(self, physics: Float[Any, "E P"]) -> Float[Any, "E Q"]:
        """Physics states in any length that the world takes, as vectors of `spec.physics`; InputError for others."""
        if physics.shape[-1] != self.spec.physics:
            raise InputError(f"physics: must have {self.spec.physics} numbers, got {physics.shape[-1]}")
        return physics

    def render(self, physics: Float[np.ndarray, " P"], camera: str, size: int) -> UInt8[np.ndarray, "H W 3"]:
        """An image of one physics state. Raises RuntimeError naming the missing library where none can be made."""
        raise RuntimeError(f"world '{self.spec.name}' has no renderer in this form; use its host form")


@no_type_check
@struct.dataclass
class Reward:
    """Do what scores high: next observations with their relabelled rewards. See `embodied.prompts` for variants."""

    obs: Obs  # leaves [N, ...]
    reward: Float[Array, " N"]
    inference: str = struct.field(pytree_node=False, default="plain")  # "plain", "ridge", "softmax" or "auto"
    ridge: float = struct.field(pytree_node=False, default=1e-3)  # relative to the mean feature variance
    temperature: float = struct.field(pytree_node=False, default=10.0)  # over the range of the reward


@no_type_check
@struct.dataclass
class Goal:
    """Be in this observation."""

    obs: Obs  # leaves [...]: one observation


@no_type_check
@struct.dataclass
class Motion:
    """Pass through these observations; gives one latent per step."""

    obs: Obs  # leaves [T, ...]


@no_type_check
@struct.dataclass
class Language:
    """Do what a sentence says."""

    tokens: Any  # [L]
    mask: Any  # [L]


@no_type_check
@struct.dataclass
class Demos:
    """Do what these transitions do."""

    obs: Obs  # leaves [N, ...]
    action: Float[Array, "N A"]


@struct.dataclass
class Prior:
    """A latent drawn as in training; used for exploration."""


Prompt = Reward | Goal | Motion | Language | Demos | Prior


class Needs(NamedTuple):
    """What the batches of an agent must hold besides transitions: nothing, unless it says so."""

    future: float | None = None  # a moment k decisions ahead, P(k) ~ future^k from k = 1 to the end of the episode
    chain: int = 0  # so many transitions in a row
    channels: tuple[str, ...] | None = None  # rollouts of the agent's own, with the rewards of these tasks side by side
    replay: bool = False  # of these rollouts: transitions drawn from the latest ones, not each of them whole and once


TRANSITIONS = Needs()  # nothing else


class Agent(NamedTuple):
    """An algorithm as five pure functions over one pytree of state; `make(config, spec)` closes over the rest.

    `act` is deterministic when its key is None and explores otherwise; observations are [E, ...], `z` [D] or [E, D].
    """

    init: Callable[[RandomKey, Batch], State]  # State has .params; no key and no Python counter inside
    update: Callable[[State, Batch, RandomKey], tuple[State, Metrics]]
    prompt: Callable[[Params, Prompt, RandomKey], Any]  # raises TypeError listing the prompts it takes
    carry: Callable[[int], Carry]  # what `act` remembers for E worlds; () when memoryless
    act: Callable[[Params, Obs, Any, Carry, RandomKey | None], tuple[Array, Carry]]
    prompts: tuple[type, ...]  # the prompt kinds that `prompt` takes
    # (params, Reward prompt, its z, obs) -> [E]: predicted mean reward per decision from obs on; None without a value
    value: Callable[[Params, Reward, Any, Obs], Array] | None = None
    needs: Needs = TRANSITIONS  # the source must be made for them
    drawn: bool = False  # the policy is a distribution: without a key it does one thing, and is scored with keys
    features: Callable[[Params, Obs], Array] | None = None  # -> [E, D], observations as its representation has them
    tolerance: float = 1e-5  # of actions without a key, between runtimes; more for an agent that searches for them
    # (params, obs, actions [E, T, A]) -> [E, T // k, D]: features foreseen every k decisions; None without a model
    imagine: Callable[[Params, Obs, Array], Array] | None = None


class Source(NamedTuple):
    """Anything that yields batches inside a scan.

    `data` is read-only and an argument of the compiled chunk (never donated, never a constant); what changes lives
    in the source state. `refill` runs on the host between chunks: it may step a simulator with the current
    parameters and returns the new source state.
    """

    data: PyTree
    init: Callable[[RandomKey], SourceState]
    next: Callable[[PyTree, SourceState, RandomKey], tuple[SourceState, Batch]]
    refill: Callable[[SourceState, Params, int, RandomKey], SourceState] | None = None  # int: updates done so far


@no_type_check
@struct.dataclass
class Run:
    """Everything that training carries from one update to the next; this is the checkpoint."""

    agent: State
    source: SourceState
    step: jax.Array  # int32 [], updates done
