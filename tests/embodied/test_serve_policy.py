"""A trained policy behind the server does what it does without one, and follows what a request may ask for."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from agents import td3
from embodied.policy import Buffer, Policy, Prompted
from embodied.serve.policy import PolicyServable, read_latent
from embodied.serve.server import running
from embodied.types import InputError, Spec
from tests.embodied import toys
from tests.embodied.served import ANY_PORT, OpenpiClient, alone

STATE = {"state": np.array([0.3, -0.2], np.float32)}


@pytest.fixture(scope="module")
def policy():
    return toys.policy()


@pytest.fixture(scope="module")
def prompts(policy):
    draw = np.random.default_rng(1).normal(size=(5, policy.config.z_dim))
    z = np.float32(draw * math.sqrt(draw.shape[1]) / np.linalg.norm(draw, axis=1, keepdims=True))
    return {"one": Prompted(policy, z[0]), "two": Prompted(policy, z[1]), "dance": Prompted(policy, z[2:])}


@pytest.fixture(scope="module")
def servable(policy, prompts):
    return PolicyServable(policy, prompts, control_dt=0.1)


def action_of(prompted, step=0):
    return prompted.act(STATE, (step, prompted.policy.agent.carry(1)))[0]


def test_metadata_says_what_a_client_must_know(servable, policy):
    assert servable.metadata == {
        "world": "adder",
        "agent": "fb",
        "model_sha256": policy.sha256,
        "actions": [2, 1],
        "control_dt": 0.1,
        "prompts": ["one", "two", "dance"],
        "latent": policy.config.z_dim,
    }
    assert servable.schema == {"state": (2,)}


def test_openpi_client_gets_the_actions_of_the_policy_held_for_each_control_step(servable, prompts):
    with running(servable, ANY_PORT) as server:
        client = OpenpiClient("127.0.0.1", server.port)
        first = client.infer(STATE)["actions"]
        second = client.infer(STATE | {"prompt": "two"})["actions"]
        latent = client.infer(STATE | {"z": prompts["two"].z})["actions"]
        client.connection.close()
    assert (first.shape, first.dtype) == ((2, 1), np.float32)
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_allclose(first[0], action_of(prompts["one"]), rtol=1e-6)
    np.testing.assert_allclose(second[0], action_of(prompts["two"]), rtol=1e-6)
    np.testing.assert_array_equal(latent, second)
    assert (first != second).any()


def test_motion_is_walked_along_and_begins_again_after_another_prompt(servable, prompts):
    carry = servable.start()
    for name, step in [*(("dance", k) for k in range(5)), ("one", 0), ("dance", 0), ("dance", 1)]:
        actions, carry = alone(servable, STATE | {"prompt": name}, carry)
        np.testing.assert_allclose(actions[0], action_of(prompts[name], step), rtol=1e-6)


def test_questions_of_many_clients_are_answered_as_if_each_were_alone(servable, policy):
    names = ["one", "dance", "tow", "two", "dance"]
    states = np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32)
    asked, carries = [], [servable.start(), ("dance", 2, policy.agent.carry(1)), *[servable.start()] * 3]
    for name, state, carry in zip(names, states, carries, strict=True):
        asked.append(({"state": state, "prompt": name}, carry))
    results = servable.infer(asked)
    assert str(results[2]).startswith("prompt: no prompt 'tow' was loaded")
    for place in (0, 1, 3, 4):
        expected, carry = alone(servable, *asked[place])
        np.testing.assert_allclose(results[place][0], expected, atol=1e-6)
        assert results[place][1] == carry
    assert [results[place][1][:2] for place in (0, 1, 4)] == [("one", 1), ("dance", 3), ("dance", 1)]
    assert servable.infer([asked[2]])[0].args == results[2].args


def test_what_an_agent_remembers_is_kept_for_each_client(policy, prompts):
    def act(params, obs, z, carry, key):
        return obs["state"][:, :1] + carry["sum"], {"sum": carry["sum"] + 1}

    counting = dataclasses.replace(policy)
    vars(counting)["agent"] = policy.agent._replace(act=act, carry=lambda count: {"sum": np.zeros((count, 1))})
    servable = PolicyServable(counting, prompts, control_dt=0.1)
    carries = [servable.start()] * 3
    for step in range(3):
        asked = [({"state": np.float32([10 * row, 0])}, carries[row]) for row in range(step + 1)]
        results = servable.infer(asked)
        assert [result[0][0, 0] for result in results] == [10 * row + step - row for row in range(step + 1)]
        carries = [result[1] for result in results] + [servable.start()] * 2


def test_nothing_is_compiled_once_it_serves(servable):
    compiled = servable._act._cache_size()
    for count in (1, 3, 7, 32):
        assert len(servable.infer([(STATE, servable.start())] * count)) == count
    assert servable._act._cache_size() == compiled


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"prompt": "tow"}, r"prompt: no prompt 'tow' was loaded; did you mean 'two'\?"),
        ({"prompt": "x * 2"}, r"prompt: no prompt 'x \* 2' was loaded; choose one of: dance, one, two"),
        ({"prompt": 3}, "prompt: must be the name of a loaded prompt, got int"),
        ({"prompt": "one", "z": np.ones(8)}, "observation: give 'prompt' or 'z', not both"),
    ],
)
def test_prompt_that_cannot_be_followed_is_refused(servable, extras, message):
    with pytest.raises(InputError, match=message):
        alone(servable, STATE | extras, servable.start())


def test_latent_must_be_finite_of_its_shape_and_length():
    z = np.full(4, 1.0)  # of length 2, the root of its four numbers
    np.testing.assert_array_equal(read_latent(z * 1.0009, 4), np.float32(z * 1.0009))
    for wrong, message in (
        (z[:3], r"z: must have shape \(4,\), got \(3,\)"),
        ([1.0] * 4, r"z: must be an array of shape \(4,\), got list"),
        (z * np.nan, r"z: must be finite in float32; entry \[0\] is not"),
        (z * 0, r"z: must have length 2\.0000, the root of its 4 numbers; got 0\.0000"),
        (z * 1.0011, r"got 2\.0022"),
        (z * 1e200, r"must be finite in float32"),
    ):
        with pytest.raises(InputError, match=message):
            read_latent(wrong, 4)


def test_policy_without_loaded_prompts_asks_for_a_latent(policy):
    servable = PolicyServable(policy, {}, control_dt=0.1)
    with pytest.raises(InputError, match="'z' is missing, and no prompt was loaded; send a latent or serve with"):
        alone(servable, STATE, servable.start())
    with pytest.raises(InputError, match="no prompt 'one' was loaded; none was loaded; send a latent as 'z'"):
        alone(servable, STATE | {"prompt": "one"}, servable.start())
    z = np.zeros(policy.config.z_dim)
    z[0] = math.sqrt(len(z))
    actions, _ = alone(servable, STATE | {"z": z}, servable.start())
    np.testing.assert_allclose(actions[0], action_of(Prompted(policy, np.float32(z))), rtol=1e-6)


def test_policy_of_one_task_takes_no_prompt():
    spec = Spec(obs={"state": (2,)}, action=1)
    config = td3.Config().tiny()
    shapes = jax.eval_shape(td3.make(config, spec).init, jax.random.key(0), spec.example()).params
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), shapes)
    policy = Policy("td3", config, spec, "adder", {}, params, Buffer({}, np.zeros((0, 1))))
    servable = PolicyServable(policy, {}, control_dt=0.1)
    assert (servable.extras, servable.metadata["latent"], servable.metadata["actions"]) == ((), 0, [1, 1])
    actions, _ = alone(servable, STATE, servable.start())
    np.testing.assert_allclose(actions[0], action_of(Prompted(policy, np.zeros(0, np.float32))), rtol=1e-6)
