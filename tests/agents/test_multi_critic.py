"""Multi-critic skills: no reward drowns another, dead ones are silent, one critic is plain PPO, constraints hold."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import discovery, kinds, multi_critic, multi_critic_sac
from agents.multi_critic import Config
from embodied.policy_gradient import with_moments
from embodied.types import Batch, Goal, InputError, Motion, Prior, Reward, Spec
from tests.agents.chains import quick_jit

SPEC = Spec({"state": (5,)}, 2, parts={"hand": (0, 2), "object": (2, 5)})
E, T = 3, 8
STEPS = [[0, 0, 3], [0, 4, 0], [9, 9, 9]]


def plain(channels=("reach",), **changes):
    """A configuration without skills, one weight and discount for all."""
    kinds = len(channels)
    shared = {"weights": (1.0,) * kinds, "discounts": (0.9,) * kinds, "told": "nothing"}
    return dataclasses.replace(Config(channels=channels, **shared).tiny(), **changes)


def rollout(agent, reward, seed=0, key=None):
    """A rollout of the first policy with these rewards [E, T, C], and the state that it was made with."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(E, T, *shape)), jnp.float32)  # noqa: E731
    state = agent.init(jax.random.key(0), SPEC.example())
    z = jnp.stack([agent.prompt(state.params, Prior(), jax.random.key(i)) for i in range(E)])
    obs = draw(5)
    action = draw(2)
    return state, Batch(
        obs={"state": obs},
        action=action,
        next_obs={"state": draw(5)},
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.ones((E, T)).at[1, 3].set(0.0),
        latent=jnp.repeat(z[:, None], T, 1),
        last=jnp.zeros((E, T), bool).at[:, -1].set(True).at[1, 3].set(True),
    )


@functools.cache
def compiled(config):
    """The agent and its update; what several tests ask for is compiled once."""
    agent = multi_critic.make(config, SPEC)
    return agent, quick_jit(agent.update)


def after(config, reward):
    """(parameters, metrics) after one update."""
    agent, update = compiled(config)
    state, batch = rollout(agent, reward)
    state, metrics = update(state, batch, jax.random.key(7))
    return state.params, metrics


def rewards(*sizes, seed=3):
    return np.random.default_rng(seed).normal(size=(E, T, len(sizes))) * np.array(sizes)


def distance(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)))


def test_actor_does_not_see_how_large_a_reward_is():
    reward = rewards(1.0, 1.0)
    actor, _ = after(plain(("reach", "safety")), reward)
    larger, _ = after(plain(("reach", "safety")), reward * np.array([1e3, 1.0]))
    assert distance(actor["actor"], larger["actor"]) < 1e-4
    # With one critic of the sum it does.
    summed, drowned = (after(plain(("reach", "safety"), critics="one"), r)[0] for r in (reward, reward * [1e3, 1.0]))
    assert distance(summed["actor"], drowned["actor"]) > 1e-4


def test_reward_that_never_comes_changes_nothing():
    two, metrics = after(plain(("reach", "safety")), rewards(1.0, 0.0))
    one, _ = after(plain(("reach",)), rewards(1.0, 0.0)[..., :1])
    assert distance(two["actor"], one["actor"]) < 1e-6
    assert metrics["critic/spread_safety"] == 0
    assert metrics["cosine/reach_safety"] == 0


def test_single_critic_is_the_same_bit_for_bit_whether_rewards_are_summed_or_not():
    reward = rewards(1.0)
    each, summed = (after(plain(critics=critics), reward)[0] for critics in ("each", "one"))
    jax.tree.map(np.testing.assert_array_equal, each, summed)


