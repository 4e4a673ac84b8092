"""Files for BFM-Zero's deployment code: an emulation of it does with them what the policy does."""

import dataclasses

import numpy as np
import pytest
import yaml

from embodied.deploy import bundle
from embodied.deploy.bundle import GOLDEN
from embodied.deploy.contract import History
from embodied.export import targets
from tests.embodied import humanoid, robots
from tests.embodied.readers import BfmZero, actions_of, follow

WALK, STAND = "move-ego-0-0.7", "stand"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return humanoid.write_bundle(tmp_path_factory.mktemp("g1") / "bundle", humanoid.contract())


@pytest.fixture(scope="module")
def out(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets") / "bfm_zero"
    assert targets.write(loaded, "bfm_zero", folder).passed
    return folder


def config(out, part: str) -> dict:
    text = (out / "config" / part).read_text()
    assert "!!" not in text
    return yaml.safe_load(text)


def test_input_has_the_layout_of_the_runtimes_own_policy(out):
    reader = BfmZero(out, "reward")
    assert (reader.session.input, reader.session.width, reader.session.output) == ("actor_obs", 721, "action")
    assert list(reader.policy["observation"]["policy"]) == [
        *("dof_pos_minus_default", "dof_vel", "projected_gravity", "base_ang_vel", "prev_actions"),
        *("prev_actions_history", "base_ang_vel_history", "dof_pos_minus_default_history", "dof_vel_history"),
        "projected_gravity_history",
    ]
    steps = [term["steps"] for name, term in reader.policy["observation"]["policy"].items() if "history" in name]
    assert steps == [4] * 5


def test_numbers_arrive_in_full_by_name(loaded, out):
    policy, robot, agreed = config(out, "policy/policy.yaml"), config(out, "robot/robot.yaml"), loaded.contract
    assert policy["isaac_joint_names"] == policy["policy_joint_names"] == list(humanoid.JOINTS)
    assert policy["action_rescale"] == 5.0
    assert policy["action_scale"] == agreed.action.scale
    assert policy["joint_kp"] == agreed.robot.kp
    assert policy["joint_kd"] == agreed.robot.kd
    assert policy["default_joint_pos"] == agreed.robot.default_position
    assert robot["joint_effort_limit"] == agreed.robot.effort_limit
    for side, index in (("lower", 0), ("upper", 1)):
        expected = {name: limit[index] for name, limit in agreed.action.limit.items()}
        assert robot[f"joint_pos_{side}_limit"] == expected
    assert robot["UNITREE_LEGGED_CONST"] == {"MODE_PR": 0, "MODE_MACHINE": 10}
    page = (out / "LIMITS.md").read_text()
    assert "hardware modes 10, 11, 12, 15, 16" in page
    assert "joint_velocity_limit in robot.yaml is not known for any joint" in page
    assert "Term" not in page  # zeros before the first frame, as in training


@pytest.mark.parametrize(("kind", "episode"), [("reward", 0), ("goal", 1)])
def test_runtime_sees_and_does_what_the_policy_does_from_the_first_step_on(loaded, out, kind, episode):
    golden, acted = loaded.arrays(GOLDEN), actions_of(loaded)
    seen, target = follow(BfmZero(out, kind), loaded)
    mine = slice(episode * humanoid.STEPS, (episode + 1) * humanoid.STEPS)
    np.testing.assert_array_equal(seen[:, ~acted], golden["obs"][:, ~acted])
    np.testing.assert_allclose(seen[mine], golden["obs"][mine], atol=2e-5)
    np.testing.assert_allclose(target[mine], golden["target"][mine], atol=1e-5)


def test_prompts_are_plain_float32_arrays_that_any_numpy_reads(out):
    reward, goal = BfmZero(out, "reward"), BfmZero(out, "goal")
    assert [list(reader.latents) for reader in (reward, goal)] == [[WALK], [STAND]]
    for z in (reward.latents[WALK][0], goal.latents[STAND]):
        assert (type(z), z.dtype, z.shape) == (np.ndarray, np.float32, (1, 256))
    np.testing.assert_array_equal(reward.z()[0], humanoid.latents()[WALK])
    np.testing.assert_array_equal(goal.z()[0], humanoid.latents()[STAND])
    for path in out.rglob("*.pkl"):
        assert b"_core" not in path.read_bytes()  # a module that NumPy 1 does not have


def test_motion_is_walked_along_one_latent_per_tick(tmp_path):
    motion = np.stack([*humanoid.latents().values()] * 2)
    prompts = {**humanoid.latents(), "dance": motion}
    loaded = humanoid.write_bundle(tmp_path / "bundle", humanoid.contract(), prompts)
    targets.write(loaded, "bfm_zero", tmp_path / "out")
    reader = BfmZero(tmp_path / "out", "tracking", "dance")
    assert (reader.exp["start"], reader.exp["end"], reader.latents.dtype) == (0, 3, np.float32)
    for tick in range(4):
        np.testing.assert_allclose(reader.z(tick)[0], motion[tick], atol=1e-5)
    assert "end of motion 'dance'" in (tmp_path / "out" / "LIMITS.md").read_text()


def test_another_order_of_the_policys_joints_moves_every_joint_alike(loaded, out, tmp_path):
    shuffled = tuple(np.random.default_rng(3).permutation(humanoid.JOINTS))
    other = humanoid.write_bundle(tmp_path / "bundle", humanoid.contract(shuffled))
    targets.write(other, "bfm_zero", tmp_path / "out")
    found = []
    for one, folder in ((loaded, out), (other, tmp_path / "out")):
        _, target = follow(BfmZero(folder, "reward"), one)
        found.append(target[:, [one.contract.action.names.index(joint) for joint in humanoid.JOINTS]])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.ptp(found[0], axis=0).min() > 0.01


def test_small_robot_with_fewer_terms_and_repeated_frames(tmp_path):
    agreed = robots.contract()
    past = History(3, "oldest_first", includes_current=True, reset_fill="repeat_first")
    terms = [dataclasses.replace(term, history=past) for term in agreed.observation.terms]
    agreed = dataclasses.replace(agreed, observation=dataclasses.replace(agreed.observation, terms=tuple(terms)))
    loaded = bundle.load(robots.write_bundle(tmp_path / "bundle", agreed))
    assert targets.write(loaded, "bfm_zero", tmp_path / "out").passed
    golden = loaded.arrays(GOLDEN)
    seen, target = follow(BfmZero(tmp_path / "out", "reward"), loaded, told=True)
    for start in (0, 12):
        assert (seen[start : start + 2] != golden["obs"][start : start + 2]).any(axis=1).all()
        np.testing.assert_array_equal(seen[start + 2 : start + 12], golden["obs"][start + 2 : start + 12])
        np.testing.assert_allclose(target[start + 2 : start + 12], golden["target"][start + 2 : start + 12], atol=1e-5)
    page = (tmp_path / "out" / "LIMITS.md").read_text()
    assert "Term 'rate', for 2 steps after a reset: frames before the first are zeros here" in page
    assert "names no number for MODE_MACHINE" in page
