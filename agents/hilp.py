"""Hilbert representations: features whose distances are times between states, read by successor features.

    V_j(s, g) = -|f_j(s) - f_j(g)| / ((1 - discount) sqrt(z_dim)),  j = 1, 2
    q_j    = r + discount m V_target,j(s', g),    r = -1 and m = 1 where s is not g, else 0
    A      = r + discount m min_j V_target,j(s', g) - mean_j V_target,j(s, g)
    loss   = sum_j mean | expectile - 1[A < 0] | ( q_j - V_j(s, g) )^2

Goals g are later states of the same episode, k steps ahead with P(k) ~ future^k, and with probability `random_goals`
states of the batch at random. Features are those of f_1, without their moving mean; they do not end on a sphere.
The successor features of f, the actor and the answers to prompts are those of `embodied/successor.py`.
Papers: Park et al., arXiv 2402.15567; as a baseline of TD-JEPA, arXiv 2510.00739. Differences from the papers: no k
leads past the end of an episode, where a sample of the endless distribution would repeat the last state; and features
are measured in horizons, |f| = sqrt(z_dim) being as far as a discounted value can tell. The latents are the same, but
successor features of numbers of steps would be of order 1 / (1 - discount)^2, which takes most of a short training to
grow to.
Prompts: Reward (least squares on f), Goal (C^-1 f(g)), Motion, Prior.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from embodied import losses, successor
from embodied.ranges import join_ranges
from embodied.types import Agent, Batch, Needs, Params, RandomKey, Spec

RANGES = join_ranges(successor.RANGES, {"[0, 1]": ("expectile", "random_goals"), "[0, 1)": ("future",)})


@dataclasses.dataclass(frozen=True)
class Config(successor.Config):
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    expectile: float = 0.5  # weight of steps that turned out better than expected, in [0, 1]
    future: float = 0.99  # how far ahead goals lie, as a discount per decision, in [0, 1)
    random_goals: float = 0.375  # share of goals that are states at random, in [0, 1]

    def __post_init__(self) -> None:
        successor.check("hilp", self, RANGES)


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are features (f_1 and f_2), encoder, successor and actor."""
    net, know = successor.feature_net(config, on_sphere=False, members=2), successor.knowing(config, spec)
    steps = 1.0 / ((1.0 - config.discount) * config.z_dim**0.5)  # that a distance of 1 stands for

    def init(key: RandomKey, x: Array, action: Array) -> Params:
        return {"features": net.init(key, x)}

    def embed(params: Params, x: Array) -> Array:
        return net.apply(params["features"], x)[0]

    def loss(params: Params, target: Params, batch: Batch, key: RandomKey) -> tuple[Array, dict[str, Array]]:
        x, next_x, future = (know.read(params, obs) for obs in (batch.obs, batch.next_obs, batch.future))
        goal = losses.sample_goals(key, future, x, config.random_goals)
        place = losses.sample_goals(key, know.same(batch.future), know.same(batch.obs), config.random_goals)
        both = lambda group, *inputs: [net.apply(group["features"], one) for one in inputs]  # noqa: E731
        here, there = both(params, x, goal)
        slow_here, slow_next, slow_there = both(target, x, next_x, goal)
        value = distance_value(here, there, steps)
        going = (know.same(batch.obs) != place).any(-1).astype(jnp.float32)
        aim, advantage = losses.goal_targets(
            distance_value(slow_next, slow_there, steps),
            distance_value(slow_here, slow_there, steps),
            going,
            config.discount,
        )
        loss = losses.expectile_loss(aim, value, advantage, config.expectile)
        return loss, {"loss/value": loss, "features/value": value.mean(), "features/advantage": advantage.mean()}

    needs = Needs(future=config.future)
    method = successor.Method(("features",), init, loss, embed, averaged=("features",), centred=True, needs=needs)
    return successor.make("hilp", config, spec, method)


def distance_value(
    here: Float[Array, "k n d"], goal: Float[Array, "k n d"], steps: float | Array
) -> Float[Array, "k n"]:
    """-steps |here - goal|, with the squared distance at least 1e-6, where its gradient ends."""
    return -steps * jnp.sqrt(jnp.maximum(jnp.square(here - goal).sum(-1), 1e-6))