def test_one_critic_is_plain_ppo():
    """Against PPO written out: advantages by a loop, normalised once, minibatches of the same order, Adam."""
    config = plain(kl=1e-9, hidden=8)  # the step size falls at every step but the first, which no KL precedes
    agent = multi_critic.make(config, SPEC)
    state, batch = rollout(agent, rewards(1.0))
    learned = quick_jit(agent.update)(state, batch, jax.random.key(7))[0].params["actor"]

    actor, _ = multi_critic.networks(config, SPEC, 1)
    x = jnp.concatenate([batch.obs["state"].reshape(-1, 5), jnp.ones((E * T, 1))], -1)
    action, advantage = batch.action.reshape(-1, 2), np.zeros((E, T))  # values are zero at first
    for e in range(E):
        ahead = 0.0
        for t in reversed(range(T)):
            ahead = batch.reward[e, t, 0] + (0.0 if batch.last[e, t] else 0.9 * config.trace * ahead)
            advantage[e, t] = ahead
    advantage = jnp.asarray((advantage - advantage.mean()) / advantage.std(), jnp.float32).reshape(-1)
    log_prob = lambda p, x, a: jax.scipy.stats.norm.logpdf(  # noqa: E731
        a, actor.apply(p["mean"], x), jnp.exp(p["log_std"])[None]
    ).sum(-1)
    old, params, optimizer = log_prob(state.params["actor"], x, action), state.params["actor"], optax.scale_by_adam()
    moments, lr = optimizer.init(params), config.lr

    def loss(params, index):
        ratio = jnp.exp(log_prob(params, x[index], action[index]) - old[index])
        clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
        entropy = (params["log_std"] + 0.5 * jnp.log(2 * jnp.pi * jnp.e)).sum()
        value = jnp.minimum(ratio * advantage[index], clipped * advantage[index]).mean()
        return -value - config.entropy * entropy

    order = multi_critic.minibatches(jax.random.split(jax.random.key(7))[1], E * T, config.epochs, config.minibatches)
    for number, index in enumerate(order):
        lr = lr * 1.5 if number == 0 else max(lr / 1.5, 1e-5)
        gradient = jax.grad(loss)(params, index)
        norm = optax.tree.norm(gradient)
        gradient = jax.tree.map(lambda leaf, n=norm: leaf * jnp.minimum(1.0, config.gradient / n), gradient)
        delta, moments = optimizer.update(gradient, moments)
        params = jax.tree.map(lambda p, d, rate=lr: p - rate * d, params, delta)
    assert distance(learned, params) < 2e-6
    assert distance(learned, state.params["actor"]) > 1e-4


@pytest.mark.parametrize(("critics", "compromise"), [("each", True), ("one", False)])
def test_small_reward_is_heard_beside_a_large_one_that_disagrees(critics, compromise):
    """Decisions without a future: 100 a_0 wants the first action component up, 0.01 a_1 - 0.01 a_0 the other up too.

    Normalised, both have one vote: the first wants (1, 0), the second (-1, 1) / sqrt(2), together 0.29 and 0.71 as
    much. In the sum the second is a ten-thousandth.
    """
    config = plain(
        ("large", "small"), critics=critics, discounts=(0.0, 0.0), entropy=0.0, epochs=1, minibatches=1, inputs="raw"
    )
    agent = multi_critic.make(dataclasses.replace(config, hidden=4), SPEC)
    state, _ = rollout(agent, rewards(1.0, 1.0))
    count = 4000
    obs = {"state": jnp.zeros((count, 1, 5))}
    z = jnp.zeros((count, 1, 0))
    action, _ = agent.act(state.params, {"state": obs["state"][:, 0]}, z[:, 0], (), jax.random.key(5))
    reward = jnp.stack([100 * action[:, 0], 0.01 * (action[:, 1] - action[:, 0])], -1)[:, None]
    batch = Batch(obs, action[:, None], obs, reward, jnp.ones((count, 1)), z, last=jnp.ones((count, 1), bool))
    actor, _ = multi_critic.networks(dataclasses.replace(config, hidden=4), SPEC, 2)

    def objective(params):
        mean = actor.apply(params["mean"], obs["state"][:, 0])
        log_prob = -0.5 * jnp.square(action - mean).sum(-1)
        each = multi_critic.normalised(reward[:, 0], 1e-6)
        weight = jnp.ones(2) if critics == "each" else jnp.array([1.0, 1e-4])
        return (log_prob * (each * weight[None]).sum(-1)).mean()

    bias = jax.grad(objective)(state.params["actor"])["mean"]["head"]["bias"]
    assert (bias[0] > 0, bias[1] / bias[0] > 1) == (True, compromise)
    learned = quick_jit(agent.update)(state, batch, jax.random.key(0))[0]
    move = learned.params["actor"]["mean"]["head"]["bias"] - state.params["actor"]["mean"]["head"]["bias"]
    assert move[0] > 0
    if compromise:  # Adam's first step has one size for all that is moved at all
        assert move[1] > 0


