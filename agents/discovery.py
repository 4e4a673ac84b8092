"""Skill discovery: rewards for a policy pi(a | s, z) that does something different for every skill z.

Let x be what skills shall move, x -> x' one decision, z a skill of width D drawn from the prior, sg a stopped gradient.

Movement: r = (f(x') - f(x)) . z, and f learns to raise it: skills go far, each along its own direction of f. Something
must keep d = f(x') - f(x) in bounds, and that is all in which these four differ; m(d) = |d|^2, or |d|^2 / D with
norm="mean":

    LSD     |d| <= |x' - x|, because every layer of f is divided by its largest singular value;  loss = -E[r]
    METRA   m(d) <= 1:        loss = -E[r + sg(lambda) p] + log(lambda) sg(E[p]),   p = min(slack, 1 - m(d))
    CSD     m(d) <= c(x, x'), the same with c in place of 1:   c = mean_i ( (x'_i - x_i - mu_i(x)) w_i(x) )^2,
            w_i = (1/sigma_i) / geometric mean_j (1/sigma_j),   mu and sigma from  loss = -E[log N(x' - x; mu, sigma^2)]
    CSF     loss = -E[r] + xi E[ log sum_j exp(d . z_j) ],   z_j drawn anew from the prior

So LSD bounds a step by its length in x, METRA by its duration, CSD by how surprising it is, and CSF sets a price where
others set a bound: for small d it is xi |d|^2 / (2 D), METRA's penalty with a fixed lambda.

Recognition: r = log q(z | x') - log p(z), and q learns z by maximum likelihood, loss = -E[log q(z | x')]:

    DIAYN   one q that reads all of x'
    DUSDi   x = (x_1 ... x_N), z = (z_1 ... z_N) with one reward per part; x_-i is x without x_i:
            r_i = log q_i(z_i | x'_i) - log p(z_i) - kappa ( log q~_i(z_i | x'_-i) - log p(z_i) )

Skills are uniform on the unit sphere; or, `discrete`, one of D vectors with 1 at one place and -1/(D - 1) elsewhere;
with DUSDi N one-hot vectors side by side. For skills on the sphere q is the von Mises-Fisher density of concentration 1
(a Gaussian of unit variance on the sphere) around a unit vector that reads x', as in VISR (arXiv 1906.05030).

Papers: LSD, Park et al., arXiv 2202.00914; METRA, Park et al., arXiv 2310.08887; CSD, Park et al., arXiv 2302.05103;
CSF, Zheng et al., arXiv 2412.08021; DIAYN, Eysenbach et al., arXiv 1802.06070; DUSDi, Hu et al., arXiv 2410.11251.
Differences from the papers: networks are smaller; METRA's equations have norm="sum", the default here, and its released
code "mean"; c is that of CSD's released code; skills of LSD and DIAYN lie on the sphere or have mean zero, as METRA's;
spectral norms are computed anew, not tracked; sigma is bounded; kappa is constant.

How agents use it: `loss` on transitions (x standardised, x' before any reset), a step of `optimizer`, then `reward`
with the new parameters; rewards are never stored. Where the skill changed a moment ago, x does not show z yet: rows of
weight 0 leave loss and gradient as if they were not there, and the agent multiplies rewards by the same weight.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from embodied.nets.encoders import mlp, project
from embodied.optim import adam_by_group
from embodied.ranges import check_choice, check_ranges
from embodied.types import InputError, Params, RandomKey

Objective = Literal["csf", "metra", "csd", "lsd", "diayn", "dusdi"]
Norm = Literal["sum", "mean"]
Metrics = dict[str, Array]
Draw = Callable[[RandomKey, int], Array]

RANGES = {
    "[1, inf)": ("skill_dim", "hidden", "contrast_draws"),
    "[0, inf)": ("layers", "lr", "lr_dual", "slack", "disentangle"),
    "(0, inf)": ("dual_start", "scale"),
    "(1, inf)": ("contrast",),
}
# Of a decision's change, in units of x: what seldom moves counts for much, but not for everything.
LOG_STD = (-5.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Published values of METRA and CSF, but for smaller networks."""

    objective: Objective = "csf"
    skill_dim: int = 2  # D; with DUSDi the number of values of each part's skill
    discrete: bool = False  # one of skill_dim skills in place of directions; DUSDi's always are
    hidden: int = 256  # width of all networks; 1024 in METRA, 512 in CSD
    layers: int = 2  # hidden layers of all networks; 0 is one linear map
    lr: float = 1e-4  # of all networks
    lr_dual: float = 1e-4  # of log lambda (METRA, CSD)
    dual_start: float = 30.0  # lambda at first (METRA; CSD: 3000)
    slack: float = 1e-3  # how far within its bound a step is rewarded to lie (METRA; CSD: 1e-6)
    norm: Norm = "sum"  # of squared features in the bound; or "mean", as released code has it (METRA, CSD)
    contrast: float = 5.0  # xi: price of skills that other steps would serve as well, above 1 (CSF)
    contrast_draws: int = 256  # skills in that price (CSF)
    disentangle: float = 0.0  # kappa: price of what other parts tell of a part's skill; published 0 or 0.1 (DUSDi)
    scale: float = 1.0  # multiplies rewards, not what the objectives learn from; 10 in CSD

    def __post_init__(self) -> None:
        check_choice("discovery", "objective", self.objective, get_args(Objective))
        check_choice("discovery", "norm", self.norm, get_args(Norm))
        check_ranges("discovery", self, RANGES)
        if (self.discrete or self.objective == "dusdi") and self.skill_dim < 2:
            raise InputError(f"discovery: skill_dim must be at least 2 where skills are discrete, got {self.skill_dim}")

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(self, hidden=16, lr=3e-3, lr_dual=3e-3, contrast_draws=16)


