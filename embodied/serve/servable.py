"""What can be served, and the check of an observation before it reaches a network."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from embodied.types import InputError, nearest

RESET = "reset"  # in an observation: True begins a new episode
Question = tuple[Mapping[str, Any], Any]  # (observation, carry)
Result = tuple[np.ndarray, Any] | InputError  # (actions [H, A], next carry), or why there are none


@runtime_checkable
class Servable(Protocol):
    """A policy as a server sees it. `infer` is called from one thread at a time."""

    metadata: Mapping[str, Any]  # what a client is told when it connects: texts, numbers, lists and maps of them
    schema: Mapping[str, tuple[int, ...]]  # shape of each array that an observation must have
    extras: tuple[str, ...]  # what it may have besides, such as "prompt"; handed on as it came
    batch: int  # clients that one call of `infer` may answer

    def start(self) -> Any:
        """What `infer` remembers at the start of an episode."""

    def infer(self, asked: Sequence[Question]) -> list[Result]:
        """For each client's (observation, carry): (actions [H, A], next carry), or what is wrong with an extra.

        Never more than `batch` questions at once, each of another client.
        """


def read_observation(message: Mapping[str, Any], servable: Servable) -> tuple[dict[str, Any], bool]:
    """(observation, whether an episode begins): arrays as finite float32 of the schema's shapes, extras as they came.

    Raises InputError naming the entry that is missing, unknown, or of the wrong shape, type or value.
    """
    known = (*servable.schema, *servable.extras, RESET)
    for name in message:
        if name not in known:
            raise InputError(f"observation: unknown name {name[:40]!r}; {nearest(name[:40], known)}")
    observation: dict[str, Any] = {name: message[name] for name in servable.extras if name in message}
    for name, shape in servable.schema.items():
        if name not in message:
            raise InputError(f"observation: '{name}' is missing; expected {', '.join(servable.schema)}")
        observation[name] = read_array(f"observation '{name}'", message[name], shape)
    reset = message.get(RESET, False)
    if not isinstance(reset, bool | np.bool_):
        raise InputError(f"observation: '{RESET}' must be true or false, got {type(reset).__name__}")
    return observation, bool(reset)


def read_array(owner: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The value as float32. Raises InputError naming `owner` unless it is a finite array of the given shape."""
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(f"{owner}: must be an array of shape {shape}, got {type(value).__name__}")
    if value.shape != shape:
        raise InputError(f"{owner}: must have shape {shape}, got {value.shape}")
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what float32 cannot hold becomes infinite, and is refused below
        array = np.asarray(value, np.float32)
    if not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(f"{owner}: must be finite in float32; entry {place} is not")
    return array
