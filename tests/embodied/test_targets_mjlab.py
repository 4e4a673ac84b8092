"""Files for mjlab's readers and Playground's scripts: emulations of both do with them what the policy does."""

import dataclasses

import numpy as np
import onnx
import pytest

from embodied.deploy import bundle
from embodied.deploy.bundle import GOLDEN
from embodied.deploy.contract import Contract, History
from embodied.export import targets
from tests.embodied import humanoid, robots
from tests.embodied.readers import Mjlab, Playground, follow

WALK, STAND = "move-ego-0-0.7", "stand"
REPEATED = History(4, "newest_first", includes_current=True, reset_fill="repeat_first")
GENTLE = 0.5  # rescale with which no target leaves its limits, which these runtimes do not watch


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    agreed = humanoid.contract(rescale=GENTLE, past=REPEATED)
    return humanoid.write_bundle(tmp_path_factory.mktemp("g1") / "bundle", agreed)


@pytest.fixture(scope="module")
def out(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets") / "mjlab"
    assert targets.write(loaded, "mjlab", folder).passed
    return folder


def gentle_toy(history: History) -> Contract:
    agreed = robots.contract()
    terms = tuple(dataclasses.replace(term, history=history) for term in agreed.observation.terms)
    return dataclasses.replace(
        agreed,
        observation=dataclasses.replace(agreed.observation, terms=terms),
        action=dataclasses.replace(agreed.action, scale={"left_hip": 0.3, "right_hip": 0.35}),
    )


def by_joint(one: bundle.Bundle, target: np.ndarray) -> np.ndarray:
    return target[:, [one.contract.action.names.index(joint) for joint in humanoid.JOINTS]]


def test_metadata_has_every_number_in_full_in_the_order_of_its_names(loaded, out):
    reader, agreed = Mjlab(out / f"{WALK}.onnx", humanoid.JOINTS), loaded.contract
    assert reader.order == list(humanoid.JOINTS)
    for found, numbers in [
        (reader.kp, agreed.robot.kp),
        (reader.kd, agreed.robot.kd),
        (reader.scale, agreed.action.scale),
        (reader.default, agreed.action.offset),
    ]:
        assert found.tolist() == [numbers[joint] for joint in humanoid.JOINTS]
    keys = "run_path joint_names joint_stiffness joint_damping default_joint_pos command_names observation_names"
    assert set(keys.split()) <= set(reader.told)
    assert reader.told["run_path"] == ["0" * 64]


def test_mjlab_sees_and_does_what_the_policy_does_from_the_first_step_on(loaded, out):
    golden = loaded.arrays(GOLDEN)
    for index, prompt in enumerate((WALK, STAND)):
        reader = Mjlab(out / f"{prompt}.onnx", humanoid.JOINTS)
        assert (reader.session.input, reader.session.output) == ("obs", "actions")
        seen, _ = follow(reader, loaded, told=True)
        np.testing.assert_array_equal(seen, golden["obs"])
        _, target = follow(reader, loaded)
        mine = slice(index * humanoid.STEPS, (index + 1) * humanoid.STEPS)
        np.testing.assert_allclose(target[mine], golden["target"][mine], atol=1e-5)


def test_another_order_of_the_policys_joints_moves_every_joint_alike(loaded, out, tmp_path):
    shuffled = tuple(np.random.default_rng(3).permutation(humanoid.JOINTS))
    other = humanoid.write_bundle(tmp_path / "bundle", humanoid.contract(shuffled, GENTLE, REPEATED))
    targets.write(other, "mjlab", tmp_path / "out")
    first = follow(Mjlab(out / f"{WALK}.onnx", humanoid.JOINTS), loaded)[1]
    second = follow(Mjlab(tmp_path / "out" / f"{WALK}.onnx", humanoid.JOINTS), other)[1]
    np.testing.assert_allclose(by_joint(loaded, first), by_joint(other, second), atol=1e-4)
    assert np.median(np.ptp(first, axis=0)) > 0.1  # some stay clipped


def test_graphs_of_prompts_differ_by_one_constant(out):
    first, second = (onnx.load(out / f"{prompt}.onnx") for prompt in (WALK, STAND))
    constants = [{one.name: one.raw_data for one in model.graph.initializer} for model in (first, second)]
    assert [name for name in constants[0] if constants[0][name] != constants[1][name]] == ["policy/z"]
    for model in (first, second):
        del model.graph.initializer[:]
    assert first == second


@pytest.mark.parametrize("history", [History(), History(3, "oldest_first", False, "repeat_first")])
def test_mjlab_drives_a_small_robot(history, tmp_path):
    loaded = bundle.load(robots.write_bundle(tmp_path / "bundle", gentle_toy(history)))
    targets.write(loaded, "mjlab", tmp_path / "out")
    seen, target = follow(Mjlab(tmp_path / "out" / "lean.onnx", robots.JOINTS), loaded)
    np.testing.assert_allclose(seen, loaded.arrays(GOLDEN)["obs"], atol=1e-5)
    np.testing.assert_allclose(target, loaded.arrays(GOLDEN)["target"], atol=1e-5)


def test_zeros_before_the_first_frame_are_told_as_a_difference(tmp_path):
    loaded = bundle.load(robots.write_bundle(tmp_path / "bundle", gentle_toy(History(2))))
    targets.write(loaded, "mjlab", tmp_path / "out")
    page = (tmp_path / "out" / "LIMITS.md").read_text()
    assert "Term 'rate', for 1 step after a reset: frames before the first are the first one again here" in page
    assert "every 0.02 s" in page


@pytest.mark.parametrize("small", [True, False])
def test_playground_script_sees_and_does_what_the_policy_does(small, tmp_path):
    if small:
        loaded = bundle.load(robots.write_bundle(tmp_path / "bundle", gentle_toy(History())))
    else:
        loaded = humanoid.write_bundle(tmp_path / "bundle", humanoid.contract(rescale=GENTLE, past=None))
    assert targets.write(loaded, "playground", tmp_path / "out").passed
    golden, agreed, joints = loaded.arrays(GOLDEN), loaded.contract, loaded.contract.robot.joints
    reader = Playground(tmp_path / "out", loaded.prompts[0], joints)
    assert reader.note["ctrl_dt"] == 0.02
    for field, numbers in (("action_scale", agreed.action.scale), ("default_pose", agreed.action.offset)):
        assert reader.note[field] == [numbers[joint] for joint in joints]
    seen, _ = follow(reader, loaded, told=True)
    np.testing.assert_array_equal(seen, golden["obs"])
    _, target = follow(reader, loaded)
    mine = (golden["z"] == loaded.prompt(loaded.prompts[0])).all(axis=1)
    assert mine.any()
    np.testing.assert_allclose(target[mine], golden["target"][mine], atol=1e-5)
