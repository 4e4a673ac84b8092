"""Tasks: what a world is asked to do, as named reward pieces over (before, action, after).

The same pieces serve stepping, relabelling stored states for a reward prompt, and reports of what each term
gave.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from embodied.rewards.expression import parse
from embodied.types import InputError, Quantities, Quantity

EXTREMES = (0.0, 1e6, -1e6)
ACTIVE = 1e-3  # a term that stays below this size does not count as active
DOMINANT = 0.95  # share of the variance of the reward


class RewardPiece(NamedTuple):
    """One named term of a transition; weight 0 reports a term that is part of another one."""

    name: str
    fn: Callable[[Quantities | None, Any, Quantities | None], Any]  # (before, action, after) -> [...]
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """A reward: the weighted sum of its pieces."""

    name: str
    text: str
    about: str
    pieces: tuple[RewardPiece, ...]
    previous: tuple[str, ...] = ()  # what the reward reads of the state before the action: "previous_NAME", ...

    @classmethod
    def of(
        cls,
        name: str,
        text: str,
        quantities: Mapping[str, Quantity],
        about: str = "",
        action: int | None = None,
    ) -> "Task":
        """The task that a reward text describes, in the language of `embodied.rewards.expression`.

        `quantities` declares what the text may name: each as it is after the action, and with `previous_` in
        front as it was before. `action` is the number of action components; give it where the text may read
        the action. The pieces are every named term that reads a quantity, with weight 0, and last "reward".
        Raises InputError, with the column and the nearest valid choice, for a text not in the language.
        """
        program = parse(text, quantities, action)
        named = [term for term in program.nodes if program.needs[term] & program.leaves.keys()]
        pieces = (RewardPiece(t, functools.partial(program, t), float(t == "reward")) for t in named)
        read = (program.leaves[leaf] for leaf in program.needs["reward"] & program.leaves.keys())
        previous = sorted(f"previous_{leaf.key}" for leaf in read if leaf.place == "before")
        return cls(name, text, about, tuple(pieces), tuple(previous))

    def __call__(self, before: Quantities | None, action: Any, after: Quantities | None) -> Float[Any, "..."]:
        """The reward of transitions, with the leading axes of the quantities.

        float64 for numpy arrays, a JAX array for JAX arrays. What the text does not read may be None.
        """
        weighted = (p.fn(before, action, after) * p.weight for p in self.pieces if p.weight != 0)
        return functools.reduce(lambda x, y: x + y, weighted)

    def terms(self, before: Quantities | None, action: Any, after: Quantities | None) -> dict[str, Any]:
        """The unweighted value of every piece; of a reward text, its named terms and last "reward"."""
        return {piece.name: piece.fn(before, action, after) for piece in self.pieces}


def dry_run(task: Task, after: Quantities, action: Any = None, before: Quantities | None = None) -> list[str]:
    """What looks wrong with a task on a sample of transitions ([N, ...]), one warning per line; often empty.

    Warns of a constant reward, of terms that are constant, never active or explain nearly all of the reward,
    and of values or gradients that are not finite. `before` defaults to `after`: a world that stands still.
    Raises InputError where a term is not finite on the sample.
    """
    before = after if before is None else before
    values = {name: np.asarray(v, np.float64) for name, v in task.terms(before, action, after).items()}
    for name, value in values.items():
        bad = np.count_nonzero(~np.isfinite(value))
        if bad:
            raise InputError(f"task '{task.name}': {bad} of {value.size} values of '{name}' are not finite")
    reward = np.asarray(task(before, action, after), np.float64)
    terms = {name: v for name, v in values.items() if name != "reward" and v.shape == reward.shape}
    return [*_smells(reward, terms), *_breaks(task, before, action, after)]


def _smells(reward: np.ndarray, terms: dict[str, np.ndarray]) -> list[str]:
    found = []
    if is_constant(reward):
        found.append(f"reward is constant on the sample ({reward.mean():.4g})")
    for name, value in terms.items():
        if np.abs(value).max() < ACTIVE:
            found.append(f"term '{name}' never activates on the sample (at most {np.abs(value).max():.2g})")
        elif is_constant(value):
            found.append(f"term '{name}' is constant on the sample ({value.mean():.4g})")
        elif len(terms) > 1 and not is_constant(reward):
            share = np.corrcoef(value.ravel(), reward.ravel())[0, 1] ** 2
            if share > DOMINANT:
                found.append(f"term '{name}' alone explains {share:.0%} of the variance of the reward")
    return found


def _breaks(task: Task, before: Quantities, action: Any, after: Quantities) -> list[str]:
    """Where the reward or its gradient is not finite: on the sample, or with all quantities at an extreme."""
    evaluate = jax.jit(jax.value_and_grad(lambda transition: jnp.sum(task(*transition))))
    sample = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (before, action, after))
    found = [] if _all_finite(evaluate(sample)[1]) else ["gradient is not finite on the sample"]
    for extreme in EXTREMES:
        filled = jax.tree.map(lambda leaf, value=extreme: jnp.full_like(leaf[:1], value), sample)
        if not _all_finite(evaluate(filled)):
            found.append(f"reward or its gradient is not finite where every quantity is {extreme:g}")
    return found


def is_constant(value: np.ndarray) -> bool:
    """Whether values [N] differ by no more than rounding leaves of a constant; their size does not matter."""
    return float(np.ptp(value)) <= 1e-6 * float(np.abs(value).max())


def _all_finite(tree: Any) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))
