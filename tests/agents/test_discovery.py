"""Skill objectives: losses, rewards and skills by hand, what is in bounds, and what is masked."""

import dataclasses
import types
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import discovery
from agents.discovery import Config
from embodied.types import InputError
from tests.agents.chains import quick_jit

X = jnp.array([[0.0, 0.0], [1.0, 2.0], [-1.0, 1.0]])
NEXT_X = jnp.array([[1.0, 0.0], [1.0, 2.5], [-1.0, 1.0]])
Z = jnp.array([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]])
KERNEL = jnp.array([[3.0, 4.0], [0.2, -0.6]])  # of a linear f, so that its steps are (3, 4), (0.1, -0.3) and (0, 0)
STEP = np.array([[3.0, 4.0], [0.1, -0.3], [0.0, 0.0]])
KEY = jax.random.key(0)


def linear(objective, **fields):
    """The objective with a linear f of KERNEL, and its parameters."""
    made = discovery.make(Config(objective, layers=0, **fields), (2,))
    return made, random_params(made, 2) | {"features": {"head": {"kernel": KERNEL, "bias": jnp.ones(2)}}}


def random_params(made, width, seed=0, size=1.0, dual=30.0):
    """Parameters as after `init`, with NumPy's Gaussian weights of that size: compiling orthogonal ones takes long."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key == "log_dual":
            return jnp.log(dual)
        return size * jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[-2:][0]), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(made.init, KEY, jnp.zeros((1, width))))


def random_steps(made, width, rows, seed=0):
    """x, x' and z at random."""
    x, change = np.random.default_rng(seed).normal(size=(2, rows, width)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x + 0.3 * change), made.draw(jax.random.key(seed), rows)


def evaluate(made, params, x, next_x, z, weight=None, key=KEY):
    """(loss, metrics, gradient, reward) of transitions."""

    def all_of(params, x, next_x, z, weight):
        (loss, metrics), grad = jax.value_and_grad(made.loss, has_aux=True)(params, x, next_x, z, weight, key)
        return loss, metrics, grad, made.reward(params, x, next_x, z)

    return quick_jit(all_of)(params, x, next_x, z, jnp.ones(len(x)) if weight is None else weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"skill_dim": 0}, r"discovery: skill_dim must be in \[1, inf\), got 0"),
        ({"hidden": 0}, r"hidden must be in \[1, inf\), got 0"),
        ({"layers": -1}, r"layers must be in \[0, inf\), got -1"),
        ({"lr": -1.0}, r"lr must be in \[0, inf\)"),
        ({"lr_dual": float("nan")}, r"lr_dual must be in \[0, inf\), got nan"),
        ({"dual_start": 0.0}, r"dual_start must be in \(0, inf\)"),
        ({"slack": -1e-3}, r"slack must be in \[0, inf\)"),
        ({"contrast": 1.0}, r"contrast must be in \(1, inf\), got 1.0"),
        ({"contrast_draws": 0}, r"contrast_draws must be in \[1, inf\)"),
        ({"disentangle": -0.1}, r"disentangle must be in \[0, inf\)"),
        ({"scale": 0.0}, r"scale must be in \(0, inf\)"),
        ({"skill_dim": 1, "discrete": True}, "skill_dim must be at least 2 where skills are discrete, got 1"),
        ({"skill_dim": 1, "objective": "dusdi"}, "skill_dim must be at least 2 where skills are discrete, got 1"),
    ],
)
def test_a_bad_field_is_named_with_what_was_expected(fields, message):
    with pytest.raises(InputError, match=message):
        Config(**fields)


@pytest.mark.parametrize(("field", "wrong", "right"), [("objective", "metro", "metra"), ("norm", "summ", "sum")])
def test_a_misspelt_choice_is_answered_with_the_nearest(field, wrong, right):
    misspelt = types.SimpleNamespace(**{**dataclasses.asdict(Config()), field: wrong})
    with pytest.raises(InputError, match=f"discovery: unknown {field} '{wrong}'; did you mean '{right}'"):
        Config.__post_init__(misspelt)


@pytest.mark.parametrize("widths", [(), (2, 0)])
def test_parts_of_no_width_are_refused(widths):
    with pytest.raises(InputError, match="widths must be one number per part of x"):
        discovery.make(Config(), widths)


@pytest.mark.parametrize("objective", ["csf", "dusdi"])
def test_an_x_that_is_not_as_wide_as_its_parts_is_refused(objective):
    with pytest.raises(InputError, match=r"x must be \[B, 3\], as its parts are, got \[4, 2\]"):
        discovery.make(Config(objective), (2, 1)).init(KEY, jnp.zeros((4, 2)))


