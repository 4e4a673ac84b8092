"""Self-predictive features, one step and a geometric number of steps ahead: the loss as a plain loop, and gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from agents import byol, byol_gamma
from embodied import successor
from embodied.nets import encoders
from embodied.types import Needs, Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (5,)}, action=2)
MODULES = {"byol": byol, "byol_gamma": byol_gamma}


@pytest.fixture(scope="module", params=MODULES)
def case(request):
    """(name, config, state, a function (params, target) -> metrics of an update on the fixed batch)."""
    module = MODULES[request.param]
    config = module.Config().tiny()
    agent = module.make(config, SPEC)
    state = random_state(agent, SPEC)
    # Another target than the online features, so that a mix-up shows.
    state = state.replace(target=jax.tree.map(lambda leaf: leaf + 0.1, state.target))

    def metrics(params, target):
        return agent.update(state.replace(params=params, target=target), random_batch(SPEC, 7), jax.random.key(0))[1]

    return request.param, config, state, metrics


def test_loss_equals_a_plain_loop(case):
    name, config, state, metrics = case
    batch = random_batch(SPEC, 7)
    net = successor.feature_net(config)
    predictor = encoders.dynamics(config.hidden, config.layers, config.z_dim)
    ahead = batch.next_obs if name == "byol" else batch.future
    here = np.asarray(net.apply(state.params["features"], batch.obs["state"]))
    aim = np.asarray(net.apply(state.target["features"], ahead["state"]))
    told = np.asarray(predictor.apply(state.params["predictor"], here, batch.action))
    prediction = sum(sum((told[k, i, c] - aim[i, c]) ** 2 for c in range(8)) for k in range(2) for i in range(7)) / (
        2 * 7
    )
    pairs = sum(np.dot(here[i], here[j]) ** 2 for i in range(7) for j in range(7) if i != j)
    orthonormal = pairs / (2 * 7 * 6) - np.square(here).sum(1).mean()
    found = quick_jit(metrics)(state.params, state.target)
    np.testing.assert_allclose(found["loss/prediction"], prediction, rtol=1e-4)
    np.testing.assert_allclose(found["loss/orth_features"], orthonormal, rtol=1e-4)
    np.testing.assert_allclose(found["loss/features"], prediction + 0.01 * orthonormal, rtol=1e-4)


def test_gradient_reaches_features_and_predictor_and_no_target(case):
    _, _, state, metrics = case
    gradient = quick_jit(jax.grad(lambda *groups: metrics(*groups)["loss/features"], argnums=(0, 1)))
    params, target = gradient(state.params, state.target)
    reached = {name for name, group in params.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}
    assert reached == {"features", "predictor"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(target))


def test_only_the_discounted_variant_needs_a_future_and_it_lies_as_far_as_its_discount_says():
    assert byol.make(byol.Config().tiny(), SPEC).needs == Needs()
    config = dataclasses.replace(byol_gamma.Config().tiny(), discount=0.9)
    assert byol_gamma.make(config, SPEC).needs == Needs(future=0.9)
