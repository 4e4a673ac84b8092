"""From a policy to a bundle and back: every agent is exported, and the bundle does what the policy does."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest
import yaml

import agents
import envs
from embodied import promptfile
from embodied.deploy import bundle
from embodied.deploy.__main__ import main as deploy
from embodied.deploy.contract import Command
from embodied.deploy.verify import verify
from embodied.export.bundle import Golden, PackedPrompt, deployed, write
from embodied.export.stablehlo import from_stablehlo
from embodied.policy import Buffer, Policy
from embodied.promptfile import Request
from embodied.types import Goal, InputError, Reward, Spec
from experiments import export
from experiments.commands import export as command
from tests.agents.chains import AGENTS
from tests.embodied import robots


@pytest.fixture(scope="module")
def env():
    return envs.make("point_maze", threads=1, hold=10)


def tiny(name, env) -> Policy:
    module = importlib.import_module(agents.AGENTS[name])
    spec = Spec(env.spec.obs, env.spec.action, {"state": (0.1, 0.0, 0.0, 0.0)}, {"state": (0.2, 0.2, 1.0, 1.0)})
    config = module.Config().tiny()
    state = module.make(config, spec).init(jax.random.key(1), spec.example())
    physics = env.reset(jax.random.key(2), 300).physics
    physics[:, env.world.qvel] = np.random.default_rng(0).normal(size=(300, 2)) * 0.1
    obs = env.observe(physics)[0]
    return Policy(name, config, spec, "point_maze", {"hold": 10}, state.params, Buffer(obs, physics))


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_is_exported_and_verified(name, env, tmp_path):
    policy = tiny(name, env)
    promptable = Reward in policy.agent.prompts
    prompts = export.choose_prompts(policy, env, ()) if promptable else export.only_task(policy, env, "loop")
    verdict = export.run(policy, env, prompts, tmp_path / "bundle", episodes=5)
    assert verdict.passed
    assert verdict.steps >= 500
    loaded = bundle.load(tmp_path / "bundle")
    assert set(loaded.prompts) == (set(env.tasks) if promptable else {"loop"})
    assert ("encoder.onnx" in loaded.content) == (Goal in policy.agent.prompts)
    scores = loaded.manifest["evaluation"]["prompts"]
    assert all(one["low"] <= one["iqm"] <= one["high"] for one in scores.values())
    golden = loaded.arrays(bundle.GOLDEN)
    inputs = [golden[name][:1] for name in ("obs", "z") if golden[name].shape[1]]
    action = from_stablehlo(loaded.content["policy.stablehlo"])(*inputs)[0]
    np.testing.assert_allclose(action, golden["action"][:1], atol=1e-5)
    assert deploy(["run", str(tmp_path / "bundle"), "--seconds", "2"]) == 0


def test_prompt_files_travel_with_their_provenance(env, tmp_path):
    policy = tiny("fb", env)
    paths = []
    for name, request in {
        "left": Request("reward", "x < 0", samples=300),
        "there": Request("row", row=7, samples=300),
    }.items():
        paths.append(tmp_path / f"{name}.json")
        promptfile.save(paths[-1], request, promptfile.infer(request, policy, env)[0], {})
    prompts = export.choose_prompts(policy, env, paths)
    export.run(policy, env, prompts, tmp_path / "bundle", episodes=5)
    loaded = bundle.load(tmp_path / "bundle")
    stored = loaded.arrays("prompts/left.npz")
    np.testing.assert_array_equal(stored["z"], promptfile.read(paths[0]).z)
    provenance = json.loads(str(stored["provenance"]))
    assert provenance["request"]["text"] == "x < 0"
    assert provenance["model_sha256"] == policy.sha256
    assert "iqm" in provenance["evaluated"]
    assert set(loaded.manifest["evaluation"]["prompts"]["there"]) == {"start", "closest", "end"}
    with pytest.raises(InputError, match="two files are called 'left'"):
        export.choose_prompts(policy, env, [paths[0], paths[0]])
    with pytest.raises(InputError, match="exists; choose another folder"):
        export.run(policy, env, prompts, tmp_path / "bundle", episodes=5)


def test_golden_vectors_that_are_not_reproduced_leave_no_bundle(env, tmp_path, monkeypatch):
    policy = tiny("fb", env)
    honest = export.record

    def forged(*arguments):
        golden = honest(*arguments)
        golden.action[3] += 0.01
        return golden

    monkeypatch.setattr(export, "record", forged)
    with pytest.raises(InputError, match="does not give its golden vectors again"):
        export.run(policy, env, export.choose_prompts(policy, env, ()), tmp_path / "bundle", episodes=5)
    assert not (tmp_path / "bundle").exists()


def servo_policy(agreed) -> Policy:
    """A policy with random weights for the robot of a contract."""
    module, width = importlib.import_module(agents.AGENTS["fb"]), agreed.width
    spec = Spec({"state": (width,)}, 2, {"state": (0.0,) * width}, {"state": (1.0,) * width})
    config = module.Config().tiny()
    params = module.make(config, spec).init(jax.random.key(1), spec.example()).params
    rows = np.zeros((4, width), np.float32)
    return Policy("fb", config, spec, agreed.robot.name, {}, params, Buffer({"state": rows}, rows))


def test_files_for_other_runtimes_are_sealed_into_the_bundle(tmp_path):
    agreed = dataclasses.replace(robots.contract(), command=Command(8, 8**0.5))
    policy, z = servo_policy(agreed), np.ones(8, np.float32)
    golden = Golden(**robots.golden(agreed, jax.jit(deployed(policy, agreed)), z, steps=4))
    parts = policy, agreed, robots.XML, {"lean": PackedPrompt(z, {})}, golden, robots.start()[None], {}
    write(tmp_path / "bundle", *parts, ("unitree_rl", "bfm_zero"))
    loaded = bundle.load(tmp_path / "bundle")
    told = loaded.manifest["targets"]
    assert {name: (one["steps"], one["unequal"]) for name, one in told.items()} == dict.fromkeys(told, (8, 0))
    assert list(told) == ["unitree_rl", "bfm_zero"]
    assert verify(loaded).passed
    inside = {name for name in loaded.content if name.startswith("targets/")}
    assert {"targets/unitree_rl/lean/params/deploy.yaml", "targets/bfm_zero/LIMITS.md"} <= inside
    assert loaded.prompts == ("lean",)
    with pytest.raises(InputError, match="target mjlab: action: joint 'left_hip' can be sent"):
        write(tmp_path / "other", *parts, ("mjlab",))
    assert not (tmp_path / "other").exists()


def test_command_refuses_what_does_not_fit(tmp_path):
    out = ["--out", str(tmp_path / "bundle")]
    with pytest.raises(InputError, match="leave it out"):
        command.main(["walker", *out, "--task", "walk"])
    with pytest.raises(InputError, match="episodes: must be at least 1"):
        command.main(["walker", *out, "--episodes", "0"])
    with pytest.raises(InputError, match="target: unknown target 'unitree'; did you mean 'unitree_rl'"):
        command.main(["walker", *out, "--target", "mjlab", "--target", "unitree"])


def test_what_another_runtime_cannot_express_is_told_before_anything_is_scored(env, tmp_path):
    policy = tiny("fb", env)
    prompts = export.choose_prompts(policy, env, ())
    with pytest.raises(InputError, match=r"target unitree_rl: action\.target is 'actuator_command'"):
        export.run(policy, env, prompts, tmp_path / "bundle", episodes=10**9, others=("unitree_rl",))


def test_shipped_walker_becomes_a_bundle_by_the_command_line(tmp_path, capsys):
    command.main(["walker", "--out", str(tmp_path / "bundle"), "--episodes", "1"])
    assert "2000 golden steps" in capsys.readouterr().out
    assert verify(bundle.load(tmp_path / "bundle")).action_error <= 1e-5


def test_robot_with_servos_is_exported_for_other_runtimes_too(tmp_path):
    dog = envs.make("robot_dog", threads=1)
    spec = Spec(dog.spec.obs, dog.spec.action)
    module = importlib.import_module(agents.AGENTS["fb"])
    state = module.make(module.Config().tiny(), spec).init(jax.random.key(1), spec.example())
    ts = dog.reset(jax.random.key(2), 100)
    for step in range(5):
        ts = dog.step(ts, np.random.default_rng(step).uniform(-1, 1, (100, 12)))
    policy = Policy(
        "fb", module.Config().tiny(), spec, "robot_dog", {"hold": 1}, state.params, Buffer(ts.obs, ts.physics)
    )
    stand = {"stand": export.choose_prompts(policy, dog, ())["stand"]}
    verdict = export.run(policy, dog, stand, tmp_path / "bundle", 1, others=("unitree_rl", "bfm_zero"))
    assert verdict.passed
    loaded = bundle.load(tmp_path / "bundle")
    assert "encoder.onnx" not in loaded.content  # a goal needs what only training sees
    written = yaml.safe_load(loaded.content["targets/unitree_rl/stand/params/deploy.yaml"])
    assert written["default_joint_pos"] == [0.0, 0.8, -1.6] * 4
    assert written["actions"]["JointPositionAction"]["clip"][2] == [-2.3, -0.9]
    assert written["observations"]["joint_pos_rel"]["history_length"] == 3
    assert loaded.contract.safety.tilt == 1.0
    assert all(reading.available == "robot" for reading in loaded.contract.readings)
