"""On-policy policy gradients for several rewards at once: advantages of each, their mixture, and the clipped objective.

K kinds of reward stand on the last axis; E worlds and T decisions in front, or N rows of both.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from embodied.types import Params, RandomKey


def advantages(
    reward: Float[Array, "E T K"],
    value: Float[Array, "E T K"],
    next_value: Float[Array, "E T K"],
    discount: Float[Array, "E T"],
    last: Bool[Array, "E T"],
    discounts: Float[Array, " K"],
    trace: float,
) -> Float[Array, "E T K"]:
    """Generalised advantages (Schulman et al., arXiv 1506.02438) of each kind of reward.

    `discount` is 0 where the world terminated, behind which nothing is worth anything; `last` says where an episode
    ends for whatever reason, beyond which no advantage is passed back.
    """
    rate = discounts[None, None]
    delta = reward + rate * discount[..., None] * next_value - value
    keep = trace * rate * (1.0 - last.astype(jnp.float32))[..., None]

    def back(ahead: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        here = now[0] + now[1] * ahead
        return here, here

    time_major = lambda leaf: jnp.swapaxes(leaf, 0, 1)  # noqa: E731
    _, found = jax.lax.scan(back, jnp.zeros_like(delta[:, 0]), (time_major(delta), time_major(keep)), reverse=True)
    return time_major(found)


def normalised(advantage: Float[Array, "N K"], dead: float) -> Float[Array, "N K"]:
    """Each kind with mean 0 and deviation 1 over the rollout; zeros where it spreads less than `dead`."""
    centred = advantage - advantage.mean(0, keepdims=True)
    spread = jnp.sqrt(jnp.square(centred).mean(0, keepdims=True))
    return jnp.where(spread < dead, 0.0, centred / jnp.maximum(spread, dead))


def weighted(each: Float[Array, "N K"], weight: Float[Array, " K"], alive: Bool[Array, " K"]) -> Float[Array, " N"]:
    """sum_k w_k A_k / sum_k w_k over the kinds that are alive; zeros where none is."""
    share = jnp.where(alive, weight, 0.0)
    return (each * share[None]).sum(-1) / jnp.maximum(share.sum(), 1e-12)


def surrogate(ratio: Float[Array, " N"], advantage: Float[Array, " N"], clip: float) -> Float[Array, ""]:
    """-E[ min( rho A, clip(rho, 1 - clip, 1 + clip) A ) ]."""
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage).mean()


def gaussian_log_prob(
    action: Float[Array, "N A"], mean: Float[Array, "N A"], log_std: Float[Array, " A"]
) -> Float[Array, " N"]:
    """log N(action; mean, exp(log_std)^2)."""
    square = jnp.square((action - mean) * jnp.exp(-log_std)[None])
    return -(0.5 * square + log_std[None] + 0.5 * math.log(2 * math.pi)).sum(-1)


def divergence(
    mean: Float[Array, "N A"], log_std: Float[Array, " A"], old: Float[Array, "N A"], old_log_std: Float[Array, " A"]
) -> Float[Array, ""]:
    """E[ KL( old | new ) ] of Gaussians with deviations that no state changes."""
    ratio = jnp.exp(2 * (old_log_std - log_std))[None]
    square = jnp.square((old - mean) * jnp.exp(-log_std)[None])
    return (0.5 * (ratio + square - 1.0) + (log_std - old_log_std)[None]).sum(-1).mean()


def explained(goal: Float[Array, "N K"], value: Float[Array, "N K"]) -> Float[Array, " K"]:
    """The share of the variance of their targets that values explained before they learned from them."""
    return 1.0 - jnp.var(goal - value, 0) / jnp.maximum(jnp.var(goal, 0), 1e-12)


def cosines(gradients: Float[Array, "K P"]) -> Float[Array, "K K"]:
    """Cosines between the rows; 0 with a row of zeros."""
    length = jnp.sqrt(jnp.square(gradients).sum(-1, keepdims=True))
    unit = gradients / jnp.maximum(length, 1e-12)
    return unit @ unit.T


def minibatches(key: RandomKey, count: int, epochs: int, parts: int) -> Int[Array, "U B"]:
    """Rows of each minibatch: `epochs` permutations in `parts` of one size; what is left over waits for another one."""
    size = count // parts
    order = jax.vmap(lambda one: jax.random.permutation(one, count))(jax.random.split(key, epochs))
    return order[:, : size * parts].reshape(-1, size)


def clipped(gradient: PyTree, limit: float, members: int = 0) -> PyTree:
    """The gradient with a norm of at most `limit`; that of each member on the leading axis where there are some."""
    square = lambda leaf: jnp.square(leaf).reshape(members or 1, -1).sum(-1)  # noqa: E731
    norm = jnp.sqrt(sum(map(square, jax.tree.leaves(gradient))))
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    if not members:
        return jax.tree.map(lambda leaf: leaf * factor[0], gradient)
    return jax.tree.map(lambda leaf: leaf * factor.reshape(-1, *[1] * (leaf.ndim - 1)), gradient)


def target_moments(
    before: Params, target: Float[Array, "N K"], alive: Bool[Array, " K"], count: Array, momentum: float
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Moving mean and deviation of each critic's targets; those of the first update (count 0) are its own."""
    keep = jnp.where(count == 0, 0.0, momentum)
    mean = keep * before["mean"] + (1 - keep) * target.mean(0)
    square = keep * (jnp.square(before["scale"]) + jnp.square(before["mean"])) + (1 - keep) * jnp.square(target).mean(0)
    scale = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 1e-12))
    return jnp.where(alive, mean, before["mean"]), jnp.where(alive, scale, before["scale"])


def with_moments(params: Params, mean: Float[Array, " K"], scale: Float[Array, " K"]) -> Params:
    """The parameters of critics with new moments, and the last layer changed so that values stay what they were."""
    critic, before = params["critic"], params["moments"]
    ratio = before["scale"] / scale
    kernel, bias = critic["head"]["kernel"], critic["head"]["bias"]
    shift = (before["mean"] - mean) / scale
    if kernel.ndim == 3:  # critics apart, so many in a row for each kind: [M, H, 1] and [M, 1]
        ratio, shift = (jnp.repeat(one, kernel.shape[0] // mean.shape[0]) for one in (ratio, shift))
        head = {"kernel": kernel * ratio[:, None, None], "bias": bias * ratio[:, None] + shift[:, None]}
    else:  # a shared trunk: [H, K] and [K]
        head = {"kernel": kernel * ratio[None], "bias": bias * ratio + shift}
    return params | {"critic": critic | {"head": critic["head"] | head}, "moments": {"mean": mean, "scale": scale}}


def rows(tree: PyTree) -> PyTree:
    """[E, T, ...] -> [E T, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), tree)
