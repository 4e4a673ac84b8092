"""Intention-conditioned values: features of where one is and of where one may end, read by successor features.

    V_k(s, g, w) = ( ((e(s) * t) A_k B_k) * t ) . f(g),    t = T_k(f(w)),  k = 1, 2
    q_k    = r(s', g) + discount m(s', g) V_target,k(s', g, w),    r = -1 and m = 1 where s' is not g, else 0
    A      = r(s', w) + discount m(s', w) min_k V_target,k(s', w, w) - mean_k V_target,k(s, w, w)
    loss   = sum_k mean | expectile - 1[A < 0] | ( q_k - V_k(s, g, w) )^2

V is the value of being on the way to the outcome g for somebody with the intention w; A says whether the data's step
was a good one for w. Goals g are later states of the same episode, k steps ahead with P(k) ~ future^k, and with
probability `random_goals` states of the batch at random; intentions w are goals of other rows, and with probability
`same_goals` g is w. Here e is learned by V, and Psi takes it as it is.
The successor features of f, the actor and the answers to prompts are those of `embodied/successor.py`.
Papers: Ghosh et al., arXiv 2304.04782; as a zero-shot baseline of TD-JEPA, arXiv 2510.00739. Differences from the
papers: `mask="intention"` is what that baseline does, q_k with m(s', w); no k leads past the end of an episode.
Prompts: Reward (least squares on f), Goal (C^-1 f(g)), Motion, Prior.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from embodied import losses, successor
from embodied.nets import encoders
from embodied.ranges import check_choice, join_ranges
from embodied.types import Agent, Batch, InputError, Needs, Params, RandomKey, Spec

RANGES = join_ranges(successor.RANGES, {"[0, 1]": ("expectile", "random_goals", "same_goals"), "[0, 1)": ("future",)})
GROUPS = ("features", "encoder", "intention", "mixing")
Mask = Literal["goal", "intention"]


@dataclasses.dataclass(frozen=True)
class Config(successor.Config):
    """Published state-based walker values (arXiv 2510.00739, appendix)."""

    encoder_dim: int = 50  # width of the state encoder e; must be z_dim
    expectile: float = 0.9  # weight of steps that turned out better than expected, in [0, 1]
    future: float = 0.99  # how far ahead goals lie, as a discount per decision, in [0, 1)
    random_goals: float = 0.375  # share of goals that are states at random, in [0, 1]
    same_goals: float = 0.5  # share of rows whose goal is their intention, in [0, 1]
    mask: Mask = "goal"  # what ends the bootstrap of q_k when it is reached; or "intention"

    def __post_init__(self) -> None:
        successor.check("icvf", self, RANGES)
        check_choice("icvf", "mask", self.mask, get_args(Mask))
        if self.encoder_dim != self.z_dim:
            raise InputError(f"icvf: encoder_dim must equal z_dim, got {self.encoder_dim} and {self.z_dim}")

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(
            self, z_dim=8, encoder_dim=8, encoder_hidden=16, feature_hidden=16, hidden=16, lr_actor=1e-3, tau=0.01
        )


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are features, encoder, intention (T), mixing (A, B), and others."""
    net = _networks(config)
    look, know = successor.knowing(config, spec, "encoder"), successor.knowing(config, spec)

    def init(key: RandomKey, x: Array, action: Array) -> Params:
        key_features, key_encoder, key_intention, key_mixing = jax.random.split(key, 4)
        return {
            "features": net["features"].init(key_features, x),
            "encoder": net["encoder"].init(key_encoder, x),
            "intention": net["intention"].init(key_intention, jnp.zeros((x.shape[0], config.z_dim))),
            "mixing": _orthogonal(key_mixing, config.z_dim),
        }

    def embed(params: Params, x: Array) -> Array:
        return net["features"].apply(params["features"], x)

    def value(params: Params, x: Array, goal: Array, intention: Array) -> Array:
        here = net["encoder"].apply(params["encoder"], x)
        wish = net["intention"].apply(params["intention"], embed(params, intention))
        return multilinear_value(here, wish, params["mixing"], embed(params, goal))

    def loss(params: Params, target: Params, batch: Batch, key: RandomKey) -> tuple[Array, dict[str, Array]]:
        key_goal, key_intention, key_same = jax.random.split(key, 3)

        def choose(future: Array, states: Array) -> tuple[Array, Array]:
            goal = losses.sample_goals(key_goal, future, states, config.random_goals)
            wish = jax.random.permutation(key_intention, goal)
            return jnp.where(jax.random.bernoulli(key_same, config.same_goals, (len(goal), 1)), wish, goal), wish

        x, next_x = look.read(params, batch.obs), look.read(params, batch.next_obs)
        goal, wish = choose(know.read(params, batch.future), know.read(params, batch.obs))
        places = choose(know.same(batch.future), know.same(batch.obs))
        after = know.same(batch.next_obs)
        going, wishing = ((after != place).any(-1).astype(jnp.float32) for place in places)
        bootstrapped = going if config.mask == "goal" else wishing
        next_value = value(target, next_x, goal, wish)
        aim = jax.lax.stop_gradient(-going[None] + config.discount * bootstrapped[None] * next_value)
        _, advantage = losses.goal_targets(
            value(target, next_x, wish, wish), value(target, x, wish, wish), wishing, config.discount
        )
        predicted = value(params, x, goal, wish)
        loss = losses.expectile_loss(aim, predicted, advantage, config.expectile)
        return loss, {"loss/value": loss, "features/value": predicted.mean(), "features/advantage": advantage.mean()}

    needs = Needs(future=config.future)
    return successor.make("icvf", config, spec, successor.Method(GROUPS, init, loss, embed, GROUPS, needs=needs))


def multilinear_value(
    here: Float[Array, "n d"],
    wish: Float[Array, "k n d"],
    mixing: dict[str, dict[str, Array]],
    goal: Float[Array, "n d"],
) -> Float[Array, "k n"]:
    """((here * wish) A B * wish) . goal for every member, whose square matrices A and B `mixing` holds."""
    moved = (here[None] * wish) @ mixing["first"]["kernel"] @ mixing["second"]["kernel"]
    return (moved * wish * goal[None]).sum(-1)


def _networks(config: Config) -> dict[str, encoders.Net]:
    hidden, layers, dtype = config.feature_hidden, config.feature_layers, config.matmul
    return {
        "features": successor.feature_net(config),
        "encoder": encoders.encoder(config.encoder_hidden, config.encoder_layers, config.encoder_dim, dtype=dtype),
        "intention": encoders.encoder(hidden, layers, config.z_dim, on_sphere=False, members=2, dtype=dtype),
    }


def _orthogonal(key: RandomKey, width: int) -> dict[str, dict[str, Array]]:
    """Two orthogonal matrices for each of two members."""
    draw = jax.vmap(lambda key: jax.nn.initializers.orthogonal()(key, (width, width)))
    keys = jax.random.split(key, (2, 2))
    return {name: {"kernel": draw(one)} for name, one in zip(("first", "second"), keys, strict=True)}
