"""The functions of the reward language, written once for numpy and jax.numpy.

`FUNCTIONS` declares the name, parameters and shape rule of each; `expression.py` checks calls against it.
Every function is finite, with finite gradients, on finite input: divisors are kept away from 0, roots take
the positive part, exponents are capped. What is not a number stays so.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from embodied.types import InputError, nearest

SMALLEST_DIVISOR = 1e-6
LARGEST_EXPONENT = 20.0
SMALLEST_MARGIN = 1e-6
SMALLEST_SQUARE = 1e-30  # well above the smallest float32, so that no hardware rounds its root to 0

# Fall-off y(d) at distance d >= 0 in margins, as in dm_control: kind -> (scale of d from y(1), y(scaled d)).
# Written with bounded intermediate values, so that gradients stay finite far away from the bounds.
SIGMOIDS: dict[str, tuple[Callable[[float], float], Callable[[Any, Any], Any]]] = {
    "gaussian": (lambda v: math.sqrt(-2 * math.log(v)), lambda xp, d: xp.exp(-0.5 * d * d)),
    "hyperbolic": (lambda v: math.acosh(1 / v), lambda xp, d: 2 * xp.exp(-d) / (1 + xp.exp(-2 * d))),
    "long_tail": (lambda v: math.sqrt(1 / v - 1), lambda xp, d: 1 / (d * d + 1)),
    "reciprocal": (lambda v: 1 / v - 1, lambda xp, d: 1 / (d + 1)),
    "cosine": (
        lambda v: math.acos(2 * v - 1) / math.pi,
        lambda xp, d: (1 + xp.cos(math.pi * xp.minimum(d, 1.0))) / 2,
    ),
    "linear": (lambda v: 1 - v, lambda xp, d: 1 - xp.minimum(d, 1.0)),
    "quadratic": (lambda v: math.sqrt(1 - v), lambda xp, d: 1 - xp.minimum(d, 1.0) ** 2),
    "tanh_squared": (lambda v: math.atanh(math.sqrt(1 - v)), lambda xp, d: 1 - xp.tanh(d) ** 2),
}
REACH_ZERO = ("cosine", "linear", "quadratic")  # kinds that may be exactly 0 at the margin


def namespace(*values: Any) -> Any:
    """`jax.numpy` when any value is a JAX array or tracer, else `numpy`."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def tolerance(
    x: Any,
    lower: float = -math.inf,
    upper: float = math.inf,
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Float[Any, "..."]:
    """1 where `lower <= x <= upper`, falling to `value_at_margin` at distance `margin`; shape of `x`.

    The semantics of `dm_control.utils.rewards.tolerance`; with margin 0 the value outside is 0.
    Raises InputError for bounds in the wrong order, a bad margin, kind or value.
    """
    _check_tolerance((), lower, upper, margin, sigmoid, value_at_margin)
    xp = namespace(x)
    if margin == 0:
        return xp.where((x >= lower) & (x <= upper), 1.0, 0.0)
    scale, falloff = SIGMOIDS[sigmoid]
    distance = xp.maximum(xp.maximum(lower - x, x - upper), 0.0) / margin
    return falloff(xp, distance * scale(value_at_margin))


def divide(xp: Any, x: Any, y: Any) -> Any:
    """x / y with |y| kept at or above `SMALLEST_DIVISOR`."""
    size = xp.abs(y)
    guarded = xp.where(size < SMALLEST_DIVISOR, xp.where(y < 0, -SMALLEST_DIVISOR, SMALLEST_DIVISOR), y)
    return x / guarded


def root(xp: Any, x: Any) -> Any:
    """Square root of the positive part; its gradient at and below 0 is 0."""
    vanishes = x < SMALLEST_SQUARE
    return xp.where(vanishes, 0.0, xp.sqrt(xp.where(vanishes, 1.0, x)))


def norm(xp: Any, x: Any) -> Any:
    """Euclidean length over the last axis, with gradient 0 at the origin."""
    return root(xp, xp.sum(x * x, axis=-1))


class Parameter(NamedTuple):
    """One parameter of a function: an expression, a number, an index or an enumerated name."""

    name: str
    kind: Literal["value", "constant", "index", "choice"] = "value"
    default: Any = None  # None: must be given
    alias: str = ""


class Function(NamedTuple):
    """How a function may be called and what it computes; `value` parameters come first."""

    parameters: tuple[Parameter, ...]
    apply: Callable[..., Any]  # (numpy or jax.numpy, *arguments)
    reduces: bool = False  # over the last axis; otherwise element by element
    repeats: bool = False  # the last parameter may be given any number of times
    check: Callable[..., None] | None = None  # (shape of the first argument, *constants); raises ValueError