def test_changed_moments_leave_values_as_they_were():
    for trunk in ("apart", "shared"):
        config = plain(("reach", "safety"), trunk=trunk)
        _, critic = multi_critic.networks(config, SPEC, 2)
        x = jax.random.normal(jax.random.key(0), (6, 5))
        params = {
            "critic": critic.init(jax.random.key(1), x),
            "moments": {"mean": jnp.array([1.0, -2.0]), "scale": jnp.array([3.0, 0.5])},
        }

        def values(params, critic=critic, x=x):
            out = critic.apply(params["critic"], x)
            out = out[..., 0].T if out.ndim == 3 else out
            return params["moments"]["mean"][None] + params["moments"]["scale"][None] * out

        moved = with_moments(params, jnp.array([0.0, 5.0]), jnp.array([10.0, 2.0]))
        np.testing.assert_allclose(values(moved), values(params), rtol=1e-4, atol=1e-5)


def test_weight_of_a_constraint_grows_while_it_is_broken_and_falls_while_it_holds():
    config = plain(("reach", "cost"), budgets=(float("inf"), 0.5), lr_multiplier=0.1)
    reward = np.zeros((E, T, 2))
    for cost, factor in ((1.0, np.exp(0.1)), (9.0, np.exp(0.1)), (0.25, np.exp(-0.05)), (0.5, 1.0)):
        reward[..., 1] = -cost
        _, metrics = after(config, reward)
        assert metrics["weight/cost"] == pytest.approx(factor, rel=1e-4)
        assert metrics["weight/reach"] == 1.0


def test_weights_move_evenly_from_where_they_begin():
    config = plain(("reach", "safety"), begin=(0.5, 0.0), weights=(0.3, 1.0), ramp=4)
    reward = jnp.asarray(rewards(1.0, 1.0).reshape(-1, 2), jnp.float32)
    for count, weights in ((0, (0.5, 0.0)), (1, (0.45, 0.25)), (4, (0.3, 1.0)), (9, (0.3, 1.0))):
        _, found, _ = kinds.weighed(config, jnp.zeros(2), reward, jnp.int32(count))
        np.testing.assert_allclose(found, weights, rtol=1e-6)
    summed = dataclasses.replace(config, critics="one")
    _, _, paid = kinds.weighed(summed, jnp.zeros(2), reward, jnp.int32(0))
    np.testing.assert_allclose(paid[:, 0], reward[:, 0], rtol=1e-6)  # all of it is reach at first


def test_goals_are_reached_for_by_the_skill_that_leads_there_from_every_state():
    config = dataclasses.replace(Config().tiny(), moved=("object",))
    agent = multi_critic.make(config, SPEC)
    state, batch = rollout(agent, rewards(1.0, 1.0))
    state, metrics = quick_jit(agent.update)(state, batch, jax.random.key(1))
    assert {"reward/skill", "cosine/reach_skill", "critic/explained_skill"} <= set(metrics)
    goal = jnp.array([0.0, 0.0, 1.0, 2.0, 3.0])
    z = agent.prompt(state.params, Goal({"state": goal}), jax.random.key(0))
    obs = {"state": jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)}
    wanted, _ = agent.act(state.params, obs, z, (), None)
    embed = discovery.make(config.skill, (3,)).embed
    move = embed(state.params["skill"], goal[None, 2:]) - embed(state.params["skill"], obs["state"][:, 2:])
    skill = move / jnp.linalg.norm(move, axis=-1, keepdims=True)
    nowhere = jnp.zeros((4, 4))
    expected, _ = agent.act(state.params, obs, jnp.concatenate([skill, nowhere], -1), (), None)
    np.testing.assert_allclose(wanted, expected, rtol=1e-4, atol=1e-6)
    # What skills do not move is no part of a goal.
    elsewhere = agent.prompt(state.params, Goal({"state": goal.at[:2].set(9.0)}), jax.random.key(0))
    np.testing.assert_array_equal(elsewhere, z)


