"""One-step forward-backward: the successor measure of the data's own policy, and one step of improvement on it.

    F(s, a) . B(s+) ~= (1 - discount) sum_t discount^t P(s_{t+1} = s+ | s, a, the data's policy) / data(s+)
    D    = F B^T - discount * F_target(s', a') B_target^T,      a' the data's next action
    loss = 1/2 mean_{i != j} D_ij^2 - (1 - discount) mean_i F_i . B(s'_i) + c_orth orth(B(s'))
    actor = -E[ F(s, a) . z ],  a ~ pi(s, z)                  z_reward = E[ r(s') B(s') ],   z_goal = B(goal)

Neither F nor B depends on z, so nothing that is learned here waits for the actor. The last transition of an episode
has no next action and no row in the loss, unless the world ended with it.
Paper: Zheng et al. 2026, arXiv 2602.11399. Differences from the paper: B reads the next state where the paper's reads a
state and its action, because prompts bring no actions (for rewards on states the values are the same); F has two
heads, LayerNorm after its first layer, and ReLU; what may hold the actor to the data is a flow; rewards are centred.
Where a world offers "privileged" observations, F and B read [state, privileged], and the actor the state alone.
Prompts: Reward (correlation with B), Goal (B(g)), Motion, Prior.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from agents import fb
from embodied import actor, losses, nets, prompts, sight
from embodied.actor import Imitation
from embodied.data.normalize import Inputs
from embodied.nets.mlp import MatmulType
from embodied.optim import adam_by_group, pick, soft_update
from embodied.sight import Image
from embodied.types import Agent, Batch, Goal, Motion, Needs, Obs, Params, Prior, Prompt, RandomKey, Reward, Spec

RANGES = {
    "[1, inf)": ("z_dim", "backward_hidden", "layers"),
    "[2, inf)": ("hidden",),
    "[0, inf)": (
        *("backward_layers", "actor_layers", "lr_forward", "lr_backward", "lr_actor"),
        *("c_orth", "noise", "noise_clip", "pessimism", "actor_pessimism"),
    ),
    "[0, 1)": ("discount",),
    "(0, 1]": ("tau",),
    "[0, 1]": ("goal_ratio", "latent_ratio"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the paper (arXiv 2602.11399); rates as for forward-backward (`agents/fb.py`)."""

    z_dim: int = 50  # width of F, B and the latent; the paper has 128 on OGBench
    backward_hidden: int = 512  # hidden width of B
    backward_layers: int = 4  # hidden layers of B; 0 is one linear map
    hidden: int = 512  # F and actor
    layers: int = 4  # hidden layers of F, at least 1
    actor_layers: int = 2  # hidden layers of the actor after its embeddings
    discount: float = 0.98  # per decision, in [0, 1)
    tau: float = 0.001  # moving-average rate of the targets, in (0, 1]
    lr_forward: float = 1e-4
    lr_backward: float = 1e-4
    lr_actor: float = 1e-4
    c_orth: float = 1.0  # orthonormality of B
    goal_ratio: float = 0.5  # share of the actor's latents that encode a goal, in [0, 1]
    latent_ratio: float = 0.5  # share of the actor's latents that the batch brings, where it does, in [0, 1]
    pessimism: float = 0.0  # head disagreement subtracted in targets; 0.5 is the minimum of two heads
    actor_pessimism: float = 0.0  # the same for the actor
    noise: float = 0.2  # standard deviation of exploration actions
    noise_clip: float = 0.3  # largest noise on an action
    imitation: Imitation = Imitation()  # how the actor is held to the actions of the data; then `noise` is not used
    inputs: Inputs = "raw"  # or "standardized": by the data's mean and deviation, a constant 1 appended
    image: Image = Image()  # how observations of pixels are read
    matmul: MatmulType = "float32"  # or "bfloat16" (products only): faster where the processor has units for it

    def __post_init__(self) -> None:
        fb.check("onestep_fb", self, RANGES)

    def tiny(self) -> "Config":
        """The same algorithm small enough for tests."""
        return dataclasses.replace(
            self,
            z_dim=8,
            backward_hidden=16,
            backward_layers=2,
            hidden=16,
            layers=2,
            lr_actor=1e-3,
            tau=0.01,
            imitation=self.imitation.tiny(),
            image=self.image.tiny(),
        )


LEARNED = ("forward", "backward")


