"""ICVF: the multilinear value and its loss by hand, and who receives which gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import icvf
from embodied import successor
from embodied.nets import encoders
from embodied.types import InputError, Needs, Spec
from tests.agents.chains import quick_jit, random_batch, random_state

SPEC = Spec(obs={"state": (5,)}, action=2)
ROWS = 5


def test_multilinear_value_by_hand():
    here, goal = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, -1.0]])
    wish = jnp.array([[[3.0, 1.0]], [[1.0, 1.0]]])
    first = jnp.array([[[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    second = jnp.array([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    mixing = {"first": {"kernel": first}, "second": {"kernel": second}}
    # Head 0: (3, 2) -> (3, 5) -> (6, 5), times (3, 1) is (18, 5): 18 - 5. Head 1: (1, 2) -> (2, 1): 2 - 1.
    np.testing.assert_allclose(icvf.multilinear_value(here, wish, mixing, goal), [[13.0], [1.0]])


def made_case(mask):
    """(config, state, a function (params, target) -> metrics): all goals are the futures of their own rows."""
    config = dataclasses.replace(icvf.Config().tiny(), random_goals=0.0, same_goals=0.0, mask=mask)
    agent = icvf.make(config, SPEC)
    state = random_state(agent, SPEC)
    state = state.replace(target=jax.tree.map(lambda leaf: 1.5 * leaf, state.target))

    def metrics(params, target):
        return agent.update(state.replace(params=params, target=target), batch(), jax.random.key(0))[1]

    return config, state, metrics


def batch():
    """Rows of which the second arrives at its goal, and whose futures are one state otherwise: so are intentions."""
    made = random_batch(SPEC, ROWS)
    future = jnp.broadcast_to(made.future["state"][:1], (ROWS, 5))
    next_state = made.next_obs["state"].at[1].set(future[0])
    return made.replace(future={"state": future}, next_obs={"state": next_state})


def networks(config, group):
    """(e, T, f) of a group of parameters, as functions of observations."""
    encoder = encoders.encoder(config.encoder_hidden, config.encoder_layers, config.encoder_dim)
    wish = encoders.encoder(config.feature_hidden, config.feature_layers, config.z_dim, on_sphere=False, members=2)
    features = successor.feature_net(config)
    read = lambda x: features.apply(group["features"], x)  # noqa: E731
    return (
        lambda x: np.asarray(encoder.apply(group["encoder"], x)),
        lambda x: np.asarray(wish.apply(group["intention"], read(x))),
        lambda x: np.asarray(read(x)),
    )


@pytest.mark.parametrize("mask", ["goal", "intention"])
def test_loss_equals_a_plain_loop(mask):
    config, state, metrics = made_case(mask)
    made = batch()
    x, after, goal = (obs["state"] for obs in (made.obs, made.next_obs, made.future))

    def values(group, x):
        encode, wish, read = networks(config, group)
        e, t, f = encode(x), wish(goal), read(goal)
        first, second = (np.asarray(group["mixing"][name]["kernel"]) for name in ("first", "second"))
        return np.array(
            [[((e[i] * t[k, i]) @ first[k] @ second[k] * t[k, i]) @ f[i] for i in range(ROWS)] for k in range(2)]
        )

    online, slow, slow_after = values(state.params, x), values(state.target, x), values(state.target, after)
    expected = 0.0
    for i in range(ROWS):
        going = 0.0 if i == 1 else 1.0
        aims = [-going + config.discount * going * slow_after[k, i] for k in range(2)]
        weight = 0.9 if min(aims) - slow[:, i].mean() >= 0 else 0.1
        expected += sum(weight * (aims[k] - online[k, i]) ** 2 for k in range(2)) / ROWS
    found = quick_jit(metrics)(state.params, state.target)["loss/features"]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_values_train_the_encoder_which_successor_features_take_as_it_is():
    _, state, metrics = made_case("goal")

    def nonzero(tree):
        return {name for name, group in tree.items() if any(np.any(leaf) for leaf in jax.tree.leaves(group))}

    names = ("loss/features", "loss/successor")
    pair = lambda *groups: {name: metrics(*groups)[name] for name in names}  # noqa: E731
    jacobian = quick_jit(jax.jacrev(pair, argnums=(0, 1)))(state.params, state.target)
    assert nonzero(jacobian["loss/features"][0]) == {"features", "encoder", "intention", "mixing"}
    assert nonzero(jacobian["loss/successor"][0]) == {"successor"}
    assert not any(nonzero(jacobian[name][1]) for name in names)


def test_intention_of_another_row_ends_the_bootstrap_only_where_the_mask_says_so():
    """Futures differ by row, so that reaching one's goal and reaching the intention are two things."""
    found = {}
    for mask in ("goal", "intention"):
        config = dataclasses.replace(icvf.Config().tiny(), random_goals=0.0, same_goals=0.0, mask=mask)
        agent = icvf.make(config, SPEC)
        made = random_batch(SPEC, ROWS)
        arrived = made.replace(next_obs=made.future)
        state = random_state(agent, SPEC)
        found[mask] = float(quick_jit(agent.update)(state, arrived, jax.random.key(0))[1]["loss/features"])
    assert found["goal"] != pytest.approx(found["intention"], rel=1e-3)


def test_widths_that_do_not_meet_are_refused():
    with pytest.raises(InputError, match="icvf: encoder_dim must equal z_dim, got 256 and 50"):
        icvf.Config(encoder_dim=256)
    assert icvf.make(icvf.Config(future=0.9).tiny(), SPEC).needs == Needs(future=0.9)
