"""Trained policies as folders: what is written comes back, and what is damaged is refused by name."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embodied.policy import load
from embodied.types import Goal, InputError
from tests.embodied import toys

FILES = ("config.json", "spec.json", "params.npz", "buffer.npz")


@pytest.fixture(scope="module")
def policy():
    return toys.policy()


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


def test_policy_comes_back_from_its_folder_with_equal_hashes_and_equal_actions(policy, saved):
    again = load(saved)
    assert (again.sha256, again.params_sha256) == (policy.sha256, policy.params_sha256)
    assert again.buffer.sha256 == policy.buffer.sha256
    assert (again.agent_name, again.config, again.spec) == ("fb", policy.config, policy.spec)
    assert (again.world, again.options) == ("adder", {"hold": 2})
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    goal = Goal({"state": jnp.array([1.0, 2.0])})
    np.testing.assert_array_equal(again.prompt(goal).z, policy.prompt(goal).z)
    np.testing.assert_array_equal(toys.actions(again.prompt(goal)), toys.actions(policy.prompt(goal)))
    assert (saved / "card.md").read_text() == "A card.\n"


def test_run_directory_stands_for_the_policy_in_it(policy, saved):
    assert load(saved.parent).sha256 == policy.sha256


def test_saving_again_replaces_the_folder_whole(policy, folder):
    (folder / "stale.txt").write_text("old")
    policy.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "card.md"])
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


class Killed(BaseException):
    """Not to be caught."""


@pytest.mark.parametrize(("survived", "left_behind"), [*((n, "adder") for n in range(4)), (4, "newer")])
def test_save_that_is_killed_leaves_the_old_policy_or_the_new_one(policy, folder, monkeypatch, survived, left_behind):
    """`survived` is the number of removals and renames that are done before the kill."""
    newer = dataclasses.replace(policy, world="newer")
    left = [survived]

    def dying(function):
        def wrapped(*arguments, **options):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return function(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying(Path.replace))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        with pytest.raises(Killed):
            newer.save(folder)
    assert load(folder).world == load(folder.parent).world == left_behind
    newer.save(folder)
    assert load(folder).world == "newer"
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def test_policy_that_was_put_aside_is_used_only_where_there_is_no_other(policy, folder):
    aside = folder.with_name("policy.replaced")
    shutil.copytree(folder, aside)
    dataclasses.replace(policy, world="newer").save(aside)
    assert load(folder).world == "adder"
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"policy/config\.json: no such file"):
        load(folder)
    shutil.rmtree(folder)
    assert load(folder).world == load(folder.parent).world == "newer"


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


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", lambda body: body["config"].update(discount=0.5)),
        ("config.json", lambda body: body.update(world="walker")),
        ("config.json", lambda body: body["options"].update(hold=4)),
        ("spec.json", lambda body: body["mean"].update(state=[0.5, 2.0])),
    ],
)
def test_changed_description_does_not_match_the_checksum_and_gives_another_hash(policy, folder, name, change):
    edit(folder / name, change)
    with pytest.raises(InputError, match=r"config\.json or spec\.json was changed"):
        load(folder)
    # Folders from before the checksum have none; what is loaded from them is told apart all the same.
    edit(folder / "config.json", lambda body: body.pop("sha256"))
    changed = load(folder)
    assert changed.sha256 != policy.sha256
    assert changed.params_sha256 == policy.params_sha256


def test_policy_from_before_a_field_was_there_keeps_its_hash(policy, folder):
    edit(folder / "config.json", lambda body: (body["config"].pop("imitation"), body.pop("sha256")))
    older = load(folder).sha256
    assert older != policy.sha256
    edit(folder / "config.json", lambda body: body.update(sha256=older))
    assert load(folder).sha256 == older
    assert load(folder).config.imitation.weight == 0


def test_number_written_without_its_point_is_the_same_number(policy, folder):
    edit(folder / "config.json", lambda body: body["config"].update(c_orth=1))
    assert '"c_orth": 1,' in (folder / "config.json").read_text()
    assert load(folder).sha256 == policy.sha256


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
    with pytest.raises(
        InputError, match=r"unknown field 'config\.discuont' of agents\.fb\.Config; did you mean 'discount'"
    ):
        load(folder)


def test_unknown_agent_is_named_with_the_nearest(folder):
    edit(folder / "config.json", lambda body: body.update(agent="fbb"))
    with pytest.raises(InputError, match="unknown agent 'fbb'; did you mean 'fb'"):
        load(folder)


def test_newer_format_is_refused(folder):
    edit(folder / "config.json", lambda body: body.update(format=2, novelty=1))
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


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"config": {"discount": "0.9"}}, r"config\.discount' must be a number, got \"0\.9\""),
        ("config.json", {"config": {"inputs": "raww"}}, r"config\.inputs' is \"raww\"; did you mean 'raw'"),
        ("config.json", {"config": {"discount": 2}}, r"discount must be in \[0, 1\), got 2.0"),
        ("config.json", {"config": []}, r"'config' must be an object with named fields, got \[\]"),
        ("config.json", {"agent": 3}, "'agent' must be a text, got 3"),
        ("config.json", {"format": "1"}, "format 1 is not 1"),
        ("spec.json", {"action": 1.5}, "'action' must be a whole number, got 1.5"),
        ("spec.json", {"obs": {"state": 2}}, r"'obs\.state' must be a list, got 2"),
        ("spec.json", {"mean": {"state": [0, None]}}, r"'mean\.state\[1\]' must be a number, got null"),
    ],
)
def test_description_of_a_wrong_kind_is_refused_in_one_line_naming_file_and_field(folder, name, change, message):
    edit(folder / name, lambda body: body.update(change))
    with pytest.raises(InputError, match=rf"{name}: .*{message}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"'])
@pytest.mark.parametrize("name", ["config.json", "spec.json"])
def test_description_that_is_no_object_is_refused(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}: must be an object with named fields, got {re.escape(content)}"):
        load(folder)
