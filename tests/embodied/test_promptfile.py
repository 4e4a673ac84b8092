"""Prompt files: a latent may be inferred again bit for bit, and a request that cannot be met says why."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import td_jepa
from embodied import promptfile
from embodied.policy import Buffer, Policy
from embodied.promptfile import Request
from embodied.rewards import Task
from embodied.types import InputError, Reward, Spec
from tests.embodied.toys import Adder

ROWS = 60
WISH = Request("reward", "tolerance(x, 0.5, inf, 1)", samples=40)


@pytest.fixture(scope="module")
def world():
    env = Adder(jittable=False)
    env.tasks = {"far": Task.of("far", "x", env.spec.quantities)}
    return env


@pytest.fixture(scope="module")
def policy(world):
    spec = Spec(obs={"state": (2,)}, action=1)
    config = td_jepa.Config().tiny()
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    agent = td_jepa.make(config, spec)
    params = jax.jit(agent.init, compiler_options=options)(jax.random.key(0), spec.example()).params
    physics = np.random.default_rng(0).normal(size=(ROWS, 1)).astype(np.float32)
    return Policy("td_jepa", config, spec, "adder", {}, params, Buffer(world.observe(physics)[0], physics))


@pytest.fixture
def written(policy, world, tmp_path):
    """The file of `WISH`."""
    prompted, _ = promptfile.infer(WISH, policy, world)
    promptfile.save(tmp_path / "deep" / "prompt.json", WISH, prompted, {"iqm": 1.0})
    return tmp_path / "deep" / "prompt.json"


def edit(path, **change) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    "request_",
    [
        *(dataclasses.replace(WISH, inference=inference) for inference in ("plain", "ridge", "softmax")),
        dataclasses.replace(WISH, seed=7),
        Request("task", "far", samples=ROWS),
        Request("goal", goal={"x": 0.5}, samples=ROWS),
        Request("state", state=(0.25,)),
        Request("row", row=ROWS - 1),
    ],
    ids=lambda request: f"{request.kind}-{request.inference}-{request.seed}",
)
def test_written_latent_follows_from_its_request_bit_for_bit(request_, policy, world, tmp_path):
    prompted, task = promptfile.infer(request_, policy, world)
    assert (task is None) == (request_.kind in ("state", "row"))
    path = tmp_path / "prompt.json"
    promptfile.save(path, request_, prompted, {})
    content = promptfile.read(path)
    assert content.request == request_
    assert content.z.dtype == np.float32
    np.testing.assert_array_equal(content.z, prompted.z)
    assert (content.world, content.agent, content.model_sha256) == ("adder", "td_jepa", policy.sha256)
    promptfile.check(path, policy, world)


def test_seed_chooses_the_rows_that_a_reward_is_relabelled_on(policy, world):
    prompts = [promptfile.make_prompt(dataclasses.replace(WISH, seed=s), policy, world)[0] for s in (0, 0, 1)]
    x = [np.asarray(prompt.obs["state"][:, 0]) for prompt in prompts]
    np.testing.assert_array_equal(x[0], x[1])
    assert (x[0] != x[2]).any()
    assert len(set(x[0].tolist())) == 40
    assert isinstance(prompts[0], Reward)
    np.testing.assert_allclose(prompts[0].reward[x[0] >= 0.5], 1.0)
    assert (np.asarray(prompts[0].reward)[x[0] < 0.5] < 1.0).all()


def test_goal_is_a_bump_as_wide_as_a_share_of_the_spread(world):
    quantities = {"x": np.array([-4.0, 4.0])}
    text = promptfile.goal_text({"x": 1.0}, world, quantities, 0.25)
    task = Task.of("goal", text, world.spec.quantities)
    x = np.array([1.0, 2.0, 0.0, 3.0])
    np.testing.assert_allclose(task({"x": x}, None, {"x": x}), np.exp([0.0, -0.5, -0.5, -2.0]), rtol=1e-6)


def test_latent_changed_in_its_last_bit_is_refused(written, policy, world):
    z = np.asarray(json.loads(written.read_text())["z"], np.float32)
    z[3] = np.nextafter(z[3], np.float32(9.0))
    edit(written, z=z.astype(float).tolist())
    with pytest.raises(InputError, match=r"the latent does not follow from its request \(largest difference"):
        promptfile.check(written, policy, world)


def test_latent_of_another_length_is_refused(written, policy, world):
    edit(written, z=[0.0, 1.0])
    with pytest.raises(InputError, match=r"prompt\.json: field 'z' must have 8 numbers per latent, got 2"):
        promptfile.load(written, policy, world)


def test_request_that_was_changed_is_refused(written, policy, world):
    body = json.loads(written.read_text())
    edit(written, request=body["request"] | {"text": "tolerance(x, -inf, -0.5, 1)"})
    for use in (promptfile.load, promptfile.check):
        with pytest.raises(InputError, match=r"prompt\.json: the request was changed after the latent was inferred"):
            use(written, policy, world)


def test_other_model_is_refused(written, policy, world):
    params = jax.tree.map(lambda leaf: leaf + 1e-3, policy.params)
    with pytest.raises(InputError, match=r"model_sha256 is \w{12}\.\.\., this policy has \w{12}\.\.\."):
        promptfile.check(written, dataclasses.replace(policy, params=params), world)


def test_other_buffer_is_refused(written, policy, world):
    buffer = Buffer(policy.buffer.obs, policy.buffer.physics + 1)
    with pytest.raises(InputError, match="buffer_sha256 is"):
        promptfile.check(written, dataclasses.replace(policy, buffer=buffer), world)


def test_model_with_another_description_is_another_model(written, policy, world):
    spec = dataclasses.replace(policy.spec, mean={"state": (0.0, 1.0)})
    for other in (dataclasses.replace(policy, spec=spec), dataclasses.replace(policy, options={"hold": 2})):
        with pytest.raises(InputError, match="model_sha256 is"):
            promptfile.load(written, other, world)


@pytest.mark.parametrize("field", ["request", "z", "model_sha256", "buffer_sha256", "request_sha256"])
def test_prompt_file_that_lacks_a_field_is_refused_naming_it(written, field):
    body = json.loads(written.read_text())
    del body[field]
    written.write_text(json.dumps(body))
    with pytest.raises(InputError, match=f"field '{field}' is missing"):
        promptfile.read(written)


def test_unknown_field_of_a_request_is_named_with_the_nearest(written):
    edit(written, request={"kind": "reward", "txt": "x"})
    with pytest.raises(InputError, match=r"unknown field 'request\.txt' .*did you mean 'text'"):
        promptfile.read(written)


def test_missing_and_unreadable_prompt_files_are_named(written, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: no such file; expected a prompt file"):
        promptfile.read(tmp_path / "nowhere.json")
    written.write_text(written.read_text()[:50])
    with pytest.raises(InputError, match=r"prompt\.json: not valid JSON \(.* line \d+ .*\); expected a prompt file"):
        promptfile.read(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rewrd"}, r"field 'request\.kind' is \"rewrd\"; did you mean 'reward'"),
        ({"kind": None}, r"field 'request\.kind' is null; choose one of: goal, reward, row, state, task"),
        ({"samples": "40"}, r"field 'request\.samples' must be a whole number, got \"40\""),
        ({"state": None}, r"field 'request\.state' must be a list, got null"),
        ({"goal": {"x": "far"}}, r"field 'request\.goal\.x' must be a number, got \"far\""),
        ({"seed": -1}, r"seed must be in \[0, 4294967296\), got -1"),
        ({"width": 0}, r"width must be in \(0, inf\), got 0.0"),
        ({"inference": "rigde"}, "unknown inference 'rigde'; did you mean 'ridge'"),
        ({"ridge": -1}, r"ridge must be in \[0, inf\), got -1.0"),
        ({"temperature": 0}, r"temperature must be in \(0, inf\), got 0.0"),
    ],
)
def test_request_of_a_wrong_kind_is_refused_in_one_line_naming_file_and_field(written, change, message):
    body = json.loads(written.read_text())
    edit(written, request=body["request"] | change)
    with pytest.raises(InputError, match=rf"prompt\.json: .*{message}") as caught:
        promptfile.read(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"z": z}, "field 'z' must be a list of finite numbers") for z in (3, None, "1", ["1"], [[1, 2], [3]], {})),
        ({"z": [float("nan")]}, "field 'z' must be a list of finite numbers"),
        ({"model_sha256": 3}, "field 'model_sha256' must be a text, got 3"),
        ({"request": []}, r"field 'request' must be an object with named fields, got \[\]"),
        ({"request": {"text": "x"}}, r"field 'request\.kind' is missing"),
        ({"scores": None}, "field 'scores' must be an object with named fields, got null"),
    ],
)
def test_prompt_file_of_a_wrong_kind_is_refused_naming_the_field(written, change, message):
    edit(written, **change)
    with pytest.raises(InputError, match=rf"prompt\.json: {message}"):
        promptfile.read(written)


def test_prompt_file_that_holds_a_list_is_refused(written):
    written.write_text("[]")
    with pytest.raises(InputError, match=r"prompt\.json: must be an object with named fields, got \[\]"):
        promptfile.read(written)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("state", state=(0.0, 1.0)), r"goal state: must have 1 numbers .* world 'adder'\), got 2"),
        (Request("state", state=(float("nan"),)), "observation 'state' holds a non-finite value"),
        (Request("state", state=(float("inf"),)), "observation 'state' holds a non-finite value"),
        (Request("row", row=-1), r"row: must be in \[0, 60\), .* got -1"),
        (Request("row", row=ROWS), r"row: must be in \[0, 60\), .* got 60"),
        (dataclasses.replace(WISH, samples=0), r"samples: must be in \[1, 60\], .* got 0"),
        (dataclasses.replace(WISH, samples=ROWS + 1), r"samples: must be in \[1, 60\], .* got 61"),
        (Request("goal", goal={"pear": 1.0}, samples=9), "goal: unknown quantity 'pear'; did you mean 'pair'"),
        (Request("goal", goal={"pair": 1.0}, samples=9), r"goal: quantity 'pair' has shape \(2,\)"),
        (Request("goal", goal={"x": float("inf")}, samples=9), "goal: the value of 'x' must be finite, got inf"),
        (Request("goal", samples=9), "goal: names no quantity"),
        (dataclasses.replace(WISH, text="tolerance(pear, 0, 1, 1)"), "unknown.*'pear'.*'pair'"),
        (dataclasses.replace(WISH, text="x * 0 + 3"), r"reward text: is constant \(3\) over the 40 sampled states"),
        (Request("task", "fra", samples=9), "world 'adder' has no task 'fra'; did you mean 'far'"),
        (
            dataclasses.replace(WISH, text="x - previous_x"),
            "reads 'previous_x', but a prompt sees single states; .*velo",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Request) else "",
)
def test_request_that_cannot_be_met_is_refused_in_one_line(request_, message, policy, world):
    with np.errstate(all="ignore"), pytest.raises(InputError, match=message) as caught:
        promptfile.infer(request_, policy, world)
    assert "\n" not in str(caught.value)


def test_row_and_state_of_the_same_physics_give_the_same_latent(policy, world):
    row, _ = promptfile.infer(Request("row", row=5), policy, world)
    state, _ = promptfile.infer(Request("state", state=(float(policy.buffer.physics[5, 0]),)), policy, world)
    np.testing.assert_array_equal(row.z, state.z)
    assert jnp.linalg.norm(row.z) == pytest.approx(len(row.z) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inference": "rigde"}, "prompt: unknown inference 'rigde'; did you mean 'ridge'"),
        ({"seed": 2**32}, r"prompt: seed must be in \[0, 4294967296\), got 4294967296"),
    ],
)
def test_request_that_does_not_exist_cannot_be_made(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(WISH, **change)


def test_reward_is_constant_or_not_whatever_its_size(policy, world):
    tiny = dataclasses.replace(WISH, text="tolerance(x, 0.5, inf, 1) * 0.0000000001")
    z = [promptfile.infer(request, policy, world)[0].z for request in (WISH, tiny)]
    np.testing.assert_allclose(z[1], z[0], atol=1e-3)
    physics = np.random.default_rng(1).normal(size=(10_000, 1)).astype(np.float32)
    large = dataclasses.replace(policy, buffer=Buffer(world.observe(physics)[0], physics))
    with pytest.raises(InputError, match=r"is constant \(0\.1\) over the 10000 sampled states"):
        promptfile.infer(Request("reward", "0 * x + 0.1"), large, world)


@pytest.mark.parametrize(("width", "message"), [(0, "no physics vector"), (3, "a physics vector of 3 numbers, not 1")])
def test_states_without_the_physics_of_the_world_take_rows_only(policy, world, width, message):
    buffer = Buffer(policy.buffer.obs, np.zeros((ROWS, width), np.float32))
    bare = dataclasses.replace(policy, buffer=buffer)
    with pytest.raises(InputError, match=f"buffer: its states carry {message}, so no reward can be computed on them"):
        promptfile.infer(WISH, bare, world)
    promptfile.infer(Request("row", row=5), bare, world)


def test_softmax_that_rests_on_few_states_is_cautioned(policy, world):
    softmax = dataclasses.replace(WISH, inference="softmax", samples=ROWS)
    narrow = dataclasses.replace(softmax, text="exp(-10000 * (x - 0.05) ** 2)", temperature=100.0)
    # All but equal weights: 60 samples count as nearly as many.
    even = dataclasses.replace(softmax, temperature=0.1)
    (caution,) = promptfile.cautions(promptfile.make_prompt(narrow, policy, world)[0])
    assert re.match(
        r"softmax inference rests on 1(\.\d+)? effective samples of 60; lower the temperature \(100\)", caution
    )
    for request in (even, dataclasses.replace(narrow, inference="plain"), Request("row", row=5)):
        assert promptfile.cautions(promptfile.make_prompt(request, policy, world)[0]) == []


def test_softmax_prefers_high_rewards_where_all_are_negative(policy, world):
    wish = dataclasses.replace(WISH, text="tolerance(x, 0.5, inf, 0.2)", inference="softmax")
    z = [
        promptfile.infer(dataclasses.replace(wish, text=wish.text + shift), policy, world)[0].z
        for shift in ("", " - 1", " + 100")
    ]
    np.testing.assert_allclose(z[1], z[0], atol=1e-3)
    np.testing.assert_allclose(z[2], z[0], atol=1e-2)
