"""Normalised layers of world models: activations and endings by hand, members that begin apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.nets.normed import mish, normed, sim_norm


def test_mish_is_x_times_tanh_of_softplus_also_far_out_and_so_is_its_gradient():
    x = np.array([-80.0, -5.0, -1.0, 0.0, 0.5, 3.0, 19.0, 21.0, 90.0])
    expected = x * np.tanh(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0))
    np.testing.assert_allclose(mish(jnp.float32(x)), expected, rtol=1e-5, atol=1e-7)
    step = 1e-4
    written = lambda x: x * np.tanh(np.logaddexp(x, 0))  # noqa: E731
    slope = (written(x + step) - written(x - step)) / (2 * step)
    np.testing.assert_allclose(jax.vmap(jax.grad(mish))(jnp.float32(x)), slope, atol=1e-3)


def test_sim_norm_groups_sum_to_one_and_do_not_see_what_is_added_to_all_of_a_group():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 12)), jnp.float32)
    found = sim_norm(x, 4)
    np.testing.assert_allclose(found.reshape(3, 3, 4).sum(-1), 1.0, rtol=1e-6)
    moved = x.reshape(3, 3, 4) + jnp.array([5.0, -3.0, 0.0]).reshape(1, 3, 1)
    np.testing.assert_allclose(sim_norm(moved.reshape(3, 12), 4), found, rtol=1e-5)
    # Groups are neighbours: e^0 : e^ln 3 = 1 : 3.
    one = sim_norm(jnp.array([0.0, np.log(3.0), 7.0, 7.0]), 2)
    np.testing.assert_allclose(one, [0.25, 0.75, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("ending", ["linear", "simplex", "activation"])
def test_network_is_linear_layers_each_normalised_before_its_activation(ending):
    rng = np.random.default_rng(1)
    x, net = rng.normal(size=(5, 3)), normed(6, 1, 8, "elu", ending=ending, group=4)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((5, 3)))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)

    def normal(x, layer):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]

    elu = lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))  # noqa: E731
    hidden = elu(normal(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"], params["norm_0"]))
    out = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    if ending == "activation":
        out = elu(normal(out, params["norm"]))
    if ending == "simplex":
        exponential = np.exp(out.reshape(5, 2, 4))
        out = (exponential / exponential.sum(-1, keepdims=True)).reshape(5, 8)
    assert sorted(params) == sorted(["hidden_0", "norm_0", "head", *["norm"] * (ending == "activation")])
    np.testing.assert_allclose(net.apply(jax.tree.map(jnp.float32, params), jnp.float32(x)), out, rtol=1e-4, atol=1e-5)


def test_each_member_begins_with_weights_of_its_own_and_is_a_network_by_itself():
    net, alone = normed(6, 1, 2, "mish", members=3), normed(6, 1, 2, "mish")
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)), jnp.float32)
    params = net.init(jax.random.key(0), x)
    kernels = params["hidden_0"]["kernel"]
    assert min(float(jnp.abs(kernels[i] - kernels[j]).max()) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    for k in range(3):
        # Scale and bias of a member's LayerNorm have an axis for the batch.
        one = jax.tree.map(lambda leaf, k=k: leaf[k].reshape(leaf.shape[-2:] if leaf.ndim == 3 else -1), params)
        one["norm_0"] = {name: leaf[0] for name, leaf in one["norm_0"].items()}
        np.testing.assert_allclose(net.apply(params, x)[k], alone.apply(one, x), rtol=1e-5, atol=1e-6)
