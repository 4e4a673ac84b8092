"""Networks: published sizes, layers by hand, and bfloat16 products that really are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.nets.encoders import actor, count, encoder, forward_map, mlp, project
from embodied.nets.mlp import Dense, LayerNorm, matmul_bfloat16, spectral_norm


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def random_params(rng, net, *inputs):
    """Gaussian parameters of the right shapes."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: normal(rng, *leaf.shape) / leaf.shape[-2:][0] ** 0.5, shapes)


def size(net, *widths):
    """The number of parameters of a network with inputs of these widths."""
    return count(jax.eval_shape(net.init, jax.random.key(0), *(jnp.zeros((2, width)) for width in widths)))


# Counts of the released models of arXiv 2510.00739 (first two rows) and arXiv 2504.11054 (the others).
@pytest.mark.parametrize(
    ("net", "widths", "expected"),
    [
        (forward_map(512, 2, 50), (50, 50, 8), 1_795_172),
        (encoder(512, 4, 50), (29,), 830_002),
        (forward_map(1024, 2, 256), (358, 256, 69), 8_966_656),
        (forward_map(1024, 2, 1), (358, 256, 69), 8_443_906),
        (actor(1024, 2, 69), (358, 256), 4_220_997),
        (encoder(256, 1, 256), (358,), 158_208),
    ],
)
def test_networks_have_the_published_sizes(net, widths, expected):
    assert size(net, *widths) == expected


def test_projection_is_idempotent_and_ends_on_the_sphere_of_radius_root_width(rng):
    z = project(normal(rng, 20, 7) * 100)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 7**0.5, rtol=1e-5)
    np.testing.assert_allclose(project(z), z, rtol=1e-6)
    np.testing.assert_allclose(project(jnp.array([3.0, 4.0])), np.array([0.6, 0.8]) * 2**0.5, rtol=1e-6)