class Discovery(NamedTuple):
    """A skill objective. x and next_x are [B, I], skills z [B, skill], weight [B] is 1 or, for what is masked, 0."""

    skill: int  # width of z as the policy reads it
    length: float  # |z|, the same for all skills
    rewards: int  # reward channels: 1, or with DUSDi one per part of x
    draw: Draw  # (key, count) -> skills of the prior [count, skill]
    init: Callable[[RandomKey, Array], Params]  # (key, x) -> all parameters
    # (params, x, next_x, z, weight, key) -> the sum of all losses, of which each moves its own parameters alone
    loss: Callable[[Params, Array, Array, Array, Array, RandomKey], tuple[Array, Metrics]]
    reward: Callable[[Params, Array, Array, Array], Array]  # (params, x, next_x, z) -> [B, rewards], without gradient
    optimizer: optax.GradientTransformation  # of all parameters
    embed: Callable[[Params, Array], Array] | None = None  # (params, x) -> f(x) [B, D], where the objective has an f
    toward: Callable[[Params, Array, Array], Array] | None = None  # (params, x, goal [B, I]) -> skill that goes there


def make(config: Config, widths: tuple[int, ...]) -> Discovery:
    """The objective for an x of parts of these widths, joined in this order; only DUSDi tells parts apart."""
    if not widths or min(widths) < 1:
        raise InputError(f"discovery: widths must be one number per part of x, each at least 1, got {widths}")
    if config.objective in ("diayn", "dusdi"):
        return _recognition(config, widths)
    return _movement(config, sum(widths))