@pytest.mark.parametrize("learner", [multi_critic, multi_critic_sac])
def test_policy_told_goals_reads_them_and_is_paid_for_the_distance_that_it_gains(learner):
    spec = dataclasses.replace(SPEC, mean={"state": (1.0,) * 5}, std={"state": (2.0,) * 5})
    kinds_of = {"channels": (), "weights": (1.0,), "discounts": (0.9,), "told": "goal", "moved": ("object",)}
    agent = learner.make(dataclasses.replace(learner.Config(**kinds_of).tiny(), reach=1.5), spec)
    prompt = lambda goal: agent.prompt({}, goal, jax.random.key(0))  # noqa: E731
    place = lambda z: np.asarray(z[..., :-1] / z[..., -1:])  # noqa: E731
    np.testing.assert_allclose(place(prompt(Goal({"state": jnp.arange(5.0)}))), [0.5, 1.0, 1.5], rtol=1e-6)
    path = prompt(Motion({"state": jnp.array([[0.0] * 5, [3.0] * 5])}))
    np.testing.assert_allclose(place(path), [[-0.5] * 3, [1.0] * 3], rtol=1e-6)
    drawn = place(jax.vmap(lambda key: agent.prompt({}, Prior(), key))(jax.random.split(jax.random.key(1), 500)))
    assert np.abs(drawn).max() < 1.5
    np.testing.assert_allclose([drawn.min(0), drawn.max(0)], [[-1.5] * 3, [1.5] * 3], atol=0.05)
    state = agent.init(jax.random.key(0), spec.example())
    obs = {"state": jnp.ones((2, 5))}
    assert np.abs(np.diff(agent.act(state.params, obs, path, (), None)[0], axis=0)).max() > 1e-5


def test_distance_gained_ends_with_the_episode():
    """By hand: from 5 away to 3 away, from 3 to 4, and a decision behind which another episode begins."""
    config = Config(channels=(), told="goal", weights=(1.0,), discounts=(0.9,), moved=("object",))
    told = kinds.make("multi_critic", config, SPEC, lambda obs: obs["state"])
    x, next_x = (jnp.zeros((3, 5)).at[:, 2:].set(jnp.array(rows)) for rows in ([[3, 4, 0]] + [[0, 0, 3]] * 2, STEPS))
    given = (x, next_x, jnp.zeros((3, 3)), jnp.array([1.0, 1.0, 0.0]))
    _, _, gained, _ = told.learn({}, (), given, 1, jax.random.key(0))
    np.testing.assert_allclose(gained, [[2.0], [-1.0], [0.0]], atol=1e-6)


def test_bad_configurations_and_prompts_are_refused():
    for changes, message in (
        (
            {"channels": (), "told": "nothing", "weights": (), "discounts": ()},
            "channels must name a task where",
        ),
        ({"weights": (1.0,)}, "weights must be one number for each of reach, safety, skill"),
        ({"weights": (0.0, 0.0, 0.0)}, "weights must not be below 0, nor all of them 0"),
        ({"begin": (0.0, 1.0)}, "begin must be one number for each of reach, safety, skill"),
        ({"begin": (1.0, -1.0, 1.0)}, "begin must not be below 0, nor all of them 0"),
        ({"discounts": (0.9, 1.0, 0.9)}, r"discounts must be in \[0, 1\), got \(0.9, 1.0, 0.9\)"),
        ({"budgets": (1.0, 1.0, 1.0), "critics": "one"}, "budgets need critics 'each'"),
    ):
        with pytest.raises(InputError, match=f"multi_critic: {message}"):
            dataclasses.replace(Config(), **changes)
    with pytest.raises(InputError, match="the state has no part 'objet'; did you mean 'object'"):
        multi_critic.make(dataclasses.replace(Config().tiny(), moved=("objet",)), SPEC)
    agent = multi_critic.make(plain(), SPEC)
    with pytest.raises(TypeError, match="multi_critic takes Prior prompts, got Reward"):
        agent.prompt({}, Reward({}, jnp.zeros(1)), jax.random.key(0))