def test_skills_are_uniform_on_the_sphere():
    made = discovery.make(Config(skill_dim=3), (2,))
    z = made.draw(KEY, 4000)
    assert z.shape == (4000, made.skill)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(z.T @ z / 4000, np.eye(3) / 3, atol=0.03)


def test_discrete_skills_have_one_high_place_and_mean_zero():
    made = discovery.make(Config(skill_dim=3, discrete=True), (2,))
    kinds = {tuple(row) for row in np.asarray(made.draw(KEY, 100)).tolist()}
    assert kinds == {(1.0, -0.5, -0.5), (-0.5, 1.0, -0.5), (-0.5, -0.5, 1.0)}


def test_skills_of_parts_are_independent_one_hot_vectors_side_by_side():
    made = discovery.make(Config("dusdi", skill_dim=3), (4, 1))
    assert (made.skill, made.rewards) == (6, 2)
    z = np.asarray(made.draw(KEY, 3000)).reshape(3000, 2, 3)
    np.testing.assert_array_equal(z.sum(-1), 1.0)
    np.testing.assert_allclose(z[:, 0].T @ z[:, 1] / 3000, 1 / 9, atol=0.02)


@pytest.mark.parametrize(("norm", "penalty"), [("sum", (-24 + 2e-3) / 3), ("mean", (-11.5 + 2e-3) / 3)])
def test_metra_loss_of_three_steps_by_hand(norm, penalty):
    # |d|^2 is 25, 0.1 and 0: the first step is out of bounds by 24, or halved by 11.5; the others have slack 1e-3 each.
    made, params = linear("metra", norm=norm)
    loss, metrics, grad, _ = evaluate(made, params, X, NEXT_X, Z)
    gain = (3 * 0.6 + 4 * 0.8 + 0.1) / 3
    np.testing.assert_allclose(loss, -gain - 30 * penalty + np.log(30) * penalty, rtol=1e-5)
    np.testing.assert_allclose(metrics["skill/reward"], gain, rtol=1e-6)
    # lambda is moved by its own loss alone, and f by the other with lambda held at 30.
    np.testing.assert_allclose(grad["log_dual"], penalty, rtol=1e-5)
    out_of_bounds = 30 * np.array([[3, 4], [0, 0], [0, 0]]) * (2 if norm == "sum" else 1)
    by_hand = np.asarray(NEXT_X - X).T @ (out_of_bounds - np.asarray(Z)) / 3
    np.testing.assert_allclose(grad["features"]["head"]["kernel"], by_hand, rtol=1e-4)


@pytest.mark.parametrize(("size", "grows"), [(1.01, True), (0.9, False)])
def test_the_dual_variable_grows_where_the_bound_is_broken_and_falls_otherwise(size, grows):
    made, params = linear("metra")
    params["features"]["head"]["kernel"] = size * jnp.eye(2)
    grad = evaluate(made, params, X[:1], NEXT_X[:1], Z[:1])[2]
    delta = quick_jit(lambda grad: made.optimizer.update(grad, made.optimizer.init(params), params)[0])(grad)
    assert (delta["log_dual"] > 0) == grows
    assert abs(delta["log_dual"]) == pytest.approx(1e-4, rel=1e-3)


def test_the_dual_variable_starts_where_it_is_told():
    made = discovery.make(Config("metra", layers=0, dual_start=3000.0), (2,))
    np.testing.assert_allclose(np.exp(quick_jit(made.init)(KEY, X)["log_dual"]), 3000.0, rtol=1e-5)


def test_movement_is_rewarded_along_its_skill_and_scaled():
    made, params = linear("csf", scale=10.0)
    reward = quick_jit(made.reward)(params, X, NEXT_X, Z)
    np.testing.assert_allclose(reward, 10 * (STEP * np.asarray(Z)).sum(1, keepdims=True), rtol=1e-4, atol=1e-5)
    gradient = quick_jit(jax.grad(lambda params: made.reward(params, X, NEXT_X, Z).sum()))(params)
    assert not np.any(gradient["features"]["head"]["kernel"])


def test_the_skill_that_goes_to_a_goal_points_there():
    made, params = linear("metra")
    np.testing.assert_allclose(made.toward(params, X[:1], NEXT_X[:1]), [[0.6, 0.8]], rtol=1e-5)
    np.testing.assert_allclose(made.embed(params, NEXT_X[:1]), [[4.0, 5.0]])
    made, params = linear("metra", discrete=True)
    np.testing.assert_allclose(made.toward(params, X[:2], NEXT_X[:2]), [[-1.0, 1.0], [1.0, -1.0]])


