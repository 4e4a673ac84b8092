"""From the robot's readings to the policy's input vector, tick by tick, as the contract says."""

from collections import deque
from types import ModuleType
from typing import Any

import numpy as np

from .contract import LAST_ACTION, Contract, Function, Term, source_columns, term_width


def apply(function: Function, values: Any, numpy: ModuleType = np) -> Any:
    """A term's function of its readings [..., S] -> [..., W]; `numpy` may be jax.numpy."""
    if function == "arcsinh":
        return numpy.arcsinh(values)
    if function == "log1p":
        return numpy.log1p(values)
    if function == "projected_gravity":
        return projected_gravity(values, numpy)
    return values


def projected_gravity(quaternion: Any, numpy: ModuleType = np) -> Any:
    """R(q)^T (0, 0, -1): the direction of gravity in the body frame [..., 3] of quaternions w x y z [..., 4]."""
    w, x, y, z = numpy.moveaxis(quaternion, -1, 0)
    return -numpy.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1)


def scaled(term: Term, values: Any, numpy: ModuleType = np) -> Any:
    """A frame of a term [..., W] as the networks get it."""
    scale = np.broadcast_to(np.array(term.scale or (1.0,)), values.shape)
    if term.clip is None:
        return values * scale if term.scale else values
    if term.clip_before_scale:
        return scale * numpy.clip(values, -term.clip, term.clip)
    return numpy.clip(scale * values, -term.clip, term.clip)


class Assembler:
    """The observation of one robot. Call `reset`, then `observe` once per tick."""

    def __init__(self, contract: Contract):
        self._contract = contract
        self._terms = contract.observation.terms
        self._columns = [source_columns(contract, term) for term in self._terms]
        self._offsets = [
            np.array(term.offset or np.zeros(len(c))) for term, c in zip(self._terms, self._columns, strict=True)
        ]
        # One frame more than the history, for terms that do not see the current one.
        self._frames: list[deque[np.ndarray]] = [deque(maxlen=term.history.length + 1) for term in self._terms]

    def reset(self) -> None:
        """Nothing; the next tick is the first of an episode."""
        for frames in self._frames:
            frames.clear()

    def observe(self, readings: np.ndarray, last_action: np.ndarray) -> np.ndarray:
        """The policy's input [N] in float32, unscaled; `last_action` [A] is what was held while this was measured."""
        parts = zip(self._terms, self._frames, self._columns, self._offsets, strict=True)
        for term, frames, columns, offset in parts:
            now = last_action if term.source == (LAST_ACTION,) else apply(term.function, readings[columns] - offset)
            if not frames:
                before = np.zeros_like(now) if term.history.reset_fill == "zeros" else now
                frames.extend([before] * term.history.length)
            frames.appendleft(now)
        chosen = [self._chosen(index) for index in range(len(self._terms))]  # each [L, W]
        if self._contract.observation.layout == "per_time":
            return np.concatenate(chosen, axis=1).ravel().astype(np.float32)
        return np.concatenate([frames.ravel() for frames in chosen]).astype(np.float32)

    def _chosen(self, index: int) -> np.ndarray:
        history = self._terms[index].history
        first = 0 if history.includes_current else 1
        frames = list(self._frames[index])[first : first + history.length]
        return np.array(frames if history.order == "newest_first" else frames[::-1])


def scaling(contract: Contract) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(low, scale, high), each [N]: the graph computes scale * clip(obs, low, high) of the vector of `Assembler`."""
    per_term = []
    for term in contract.observation.terms:
        width = term_width(contract, term)
        scale = np.broadcast_to(np.array(term.scale or (1.0,)), (width,))
        bound = np.full(width, np.inf if term.clip is None else term.clip)
        # Clipping after scaling is clipping before it at other bounds.
        bound = bound if term.clip_before_scale else bound / np.where(scale == 0, 1, np.abs(scale))
        per_term.append(np.tile(np.stack([-bound, scale, bound]), (term.history.length, 1, 1)))  # [L, 3, W]
    if contract.observation.layout == "per_time":
        joined = np.concatenate(per_term, axis=2)  # [L, 3, sum W]
        return tuple(joined[:, i].ravel() for i in range(3))  # type: ignore[return-value]
    return tuple(np.concatenate([p[:, i].ravel() for p in per_term]) for i in range(3))  # type: ignore[return-value]
