"""How often goals are reached that the data came to: start and goal are two states of one episode, a while apart.

What was done between them shows that each goal can be reached in that time; a policy gets twice as long, as in the
comparisons of latent world models (LeWorldModel, arXiv 2603.19312; DINO-WM, arXiv 2411.04983). Goals that are met at
the start are left out. Success is meeting the goal at some control step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from agents.jepa import closeness
from embodied.data.dataset import Dataset
from embodied.evaluate import ever, random_behaviour
from embodied.planning import Planning, plan_on_host
from embodied.policy import Policy
from embodied.rollout import Behaviour, rollout, still_behaviour
from embodied.types import Carry, Env, Goal, InputError, Obs, Quantities, Timestep, nearest
from envs import push_t

AHEAD = 25  # decisions between start and goal
BUDGET = 50  # decisions of an episode
CLOSE = 0.05  # m, from the goal's position

Met = Callable[[Quantities, Quantities], Any]  # (quantities of a goal, quantities) -> bool


def at_position(goal: Quantities, here: Quantities) -> Any:
    """Whether `position` [..., 2] is within 5 cm of where it is in a goal."""
    return np.linalg.norm(here["position"] - goal["position"], axis=-1) <= CLOSE


MET: dict[str, Met] = {"point_maze": at_position, "push_t": push_t.at_pose}  # world -> when a goal is met


class Pairs(NamedTuple):
    """Starts and goals: stored physics states."""

    start: Float[np.ndarray, "G P"]
    goal: Float[np.ndarray, "G P"]


def pairs(env: Env, stored: Dataset, count: int, seed: int = 0, ahead: int = AHEAD) -> Pairs:
    """So many starts and goals of the data, drawn evenly; the goal is what followed the start `ahead` decisions later.

    Raises InputError for a world whose goals are not known here, and for data that do not hold so many.
    """
    if env.spec.name not in MET:
        raise InputError(f"world: goals of '{env.spec.name}' have no measure; {nearest(env.spec.name, MET)}")
    last = np.asarray(stored.ends)[np.searchsorted(stored.ends, stored.starts)] + 1
    rows = np.asarray(stored.starts)[last - stored.starts >= ahead]
    rows = np.random.default_rng(seed).permutation(rows)[: 20 * count]
    start, goal = (
        env.complete(np.asarray(stored.steps.physics[chosen], np.float64)) for chosen in (rows, rows + ahead)
    )
    apart = ~np.asarray(MET[env.spec.name](env.observe(goal)[1], env.observe(start)[1]))
    if apart.sum() < count:
        raise InputError(
            f"goals: must be at most {apart.sum()}, those that are {ahead} decisions from a start, got {count}"
        )
    return Pairs(start[apart][:count], goal[apart][:count])


def by_policy(policy: Policy, env: Env, given: Pairs, budget: int = BUDGET) -> Bool[np.ndarray, " G"]:
    """Which goals a policy reaches that is prompted with them, without exploration."""
    ask = jax.jit(lambda params, obs: policy.agent.prompt(params, Goal(obs), jax.random.key(0)))
    asked = jax.tree.map(jnp.asarray, dict(env.observe(given.goal)[0]))
    latents = [ask(policy.params, jax.tree.map(lambda leaf, i=i: leaf[i], asked)) for i in range(len(given.goal))]
    carry = (policy.params, jnp.stack(latents), policy.agent.carry(len(latents)))
    return _reached(env, still_behaviour(policy.agent), carry, given, budget)


def at_random(env: Env, given: Pairs, budget: int = BUDGET) -> Bool[np.ndarray, " G"]:
    """The same for uniformly random actions."""
    return _reached(env, random_behaviour(env.spec.action), ((), jnp.zeros((len(given.goal), 1)), ()), given, budget)


def _reached(env: Env, behave: Behaviour, carry: Carry, given: Pairs, budget: int) -> Bool[np.ndarray, " G"]:
    whole = rollout(env, behave, env.reset_to(given.start), carry, budget, jax.random.key(0))
    goal = {name: leaf[:, None] for name, leaf in env.observe(given.goal)[1].items()}
    return ever(whole, MET[env.spec.name](goal, whole.path), env.spec.hold)


def by_simulator(
    env: Env,
    see: Callable[[Obs], Float[Any, "S D"]],
    given: Pairs,
    planning: Planning,
    block: int,
    along: float,
    budget: int = BUDGET,
) -> Bool[np.ndarray, " G"]:
    """Which goals are reached by plans in copies of the simulator, each action held for a block and then replanned.

    The score is that of a latent world model whose latents are what is seen of observations.
    """
    met, goals, targets = MET[env.spec.name], env.observe(given.goal)[1], see(env.observe(given.goal)[0])
    reached = np.zeros(len(given.goal), bool)
    for i, target in enumerate(targets):
        ts, goal = env.reset_to(given.start[i : i + 1]), {name: leaf[i] for name, leaf in goals.items()}
        plan = np.zeros((planning.horizon, env.spec.action), np.float32)
        for decision in range(0, budget, block):

            def score(sequences: np.ndarray, ts: Timestep = ts, target: Any = target) -> np.ndarray:
                copies, seen = env.reset_to(np.repeat(ts.physics, len(sequences), 0)), []
                for action in np.swapaxes(sequences, 0, 1):
                    for _ in range(block):
                        copies = env.step(copies, action)
                    seen.append(see(copies.obs))
                return np.asarray(closeness(jnp.stack(seen, 1), target, along))

            plan = plan_on_host(planning, score, plan, seed=decision).actions
            for _ in range(min(block, budget - decision)):
                ts = env.step(ts, plan[:1])
                reached[i] |= np.asarray(met(goal, ts.path)).any()
            if reached[i]:
                break
            plan = np.concatenate([plan[1:], np.zeros_like(plan[:1])])
    return reached
