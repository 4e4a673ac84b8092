"""Laplacian features: on finite worlds they are the slowest eigenvectors, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import laplacian
from tests.agents.chains import mean_over_pairs


def ring(states):
    """Transition matrix of a walk that goes either way."""
    return (np.roll(np.eye(states), 1, 0) + np.roll(np.eye(states), -1, 0)) / 2


def line(states):
    """Transition matrix of a walk that goes either way, and stays where a wall is."""
    return (np.eye(states, k=1) + np.eye(states, k=-1) + np.diag([1.0, *[0] * (states - 2), 1.0])) / 2


def closed_form(transition, width, weight):
    """E[f f^T] over pairs of states [S, S]: eigenvector i of I - P counts 1 - eigenvalue_i / (width * weight)."""
    states = len(transition)
    eigenvalue, vector = np.linalg.eigh(np.eye(states) - transition)
    amplitude = np.maximum(1 - eigenvalue[:width] / (width * weight), 0.0)
    return states * (vector[:, :width] * amplitude) @ vector[:, :width].T


def test_slowness_and_orthonormality_by_hand():
    here = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    there = jnp.array([[0.0, 0.0], [1.0, 3.0], [0.0, 2.0]])
    slow, orthonormal = laplacian.feature_loss(here, there)
    assert slow == pytest.approx((1 + 4) / 6)
    # Products of different rows: 1, 0 and 2, each counted twice; squared norms 1, 2 and 4.
    assert orthonormal == pytest.approx(2 * (1 + 0 + 4) / 6 - 2 * 7 / 3)


@pytest.mark.parametrize(("walk", "weight"), [(ring(6), 1.0), (ring(6), 0.25), (line(5), 1.0)])
def test_features_of_rings_and_lines_are_their_slowest_eigenvectors(walk, weight):
    states, width = len(walk), 3
    here, there = (rows[walk.reshape(-1) > 0] for rows in np.divmod(np.arange(states * states), states))
    assert set(walk[here, there]) == {0.5}  # so that each transition stands for an equal share of the data

    def population(features):
        def of(pair):
            slow, orthonormal = laplacian.feature_loss(
                features[jnp.asarray(here)[pair]], features[jnp.asarray(there)[pair]]
            )
            return slow + weight * orthonormal

        return mean_over_pairs(of, len(here))

    with jax.enable_x64(True):
        start = jnp.asarray(np.random.default_rng(0).normal(size=(states, width)))
        descend = lambda _, f: f - 0.1 * states * jax.grad(population)(f)  # noqa: E731
        learned = np.asarray(jax.jit(lambda f: jax.lax.fori_loop(0, 3000, descend, f))(start))
        gradient = jax.grad(population)(jnp.asarray(learned))
    assert np.abs(gradient).max() < 1e-9
    np.testing.assert_allclose(learned @ learned.T, closed_form(walk, width, weight), atol=1e-6)
