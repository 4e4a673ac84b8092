"""Several latents for one reward: the most promising one acts, and files of them stay in the library."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied import promptfile
from embodied.evaluate import EvaluateConfig, evaluate
from embodied.gpi import Ensemble, improving
from embodied.promptfile import Request
from embodied.rewards import Task
from embodied.rollout import agent_behaviour
from embodied.types import Agent, InputError, Reward
from tests.embodied.toys import Adder, policy

WISH = Request("reward", "tolerance(x, 0.5, inf, 1)", samples=20, bootstraps=3)
NOTHING = Reward({"state": jnp.zeros((1, 2))}, jnp.zeros(1))


@pytest.fixture(scope="module")
def toy():
    return policy()


@pytest.fixture(scope="module")
def world():
    return Adder(jittable=False)


def homing(wanted: float) -> Agent:
    """An agent that pushes x by what its latent says, and knows which x is wanted."""
    unused = lambda *_: None  # noqa: E731
    act = lambda params, obs, z, carry, key: (jnp.broadcast_to(z, (len(obs["state"]), 1)), carry)  # noqa: E731
    value = lambda params, prompt, z, obs: -jnp.abs(obs["state"][:, 0] + 2 * z[..., 0] - wanted)  # noqa: E731
    return Agent(unused, unused, unused, lambda count: (), act, (Reward,), value)


def walk(world, behave, params, z, wanted, episodes):
    """Returns and final x of episodes from x = 0, 1, 2, ... on the distance to what is wanted."""
    task = Task.of("near", f"0 - abs(x - ({wanted}))", world.spec.quantities)
    scores, walked = evaluate(world, behave, params, {"it": np.asarray(z)}, {"it": task}, EvaluateConfig(episodes))
    return scores["it"].returns, walked["it"]


@pytest.fixture
def several(toy, world):
    prompted, _ = promptfile.infer(WISH, toy, world)
    assert isinstance(prompted, Ensemble)
    return prompted


@pytest.fixture
def written(several, tmp_path):
    promptfile.save(tmp_path / "several.json", WISH, several, {})
    return tmp_path / "several.json"


def test_most_promising_latent_acts_in_each_world_at_each_step(world):
    agent = homing(2.0)
    together, walked = walk(world, improving(agent), ((), NOTHING, jnp.array([[-0.5], [0.5]])), [0.0], 2.0, 5)
    np.testing.assert_array_equal(walked.action[[0, 1, 3, 4], 0, 0], [0.5, 0.5, -0.5, -0.5])
    # Either latent alone leaves x = 2 behind from some starts; choosing at each step stays within one decision of it.
    assert (np.abs(walked.physics[:, -1, 0] - 2.0) <= 1.0).all()
    for push in (-0.5, 0.5):
        alone, _ = walk(world, agent_behaviour(agent, False), (), [push], 2.0, 5)
        assert together.mean() > alone.mean()


@pytest.mark.parametrize("wanted", [-50.0, 50.0])
def test_ensemble_equals_the_latent_that_is_better_everywhere(world, wanted):
    agent = homing(wanted)
    together, walked = walk(world, improving(agent), ((), NOTHING, jnp.array([[-0.5], [0.5]])), [0.0], wanted, 3)
    best, expected = walk(world, agent_behaviour(agent, False), (), [np.sign(wanted) / 2], wanted, 3)
    worst, _ = walk(world, agent_behaviour(agent, False), (), [-np.sign(wanted) / 2], wanted, 3)
    np.testing.assert_array_equal(walked.action, expected.action)
    np.testing.assert_array_equal(together, best)
    assert (best > worst).all()


def test_first_latent_of_an_ensemble_is_the_one_without_resampling(several, toy, world):
    plain, _ = promptfile.infer(Request(WISH.kind, WISH.text, samples=20), toy, world)
    np.testing.assert_array_equal(several.z[0], plain.z)
    assert several.z.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(several.z, axis=1), 8**0.5, rtol=1e-5)
    assert len({z.tobytes() for z in several.z}) == 4


def test_single_observations_get_the_action_of_the_most_promising_latent(several):
    obs = {"state": np.array([0.3, 1.0])}
    batched = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32)[None], obs)
    agent, params = several.policy.agent, several.policy.params
    promised = [float(agent.value(params, several.prompt, jnp.asarray(z), batched)[0]) for z in several.z]
    expected, _ = agent.act(params, batched, jnp.asarray(several.z[int(np.argmax(promised))]), (), None)
    action, carry = several.act(obs, several.carry())
    np.testing.assert_allclose(action, expected[0], atol=1e-6)
    assert carry == ()


def test_file_of_several_latents_is_checked_bit_for_bit_and_loaded_for_evaluation(written, several, toy, world):
    promptfile.check(written, toy, world)
    loaded, task = promptfile.load_any(written, toy, world)
    assert isinstance(loaded, Ensemble)
    assert task is not None
    np.testing.assert_array_equal(loaded.z, several.z)
    np.testing.assert_array_equal(loaded.prompt.reward, several.prompt.reward)


def test_file_of_several_latents_is_refused_where_one_is_needed(written, toy, world):
    with pytest.raises(InputError, match=r"several\.json: holds 4 latents to choose among at every step") as caught:
        promptfile.load(written, toy, world)
    assert "\n" not in str(caught.value)


def test_file_with_fewer_latents_than_its_request_says_is_refused(written, toy, world):
    body = json.loads(written.read_text())
    written.write_text(json.dumps(body | {"z": body["z"][:2]}))
    with pytest.raises(InputError, match=r"field 'z' must have shape \(4, 8\) for its bootstraps, got \(2, 8\)"):
        promptfile.load_any(written, toy, world)


def test_agent_without_a_value_cannot_choose_among_latents(toy, world):
    blind = dataclasses.replace(toy)
    blind.__dict__["agent"] = toy.agent._replace(value=None)
    with pytest.raises(InputError, match="bootstraps: must be 0 for 'fb', which has no value to choose by, got 3"):
        promptfile.infer(WISH, blind, world)
