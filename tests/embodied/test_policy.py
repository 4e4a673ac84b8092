"""Trained policies with a latent: how they act, and prompts that they refuse."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from embodied.types import Goal, InputError, Language, Motion, Prior, Reward
from tests.embodied import toys

STATES = {"state": jnp.zeros((4, 2))}


@pytest.fixture(scope="module")
def policy():
    return toys.policy()


def test_action_is_deterministic_bounded_and_has_no_batch_axis(policy):
    prompted = policy.prompt(Prior(), seed=1)
    assert toys.actions(prompted).shape == (4, 1)
    assert np.abs(toys.actions(prompted)).max() <= 1.0
    np.testing.assert_array_equal(toys.actions(prompted), toys.actions(prompted))
    assert (policy.prompt(Prior(), seed=2).z != prompted.z).any()


def test_motion_is_walked_along_and_its_last_latent_kept(policy):
    clip = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    motion = policy.prompt(Motion({"state": jnp.asarray(clip)}))
    assert motion.z.shape == (3, policy.config.z_dim)
    followed = toys.actions(motion, 5)
    for step in range(5):
        fixed = dataclasses.replace(motion, z=motion.z[min(step, 2)])
        np.testing.assert_array_equal(followed[step], toys.actions(fixed, 5)[step])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Goal({"state": jnp.zeros(3)}), r"Goal prompt: observation 'state' must have shape \(2,\), got \(3,\)"),
        (Goal({"state": jnp.zeros((1, 2))}), r"must have shape \(2,\), got \(1, 2\)"),
        (Goal({"pixels": jnp.zeros(2)}), "observation 'state' is missing; got pixels"),
        (Goal({"state": jnp.array([0.0, jnp.nan])}), "'state' holds a non-finite value"),
        (Motion({"state": jnp.zeros(2)}), r"Motion prompt: .* must have shape \('N', 2\), got \(2,\)"),
        (Motion({"state": jnp.zeros((0, 2))}), r"must have shape \('N', 2\), got \(0, 2\)"),
        (Reward({"state": jnp.zeros((4, 3))}, jnp.zeros(4)), r"must have shape \('N', 2\), got \(4, 3\)"),
        (Reward(STATES, jnp.arange(3.0)), r"Reward prompt: reward must have shape \(4,\), got \(3,\)"),
        (Reward(STATES, jnp.arange(4.0)[:, None]), r"reward must have shape \(4,\), got \(4, 1\)"),
        (Reward(STATES, 1.0), r"reward must have shape \(4,\), got \(\)"),
        (Reward(STATES, jnp.arange(4.0), "rigde"), "Reward prompt: unknown inference 'rigde'; did you mean 'ridge'"),
        (Reward(STATES, jnp.arange(4.0), "ridge", ridge=-1.0), r"ridge must be in \[0, inf\), got -1.0"),
        (Reward(STATES, jnp.arange(4.0), "softmax", temperature=0), r"temperature must be in \(0, inf\), got 0"),
        (
            Reward({"state": jnp.zeros((4, 2))}, jnp.array([0.0, 1.0, jnp.inf, 0.0])),
            "reward holds a non-finite value in row 2",
        ),
        (Language(jnp.zeros(3, int), jnp.ones(3)), "fb takes Reward, Goal, Motion or Prior prompts, got Language"),
    ],
)
def test_prompt_that_does_not_fit_is_refused_in_one_line(policy, prompt, message):
    with pytest.raises(InputError, match=message) as caught:
        policy.prompt(prompt)
    assert "\n" not in str(caught.value)


def test_mistake_in_an_agent_is_not_taken_for_bad_input(policy):
    def broken(params, prompt, key):
        raise TypeError("unsupported operand")

    mistaken = dataclasses.replace(policy)
    mistaken.__dict__["agent"] = policy.agent._replace(prompt=broken)
    with pytest.raises(TypeError, match="unsupported operand"):
        mistaken.prompt(Prior())
