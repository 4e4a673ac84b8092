"""Files for unitree_rl_lab: an emulation of its runtime does with them what the policy does."""

import dataclasses

import numpy as np
import onnx
import pytest
import yaml

from embodied.deploy import bundle
from embodied.deploy.bundle import GOLDEN
from embodied.deploy.contract import Contract, History, Observation
from embodied.deploy.errors import InputError
from embodied.export import targets
from embodied.export.targets import unitree_rl
from tests.embodied import humanoid, robots
from tests.embodied.readers import Session, UnitreeRl, actions_of, follow

WALK, STAND = "move-ego-0-0.7", "stand"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return humanoid.write_bundle(tmp_path_factory.mktemp("g1") / "bundle", humanoid.contract())


@pytest.fixture(scope="module")
def out(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets") / "unitree_rl"
    assert targets.write(loaded, "unitree_rl", folder).passed
    return folder


def toy(folder, **changes) -> bundle.Bundle:
    return bundle.load(robots.write_bundle(folder, dataclasses.replace(robots.contract(), **changes)))


def with_history(history: History, layout: str = "per_term") -> Contract:
    agreed = robots.contract()
    every = tuple(dataclasses.replace(term, history=history) for term in agreed.observation.terms)
    return dataclasses.replace(agreed, observation=Observation(every, layout))


def test_numbers_arrive_in_full_and_in_the_order_that_the_runtime_expects(loaded, out):
    config, agreed = yaml.safe_load((out / WALK / "params" / "deploy.yaml").read_text()), loaded.contract
    action = config["actions"]["JointPositionAction"]
    assert config["joint_ids_map"] == list(humanoid.JOINT_IDS_MAP)
    assert config["step_dt"] == 0.02
    assert action["joint_ids"] is None
    in_sdk_order = {"stiffness": agreed.robot.kp, "damping": agreed.robot.kd}
    for field, numbers in in_sdk_order.items():
        assert config[field] == [numbers[joint] for joint in humanoid.JOINTS]
    names = humanoid.POLICY_ORDER
    assert config["default_joint_pos"] == action["offset"] == [agreed.action.offset[name] for name in names]
    assert action["scale"] == [agreed.action.scale[name] for name in names]
    assert action["clip"] == [list(agreed.action.limit[name]) for name in names]
    assert config["stiffness"][0] == pytest.approx(99.098, abs=1e-3)  # left hip pitch
    assert action["scale"][2] == pytest.approx(0.5475, abs=1e-4)  # waist yaw


def test_runtime_sees_and_does_what_the_policy_does_except_for_frames_before_the_first(loaded, out):
    golden, acted = loaded.arrays(GOLDEN), actions_of(loaded)
    for index, prompt in enumerate((WALK, STAND)):
        seen, target = follow(UnitreeRl(out / prompt, humanoid.JOINTS), loaded, told=True)
        mine = slice(index * humanoid.STEPS, (index + 1) * humanoid.STEPS)
        late = seen[mine] != golden["obs"][mine]
        assert late[:3].any(axis=1).all()  # of a history of 4, as its LIMITS.md says
        assert not late[3:].any()
        assert not late[:, acted].any()
        np.testing.assert_allclose(target[mine][3:], golden["target"][mine][3:], atol=1e-5)
    page = (out / "LIMITS.md").read_text()
    assert "Term 'dof_pos_history', for 3 steps after a reset" in page
    assert "'last_history'" not in page  # the first action is 0 in both


def test_a_history_that_repeats_the_first_frame_is_the_same_from_the_first_step_on(tmp_path):
    past = History(3, "oldest_first", includes_current=False, reset_fill="repeat_first")
    loaded = toy(tmp_path / "bundle", observation=with_history(past).observation)
    assert targets.write(loaded, "unitree_rl", tmp_path / "out").passed
    golden, acted = loaded.arrays(GOLDEN), actions_of(loaded)
    seen, target = follow(UnitreeRl(tmp_path / "out" / "lean", robots.JOINTS), loaded)
    np.testing.assert_array_equal(seen[:, ~acted], golden["obs"][:, ~acted])
    np.testing.assert_allclose(seen, golden["obs"], atol=1e-5)
    np.testing.assert_allclose(target, golden["target"], atol=1e-5)
    assert "Term" not in (tmp_path / "out" / "LIMITS.md").read_text()


@pytest.mark.parametrize(("order", "layout"), [("newest_first", "per_time"), ("oldest_first", "per_term")])
def test_any_order_of_frames_is_sorted_inside_the_graph(order, layout, tmp_path):
    changed = with_history(History(2, order, includes_current=True, reset_fill="repeat_first"), layout)
    loaded = toy(tmp_path / "bundle", observation=changed.observation)
    verdict = targets.write(loaded, "unitree_rl", tmp_path / "out")
    assert (verdict.steps, verdict.unequal) == (24, 0)
    _, target = follow(UnitreeRl(tmp_path / "out" / "lean", robots.JOINTS), loaded)
    np.testing.assert_allclose(target, loaded.arrays(GOLDEN)["target"], atol=1e-5)


def test_single_precision_of_the_runtime_costs_only_rounding(loaded, out):
    exact, _ = follow(UnitreeRl(out / WALK, humanoid.JOINTS), loaded)
    single, _ = follow(UnitreeRl(out / WALK, humanoid.JOINTS, np.float32), loaded)
    acted = actions_of(loaded)
    np.testing.assert_allclose(single[:, ~acted], exact[:, ~acted], atol=2e-6)


def test_graphs_of_prompts_differ_by_one_constant(out):
    models = [onnx.load(out / prompt / "exported" / "policy.onnx") for prompt in (WALK, STAND)]
    first, second = ({one.name: one.SerializeToString() for one in model.graph.initializer} for model in models)
    assert [name for name in first if first[name] != second[name]] == ["policy/z"]
    for model in models:
        del model.graph.initializer[:]
    assert models[0] == models[1]
    (z,) = [one for one in onnx.load(out / STAND / "exported" / "policy.onnx").graph.initializer if "z" in one.name]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(z)[0], humanoid.latents()[STAND])