def make(config: Config, spec: Spec) -> Agent:
    """The agent for a world; its parameter groups are forward (F), backward (B) and actor."""
    net = _networks(config)
    see = sight.make(config, spec, spec.acted_on, "forward_image")
    know = sight.make(config, spec, spec.trained_on, "forward_image")
    recall = sight.make(config, spec, spec.trained_on, "backward_image")
    learned = (*LEARNED, *know.groups, *recall.groups)
    towards = ("forward", *know.groups)
    optimizer = adam_by_group({name: config.lr_forward if name in towards else config.lr_backward for name in learned})
    pi = actor.following(config, config.actor_layers, spec)

    def forward_of(params: Params, x: Array, action: Array) -> Array:
        return net["forward"].apply(params["forward"], jnp.concatenate([x, action], -1))

    def init(key: RandomKey, batch: Batch) -> fb.State:
        key_forward, key_backward, key_actor = jax.random.split(key, 3)
        params = know.init(key) | recall.init(key)
        x = know.read(params, batch.obs)
        params |= {
            "forward": net["forward"].init(key_forward, jnp.concatenate([x, batch.action], -1)),
            "backward": net["backward"].init(key_backward, recall.read(params, batch.obs)),
        }
        seen, z = see.read(params, batch.obs), jnp.zeros((x.shape[0], config.z_dim))
        params |= pi.init(key_actor, seen, z, batch.action)
        opt_state = {
            "world": optimizer.init(pick(params, learned)),
            "actor": pi.optimizer.init(pick(params, pi.groups)),
        }
        return fb.State(params, jax.tree.map(jnp.copy, pick(params, LEARNED)), opt_state)

    def world_loss(params: Params, target: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
        next_x, next_action = know.read(params, batch.next_obs), batch.chain.action[:, 1]
        after = recall.read(params, batch.next_obs)
        next_backward = net["backward"].apply(target["backward"], after)
        measure = losses.target_measure(forward_of(target, next_x, next_action), next_backward, config.pessimism)
        # Where the world ended nothing is bootstrapped, and no next action is missing.
        weight = jnp.maximum(batch.chain.inside[:, 1], 1.0 - batch.discount)

        forward = forward_of(params, know.read(params, batch.obs), batch.action)
        backward = net["backward"].apply(params["backward"], after)
        ratio = losses.density_ratio_loss(forward, backward, measure, config.discount, batch.discount, weight)
        orthonormal = losses.orthonormality_loss(backward)
        loss = ratio + config.c_orth * orthonormal
        metrics = {"loss/world": loss, "loss/ratio": ratio, "loss/orth_backward": orthonormal}
        return loss, metrics | {"health/forward_norm": jnp.linalg.norm(forward, axis=-1).mean()}

    def update(state: fb.State, batch: Batch, key: RandomKey) -> tuple[fb.State, dict[str, Array]]:
        key_z, key_actor = jax.random.split(key)
        params, target, batch = state.params, state.target, sight.shifted(config, batch, key)
        goals = net["backward"].apply(params["backward"], recall.read(params, batch.next_obs))
        z = losses.sample_latents(key_z, goals, config.goal_ratio, batch.latent, config.latent_ratio)

        grad, metrics = jax.grad(world_loss, has_aux=True)(pick(params, learned), target, batch)
        delta, world_state = optimizer.update(grad, state.optimizer["world"], pick(params, learned))
        world = optax.apply_updates(pick(params, learned), delta)

        x = know.read(params, batch.obs)
        successors = lambda action: forward_of(world, x, action)  # noqa: E731
        acting, actor_state, actor_metrics = pi.step(
            params, state.optimizer["actor"], see.read(params, batch.obs), z, batch.action, successors, key_actor
        )
        opt_state = {"world": world_state, "actor": actor_state}
        metrics |= actor_metrics | {"grad/world": optax.tree.norm(grad)}
        target = soft_update(target, pick(world, LEARNED), config.tau)
        return fb.State(world | acting, target, opt_state), metrics

    def features(params: Params, obs: Obs) -> Array:
        return net["backward"].apply(params["backward"], recall.read(params, obs))

    def prompt(params: Params, prompt: Prompt, key: RandomKey) -> Array:
        read = functools.partial(features, params)
        return prompts.answer_by_correlation("onestep_fb", read, config.z_dim, prompt, key)

    def act(params: Params, obs: Obs, z: Array, carry: Any, key: RandomKey | None) -> tuple[Array, Any]:
        x = see.read(params, obs)
        z = jnp.broadcast_to(z, (x.shape[0], config.z_dim))
        return pi.act(params, x, z, lambda action: forward_of(params, x, action), key), carry

    def value(params: Params, prompt: Reward, z: Array, obs: Obs) -> Array:
        # F B^T is a density of probability against the data, so E[r B] gives the mean reward; r is not centred.
        weights = (prompt.reward[:, None] * features(params, prompt.obs)).mean(0)
        action, _ = act(params, obs, z, (), None)
        return losses.aggregate(forward_of(params, know.read(params, obs), action) @ weights, config.actor_pessimism)

    drawn, kinds = config.imitation.held, (Reward, Goal, Motion, Prior)
    return Agent(init, update, prompt, lambda count: (), act, kinds, value, Needs(chain=2), drawn, features)


def _networks(config: Config) -> dict[str, nets.encoders.Net]:
    dtype, encoder = config.matmul, nets.encoders.encoder
    return {
        "forward": encoder(config.hidden, config.layers, config.z_dim, on_sphere=False, members=2, dtype=dtype),
        "backward": encoder(config.backward_hidden, config.backward_layers, config.z_dim, dtype=dtype),
    }