def _check_bounds(shape: tuple[int, ...], lower: float, upper: float) -> None:
    if not lower <= upper or lower == math.inf or upper == -math.inf:
        raise InputError(f"lower bound {lower:g} must be at or below upper bound {upper:g}")
    if lower == -math.inf and upper == math.inf:
        raise InputError("needs a finite lower or upper bound")


def _check_tolerance(
    shape: tuple[int, ...], lower: float, upper: float, margin: float, sigmoid: str, value: float
) -> None:
    _check_bounds(shape, lower, upper)
    if margin != 0 and not SMALLEST_MARGIN <= margin < math.inf:
        raise InputError(f"margin must be 0 or from {SMALLEST_MARGIN:g} up, got {margin:g}")
    if sigmoid not in SIGMOIDS:
        raise InputError(f"unknown sigmoid '{sigmoid}'; {nearest(sigmoid, SIGMOIDS)}")
    if not (0 <= value < 1 if sigmoid in REACH_ZERO else 0 < value < 1):
        raise InputError(f"value_at_margin of {sigmoid} must lie between 0 and 1, got {value:g}")


def _check_component(shape: tuple[int, ...], index: int) -> None:
    if index >= shape[-1]:
        raise InputError(f"index must be from 0 to {shape[-1] - 1}, got {index}")


def _check_distance(shape: tuple[int, ...], *point: float) -> None:
    if len(point) != shape[-1]:
        raise InputError(f"needs {shape[-1]} coordinates, got {len(point)}")


def _clip(xp: Any, x: Any, lower: float, upper: float) -> Any:
    return xp.minimum(xp.maximum(x, lower), upper)


def _distance(xp: Any, x: Any, *point: float) -> Any:
    return norm(xp, x - xp.broadcast_to(xp.asarray(point, x.dtype), x.shape))


X, Y = Parameter("x"), Parameter("y")
LOWER = Parameter("lower", "constant", -math.inf, "lo")
UPPER = Parameter("upper", "constant", math.inf, "hi")
TOLERANCE = Function(
    parameters=(
        X,
        LOWER,
        UPPER,
        Parameter("margin", "constant", 0.0),
        Parameter("sigmoid", "choice", "gaussian", "kind"),
        Parameter("value_at_margin", "constant", 0.1),
    ),
    apply=lambda xp, x, *rest: tolerance(x, *rest),
    check=_check_tolerance,
)

FUNCTIONS: dict[str, Function] = {
    "tolerance": TOLERANCE,
    "tol": TOLERANCE,
    "clip": Function((X, LOWER, UPPER), _clip, check=_check_bounds),
    "abs": Function((X,), lambda xp, x: xp.abs(x)),
    "exp": Function((X,), lambda xp, x: xp.exp(xp.minimum(x, LARGEST_EXPONENT))),
    "log1p": Function((X,), lambda xp, x: xp.log1p(xp.maximum(x, SMALLEST_DIVISOR - 1))),
    "tanh": Function((X,), lambda xp, x: xp.tanh(x)),
    "sigmoid": Function((X,), lambda xp, x: (1 + xp.tanh(x / 2)) / 2),
    "sqrt": Function((X,), root),
    "cos": Function((X,), lambda xp, x: xp.cos(x)),
    "sin": Function((X,), lambda xp, x: xp.sin(x)),
    "minimum": Function((X, Y), lambda xp, x, y: xp.minimum(x, y)),
    "maximum": Function((X, Y), lambda xp, x, y: xp.maximum(x, y)),
    "where": Function((Parameter("condition"), X, Y), lambda xp, c, x, y: xp.where(c != 0, x, y)),
    "norm": Function((X,), norm, reduces=True),
    "sum": Function((X,), lambda xp, x: xp.sum(x, axis=-1), reduces=True),
    "mean": Function((X,), lambda xp, x: xp.mean(x, axis=-1), reduces=True),
    "dot": Function((X, Y), lambda xp, x, y: xp.sum(x * y, axis=-1), reduces=True),
    "component": Function(
        (X, Parameter("index", "index")), lambda xp, x, i: x[..., i], reduces=True, check=_check_component
    ),
    "distance": Function(
        (X, Parameter("coordinate", "constant")), _distance, reduces=True, repeats=True, check=_check_distance
    ),
}
