"""What values are learnt as: squashed numbers, two-hot classes, returns along a path, and how widely returns spread.

    symlog(x) = sign(x) ln(1 + |x|),      symexp(y) = sign(y) (e^|y| - 1)

A two-hot target puts a number y between two neighbouring bins, b_i <= y <= b_i+1, as a weight on either of them,
(b_i+1 - y) / (b_i+1 - b_i) on the first and the rest on the second, so that a cross-entropy learns numbers of any size.
Bins are evenly spaced numbers g, and stand for one of two things:

    "symlog"    b = g:            encode symlog(y),    decode symexp(sum p g)
    "symexp"    b = symexp(g):    encode y,            decode sum p symexp(g)

The second learns means. The first, which is finer near 0, learns the mean of symlog(y), so that what it says of widely
spread numbers is nearer to 0 than their mean. DreamerV3, Hafner et al., arXiv 2301.04104 (both, and the scale of
returns); TD-MPC2, Hansen et al., arXiv 2310.16828 (the first); MR.Q, Fujimoto et al., arXiv 2501.16142 (the second).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Space = Literal["symlog", "symexp"]


def symlog(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """sign(x) ln(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(y: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """sign(y) (e^|y| - 1), the inverse of `symlog`."""
    return jnp.sign(y) * jnp.expm1(jnp.abs(y))


class Bins(NamedTuple):
    """M evenly spaced numbers in [-limit, limit], and what they stand for."""

    number: int  # M, at least 2
    limit: float  # of symlog(y); numbers beyond symexp(limit) are taken for that
    space: Space

    @property
    def grid(self) -> np.ndarray:
        """g [M]."""
        return np.linspace(-self.limit, self.limit, self.number)

    @property
    def centres(self) -> np.ndarray:
        """The bins b [M], float32."""
        grid = self.grid
        return (grid if self.space == "symlog" else np.sign(grid) * np.expm1(np.abs(grid))).astype(np.float32)


def two_hot(bins: Bins, y: Float[Array, "*B"]) -> Float[Array, "*B M"]:
    """Weights of the two bins around each number, which is first clipped to the range of the bins."""
    centres = jnp.asarray(bins.centres)
    place = jnp.clip(symlog(y), -bins.limit, bins.limit)  # on the grid, in either space
    step = 2 * bins.limit / (bins.number - 1)
    low = jnp.clip(jnp.floor((place + bins.limit) / step), 0, bins.number - 2).astype(jnp.int32)
    value = place if bins.space == "symlog" else jnp.asarray(y)
    share = jnp.clip((value - centres[low]) / (centres[low + 1] - centres[low]), 0.0, 1.0)
    first, second = jax.nn.one_hot(low, bins.number), jax.nn.one_hot(low + 1, bins.number)
    return first + share[..., None] * (second - first)


def expected(bins: Bins, logits: Float[Array, "*B M"]) -> Float[Array, "*B"]:
    """The number that a distribution over the bins stands for."""
    number = jax.nn.softmax(logits, -1) @ jnp.asarray(bins.centres)
    return symexp(number) if bins.space == "symlog" else number


def two_hot_loss(bins: Bins, logits: Float[Array, "*B M"], y: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The cross-entropy of each distribution with the two-hot target of its number."""
    return -(two_hot(bins, y) * jax.nn.log_softmax(logits, -1)).sum(-1)


def lambda_returns(
    reward: Float[Array, "T B"], discount: Float[Array, "T B"], value: Float[Array, "T B"], trace: float
) -> Float[Array, "T B"]:
    """G_t = r_t + discount_t ((1 - trace) v_t + trace G_t+1), where v_t is the value of the state that t leads to.

    Behind the last is its value. With trace 1 the first is a return of T steps, with trace 0 one of a single step.
    """

    def back(ahead: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, discount, value = now
        here = reward + discount * ((1 - trace) * value + trace * ahead)
        return here, here

    return jax.lax.scan(back, value[-1], (reward, discount, value), reverse=True)[1]


def return_scale(scale: Float[Array, ""], value: Float[Array, " N"], rate: float) -> Float[Array, ""]:
    """(1 - rate) scale + rate max(1, P95 - P5 of the values): small returns are not blown up."""
    low, high = jnp.quantile(value, jnp.array([0.05, 0.95]))
    return scale + rate * (jnp.maximum(1.0, high - low) - scale)