def test_csf_loss_of_three_steps_by_hand():
    made, params = linear("csf", contrast=5.0, contrast_draws=7)
    assert set(params) == {"features"}
    others = np.asarray(made.draw(KEY, 7), np.float64)
    contrast = np.log(np.exp(STEP @ others.T).sum(1)).mean()
    loss, metrics, _, _ = evaluate(made, params, X, NEXT_X, Z)
    np.testing.assert_allclose(loss, -(STEP * np.asarray(Z)).sum(1).mean() + 5 * contrast, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/contrast"], contrast, rtol=1e-5)


def test_lsd_features_are_never_further_apart_than_what_they_read():
    made = discovery.make(Config("lsd", hidden=32, layers=2), (3,))
    params = random_params(made, 3, size=20.0)
    assert set(params) == {"features"}
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 3)).astype(np.float32) * 3
    y = x + rng.normal(size=x.shape).astype(np.float32) * rng.choice([0.01, 1.0, 10.0], (500, 1))
    embed = quick_jit(lambda x: made.embed(params, x))
    apart = np.linalg.norm(embed(x) - embed(y), axis=1) / np.linalg.norm(x - y, axis=1)
    assert 0.05 < apart.max() < 1.01
    loss, _, _, reward = evaluate(made, params, *random_steps(made, 3, 5))
    np.testing.assert_allclose(loss, -reward.mean(), rtol=1e-4)


def test_csd_distance_is_the_mahalanobis_one_with_weights_whose_geometric_mean_is_one():
    log_std = jnp.log(jnp.array([[0.5, 1.0, 4.0]]))  # geometric mean 2^(1/3): weights are that over 0.5, 1 and 4
    mean = jnp.array([[1.0, -2.0, 0.0]])
    c = discovery.surprise(mean + jnp.array([[1.0, 2.0, 8.0]]), mean, log_std)
    np.testing.assert_allclose(c, (2 ** (1 / 3)) ** 2 * (4 + 4 + 4) / 3, rtol=1e-5)
    alone = [discovery.surprise(mean + jnp.eye(3)[i][None], mean, log_std)[0] for i in range(3)]
    np.testing.assert_allclose(np.prod([3 * c for c in alone]), 1.0, rtol=1e-5)
    # On draws from that Gaussian its mean is the squared geometric mean of the deviations.
    draws = mean + np.random.default_rng(0).normal(size=(20000, 3)).astype(np.float32) * jnp.exp(log_std)
    rows = lambda row: jnp.broadcast_to(row, draws.shape)  # noqa: E731
    np.testing.assert_allclose(discovery.surprise(draws, rows(mean), rows(log_std)).mean(), 4 ** (1 / 3), rtol=0.03)
    density = discovery.gaussian_log_density(jnp.array([[1.0, -2.0, 4.0]]), mean, log_std)
    np.testing.assert_allclose(density, [-1.5 * np.log(2 * np.pi) - np.log(2.0) - 0.5], rtol=1e-5)


def test_diayn_pays_nothing_for_a_guess_and_log_k_for_certainty():
    made = discovery.make(Config("diayn", skill_dim=4, discrete=True, layers=0), (4,))
    z = made.draw(KEY, 5)
    for certainty, reward in ((0.0, 0.0), (100.0, np.log(4))):
        params = {"discriminator": {"head": {"kernel": certainty * jnp.eye(4)[None], "bias": jnp.zeros((1, 4))}}}
        loss, _, _, rewards = evaluate(made, params, jnp.zeros((5, 4)), z, z)
        np.testing.assert_allclose(rewards, np.full((5, 1), reward), atol=1e-5)
        np.testing.assert_allclose(loss, -reward, atol=1e-5)


