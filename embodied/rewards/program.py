"""What a checked reward text becomes: closures over numpy or jax.numpy, and the values they read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from embodied.rewards.functions import namespace
from embodied.types import InputError, Quantities, nearest

Shape = tuple[int, ...]


class Node(NamedTuple):
    """A checked part of an expression."""

    shape: Shape
    run: Callable[[Any, Mapping[str, Any]], Any]  # (numpy or jax.numpy, values by name) -> value
    constant: float | None = None


class Leaf(NamedTuple):
    """A name that is read from the transition."""

    shape: Shape
    place: str  # "before", "action" or "after"
    key: str


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A checked reward text: `nodes` maps each term, and last "reward", to what computes it."""

    nodes: Mapping[str, Node]
    needs: Mapping[str, frozenset[str]]  # term -> every term and leaf that it rests on
    leaves: Mapping[str, Leaf]

    def __call__(self, name: str, before: Quantities | None, action: Any, after: Quantities | None) -> Any:
        """The value of the term `name`, with the leading axes of the quantities.

        Numpy arrays give a float64 numpy result, JAX arrays a JAX result. What the term does not read may be
        None. Raises InputError where a quantity is missing or has another shape than declared.
        """
        needed = self.needs[name]
        places = {"before": before, "action": None if action is None else {"action": action}, "after": after}
        raw = {leaf: _read(self.leaves[leaf], places) for leaf in needed if leaf in self.leaves}
        xp = namespace(*raw.values())
        dtype = np.float64 if xp is np else jnp.result_type(float)
        values = {leaf: xp.asarray(value, dtype) for leaf, value in raw.items()}
        for leaf, value in values.items():
            shape = self.leaves[leaf].shape
            if value.shape[value.ndim - len(shape) :] != shape or value.ndim < len(shape):
                raise InputError(f"quantity '{leaf}': expected last axes {shape}, got shape {value.shape}")
        with np.errstate(all="ignore"):
            for term, node in self.nodes.items():
                if term in needed:
                    values[term] = node.run(xp, values)
            return xp.asarray(self.nodes[name].run(xp, values), dtype)


def _read(leaf: Leaf, places: Mapping[str, Any]) -> Any:
    found = places[leaf.place]
    if found is None:
        raise InputError(f"{leaf.place}: expected a value, because the reward reads '{leaf.key}'; got None")
    if leaf.key not in found:
        raise InputError(f"{leaf.place}: has no quantity '{leaf.key}'; {nearest(leaf.key, found)}")
    return found[leaf.key]
