"""Multi-critic SAC: targets and updates by hand, no reward drowns another, dead ones are silent, one kind is SAC."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents import discovery, multi_critic_sac
from agents.multi_critic_sac import Config
from embodied.types import Batch, InputError, Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec({"state": (5,)}, 2, parts={"hand": (0, 2), "object": (2, 5)})
ROWS = 32
KEY = jax.random.key(7)


def plain(channels=("reach",), **changes):
    """A configuration without skills, whose moments and spreads stay as they are once rewards have varied."""
    shared = {"weights": (1.0,) * len(channels), "discounts": (0.9,) * len(channels), "told": "nothing"}
    small = Config(channels=channels, **shared, momentum=1.0, inputs="raw").tiny()
    return dataclasses.replace(small, **changes)


@functools.cache
def compiled(config):
    """The agent, and its update."""
    agent = multi_critic_sac.make(config, SPEC)
    return agent, quick_jit(agent.update)


def started(config, age=1):
    """A state with Gaussian networks, after so many updates in which rewards varied."""
    agent, _ = compiled(config)
    state = random_state(agent, SPEC)
    return state.replace(age=jnp.full_like(state.age, age), spread=jnp.ones_like(state.spread))


def batch_of(*sizes, width=0):
    """Transitions of which two terminate, with rewards of these sizes."""
    rng = np.random.default_rng(3)
    reward = jnp.asarray(rng.normal(size=(ROWS, len(sizes))) * np.array(sizes), jnp.float32)
    batch = random_batch(SPEC, ROWS).replace(future=None, chain=None, reward=reward)
    latent = jnp.asarray(rng.normal(size=(ROWS, width)), jnp.float32)
    return batch.replace(latent=latent, discount=jnp.ones(ROWS).at[jnp.array([3, 8])].set(0.0))


def distance(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)))


def drawn(config, params, obs, key):
    """The policy's draw with this key, written out."""
    mean, raw = np.split(np.asarray(multi_critic_sac.networks(config, SPEC, 1)[0].apply(params["actor"], obs)), 2, -1)
    std = np.exp(-5.0 + 7.0 / (1.0 + np.exp(-raw)))
    return np.tanh(mean + std * np.asarray(jax.random.normal(key, mean.shape)))


def test_targets_take_the_minimum_inside_each_kind_and_nothing_behind_a_termination():
    config = plain(("reach", "safety"), discounts=(0.9, 0.5))
    (_, update), state, batch = compiled(config), started(config), batch_of(1.0, 2.0)
    _, metrics = update(state, batch, KEY)

    critic = multi_critic_sac.networks(config, SPEC, 2)[1]
    values = lambda obs, action: np.asarray(  # noqa: E731
        critic.apply(state.params["critic"], np.concatenate([obs, action], -1))[..., 0]
    )
    next_obs = np.asarray(batch.next_obs["state"])
    ahead = values(next_obs, drawn(config, state.params, next_obs, jax.random.split(KEY, 3)[1]))
    now, expected = values(np.asarray(batch.obs["state"]), np.asarray(batch.action)), 0.0
    for k, discount in enumerate((0.9, 0.5)):
        for i in range(ROWS):
            goes_on = 0.0 if i in (3, 8) else 1.0
            y = batch.reward[i, k] + discount * goes_on * min(ahead[2 * k, i], ahead[2 * k + 1, i])
            expected += 0.5 * ((now[2 * k, i] - y) ** 2 + (now[2 * k + 1, i] - y) ** 2) / ROWS
    assert metrics["loss/critic"] == pytest.approx(float(expected), rel=1e-4)
    assert (np.argmin(ahead[:2], 0) != np.argmin(ahead[2:], 0)).any()  # one minimum for both would be another target