def test_another_order_of_the_policys_joints_moves_every_joint_alike(loaded, out, tmp_path):
    shuffled = tuple(np.random.default_rng(3).permutation(humanoid.JOINTS))
    other = humanoid.write_bundle(tmp_path / "bundle", humanoid.contract(shuffled))
    targets.write(other, "unitree_rl", tmp_path / "out")
    found = []
    for one, folder in ((loaded, out), (other, tmp_path / "out")):
        reader = UnitreeRl(folder / WALK, humanoid.JOINTS)
        _, target = follow(reader, one)
        found.append(target[:, [one.contract.action.names.index(joint) for joint in humanoid.JOINTS]])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.ptp(found[0], axis=0).min() > 0.01


def test_policy_that_sees_its_last_target_gets_a_graph_that_gives_targets(tmp_path):
    agreed = robots.contract()
    loaded = toy(tmp_path / "bundle", action=dataclasses.replace(agreed.action, last_action="target"))
    golden = loaded.arrays(GOLDEN)
    unitree_rl.write(loaded, tmp_path / "out")
    reader = UnitreeRl(tmp_path / "out" / "lean", robots.JOINTS)
    _, target = follow(reader, loaded)
    np.testing.assert_allclose(target[0], golden["target"][0], atol=1e-5)
    np.testing.assert_array_equal(reader.last.astype(np.float64), target[-1])


def test_numbers_that_are_none_become_the_offset(out):
    session = Session(out / WALK / "exported" / "policy.onnx")
    vector = np.zeros(session.width, np.float32)
    assert np.abs(session(vector)).max() > 0
    vector[5] = np.nan
    np.testing.assert_array_equal(session(vector), 0)


def test_files_that_do_not_give_the_golden_vectors_leave_no_folder(tmp_path, monkeypatch):
    loaded = toy(tmp_path / "bundle")
    monkeypatch.setattr(unitree_rl.terms, "defaults", lambda contract: dict.fromkeys(robots.JOINTS, 0.1001))
    with pytest.raises(InputError, match="do not give the golden vectors again"):
        targets.write(loaded, "unitree_rl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
