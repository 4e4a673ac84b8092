"""Actors alone and held to the data: published sizes, the flow's closed forms, and a bandit with two good actions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import byol_gamma, fb, onestep_fb, td_jepa
from embodied import actor, losses, nets
from embodied.actor import Imitation
from embodied.nets.encoders import count
from embodied.types import InputError, Spec
from tests.agents.chains import random_batch

HELD, CHOOSING = Imitation(weight=3.0), Imitation(candidates=3)


def published(obs, action):
    """Groups of TD-JEPA at the sizes published for OGBench (arXiv 2510.00739, appendix) -> parameters."""
    deep = {"phi_dim": 50, "phi_hidden": 512, "phi_layers": 4, "psi_hidden": 512, "psi_layers": 4}
    config = td_jepa.Config(**deep, hidden=512, layers=2, imitation=HELD)
    spec = Spec(obs={"state": (obs,)}, action=action)
    params = jax.eval_shape(td_jepa.make(config, spec).init, jax.random.key(0), spec.example()).params
    return {name: count(group) for name, group in params.items() if name != "covariance"}


def test_ogbench_model_has_the_published_sizes():
    sizes = published(29, 8)
    assert sizes["predict_psi"] == sizes["predict_phi"] == 1_795_172
    assert sizes["phi"] == sizes["psi"] == 830_002
    assert sizes["actor"] == 858_632
    assert sizes["flow"] == 812_040
    assert sum(sizes.values()) == 6_921_020


@pytest.mark.parametrize(
    ("module", "imitation"),
    [*((module, HELD) for module in (td_jepa, fb, byol_gamma, onestep_fb)), (td_jepa, CHOOSING), (fb, CHOOSING)],
    ids=lambda one: one.__name__ if hasattr(one, "__name__") else "chooses" if one.candidates else "held",
)
def test_every_family_of_agents_can_be_held_to_the_data(module, imitation):
    config = dataclasses.replace(module.Config().tiny(), imitation=imitation.tiny())
    agent = module.make(config, spec := Spec(obs={"state": (5,)}, action=2))
    batch = random_batch(spec, 4)
    state = agent.init(jax.random.key(0), batch)
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    assert ("actor" in state.params) == (imitation is HELD)
    for group in {"actor", "flow"} & set(state.params):
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params[group], state.params[group])
        assert max(jax.tree.leaves(moved)) > 0
    assert metrics["loss/flow"] > 0
    z = jnp.ones(config.z_dim)
    still = agent.act(after.params, batch.obs, z, (), None)[0]
    np.testing.assert_array_equal(still, agent.act(after.params, batch.obs, z, (), None)[0])
    assert jnp.abs(agent.act(after.params, batch.obs, z, (), jax.random.key(2))[0] - still).max() > 0


def test_straight_flow_leads_every_noise_to_its_action():
    """Where all data is one action a, the best velocity is (a - x) / (1 - t); any number of Euler steps ends at a."""
    action = jnp.array([[0.5, -0.25]])
    velocity = lambda x, time: (action - x) / (1 - time)  # noqa: E731
    noise = jax.random.normal(jax.random.key(0), (16, 2))
    for steps in (1, 4, 10):
        np.testing.assert_allclose(losses.follow_flow(velocity, noise, steps), np.tile(action, (16, 1)), atol=1e-6)
    data = jnp.tile(action, (16, 1))
    assert losses.flow_loss(velocity, noise, data, jax.random.key(1)) < 1e-10
    # Without any velocity the loss is the mean square of action - noise.
    nothing = losses.flow_loss(lambda x, time: jnp.zeros_like(x), noise, data, jax.random.key(1))
    np.testing.assert_allclose(nothing, np.square(data - noise).mean(), rtol=1e-6)


def test_teacher_stays_within_the_limits_of_actions():
    fast = losses.follow_flow(lambda x, time: jnp.full_like(x, 9.0), jnp.zeros((3, 2)), 5)
    np.testing.assert_array_equal(fast, np.ones((3, 2)))


def learned(weight, candidates=0, updates=600):
    """Actions without and with noise after learning from data at -0.5 and +0.5, where the value is the action."""
    imitation = Imitation(weight, candidates, hidden=32, layers=2, steps=5, lr=3e-3)
    exploring = {"noise": (0.2, 0.3), "smoothing": (0.2, 0.3), "pessimism": 0.0}
    net = nets.encoders.actor(32, 1, 1)
    pi = actor.make(net, Spec({"state": (1,)}, 1), imitation, rate=3e-3, **exploring, dtype="float32")
    seen, z = jnp.ones((128, 1)), jnp.ones((128, 1))
    params = pi.init(jax.random.key(0), seen, z, seen)
    successors = lambda action: jnp.stack([action, action])  # noqa: E731

    def update(carry, key):
        key_data, key_step = jax.random.split(key)
        data = 0.5 * jnp.sign(jax.random.normal(key_data, (128, 1)))
        params, state, metrics = pi.step(*carry, seen, z, data, successors, key_step)
        return (params, state), metrics

    keys = jax.random.split(jax.random.key(1), updates)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, keys))((params, pi.optimizer.init(params)))
    act = lambda key: pi.act(params, seen, z, successors, key)[:, 0]  # noqa: E731
    return act(None), act(jax.random.key(2))


def test_actor_alone_leaves_the_data_and_a_held_one_stays_with_it():
    alone, _ = learned(0.0)
    assert alone.min() > 0.9  # the value has no maximum within the limits
    _, held = learned(30.0)
    # Both actions of the data, and little between or beyond them.
    assert (held > 0.2).mean() > 0.25
    assert (held < -0.2).mean() > 0.25
    assert jnp.abs(held).mean() < 0.65
    _, torn = learned(0.3)
    assert torn.mean() > held.mean() + 0.1  # the value moves it, within what the data holds


def test_actor_that_chooses_takes_the_better_of_two_habits_and_nothing_beyond_it():
    still, drawn = learned(0.0, candidates=8)
    # Two to the minus eighth of the draws have no candidate at +0.5; the value alone would go to 1.
    assert (drawn > 0.2).mean() > 0.9
    assert (drawn < 0.8).mean() > 0.95
    assert (still > 0.2).all()
    np.testing.assert_allclose(still, still[0], rtol=1e-5)


def test_actor_that_chooses_takes_the_candidate_of_largest_value():
    """The flow leads nowhere, so that candidates are the noise, clipped; the value prefers what is near 0.3."""
    imitation = Imitation(candidates=5, hidden=4, layers=1, steps=1, lr=0.0)
    common = {"rate": 1e-3, "noise": (0.2, 0.3), "smoothing": (0.2, 0.3), "pessimism": 0.0, "dtype": "float32"}
    pi = actor.make(nets.encoders.actor(4, 1, 1), Spec({"state": (1,)}, 1), imitation, **common)
    seen = jnp.ones((6, 1))
    params = jax.tree.map(jnp.zeros_like, pi.init(jax.random.key(0), seen, seen, seen))
    near = lambda action: -jnp.stack([jnp.square(action - 0.3)] * 2)  # noqa: E731
    chosen = pi.act(params, seen, seen, near, jax.random.key(1))
    candidates = np.clip(jax.random.normal(jax.random.key(1), (5, 6, 1)), -1, 1)
    best = np.argmin(np.abs(candidates - 0.3), 0)
    np.testing.assert_allclose(chosen, np.take_along_axis(candidates, best[None], 0)[0], rtol=1e-6)
    assert (set(params), pi.groups) == ({"flow"}, ())
    after, _, metrics = pi.step(params, pi.optimizer.init({}), seen, seen, seen, near, jax.random.key(2))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, params))
    assert metrics == {}


def test_choosing_by_what_only_training_sees_is_refused():
    config = dataclasses.replace(fb.Config().tiny(), imitation=Imitation(candidates=2))
    with pytest.raises(InputError, match=r"imitation: candidates must be 0 in a world with privileged observations"):
        fb.make(config, Spec({"state": (3,), "privileged": (2,)}, 1))


def test_imitation_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"imitation: steps must be in \[1, inf\), got 0"):
        Imitation(steps=0)
    with pytest.raises(InputError, match=r"imitation: weight must be in \[0, inf\), got -1"):
        Imitation(weight=-1.0)