def test_one_kind_is_plain_sac_whether_it_is_summed_or_not():
    """Against SAC written out: two critics, their mean in the actor's loss, Adam for each, and a temperature."""
    config = plain()
    spread, after = 2.5, {}
    for critics in ("each", "one"):
        chosen = dataclasses.replace(config, critics=critics)
        state = started(chosen).replace(spread=jnp.full(1, spread))
        after[critics], _ = compiled(chosen)[1](state, batch_of(1.0), KEY)
    assert distance(after["each"].params, after["one"].params) < 1e-6

    actor, critic = multi_critic_sac.networks(config, SPEC, 1)
    batch, params = batch_of(1.0), state.params
    obs, next_obs = batch.obs["state"], batch.next_obs["state"]
    _, key_next, key_now = jax.random.split(KEY, 3)

    def policy(actor_params, obs, key):
        mean, raw = jnp.split(actor.apply(actor_params, obs), 2, -1)
        std = jnp.exp(-5.0 + 7.0 * jax.nn.sigmoid(raw))
        raw_action = mean + std * jax.random.normal(key, mean.shape)
        log_prob = jax.scipy.stats.norm.logpdf(raw_action, mean, std) - jnp.log(1 - jnp.tanh(raw_action) ** 2)
        return jnp.tanh(raw_action), log_prob.sum(-1)

    def twins(critic_params, obs, action):
        return critic.apply(critic_params, jnp.concatenate([obs, action], -1))[..., 0]

    next_action, _ = policy(params["actor"], next_obs, key_next)
    y = batch.reward[:, 0] + 0.9 * batch.discount * jnp.min(twins(params["critic"], next_obs, next_action), 0)

    def critic_loss(critic_params):
        first, second = twins(critic_params, obs, batch.action)
        return 0.5 * jnp.mean((first - y) ** 2) + 0.5 * jnp.mean((second - y) ** 2)

    def actor_loss(actor_params):
        action, log_prob = policy(actor_params, obs, key_now)
        return (
            jnp.exp(params["temperature"]) * log_prob - twins(params["critic"], obs, action).mean(0) / spread
        ).mean()

    def temperature_loss(log_temperature):
        _, log_prob = policy(params["actor"], obs, key_now)
        return -log_temperature * (log_prob.mean() - 0.5 * SPEC.action)

    rates = {"critic": config.lr, "actor": config.lr, "temperature": config.lr_temperature}
    losses = {"critic": critic_loss, "actor": actor_loss, "temperature": temperature_loss}

    @quick_jit
    def stepped(params):
        optimizers = {name: optax.adam(rate) for name, rate in rates.items()}
        grads = {name: jax.grad(loss)(params[name]) for name, loss in losses.items()}
        deltas = {name: one.update(grads[name], one.init(params[name]))[0] for name, one in optimizers.items()}
        return {name: optax.apply_updates(params[name], delta) for name, delta in deltas.items()}

    expected = stepped(params)
    for name in losses:
        assert distance(after["each"].params[name], expected[name]) < 2e-6
        assert distance(after["each"].params[name], params[name]) > 1e-4
    moved = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new, params["critic"], expected["critic"])
    assert distance(after["each"].target["critic"], moved) < 2e-6


def test_actor_does_not_see_how_large_a_reward_is():
    """Values that are a thousand times as large, of rewards that are, move the actor by the same."""
    config = plain(("reach", "safety"))
    size, found = np.array([1.0, 1e3], np.float32), []
    for factor in (np.ones(2, np.float32), size):
        state = started(config, age=0)
        moments = jax.tree.map(lambda leaf, f=factor: leaf * f, state.params["moments"])
        state = state.replace(params=state.params | {"moments": moments})
        found.append(compiled(config)[1](state, batch_of(*factor), KEY)[0])
    one, other = found
    assert distance(one.params["actor"], other.params["actor"]) < 1e-4 * config.lr
    assert distance(one.params["actor"], state.params["actor"]) > 0.1 * config.lr
    np.testing.assert_allclose(other.spread, one.spread * size, rtol=1e-3)
    assert distance(one.params["critic"], other.params["critic"]) < 1e-4  # nor do critics


def test_reward_that_never_varied_changes_nothing():
    two, one = plain(("reach", "safety")), plain()
    batch = batch_of(1.0, 0.0).replace(reward=batch_of(1.0, 0.0).reward - jnp.array([[0.0, 0.3]]))
    state = started(two, age=0)
    first = lambda tree: jax.tree.map(lambda leaf: leaf[:2], tree)  # noqa: E731
    alone = started(one, age=0)
    alone = alone.replace(
        params=alone.params
        | {name: state.params[name] for name in ("actor",)}
        | {"critic": first(state.params["critic"])},
        target=first(state.target),
    )
    state, metrics = compiled(two)[1](state, batch, KEY)
    alone, _ = compiled(one)[1](alone, batch.replace(reward=batch.reward[:, :1]), KEY)
    assert distance(state.params["actor"], alone.params["actor"]) < 1e-6
    assert state.params["temperature"] == alone.params["temperature"]
    assert metrics["cosine/reach_safety"] == 0
    np.testing.assert_array_equal(state.age, [1, 0])


