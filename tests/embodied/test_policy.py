"""Trained policies as folders: what is written comes back, and what is damaged is refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import fb, rnd
from embodied.policy import Buffer, Policy, config_from_dict, load
from embodied.types import Goal, InputError, Language, Motion, Prior, Reward, Spec

SPEC = Spec(obs={"state": (2,)}, action=1, mean={"state": (0.5, 1.0)}, std={"state": (2.0, 1.0)})
FILES = ("config.json", "spec.json", "params.npz", "buffer.npz")


@pytest.fixture(scope="module")
def policy():
    config = dataclasses.replace(fb.Config().tiny(), inputs="standardized")
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    agent = fb.make(config, SPEC)
    params = jax.jit(agent.init, compiler_options=options)(jax.random.key(0), SPEC.example()).params
    state = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    return Policy("fb", config, SPEC, "adder", {"hold": 2}, params, Buffer({"state": state}, state[:, :1]))


@pytest.fixture(scope="module")
def saved(policy, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "policy"
    policy.save(directory, card="A card.\n")
    return directory


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(saved, tmp_path / "policy")


def edit(path: Path, change) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def rewrite(path: Path, change) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def actions(prompted, count: int = 4) -> np.ndarray:
    carry, found = prompted.carry(), []
    for i in range(count):
        action, carry = prompted.act({"state": np.array([0.1 * i, -0.2])}, carry)
        found.append(action)
    return np.stack(found)


def test_policy_comes_back_from_its_folder_with_equal_hashes_and_equal_actions(policy, saved):
    again = load(saved)
    assert (again.sha256, again.buffer.sha256) == (policy.sha256, policy.buffer.sha256)
    assert (again.agent_name, again.config, again.spec) == ("fb", policy.config, SPEC)
    assert (again.world, again.options) == ("adder", {"hold": 2})
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    goal = Goal({"state": jnp.array([1.0, 2.0])})
    np.testing.assert_array_equal(again.prompt(goal).z, policy.prompt(goal).z)
    np.testing.assert_array_equal(actions(again.prompt(goal)), actions(policy.prompt(goal)))
    assert (saved / "card.md").read_text() == "A card.\n"


def test_run_directory_stands_for_the_policy_in_it(policy, saved):
    assert load(saved.parent).sha256 == policy.sha256


def test_saving_again_replaces_the_folder_whole(policy, folder):
    (folder / "stale.txt").write_text("old")
    policy.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "card.md"])
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def test_action_is_deterministic_bounded_and_has_no_batch_axis(policy):
    prompted = policy.prompt(Prior(), seed=1)
    assert actions(prompted).shape == (4, 1)
    assert np.abs(actions(prompted)).max() <= 1.0
    np.testing.assert_array_equal(actions(prompted), actions(prompted))
    assert (policy.prompt(Prior(), seed=2).z != prompted.z).any()


def test_motion_is_walked_along_and_its_last_latent_kept(policy):
    clip = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    motion = policy.prompt(Motion({"state": jnp.asarray(clip)}))
    assert motion.z.shape == (3, policy.config.z_dim)
    followed = actions(motion, 5)
    for step in range(5):
        fixed = dataclasses.replace(motion, z=motion.z[min(step, 2)])
        np.testing.assert_array_equal(followed[step], actions(fixed, 5)[step])


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        load(folder)


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=name):
        load(folder)


def test_changed_parameter_does_not_match_its_checksum(folder):
    def nudge(arrays):
        leaf = next(leaf for leaf in arrays.values() if leaf.size)
        leaf.flat[0] = np.nextafter(leaf.flat[0], np.float32(9.0))

    rewrite(folder / "params.npz", nudge)
    with pytest.raises(InputError, match=r"params\.npz: content does not match its checksum"):
        load(folder)


def test_any_flipped_bit_of_the_parameters_is_refused_or_harmless(policy, folder):
    path = folder / "params.npz"
    content = path.read_bytes()
    refused = 0
    # The last bytes are the directory of the archive, where most kinds of damage lie.
    for position in [*range(0, len(content), len(content) // 60), *range(len(content) - 200, len(content), 3)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            found = load(folder).sha256
        except InputError as error:
            found, refused = policy.sha256, refused + ("params.npz" in str(error))
        assert found == policy.sha256
    assert refused > 30


@pytest.mark.parametrize("name", ["params.npz", "buffer.npz"])
def test_archive_with_pickled_objects_is_refused(folder, name):
    rewrite(folder / name, lambda arrays: arrays.update(extra=np.array([{"code": 1}], object)))
    with pytest.raises(InputError, match=rf"{name}: damaged or not an npz of plain arrays"):
        load(folder)


def test_unknown_config_field_is_named_with_the_nearest(folder):
    edit(folder / "config.json", lambda body: body["config"].update(discuont=0.9))
    with pytest.raises(InputError, match=r"unknown field 'discuont' of agents\.fb\.Config; did you mean 'discount'"):
        load(folder)


def test_unknown_agent_is_named_with_the_nearest(folder):
    edit(folder / "config.json", lambda body: body.update(agent="fbb"))
    with pytest.raises(InputError, match="unknown agent 'fbb'; did you mean 'fb'"):
        load(folder)


def test_newer_format_is_refused(folder):
    edit(folder / "config.json", lambda body: body.update(format=2))
    with pytest.raises(InputError, match="format 2 is not 1"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "field"),
    [*(("config.json", f) for f in ("agent", "config", "world", "options", "params_sha256")), ("spec.json", "action")],
)
def test_description_that_lacks_a_field_is_refused_naming_it(folder, name, field):
    edit(folder / name, lambda body: body.pop(field))
    with pytest.raises(InputError, match=rf"{name}.*{field}"):
        load(folder)


def test_buffer_without_physics_is_refused(folder):
    rewrite(folder / "buffer.npz", lambda arrays: arrays.pop("physics"))
    with pytest.raises(InputError, match=r"buffer\.npz.*physics"):
        load(folder)


def test_nested_configs_come_back_from_their_dictionaries():
    config = rnd.Config().tiny()
    assert config_from_dict(rnd.Config, dataclasses.asdict(config), "here") == config
    with pytest.raises(InputError, match=r"here: unknown field 'hiden' of agents\.td3\.Config; did you mean 'hidden'"):
        config_from_dict(rnd.Config, {"explorer": {"hiden": 3}}, "here")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Goal({"state": jnp.zeros(3)}), r"Goal prompt: observation 'state' must have shape \(2,\), got \(3,\)"),
        (Goal({"state": jnp.zeros((1, 2))}), r"must have shape \(2,\), got \(1, 2\)"),
        (Goal({"pixels": jnp.zeros(2)}), "observation 'state' is missing; got pixels"),
        (Goal({"state": jnp.array([0.0, jnp.nan])}), "'state' holds a non-finite value"),
        (Motion({"state": jnp.zeros(2)}), r"Motion prompt: .* must have shape \('N', 2\), got \(2,\)"),
        (Reward({"state": jnp.zeros((4, 3))}, jnp.zeros(4)), r"must have shape \('N', 2\), got \(4, 3\)"),
        (
            Reward({"state": jnp.zeros((4, 2))}, jnp.array([0.0, 1.0, jnp.inf, 0.0])),
            "reward holds a non-finite value in row 2",
        ),
        (Language(jnp.zeros(3, int), jnp.ones(3)), "takes Reward, Goal, Motion or Prior prompts, got Language"),
    ],
)
def test_prompt_that_does_not_fit_is_refused_in_one_line(policy, prompt, message):
    with pytest.raises(InputError, match=message) as caught:
        policy.prompt(prompt)
    assert "\n" not in str(caught.value)
