"""RLDP: chains of predictions as a plain loop, and what trains the backward map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import fb, rldp
from embodied import losses, nets
from embodied.nets.encoders import count
from embodied.types import Needs, Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (5,)}, action=2)
CONFIG = rldp.Config().tiny()


@pytest.fixture(scope="module")
def agent():
    return rldp.make(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state(agent):
    """A state whose targets are others than the online networks, so that a mix-up shows."""
    made = random_state(agent, SPEC)
    return made.replace(target=jax.tree.map(lambda leaf: leaf + 0.1, made.target))


@pytest.fixture(scope="module")
def metrics(agent, state):
    def of(params, target, batch):
        return agent.update(state.replace(params=params, target=target), batch, jax.random.key(0))[1]

    return of


def test_walker_model_is_forward_backward_with_a_predictor():
    agent = rldp.make(rldp.Config(), spec := Spec(obs={"state": (24,)}, action=6))
    params = jax.eval_shape(agent.init, jax.random.key(0), spec.example()).params
    sizes = {name: count(group) for name, group in params.items()}
    assert sum(sizes.values()) - sizes["predictor"] == 8_255_388
    # Two embeddings (of 50 and 56 numbers), one hidden layer, one output of 50.
    embedding = lambda width: width * 1024 + 3 * 1024 + 1024 * 512 + 512  # noqa: E731
    assert sizes["predictor"] == embedding(50) + embedding(56) + 1024 * 1025 + 1025 * 50
    assert agent.needs == Needs(chain=5)


def test_mean_of_chains_leaves_out_what_lies_behind_the_end_by_hand():
    prediction = jnp.array([[[1.0, 1.0], [9.0, 9.0]], [[0.0, 2.0], [3.0, 0.0]]])
    inside = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    # Squared errors 2, (left out), 4 and 9.
    assert losses.chain_loss(prediction, jnp.zeros((2, 2, 2)), inside) == 5.0
    assert losses.chain_loss(prediction, prediction + 1, jnp.zeros((2, 2))) == 0.0


def test_chain_loss_equals_a_plain_loop(state, metrics):
    batch = random_batch(SPEC, 6)
    backward = nets.encoders.encoder(CONFIG.backward_hidden, CONFIG.backward_layers, CONFIG.z_dim)
    predictor = nets.encoders.dynamics(CONFIG.hidden, CONFIG.layers, CONFIG.z_dim, members=0)
    here = np.asarray(backward.apply(state.params["backward"], batch.obs["state"]))
    total, steps, latent = 0.0, 0, here
    for h in range(5):
        latent = np.asarray(predictor.apply(state.params["predictor"], latent, batch.chain.action[:, h]))
        aim = np.asarray(backward.apply(state.target["backward"], batch.chain.next_obs["state"][:, h]))
        for i in range(6):
            if batch.chain.inside[i, h]:
                total, steps = total + np.square(latent[i] - aim[i]).sum(), steps + 1
    assert steps == 3 * 1 + 3 * 5
    found = quick_jit(metrics)(state.params, state.target, batch)
    np.testing.assert_allclose(found["loss/prediction"], total / steps, rtol=1e-4)
    pairs = sum(np.dot(here[i], here[j]) ** 2 for i in range(6) for j in range(6) if i != j)
    np.testing.assert_allclose(
        found["loss/orth_backward"], pairs / (2 * 6 * 5) - np.square(here).sum(1).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(
        found["loss/world"],
        found["loss/fb"] + found["loss/prediction"] + 0.01 * found["loss/orth_backward"],
        rtol=1e-5,
    )


def test_backward_map_learns_by_prediction_alone_and_forward_map_by_the_measure_alone(state, metrics):
    def nonzero(tree):
        return {name for name, group in tree.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}

    names = ("loss/fb", "loss/prediction")
    some = lambda *groups: {name: metrics(*groups, random_batch(SPEC, 6))[name] for name in names}  # noqa: E731
    jacobian = quick_jit(jax.jacrev(some, argnums=(0, 1)))(state.params, state.target)
    assert nonzero(jacobian["loss/fb"][0]) == {"encoder", "forward"}
    assert nonzero(jacobian["loss/prediction"][0]) == {"backward", "predictor"}
    assert not any(nonzero(jacobian[name][1]) for name in names)


def test_measure_loss_is_that_of_forward_backward_for_the_same_networks(state, metrics):
    batch = random_batch(SPEC, 6)
    groups = ("encoder", "forward", "backward", "actor")
    plain = fb.make(fb.Config().tiny(), SPEC)
    same = random_state(plain, SPEC).replace(params={name: state.params[name] for name in groups}, target=state.target)
    expected = quick_jit(plain.update)(same, batch, jax.random.key(0))[1]["loss/fb"]
    np.testing.assert_allclose(quick_jit(metrics)(state.params, state.target, batch)["loss/fb"], expected, rtol=1e-5)