def test_reward_of_skills_is_that_of_the_features_as_they_are():
    """The batch stores none: other features, other rewards and targets."""
    still = dataclasses.replace(discovery.Config().tiny(), lr=0.0)
    config = plain(told="skill", weights=(1.0, 1.0), discounts=(0.9, 0.9), skill=still, moved=("object",))
    (_, update), state, batch = compiled(config), started(config), batch_of(1.0, width=2 + 3 + 1)
    _, before = update(state, batch, KEY)
    other = jax.tree.map(lambda leaf: 1.5 * leaf, state.params["skill"])
    _, after = update(state.replace(params=state.params | {"skill": other}), batch, KEY)
    objective = discovery.make(still, (3,))
    z = discovery.on_sphere(batch.latent[:, :2])
    for params, metrics in ((state.params["skill"], before), (other, after)):
        paid = objective.reward(params, batch.obs["state"][:, 2:], batch.next_obs["state"][:, 2:], z)[:, 0]
        # Behind a termination comes another episode.
        assert metrics["reward/skill"] == pytest.approx(float((paid * batch.discount).mean()), rel=1e-4)
    assert before["reward/reach"] == after["reward/reach"]
    assert abs(before["loss/critic"] - after["loss/critic"]) > 1e-3


@pytest.mark.parametrize(("critics", "compromise"), [("each", True), ("one", False)])
def test_small_reward_is_heard_beside_a_large_one_that_disagrees(critics, compromise):
    """Decisions without a future: -100 (a - 0.5)^2 wants an action of 0.5, -0.01 (a + 0.5)^2 one of -0.5.

    In units of what actions change of either, both have one vote, so 0 is best; in their sum the second is a
    ten-thousandth.
    """
    spec = Spec({"state": (1,)}, 1)
    config = plain(("large", "small"), critics=critics, discounts=(0.0, 0.0), momentum=0.9, lr=5e-3, temperature=1e-3)
    agent = multi_critic_sac.make(config, spec)

    def one(state, key):
        key_action, key_update = jax.random.split(key)
        action = jax.random.uniform(key_action, (64, 1), minval=-1.0, maxval=1.0)
        reward = jnp.concatenate([-100 * (action - 0.5) ** 2, -0.01 * (action + 0.5) ** 2], -1)
        here = {"state": jnp.ones((64, 1))}
        batch = Batch(here, action, here, reward, jnp.ones(64), jnp.zeros((64, 0)))
        return agent.update(state, batch, key_update)[0], None

    learn = quick_jit(lambda state, keys: jax.lax.scan(one, state, keys)[0])
    state = random_state(agent, spec)
    state = learn(state.replace(spread=jnp.ones_like(state.spread)), jax.random.split(KEY, 400))
    action, _ = agent.act(state.params, {"state": jnp.ones((1, 1))}, jnp.zeros(0), (), None)
    wanted = 0.0 if compromise else 0.5
    assert abs(float(action[0, 0]) - wanted) < 0.15


def test_squashed_draws_have_a_density_whose_integral_is_one():
    noise = jnp.linspace(-6, 6, 4001)[:, None]
    for mean, log_std in ((0.3, 0.2), (-1.0, -2.0)):
        action, log_prob = multi_critic_sac.squashed(jnp.full_like(noise, mean), jnp.full_like(noise, log_std), noise)
        assert np.trapezoid(np.exp(np.asarray(log_prob, float)), np.asarray(action[:, 0], float)) == pytest.approx(
            1.0, abs=1e-3
        )
        assert np.abs(action).max() <= 1


def test_spread_is_the_range_between_percentiles_but_no_less_than_the_unit_of_values():
    value = jnp.stack([jnp.linspace(0, 100, 101), jnp.linspace(0, 1, 101)])
    np.testing.assert_allclose(multi_critic_sac.spread_of(value, jnp.array([3.0, 3.0])), [90.0, 3.0], rtol=1e-5)


def test_messages_name_the_agent():
    with pytest.raises(
        InputError, match="multi_critic_sac: weights must be one number for each of reach, safety, skill"
    ):
        dataclasses.replace(Config(), weights=(1.0,))
