"""Losses and estimators shared by agents: small pure laws, one formula each.

Notation: n batch, d latent, K ensemble members. Successor measures start at the next state, so features are always
evaluated at s' in targets and in prompts (zero-shot papers: arXiv 2103.07945, 2510.00739).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from embodied.nets.encoders import project


def aggregate(heads: Float[Array, "K ..."], pessimism: float) -> Float[Array, "..."]:
    """mean_k P_k - pessimism * mean absolute difference between heads. For K = 2: 0 is the mean, 0.5 the minimum."""
    members = heads.shape[0]
    mean = heads.mean(0)
    if members == 1 or pessimism == 0.0:
        return mean
    spread = jnp.abs(heads[:, None] - heads[None]).sum((0, 1)) / (members * (members - 1))
    return mean - pessimism * spread


def orthonormality_loss(features: Float[Array, "n d"]) -> Float[Array, ""]:
    """1/(2 n (n-1)) sum_{i != j} (x_i . x_j)^2 - 1/n sum_i |x_i|^2; minimal (-d/2) where E[x x^T] = I.

    Computed through the Gram identity sum_ij (x_i . x_j)^2 = |X^T X|_F^2, which costs n d^2 instead of n^2 d.
    """
    n = features.shape[0]
    norms = jnp.square(features).sum(-1)
    off_diagonal = jnp.square(features.T @ features).sum() - jnp.square(norms).sum()
    return off_diagonal / (2 * n * (n - 1)) - norms.mean()


def gaussian_distance(
    features: Float[Array, "n d"], key: Key[Array, ""], projections: int, knots: int
) -> Float[Array, ""]:
    """How far features are from N(0, I), seen along random directions u; 1.06 / n for n draws of it, 0.41 for a point.

    mean_u 2 int_0^3 |mean_i exp(i t u . x_i) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, by trapezia between the knots: the
    distance of Epps and Pulley (1983) on random projections, SIGReg (Balestriero and LeCun, arXiv 2511.08544).
    """
    direction = jax.random.normal(key, (features.shape[1], projections))
    along = features @ (direction / jnp.linalg.norm(direction, axis=0, keepdims=True))
    # NumPy, so that these are constants wherever the function is traced.
    t, step = np.linspace(0.0, 3.0, knots, dtype=np.float32, retstep=True)
    normal = np.exp(-np.square(t) / 2)
    weight = 2 * step * normal
    weight[[0, -1]] /= 2
    phase = along[:, :, None] * t[None, None]
    error = jnp.square(jnp.cos(phase).mean(0) - normal[None]) + jnp.square(jnp.sin(phase).mean(0))
    return (error @ weight).mean()


def forward_backward_loss(
    forward: Float[Array, "k n d"],
    backward: Float[Array, "n d"],
    target_measure: Float[Array, "n n"],
    discount: Float[Array, " n"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Successor-measure temporal difference, summed over heads, and its parts.

    D = F B^T - discount * target (row i scaled by discount_i);  1/(2 n (n-1)) sum_{i != j} D_ij^2 - 1/n sum_i D_ii
    """
    n = backward.shape[0]
    difference = forward @ backward.T - (discount[:, None] * target_measure)[None]
    diagonal = jnp.diagonal(difference, axis1=1, axis2=2)
    off_diagonal = jnp.square(difference).sum() - jnp.square(diagonal).sum()
    off_diagonal = off_diagonal / (2 * n * (n - 1))
    on_diagonal = -diagonal.sum() / n
    return off_diagonal + on_diagonal, {"loss/fb_offdiag": off_diagonal, "loss/fb_diag": on_diagonal}


def target_measure(
    forward: Float[Array, "k n d"], backward: Float[Array, "n d"], pessimism: float
) -> Float[Array, "n n"]:
    """The bootstrapped successor measure F_target B_target^T of all pairs, aggregated over heads, without gradient."""
    if pessimism == 0.0:  # the mean of products is the product of the mean: one matmul instead of K
        return jax.lax.stop_gradient(forward.mean(0) @ backward.T)
    return jax.lax.stop_gradient(aggregate(forward @ backward.T, pessimism))


