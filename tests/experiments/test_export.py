"""From a policy to a bundle and back: every agent is exported, and the bundle does what the policy does."""

import importlib
import json

import jax
import numpy as np
import pytest

import agents
import envs
from embodied import promptfile
from embodied.deploy import bundle
from embodied.deploy.__main__ import main as deploy
from embodied.deploy.verify import verify
from embodied.export.stablehlo import from_stablehlo
from embodied.policy import Buffer, Policy
from embodied.promptfile import Request
from embodied.types import Goal, InputError, Reward, Spec
from experiments import export
from experiments.commands import export as command


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


@pytest.mark.parametrize("name", agents.AGENTS)
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
    inputs = [golden[name][:1] for name in (("obs", "z") if promptable else ("obs",))]
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


def test_command_refuses_what_does_not_fit(tmp_path):
    out = ["--out", str(tmp_path / "bundle")]
    with pytest.raises(InputError, match="leave it out"):
        command.main(["walker", *out, "--task", "walk"])
    with pytest.raises(InputError, match="episodes: must be at least 1"):
        command.main(["walker", *out, "--episodes", "0"])


def test_shipped_walker_becomes_a_bundle_by_the_command_line(tmp_path, capsys):
    command.main(["walker", "--out", str(tmp_path / "bundle"), "--episodes", "1"])
    assert "2000 golden steps" in capsys.readouterr().out
    assert verify(bundle.load(tmp_path / "bundle")).action_error <= 1e-5
