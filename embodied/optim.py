"""Optimisers over named parameter groups, and the moving averages of target networks."""

from collections.abc import Mapping

import jax
import optax
from jaxtyping import Array, PyTree


def by_group(optimizers: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One optimiser for each top-level entry of the parameter dictionary."""
    return optax.multi_transform(
        optimizers,
        lambda params: {name: jax.tree.map(lambda _, name=name: name, group) for name, group in params.items()},
    )


def adam_by_group(rates: Mapping[str, float | Array]) -> optax.GradientTransformation:
    """Adam with one learning rate per top-level entry of the parameter dictionary (betas 0.9, 0.999, eps 1e-8)."""
    return by_group({name: optax.adam(rate) for name, rate in rates.items()})


def soft_update(target: PyTree, online: PyTree, tau: float | Array) -> PyTree:
    """(1 - tau) target + tau online, leaf by leaf."""
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)


def pick(params: Mapping[str, PyTree], names: tuple[str, ...]) -> dict[str, PyTree]:
    """The named top-level groups of a parameter dictionary."""
    return {name: params[name] for name in names}