def on_sphere(v: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """v at length 1; zero stays zero, with a finite gradient."""
    return project(v) / v.shape[-1] ** 0.5


def centred_one_hot(index: Int[Array, "*b"], count: int) -> Float[Array, "*b D"]:
    """1 at the index and -1 / (count - 1) elsewhere, so that the mean of all skills is zero."""
    return (jax.nn.one_hot(index, count) * count - 1.0) / (count - 1)


def one_hot_length(count: int) -> float:
    """The length of a centred one-hot vector."""
    return (count / (count - 1)) ** 0.5


def prior(config: Config, parts: int) -> Draw:
    """How skills are drawn; with DUSDi so many parts of x have one of their own."""
    width = config.skill_dim

    def draw(key: RandomKey, count: int) -> Array:
        if config.objective == "dusdi":
            index = jax.random.randint(key, (count, parts), 0, width)
            return jax.nn.one_hot(index, width).reshape(count, parts * width)
        if config.discrete:
            return centred_one_hot(jax.random.randint(key, (count,), 0, width), width)
        return on_sphere(jax.random.normal(key, (count, width)))

    return draw


class Bound(NamedTuple):
    """What keeps steps of the features in bounds: parameters besides f's, their rates, and a term of the loss."""

    init: Callable[[RandomKey, Array], Params]  # (key, x)
    rates: dict[str, float]
    # (params, f(next_x) - f(x) [B, D], x, next_x, weight, key)
    loss: Callable[[Params, Array, Array, Array, Array, RandomKey], tuple[Array, Metrics]]


def _movement(config: Config, width: int) -> Discovery:
    net = mlp(config.hidden, config.layers, config.skill_dim, spectral=config.objective == "lsd")
    draw = prior(config, 1)
    bound = _bound(config, width, draw)

    def init(key: RandomKey, x: Array) -> Params:
        _check_width(x, width)
        key_features, key_bound = jax.random.split(key)
        return {"features": net.init(key_features, x)} | bound.init(key_bound, x)

    def embed(params: Params, x: Array) -> Array:
        return net.apply(params["features"], x)

    def move(params: Params, x: Array, next_x: Array) -> Array:
        return embed(params, next_x) - embed(params, x)

    def loss(params: Params, x: Array, next_x: Array, z: Array, weight: Array, key: RandomKey) -> tuple[Array, Metrics]:
        step = move(params, x, next_x)
        gain = weighted_mean((step * z).sum(-1), weight)
        price, metrics = bound.loss(params, step, x, next_x, weight, key)
        total = price - gain
        square = weighted_mean(jnp.square(step).sum(-1), weight)
        return total, {"loss/skill": total, "skill/reward": gain, "skill/step": jnp.sqrt(square)} | metrics

    def reward(params: Params, x: Array, next_x: Array, z: Array) -> Array:
        return config.scale * jax.lax.stop_gradient((move(params, x, next_x) * z).sum(-1, keepdims=True))

    def toward(params: Params, x: Array, goal: Array) -> Array:
        step = move(params, x, goal)
        return centred_one_hot(step.argmax(-1), config.skill_dim) if config.discrete else on_sphere(step)

    optimizer = adam_by_group({"features": config.lr} | bound.rates)
    length = one_hot_length(config.skill_dim) if config.discrete else 1.0
    return Discovery(config.skill_dim, length, 1, draw, init, loss, reward, optimizer, embed, toward)


def _bound(config: Config, width: int, draw: Draw) -> Bound:
    match config.objective:
        case "lsd":  # the network is in bounds by itself
            return Bound(lambda key, x: {}, {}, lambda *inputs: (jnp.zeros(()), {}))
        case "metra":
            return _metra(config)
        case "csd":
            return _csd(config, width)
        case _:
            return _csf(config, draw)


def _metra(config: Config) -> Bound:
    def init(key: RandomKey, x: Array) -> Params:
        return {"log_dual": jnp.float32(math.log(config.dual_start))}

    def loss(
        params: Params, step: Array, x: Array, next_x: Array, weight: Array, key: RandomKey
    ) -> tuple[Array, Metrics]:
        return dual_loss(params["log_dual"], step, jnp.ones(len(step)), weight, config.slack, config.norm)

    return Bound(init, {"log_dual": config.lr_dual}, loss)


def _csd(config: Config, width: int) -> Bound:
    net, dual = mlp(config.hidden, config.layers, 2 * width), _metra(config)

    def init(key: RandomKey, x: Array) -> Params:
        return {"density": net.init(key, x)} | dual.init(key, x)

    def loss(
        params: Params, step: Array, x: Array, next_x: Array, weight: Array, key: RandomKey
    ) -> tuple[Array, Metrics]:
        mean, raw = jnp.split(net.apply(params["density"], x), 2, -1)
        log_std = LOG_STD[0] + (LOG_STD[1] - LOG_STD[0]) * jax.nn.sigmoid(raw)
        density = weighted_mean(-gaussian_log_density(next_x - x, mean, log_std), weight)
        room = jax.lax.stop_gradient(surprise(next_x - x, mean, log_std))
        price, metrics = dual_loss(params["log_dual"], step, room, weight, config.slack, config.norm)
        more = {"loss/density": density, "skill/surprise": weighted_mean(room, weight)}
        return price + density, metrics | more

    return Bound(init, {"density": config.lr} | dual.rates, loss)


def _csf(config: Config, draw: Draw) -> Bound:
    def loss(
        params: Params, step: Array, x: Array, next_x: Array, weight: Array, key: RandomKey
    ) -> tuple[Array, Metrics]:
        contrast = contrast_loss(step, draw(key, config.contrast_draws), weight)
        return config.contrast * contrast, {"loss/contrast": contrast}

    return Bound(lambda key, x: {}, {}, loss)


def dual_loss(
    log_dual: Float[Array, ""],
    step: Float[Array, "B D"],
    room: Float[Array, " B"],
    weight: Float[Array, " B"],
    slack: float,
    norm: Norm,
) -> tuple[Float[Array, ""], Metrics]:
    """-sg(lambda) E[p] + log(lambda) sg(E[p]), p = min(slack, room - m(step)), so lambda grows where p is negative."""
    square = jnp.square(step)
    size = square.sum(-1) if norm == "sum" else square.mean(-1)
    left = weighted_mean(jnp.minimum(slack, room - size), weight)
    dual = jnp.exp(jax.lax.stop_gradient(log_dual))
    loss = log_dual * jax.lax.stop_gradient(left) - dual * left
    return loss, {"skill/dual": dual, "skill/room": left}


def gaussian_log_density(
    change: Float[Array, "B I"], mean: Float[Array, "B I"], log_std: Float[Array, "B I"]
) -> Float[Array, " B"]:
    """log N(change; mean, diag(exp(log_std))^2)."""
    return -(0.5 * jnp.square((change - mean) * jnp.exp(-log_std)) + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def surprise(
    change: Float[Array, "B I"], mean: Float[Array, "B I"], log_std: Float[Array, "B I"]
) -> Float[Array, " B"]:
    """CSD's c(x, x'): mean_i ((change_i - mean_i) w_i)^2, w = 1 / std divided by the geometric mean of 1 / std."""
    weight = jnp.exp(log_std.mean(-1, keepdims=True) - log_std)
    return jnp.square((change - mean) * weight).mean(-1)


def contrast_loss(
    step: Float[Array, "B D"], others: Float[Array, "J D"], weight: Float[Array, " B"]
) -> Float[Array, ""]:
    """E[log sum_j exp(step . others_j)]."""
    return weighted_mean(jax.nn.logsumexp(step @ others.T, -1), weight)


def _recognition(config: Config, widths: tuple[int, ...]) -> Discovery:
    apart, values, width = config.objective == "dusdi", config.skill_dim, sum(widths)
    parts = len(widths) if apart else 1
    # What each discriminator reads of x', as 0 or 1 [M, I]; those of other parts come behind those of the own.
    seen = np.repeat(np.eye(parts, dtype=np.float32), widths if apart else width, axis=1)
    seen = np.concatenate([seen, 1 - seen]) if apart and config.disentangle else seen
    net = mlp(config.hidden, config.layers, values, members=len(seen))
    score = recognised if apart or config.discrete else recognised_direction

    def read(x: Array) -> Array:
        return x[None] * seen[:, None]

    def init(key: RandomKey, x: Array) -> Params:
        _check_width(x, width)
        return {"discriminator": net.init(key, read(x))}

    def scores(params: Params, next_x: Array, z: Array) -> Array:
        """log q - log p of every discriminator [M, B]."""
        each = z.reshape(len(z), parts, values).swapaxes(0, 1)
        return score(net.apply(params["discriminator"], read(next_x)), jnp.tile(each, (len(seen) // parts, 1, 1)))

    def loss(params: Params, x: Array, next_x: Array, z: Array, weight: Array, key: RandomKey) -> tuple[Array, Metrics]:
        means = jax.vmap(weighted_mean, (0, None))(scores(params, next_x, z), weight)
        total = -means.sum()
        metrics = {"loss/skill": total, "skill/recognised": means[:parts].mean()}
        return total, metrics | ({"skill/entangled": means[parts:].mean()} if len(seen) > parts else {})

    def reward(params: Params, x: Array, next_x: Array, z: Array) -> Array:
        all_scores = jax.lax.stop_gradient(scores(params, next_x, z))
        own, others = all_scores[:parts], all_scores[parts:]
        return config.scale * (own - config.disentangle * others if len(others) else own).T

    draw, optimizer = prior(config, parts), adam_by_group({"discriminator": config.lr})
    length = parts**0.5 if apart else one_hot_length(values) if config.discrete else 1.0
    return Discovery(parts * values, length, parts, draw, init, loss, reward, optimizer)


def recognised(logits: Float[Array, "M B K"], z: Float[Array, "M B K"]) -> Float[Array, "M B"]:
    """log q(z) - log(1 / K): 0 where nothing is known, log K where all is. z is above zero at its place alone."""
    return jnp.where(z > 0, jax.nn.log_softmax(logits), 0.0).sum(-1) + math.log(z.shape[-1])


def recognised_direction(read: Float[Array, "M B D"], z: Float[Array, "M B D"]) -> Float[Array, "M B"]:
    """log q(z) - log p(z) on the unit sphere, with q of concentration 1 around the direction that was read."""
    return (on_sphere(read) * z).sum(-1) - log_mean_exp_on_sphere(z.shape[-1])


def log_mean_exp_on_sphere(width: int) -> float:
    """log E[exp(v . z)] for z uniform on the unit sphere and any unit vector v: sum_m (1/4)^m / (m! (width/2)_m)."""
    term = total = 1.0
    for m in range(20):
        term *= 0.25 / ((m + 1) * (width / 2 + m))
        total += term
    return math.log(total)


def weighted_mean(values: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    """The mean of rows of weight 1; 0 where there are none."""
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def _check_width(x: Array, width: int) -> None:
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(f"discovery: x must be [B, {width}], as its parts are, got {list(x.shape)}")