def test_layer_norm_equals_the_formula_written_out(rng):
    x = normal(rng, 3, 4)
    params = {"scale": normal(rng, 4), "bias": normal(rng, 4)}
    wide = np.asarray(x, np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    normalised = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    expected = normalised * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(LayerNorm().apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_ensemble_layers_equal_their_members_one_by_one(rng):
    x = normal(rng, 5, 3)
    layer = {"kernel": normal(rng, 2, 3, 4), "bias": normal(rng, 2, 4)}
    norm = {"scale": normal(rng, 2, 1, 4), "bias": normal(rng, 2, 1, 4)}
    both = Dense(4, members=2).apply({"params": layer}, x)
    both_normal = LayerNorm(members=2).apply({"params": norm}, both)
    both_again = Dense(4, members=2).apply({"params": {**layer, "kernel": normal(rng, 2, 4, 4)}}, both_normal)
    assert both.shape == both_normal.shape == both_again.shape == (2, 5, 4)
    for k in range(2):
        alone = Dense(4).apply({"params": jax.tree.map(lambda leaf, k=k: leaf[k], layer)}, x)
        np.testing.assert_allclose(both[k], np.asarray(x) @ layer["kernel"][k] + layer["bias"][k][None], rtol=1e-5)
        np.testing.assert_allclose(both[k], alone, rtol=1e-6)
        alone_normal = LayerNorm().apply({"params": jax.tree.map(lambda leaf, k=k: leaf[k, 0], norm)}, alone)
        np.testing.assert_allclose(both_normal[k], alone_normal, rtol=1e-5, atol=1e-6)


def test_initial_weights_are_orthogonal_with_gain_one_and_root_two_for_ensembles():
    x = jnp.zeros((1, 3))
    plain = Dense(8).init(jax.random.key(0), x)["params"]
    both = Dense(8, members=2).init(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(plain["kernel"] @ plain["kernel"].T, np.eye(3), atol=1e-5)
    for k in range(2):
        np.testing.assert_allclose(both["kernel"][k] @ both["kernel"][k].T, 2 * np.eye(3), atol=1e-5)
    assert np.abs(both["kernel"][0] - both["kernel"][1]).max() > 0.1
    assert not np.any(plain["bias"])
    assert not np.any(both["bias"])


def test_encoder_without_layers_is_one_linear_map_onto_the_sphere(rng):
    x = normal(rng, 4, 3)
    params = {"head": {"kernel": normal(rng, 3, 5), "bias": normal(rng, 5)}}
    linear = np.asarray(x) @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(encoder(9, 0, 5).apply(params, x), project(linear), rtol=1e-4)
    np.testing.assert_allclose(encoder(9, 0, 5, on_sphere=False).apply(params, x), linear, rtol=1e-5)


def test_projection_of_zero_is_zero_with_a_finite_gradient():
    z = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(project(z), [[0, 0], [0.6 * 2**0.5, 0.8 * 2**0.5]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda z: project(z).sum())(z)).all()


def test_members_of_a_forward_map_are_independent(rng):
    inputs = (normal(rng, 3, 4), normal(rng, 3, 2), normal(rng, 3, 1))
    net = forward_map(8, 1, 2)
    params = random_params(rng, net, *inputs)
    changed = jax.tree.map(lambda leaf: leaf.at[1].add(1.0), params)
    apply = jax.jit(net.apply)
    before, after = apply(params, *inputs), apply(changed, *inputs)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).min() > 1e-3


@pytest.mark.parametrize("members", [(), (2,)])
def test_bfloat16_product_and_its_gradients_are_close_to_float32(rng, members):
    x, kernel, weight = normal(rng, *members, 16, 32), normal(rng, *members, 32, 8), normal(rng, *members, 16, 8)
    value_and_gradients = lambda product: jax.value_and_grad(  # noqa: E731
        lambda x, kernel: (product(x, kernel) * weight).sum(), argnums=(0, 1)
    )(x, kernel)
    _, low = value_and_gradients(matmul_bfloat16)
    _, full = value_and_gradients(jnp.matmul)
    out = matmul_bfloat16(x, kernel)
    assert out.dtype == jnp.float32
    for got, wanted in zip((out, *low), (x @ kernel, *full), strict=True):
        assert got.dtype == jnp.float32
        assert 0 < np.linalg.norm(got - wanted) < 2e-2 * np.linalg.norm(wanted)


def products(jaxpr):
    """All dot_general equations of a jaxpr, those of nested ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_bfloat16_training_makes_three_bfloat16_products_in_plain_layout_with_float32_results():
    def step(x, kernel, grad):
        out, pullback = jax.vjp(matmul_bfloat16, x, kernel)
        return out, pullback(grad)

    jaxpr = jax.make_jaxpr(step)(jnp.ones((4, 3)), jnp.ones((3, 2)), jnp.ones((4, 2)))
    found = list(products(jaxpr.jaxpr))
    assert len(found) == 3
    for equation in found:
        assert [operand.aval.dtype for operand in equation.invars] == [jnp.bfloat16, jnp.bfloat16]
        assert equation.outvars[0].aval.dtype == jnp.float32
        assert equation.params["dimension_numbers"] == (((1,), (0,)), ((), ()))


def test_bfloat16_networks_keep_float32_parameters_and_results(rng):
    inputs = (normal(rng, 6, 4), normal(rng, 6, 3), normal(rng, 6, 2))
    full, low = forward_map(16, 1, 5), forward_map(16, 1, 5, dtype="bfloat16")
    shapes = jax.eval_shape(low.init, jax.random.key(0), *inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = random_params(rng, low, *inputs)
    wanted, got = jax.jit(full.apply)(params, *inputs), jax.jit(low.apply)(params, *inputs)
    assert got.dtype == jnp.float32
    assert 0 < np.linalg.norm(got - wanted) < 3e-2 * np.linalg.norm(wanted)


def test_plain_network_is_linear_layers_with_relu_between_them(rng):
    x = normal(rng, 5, 3)
    net = mlp(6, 1, 2)
    params = random_params(rng, net, x)
    first, head = params["hidden_0"], params["head"]
    expected = (
        np.maximum(np.asarray(x) @ first["kernel"] + first["bias"][None], 0) @ head["kernel"] + head["bias"][None]
    )
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-4, atol=1e-6)


def test_plain_members_may_read_inputs_of_their_own(rng):
    x = normal(rng, 2, 5, 3)
    both, alone = mlp(6, 1, 2, members=2), mlp(6, 1, 2)
    params = random_params(rng, both, x)
    for k in range(2):
        one = alone.apply(jax.tree.map(lambda leaf, k=k: leaf[k], params), x[k])
        np.testing.assert_allclose(both.apply(params, x)[k], one, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (2, 16), (16, 2), (64, 64)])
def test_spectral_norm_is_the_largest_singular_value_and_its_gradient_the_product_of_its_vectors(rng, shape):
    # One direction stands out: where two are equally large, so are their vectors.
    kernel = normal(rng, *shape) + 2 * jnp.outer(normal(rng, shape[0]), normal(rng, shape[1]))
    left, values, right = np.linalg.svd(np.asarray(kernel, np.float64))
    value, gradient = jax.value_and_grad(lambda kernel: spectral_norm(kernel)[0, 0])(kernel)
    assert 0.999 < value / values[0] < 1.0001
    assert (np.asarray(gradient) * np.outer(left[:, 0], right[0])).sum() > 0.99


def test_spectral_norm_is_right_where_singular_values_are_alike(rng):
    left, _, right = np.linalg.svd(rng.normal(size=(32, 32)))
    values = np.linspace(1.0, 0.95, 32)
    norm = spectral_norm(jnp.asarray(left @ np.diag(values) @ right, jnp.float32))[0, 0]
    assert 0.99 < norm < 1.0001


def test_spectral_layers_divide_their_weights_by_their_largest_singular_value(rng):
    x, kernel = normal(rng, 4, 3), normal(rng, 3, 3)
    params = {"head": {"kernel": kernel, "bias": jnp.zeros(3)}}
    expected = np.asarray(x) @ (np.asarray(kernel) / np.linalg.norm(kernel, 2))
    np.testing.assert_allclose(mlp(8, 0, 3, spectral=True).apply(params, x), expected, rtol=1e-3)