def density_ratio_loss(
    forward: Float[Array, "k n d"],
    backward: Float[Array, "n d"],
    target_measure: Float[Array, "n n"],
    discount: float,
    going: Float[Array, " n"],
    weight: Float[Array, " n"],
) -> Float[Array, ""]:
    """Least-squares importance fit of the normalised successor measure, summed over heads; row i counts weight_i.

    D = F B^T - discount * going_i * target;  1/2 mean_{i != j} D_ij^2 - (1 - discount) mean_i F_i . B_i
    """
    rows = jnp.maximum(weight.sum(), 1.0)
    product = forward @ backward.T
    square = jnp.square(product - discount * (going[:, None] * target_measure)[None])
    off_diagonal = square.sum(-1) - jnp.diagonal(square, axis1=1, axis2=2)
    on_diagonal = jnp.diagonal(product, axis1=1, axis2=2)
    each = 0.5 * off_diagonal / (backward.shape[0] - 1) - (1.0 - discount) * on_diagonal
    return (each * weight[None]).sum() / rows


def chain_loss(
    prediction: Float[Array, "n h d"], target: Float[Array, "n h d"], inside: Float[Array, "n h"]
) -> Float[Array, ""]:
    """mean |prediction - target|^2 over the steps of all chains that are inside; summed over features."""
    return (inside * jnp.square(prediction - target).sum(-1)).sum() / jnp.maximum(inside.sum(), 1.0)


def latent_prediction_loss(prediction: Float[Array, "k n d"], target: Float[Array, "n d"]) -> Float[Array, ""]:
    """mean_{k,i} |prediction_ki - target_i|^2: summed over features, averaged over heads and batch (no 1/2)."""
    return jnp.square(prediction - target[None]).sum(-1).mean()


def successor_target(
    features: Float[Array, "n d"],
    successor_heads: Float[Array, "k n d"],
    discount: Float[Array, " n"],
    pessimism: float,
) -> Float[Array, "n d"]:
    """features(s') + discount * aggregated successor features at s', without gradient."""
    return jax.lax.stop_gradient(features + discount[:, None] * aggregate(successor_heads, pessimism))


def successor_loss(prediction: Float[Array, "k n d"], target: Float[Array, "n d"]) -> Float[Array, ""]:
    """1/2 sum_k mean_{i,c} (prediction_kic - target_ic)^2: averaged over features and batch, summed over heads."""
    return 0.5 * jnp.square(prediction - target[None]).mean((1, 2)).sum()


def sample_goals(
    key: Key[Array, ""], future: Num[Array, "n o"], states: Num[Array, "n o"], ratio: float
) -> Num[Array, "n o"]:
    """Goals: each row's own future, or with probability `ratio` a state of another row (a permutation of them)."""
    key_permutation, key_mask = jax.random.split(key)
    use_random = jax.random.bernoulli(key_mask, ratio, (len(states), 1))
    return jnp.where(use_random, jax.random.permutation(key_permutation, states), future)


def goal_targets(
    next_value: Float[Array, "k n"], value: Float[Array, "k n"], going: Float[Array, " n"], discount: float
) -> tuple[Float[Array, "k n"], Float[Array, " n"]]:
    """(q_k, advantage) of steps that cost 1 until a goal is reached; `going` is 1 where it is not, else 0. No gradient.

    q_k = -going + discount going next_value_k;  advantage = min_k q_k - mean_k value_k
    """
    q = -going[None] + discount * going[None] * next_value
    return jax.lax.stop_gradient(q), jax.lax.stop_gradient(q.min(0) - value.mean(0))