def test_diayn_on_the_sphere_compares_two_densities():
    made = discovery.make(Config("diayn", skill_dim=3, layers=0), (2,))
    params = {"discriminator": {"head": {"kernel": jnp.zeros((1, 2, 3)), "bias": jnp.array([[1.0, -2.0, 5.0]])}}}
    x, z = jnp.ones((20000, 2)), quick_jit(lambda: made.draw(KEY, 20000))()
    loss, _, _, reward = evaluate(made, params, x, x, z)
    # The mean of q / p over the prior is 1 whatever q is; at its centre q / p is e over its norm, sinh(k) / k in space.
    assert np.exp(reward).mean() == pytest.approx(1.0, abs=0.01)
    assert reward.max() == pytest.approx(1 - np.log(np.sinh(1)), abs=1e-3)
    np.testing.assert_allclose(loss, -reward.mean(), rtol=1e-4)
    # On the circle that norm is Bessel's I_0, and on the two points of a line cosh.
    assert discovery.log_mean_exp_on_sphere(2) == pytest.approx(np.log(1.2660658777520082), rel=1e-9)
    assert discovery.log_mean_exp_on_sphere(1) == pytest.approx(np.log(np.cosh(1)), rel=1e-9)


def test_dusdi_rewards_of_two_parts_by_hand():
    made = discovery.make(Config("dusdi", skill_dim=2, layers=0, disentangle=0.1), (1, 2))
    kernel = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    params = {"discriminator": {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros((4, 2))}}}
    next_x, z = jnp.array([[1.0, 2.0, -1.0]]), jnp.array([[0.0, 1.0, 1.0, 0.0]])

    def told(member, columns, value):
        """log q - log p of one discriminator, from these columns of x' alone."""
        logits = np.asarray(next_x, np.float64)[0, columns] @ kernel[member][columns]
        return logits[value] - np.log(np.exp(logits).sum()) + np.log(2)

    first = told(0, [0], 1) - 0.1 * told(2, [1, 2], 1)
    second = told(1, [1, 2], 0) - 0.1 * told(3, [0], 0)
    loss, _, _, reward = evaluate(made, params, next_x, next_x, z)
    np.testing.assert_allclose(reward, [[first, second]], rtol=1e-4)
    own, others = told(0, [0], 1) + told(1, [1, 2], 0), told(2, [1, 2], 1) + told(3, [0], 0)
    np.testing.assert_allclose(loss, -own - others, rtol=1e-5)


def test_dusdi_without_disentanglement_is_diayn_of_every_part():
    made = discovery.make(Config("dusdi", skill_dim=3, hidden=8, layers=1), (1, 2))
    params, (x, next_x, z) = random_params(made, 3), random_steps(made, 3, 4)
    rewards = quick_jit(made.reward)(params, x, next_x, z)
    alone = discovery.make(Config("diayn", skill_dim=3, discrete=True, hidden=8, layers=1), (3,))
    diayn = quick_jit(alone.reward)
    for i, columns in enumerate((slice(0, 1), slice(1, 3))):
        part = np.zeros((4, 3), np.float32)
        part[:, columns] = next_x[:, columns]
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params)
        np.testing.assert_allclose(rewards[:, i], diayn(one, x, part, z[:, 3 * i : 3 * i + 3])[:, 0], rtol=1e-4)


@pytest.mark.parametrize("objective", get_args(discovery.Objective))
def test_masked_rows_change_neither_loss_nor_gradient(objective):
    made = discovery.make(Config(objective, layers=0, disentangle=0.1), (1, 2))
    params, (x, next_x, z) = random_params(made, 3), random_steps(made, 3, 6)
    weight = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    kept = np.flatnonzero(weight)
    loss, _, grad, _ = evaluate(made, params, x, next_x + 5 * (1 - weight)[:, None], z, weight)
    wanted_loss, _, wanted_grad, _ = evaluate(made, params, x[kept], next_x[kept], z[kept])
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6), grad, wanted_grad)
    silent = evaluate(made, params, x, next_x, z, jnp.zeros(6))
    assert silent[0] == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(silent[2]))


@pytest.mark.parametrize("objective", ["csd", "lsd", "dusdi"])
def test_seeds_run_side_by_side_as_alone(objective):
    made = discovery.make(Config(objective, layers=0, disentangle=0.1), (1, 2))
    x, next_x, z = random_steps(made, 3, 4)

    def run(key):
        params = made.init(key, x)
        loss, grad = jax.value_and_grad(lambda params: made.loss(params, x, next_x, z, jnp.ones(4), key)[0])(params)
        delta, _ = made.optimizer.update(grad, made.optimizer.init(params), params)
        return params, loss, delta, made.reward(params, x, next_x, z)

    keys = jax.random.split(KEY, 2)
    both, alone = quick_jit(jax.vmap(run))(keys), quick_jit(run)(keys[1])
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got[1], wanted, rtol=1e-3, atol=1e-5), both, alone)
    assert both[1][0] != both[1][1]
    assert both[3].shape == (2, 4, made.rewards)
