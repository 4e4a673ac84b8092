"""Data of a trained policy that goes from goal to goal, or from skill to skill."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import fb, td3
from embodied.data import store
from embodied.policy import Buffer, Policy
from embodied.types import Goal, InputError, Spec
from experiments import collect
from experiments.presets import Collect

HOLD = 4  # decisions until the next goal
CONFIG = Collect("point_maze", "goals", episodes=6, decisions=10, worlds=3, policy="maze", latent_hold=HOLD)


@pytest.fixture(scope="module")
def policy():
    """An untrained policy that explores without noise and knows two goals."""
    env = envs.make("point_maze", threads=1)
    spec = Spec(obs=env.spec.obs, action=env.spec.action)
    config = dataclasses.replace(fb.Config().tiny(), noise=0.0)
    params = fb.make(config, spec).init(jax.random.key(0), spec.example()).params
    start = env.reset(jax.random.key(1), 2)
    buffer = Buffer({"state": np.asarray(start.obs["state"])}, np.asarray(start.physics))
    return Policy("fb", config, spec, "point_maze", {"hold": env.spec.hold}, params, buffer)


def test_each_goal_is_held_for_a_while_and_goals_and_starts_differ_between_episodes(policy, tmp_path):
    collect.run(CONFIG, tmp_path / "data", quiet=True, policy=policy)
    episodes = store.read_episodes(tmp_path / "data")
    assert len(episodes) == 6
    assert len({episode["state"][0].tobytes() for episode in episodes}) == 6
    latents = jnp.stack([policy.prompt(Goal({"state": goal})).z for goal in policy.buffer.obs["state"]])
    seen = set()
    for episode in episodes:
        obs = {"state": jnp.asarray(episode["state"][:-1])}
        answers = jnp.stack([policy.agent.act(policy.params, obs, z, (), None)[0] for z in latents])
        matches = np.abs(answers - episode["action"][None]).max(-1) < 1e-5  # [goal, decision]
        assert matches.any(0).all()
        for first in range(0, 10, HOLD):
            held = matches[:, first : first + HOLD].all(1)
            assert held.sum() == 1
            seen.add((first, int(held.argmax())))
    assert seen == {(first, goal) for first in (0, 4, 8) for goal in (0, 1)}


def test_each_skill_is_held_for_a_while_and_drawn_anew(policy, tmp_path):
    class Told(Policy):
        @property
        def agent(self):
            return super().agent._replace(act=lambda params, obs, z, carry, key: (jnp.tanh(z[:, :2]), carry))

    told = Told(**{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)})
    collect.run(dataclasses.replace(CONFIG, explorer="skills"), tmp_path / "data", quiet=True, policy=told)
    drawn = set()
    for episode in store.read_episodes(tmp_path / "data"):
        for first in range(0, 10, HOLD):
            held = episode["action"][first : first + HOLD]
            np.testing.assert_array_equal(held, held[:1].repeat(len(held), 0))
            drawn.add(held[0].tobytes())
    assert len(drawn) == 6 * 3


def test_same_seed_gives_the_same_data(policy, tmp_path):
    for name in ("one", "other"):
        collect.run(CONFIG, tmp_path / name, quiet=True, policy=policy)
    for one, other in zip(*(store.read_episodes(tmp_path / name) for name in ("one", "other")), strict=True):
        np.testing.assert_array_equal(one["physics"], other["physics"])


def test_policies_that_do_not_fit_are_refused_before_anything_is_written(policy, tmp_path):
    def refused(message, **changes):
        with pytest.raises(InputError, match=message):
            collect.run(CONFIG, tmp_path / "data", quiet=True, policy=dataclasses.replace(policy, **changes))

    refused("collect: the world of policy 'maze' must be point_maze, got walker", world="walker")
    refused("collect: the hold of policy 'maze' must be 10, got 5", options={"hold": 5})
    alone = td3.Config().tiny()
    refused("collect: policy 'maze' must take goals, got an agent 'td3'", agent_name="td3", config=alone)
    assert not (tmp_path / "data").exists()


def test_explorer_and_policy_belong_together():
    with pytest.raises(InputError, match="explorer 'goals' needs policy to be a run or a model, got ''"):
        Collect("point_maze", "goals")
    with pytest.raises(InputError, match="explorer 'noise' needs policy to be left out, got 'maze'"):
        Collect("point_maze", policy="maze")
