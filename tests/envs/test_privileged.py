"""Terms that only training sees: the same in both forms, without noise, and nowhere that a robot looks."""

import functools

import jax
import numpy as np
import pytest

from embodied.deploy.contract import Command, History, Term
from embodied.types import InputError
from envs.contract import contract_of
from tests.envs import carts

FORMS = ("host", "mjx")
# Time, rail, swing, their velocities and the command.
PHYSICS = np.array([[0.0, 0.2, 0.5, 1.0, -2.0, 0.0], [0.04, -0.1, 0.0, 0.0, 0.3, 1.0]])


@functools.cache
def made(form, randomise="none"):
    return carts.make("cart", form, threads=1 if form == "host" else None, randomise=randomise)


def by_hand(physics):
    """The privileged observation of physics vectors."""
    rail, swing, rail_speed, swing_speed = physics[:, 1:5].T
    tip = rail - 0.3 * np.sin(swing), -0.3 * np.cos(swing)
    return np.stack([2 * (rail_speed - 0.5), 2 * swing_speed, *np.arcsinh(tip)], 1)


@pytest.mark.parametrize("form", FORMS)
def test_privileged_terms_are_read_of_physics_and_sensors(form):
    env = made(form)
    assert env.spec.obs == {"state": (1,), "privileged": (4,)}
    obs, _ = env.observe(PHYSICS)
    assert {name: leaf.dtype for name, leaf in obs.items()} == {"state": np.float32, "privileged": np.float32}
    np.testing.assert_allclose(obs["state"], PHYSICS[:, 1:2], atol=1e-6)
    np.testing.assert_allclose(obs["privileged"], by_hand(PHYSICS), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_stepped_worlds_give_what_is_read_again_of_their_physics(form):
    env = made(form)
    ts = env.reset(jax.random.key(0), 3)
    assert ts.obs["privileged"].shape == (3, 4)
    ts = env.step(ts, np.full((3, 1), 0.5, np.float32))
    np.testing.assert_allclose(ts.obs["privileged"], by_hand(np.asarray(ts.physics, np.float64)), atol=1e-5)
    np.testing.assert_allclose(ts.obs["privileged"], env.observe(ts.physics)[0]["privileged"], atol=1e-5)


def test_noise_is_in_the_state_alone():
    env = made("host", "standard")
    ts = env.reset(jax.random.key(1), 4)
    assert (np.abs(ts.obs["state"][:, 0] - ts.physics[:, 1]) > 1e-5).all()
    np.testing.assert_allclose(ts.obs["privileged"], by_hand(ts.physics), atol=1e-5)


def test_a_world_without_privileged_terms_offers_the_same_state_alone():
    plain = carts.make("cart", threads=1, privileged=())
    assert plain.spec.obs == {"state": (1,)}
    steps = [env.step(env.reset(jax.random.key(2), 3), np.ones((3, 1))) for env in (plain, made("host"))]
    assert list(steps[0].obs) == ["state"]
    assert list(plain.observe(PHYSICS)[0]) == ["state"]
    np.testing.assert_array_equal(steps[0].obs["state"], steps[1].obs["state"])
    np.testing.assert_array_equal(steps[0].physics, steps[1].physics)


def test_contract_of_a_robot_names_what_its_policy_reads_and_nothing_privileged():
    agreed = contract_of(made("host").world, Command())
    assert [reading.name for reading in agreed.readings] == ["joint_position/rail"]
    assert agreed.width == 1


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            Term("a", ("joint_velocity/rail",), noise=(0.1,)),
            r"privileged: term 'a' must be without noise, got \(0.1,\)",
        ),
        (Term("b", ("last_action",)), "privileged: term 'b' needs a memory"),
        (Term("c", ("joint_velocity/rail",), history=History(2)), "privileged: term 'c' needs a memory"),
        (Term("d", ("joint_velocity/rial",)), "term 'd' reads unknown .* did you mean 'joint_velocity/rail'"),
    ],
)
def test_terms_that_cannot_be_privileged_are_refused(term, message):
    with pytest.raises(InputError, match=message):
        carts.make("cart", threads=1, privileged=(term,))
