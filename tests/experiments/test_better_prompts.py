"""Chosen, chosen-among and searched latents from the command line to where they are used, on an untrained policy."""

import json

import jax
import numpy as np
import pytest

import envs
from agents import fb
from embodied.policy import Buffer, Policy
from embodied.types import InputError, Spec
from experiments import cli, export
from experiments.bench import prompts as bench
from experiments.commands import serve
from experiments.models import resolve

REWARD = "tolerance(x, 0.05, inf, 0.2) * tolerance(speed, 0, 0.05, 0.1)"
QUICK = ("--iterations", "1", "--population", "2", "--elites", "1", "--starts", "1", "--horizon", "20")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a policy in `model`."""
    env = envs.make("point_maze", threads=1, hold=10)
    spec = Spec(env.spec.obs, env.spec.action, {"state": (0.1, 0.0, 0.0, 0.0)}, {"state": (0.2, 0.2, 1.0, 1.0)})
    config = fb.Config().tiny()
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    init = jax.jit(fb.make(config, spec).init, compiler_options=options)
    params = init(jax.random.key(1), spec.example()).params
    physics = env.reset(jax.random.key(2), 60).physics
    physics[:, env.world.qpos] = np.random.default_rng(0).uniform(-0.2, 0.2, (60, 2))
    folder = tmp_path_factory.mktemp("better")
    buffer = Buffer(env.observe(physics)[0], physics)
    Policy("fb", config, spec, "point_maze", {"hold": 10}, params, buffer).save(folder / "model")
    return folder


@pytest.fixture
def run(place):
    """Runs a command line whose paths start with @, the test's folder."""
    return lambda *arguments: cli.main([argument.replace("@", f"{place}/") for argument in arguments])


def refused(capsys, run, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_searched_prompt_is_scored_beside_the_plain_one_and_used_like_it(run, place, capsys):
    run("prompt", "@model", "--reward", REWARD, "--search", "cem", *QUICK, "--out", "@found.json", "--episodes", "2")
    printed = capsys.readouterr().out
    body = json.loads((place / "found.json").read_text())
    scores = body["scores"]
    assert scores["search"]["rollouts"] == (2 + 1) + 1
    assert len(scores["search"]["progress"]) == 2
    for name in ("plain", "evaluated"):
        row = scores[f"{name}_return"]
        assert row["low"] <= row["iqm"] <= row["high"]
        assert f"{name} return" in printed
    run("prompt", "check", "@found.json", "@model")
    run("evaluate", "@model", "--prompt", "@found.json", "--episodes", "2")
    assert f"{scores['evaluated_return']['iqm']:8.1f}" in capsys.readouterr().out
    policy, env = resolve(f"{place}/model")
    chosen = export.choose_prompts(policy, env, [place / "found.json"])["found"]
    np.testing.assert_array_equal(chosen.prompted.z, np.asarray(body["z"], np.float32))
    assert chosen.provenance["request"]["search"]["iterations"] == 1
    assert serve.load(f"{place}/model", (place / "found.json",)).metadata["prompts"] == ["found"]


def test_several_latents_are_evaluated_and_refused_by_what_holds_one(run, place, capsys):
    run(
        "prompt", "@model", "--task", "reach_top_left", "--bootstraps", "2", "--out", "@several.json", "--episodes", "1"
    )
    scores = json.loads((place / "several.json").read_text())["scores"]
    assert -1.0 <= scores["agreement"] <= 1.0
    assert np.isfinite(scores["predicted_return"])
    run("prompt", "check", "@several.json", "@model")
    run("evaluate", "@model", "--prompt", "@several.json", "--episodes", "1")
    assert f"{scores['evaluated_return']['iqm']:8.1f}" in capsys.readouterr().out
    for command in (["serve", "@model"], ["export", "@model", "--out", "@bundle"]):
        line = refused(capsys, run, *command, "--prompt", "@several.json")
        assert "holds 3 latents to choose among at every step" in line


def test_choice_of_inference_is_told_and_gives_the_latent_of_what_was_chosen(run, place, capsys):
    run("prompt", "@model", "--reward", REWARD, "--inference", "auto", "--out", "@auto.json", "--episodes", "0")
    body = json.loads((place / "auto.json").read_text())
    chosen = body["scores"]["chosen"]
    assert body["request"]["inference"] == "auto"
    assert f"inference {chosen['inference']}" in capsys.readouterr().out
    fields = [f"--{name}={value}" for name, value in chosen.items()]
    run("prompt", "@model", "--reward", REWARD, *fields, "--out", "@same.json", "--episodes", "0")
    assert json.loads((place / "same.json").read_text())["z"] == body["z"]


def test_reward_that_few_rows_pay_is_told_to_hang_on_them(run, place, capsys):
    run("prompt", "@model", "--reward", "x > 0.19", "--out", "@few.json", "--episodes", "0")
    told = capsys.readouterr()
    agreement = json.loads((place / "few.json").read_text())["scores"]["agreement"]
    assert f"agreement         {agreement:8.3f}" in told.out
    assert (agreement < 0.9) == (f"latents of resampled states agree by {agreement:.2f} only" in told.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--population", "3"], "population: goes with --search, got 3 without one"),
        (["--starts", "3"], "starts: goes with --search, got 3 without one"),
        (["--search", "cem", "--horizon", "15"], "search: horizon must be 0 or a multiple of 10 control steps"),
        (["--search", "cem", "--search-seed", "1000003"], "search: seed must be in [0, 1000003), got 1000003"),
        (["--search", "gradient", "--bootstraps", "2"], "prompt: bootstraps must be 0 with a search"),
        (["--bootstraps", "-1"], "prompt: bootstraps must be in [0, 64], got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_search_that_cannot_be_made_is_refused_in_one_line(arguments, message, run, capsys):
    line = refused(capsys, run, "prompt", "@model", "--reward", "x", *arguments, "--out", "@refused.json")
    assert line.startswith("error: ")
    assert message in line


def test_comparison_of_prompts_tells_returns_and_seconds_of_every_form(place, capsys):
    budget = ("--iterations", "1", "--population", "2", "--starts", "1", "--horizon", "20", "--bootstraps", "2")
    small = (
        "--model",
        f"{place}/model",
        "--prompts",
        "reach_top_left",
        "--episodes",
        "2",
        "--out",
        f"{place}/prompts.json",
    )
    bench.main([*small, *budget])
    record = json.loads((place / "prompts.json").read_text())
    everything = {"plain", "auto", "gpi", "cem", "gradient"}
    for rows in (record["metrics"]["returns"], record["metrics"]["seconds"]):
        assert rows.keys() == everything
        assert all(row.keys() == {"reach_top_left"} for row in rows.values())
    assert record["forms"]["gradient"]["search"]["terminal"]
    assert capsys.readouterr().out.split("\n")[0].split() == ["task", "plain", "auto", "gpi", "cem", "gradient"]
    with pytest.raises(InputError, match="prompts: no task or text 'reach_topleft'; did you mean 'reach_top_left'"):
        bench.main(["--model", f"{place}/model", "--prompts", "reach_topleft"])