def expectile_loss(
    target: Float[Array, "k n"], value: Float[Array, "k n"], advantage: Float[Array, " n"], expectile: float
) -> Float[Array, ""]:
    """sum_k mean_i |expectile - 1[advantage_i < 0]| (target_ki - value_ki)^2."""
    weight = jnp.abs(expectile - (advantage < 0))
    return (weight[None] * jnp.square(target - value)).mean(1).sum()


def explore(key: Key[Array, ""], mean: Float[Array, "n a"], sigma: float, clip: float) -> Float[Array, "n a"]:
    """Truncated-normal action: clipped noise, clipped action, straight-through so d action / d mean = 1 everywhere."""
    noise = jnp.clip(sigma * jax.random.normal(key, mean.shape), -clip, clip)
    raw = mean + noise
    limit = 1.0 - 1e-6
    return raw + jax.lax.stop_gradient(jnp.clip(raw, -limit, limit) - raw)


def latent_policy_loss(
    mean: Float[Array, "n a"],
    successors: Callable[[Float[Array, "n a"]], Float[Array, "k n d"]],
    z: Float[Array, "n d"],
    key: Key[Array, ""],
    noise: float,
    noise_clip: float,
    pessimism: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """-mean value (aggregated successor features . z) of explored actions around the actor's mean, and metrics."""
    heads = successors(explore(key, mean, noise, noise_clip))
    value = aggregate((heads * z[None]).sum(-1), pessimism).mean()
    return -value, {"actor/value": value, "actor/saturation": (jnp.abs(mean) > 0.95).mean()}


def flow_loss(
    velocity: Callable[[Float[Array, "n a"], Float[Array, "n 1"]], Float[Array, "n a"]],
    noise: Float[Array, "n a"],
    data: Float[Array, "n a"],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """mean (v((1 - t) noise + t data, t) - (data - noise))^2, t uniform in [0, 1] (Lipman et al., arXiv 2210.02747)."""
    time = jax.random.uniform(key, (len(data), 1))
    return jnp.square(velocity((1 - time) * noise + time * data, time) - (data - noise)).mean()


def follow_flow(
    velocity: Callable[[Float[Array, "n a"], Float[Array, "n 1"]], Float[Array, "n a"]],
    noise: Float[Array, "n a"],
    steps: int,
) -> Float[Array, "n a"]:
    """Where Euler steps of 1 / steps lead from noise at time 0 to time 1, clipped to [-1, 1]."""
    x = noise
    for i in range(steps):
        x = x + velocity(x, jnp.full((len(x), 1), i / steps)) / steps
    return jnp.clip(x, -1.0, 1.0)


def sample_latents(
    key: Key[Array, ""],
    goals: Float[Array, "n d"],
    goal_ratio: float,
    brought: Float[Array, "n d"] | None = None,
    brought_ratio: float = 0.0,
) -> Float[Array, "n d"]:
    """Training latents: uniform on the sphere, or with probability `goal_ratio` a shuffled goal latent.

    Where the batch brings latents along, each row takes its own with probability `brought_ratio` instead.
    """
    key_sphere, key_permutation, key_mask, key_brought = jax.random.split(key, 4)
    n, d = goals.shape
    sphere = project(jax.random.normal(key_sphere, (n, d)))
    shuffled = project(jax.random.permutation(key_permutation, goals))
    use_goal = jax.random.bernoulli(key_mask, goal_ratio, (n, 1))
    z = jnp.where(use_goal, shuffled, sphere)
    if brought is not None:
        use_brought = jax.random.bernoulli(key_brought, brought_ratio, (n, 1))
        z = jnp.where(use_brought, brought, z)
    return jax.lax.stop_gradient(z)


def spectrum_ratio(features: Float[Array, "n d"]) -> Float[Array, ""]:
    """Smallest over largest eigenvalue of the feature covariance; below 1e-3 the representation has collapsed."""
    covariance = features.T @ features / features.shape[0]
    eigenvalues = jnp.linalg.eigvalsh(covariance)
    return eigenvalues[0] / jnp.maximum(eigenvalues[-1], 1e-12)
