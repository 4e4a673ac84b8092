"""Prompt files: a latent may be inferred again bit for bit, and a request that cannot be met says why."""

import dataclasses
import json

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
    again, z, body = promptfile.read(path)
    assert again == request_
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, prompted.z)
    assert (body["world"], body["agent"], body["model_sha256"]) == ("adder", "td_jepa", policy.sha256)
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
    with pytest.raises(InputError, match="the latent does not follow from its request"):
        promptfile.check(written, policy, world)


def test_request_that_was_changed_is_refused(written, policy, world):
    body = json.loads(written.read_text())
    edit(written, request=body["request"] | {"text": "tolerance(x, -inf, -0.5, 1)"})
    with pytest.raises(InputError, match="the latent does not follow from its request"):
        promptfile.check(written, policy, world)


def test_other_model_is_refused(written, policy, world):
    params = jax.tree.map(lambda leaf: leaf + 1e-3, policy.params)
    with pytest.raises(InputError, match=r"model_sha256 is \w{12}\.\.\., this policy has \w{12}\.\.\."):
        promptfile.check(written, dataclasses.replace(policy, params=params), world)


def test_other_buffer_is_refused(written, policy, world):
    buffer = Buffer(policy.buffer.obs, policy.buffer.physics + 1)
    with pytest.raises(InputError, match="buffer_sha256 is"):
        promptfile.check(written, dataclasses.replace(policy, buffer=buffer), world)


@pytest.mark.parametrize("field", ["request", "z", "model_sha256", "buffer_sha256"])
def test_prompt_file_that_lacks_a_field_is_refused_naming_it(written, field):
    body = json.loads(written.read_text())
    del body[field]
    written.write_text(json.dumps(body))
    with pytest.raises(InputError, match=f"field '{field}' is missing"):
        promptfile.read(written)


def test_unknown_field_of_a_request_is_named_with_the_nearest(written):
    edit(written, request={"kind": "reward", "txt": "x"})
    with pytest.raises(InputError, match=r"unknown field 'txt' .*did you mean 'text'"):
        promptfile.read(written)


def test_missing_and_unreadable_prompt_files_are_named(written, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: no such prompt file"):
        promptfile.read(tmp_path / "nowhere.json")
    written.write_text(written.read_text()[:50])
    with pytest.raises(InputError, match=r"prompt\.json: not a prompt file \(.* in line \d+\)"):
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
        (dataclasses.replace(WISH, inference="rigde"), "unknown variant 'rigde'; did you mean 'ridge'"),
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
