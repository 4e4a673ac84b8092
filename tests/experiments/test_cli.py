"""The command line: what it offers, and how it says no."""

import dataclasses
import errno
import importlib
import json

import numpy as np
import pytest

from embodied.data import store
from embodied.train import Interrupted, NonFiniteError
from embodied.types import InputError
from experiments import cli, collect, prompt, train
from experiments.experiment import Experiment
from experiments.models import resolve
from experiments.presets import COLLECT, PRESETS


@pytest.fixture
def refusal(capsys):
    """Runs a command line that must be refused; returns the exit code and what was printed on stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return caught.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_no_argument_prints_every_command_with_one_line_about_it(arguments, capsys):
    cli.main(arguments)
    printed = capsys.readouterr().out
    for name, about in cli.COMMANDS.items():
        assert f"embodied {name}" in printed
        assert about in printed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_has_a_module_with_main(name):
    assert callable(importlib.import_module(f"experiments.commands.{name}").main)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "command: unknown command 'trian'; did you mean 'train'?"),
        (["train"], "train: name a preset first; choose one of: point_maze-td_jepa-small, "),
        (["train", "--data", "x"], "train: name a preset first; "),
        (["train", "walker-fb-smal"], "train: unknown preset 'walker-fb-smal'; did you mean 'walker-fb-small'?"),
        (["collect", "walker-rmd", "--out", "x"], "collect: unknown preset 'walker-rmd'; did you mean 'walker-rnd'?"),
        (["evaluate", "no/such/run"], "model: no run directory or shipped model 'no/such/run'; "),
        (["evaluate", "x", "--episodes", "0"], "episodes: must be at least 1, got 0"),
        (["evaluate", "x", "--prompt", "a", "--reward", "b"], "evaluate: give --prompt or --reward, not both"),
        (["prompt", "x"], "prompt: give exactly one of --reward, --task, --goal, --state, --row; got none"),
        (["prompt", "x", "--row", "1", "--task", "loop"], "--state, --row; got task, row"),
        (["prompt", "x", "--goal", "x:1"], "goal: 'x:1' is not of the form quantity=number"),
        (["prompt", "x", "--state", "no.json"], "state: no.json does not hold a list of numbers"),
        (["collect", "walker-noise", "--out", "x", "--explorer", "rdn"], "unknown explorer 'rdn'; did you mean 'rnd'?"),
        (
            ["collect", "walker-noise", "--out", "x", "--episodes", "7", "--worlds", "10"],
            "collect: episodes (7) must be a multiple of worlds (10)",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_exits_with_two_and_one_line_that_says_what_was_expected(arguments, message, refusal):
    code, printed = refusal(*arguments)
    assert code == cli.BAD_INPUT == 2
    assert len(printed.splitlines()) == 1
    assert printed.startswith("error: ")
    assert message in printed


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["train", "point_maze-fb-small", "--data", "x", "--out", "y", "--agent.discuont", "0.9"], "--agent.discount"),
        (["train", "point_maze-fb-small", "--data", "x", "--out", "y", "--train.updats", "9"], "--train.updates"),
        (["collect", "walker-noise", "--out", "x", "--epsiodes", "10"], "--episodes"),
        (["evaluate", "x", "--epsiodes", "1"], "--episodes"),
        (["prompt", "x", "--rewrad", "1"], "--reward"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_unknown_option_exits_with_two_and_names_the_nearest(arguments, nearest, refusal):
    code, printed = refusal(*arguments)
    assert code == 2
    assert nearest in printed


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--train.chunk", "0", "chunk must be in [1, inf), got 0"),
        ("--train.seed", "-1", "seed must be in [0, 4294967296), got -1"),
        ("--online.restarts", "2", "restarts must be in [0, 1], got 2"),
        ("--buffer", "0", "buffer must be in [1, inf), got 0"),
        ("--train.updates", "123", "updates (123)"),
        ("--agent.discount", "1.5", "discount must be in [0, 1), got 1.5"),
    ],
)
def test_value_out_of_range_exits_with_two_and_says_so(option, value, message, refusal):
    code, printed = refusal("train", "point_maze-fb-small", "--data", "x", "--out", "y", option, value)
    assert code == 2
    assert message in " ".join(printed.split())


@pytest.mark.parametrize("command", ["train", "collect"])
def test_help_without_a_preset_lists_the_presets(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (PRESETS if command == "train" else COLLECT))


def test_version_is_printed(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.split()[0] == "embodied-stack"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "runs"), 2, "error: Is a directory: runs"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (NonFiniteError("metric 'loss/critic' became non-finite at update 7"), 3, "error: metric 'loss/critic' became"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, code, line, refusal, monkeypatch):
    def fail(config, out, policy):
        raise error

    monkeypatch.setattr(collect, "run", fail)
    found, printed = refusal("collect", "walker-noise", "--out", "x")
    assert found == code
    assert printed.startswith(line)
    assert len(printed.splitlines()) == 1


def test_demo_empties_no_directory_but_its_own(tmp_path, refusal, monkeypatch):
    (tmp_path / "thesis.txt").write_text("years")
    code, printed = refusal("demo", "--out", tmp_path)
    assert code == 2
    assert "holds something else than a demo" in printed
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_value_of_the_wrong_type_exits_with_two(refusal):
    code, printed = refusal("collect", "walker-noise", "--out", "x", "--episodes", "many")
    assert code == 2
    assert "many" in printed


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NonFiniteError("metric 'loss/fb' became non-finite at update 7"), 3, "error: metric 'loss/fb' became"),
        (Interrupted(75), 75, "interrupted; saved in somewhere"),
    ],
    ids=["non-finite", "interrupted"],
)
def test_training_that_stops_early_exits_with_its_own_code_and_one_line(error, code, message, refusal, monkeypatch):
    def stopped(experiment, data, out, quiet=False):
        assert isinstance(experiment, Experiment)
        raise error

    monkeypatch.setattr(train, "run", stopped)
    found, printed = refusal("train", "point_maze-fb-small", "--data", "data", "--out", "somewhere")
    assert found == code
    assert printed.startswith(message)
    assert len(printed.splitlines()) == 1


def test_data_that_is_not_there_is_named(refusal, tmp_path):
    code, printed = refusal("train", "point_maze-fb-small", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert code == 2
    assert printed.startswith("error: dataset: ")
    assert str(tmp_path / "none") in printed
    assert not (tmp_path / "run").exists()


def test_data_of_another_world_or_another_hold_is_refused(refusal, tmp_path):
    episode = {
        "state": np.zeros((3, 4), np.float32),
        "action": np.zeros((2, 2), np.float32),
        "physics": np.zeros((3, 7)),
        "discount": np.ones(2, np.float32),
    }
    for name, world, hold in (("walked", "walker", 10), ("short", "point_maze", 5)):
        store.write_episodes(tmp_path / name, "data", [episode], {"world": world, "options": {"hold": hold}})
    train_on = lambda name: refusal(  # noqa: E731
        "train", "point_maze-fb-small", "--data", tmp_path / name, "--out", tmp_path / "run"
    )
    code, printed = train_on("walked")
    assert code == 2
    assert "is of world 'walker', expected 'point_maze'" in printed
    code, printed = train_on("short")
    assert code == 2
    assert "was collected with hold=5, the experiment has 10" in printed


def test_goal_and_state_arguments_are_read_exactly(tmp_path):
    assert prompt.parse_goal("x=0.1, y = -2e-1") == {"x": 0.1, "y": -0.2}
    (tmp_path / "state.json").write_text("[0.0, 1, 2.5]")
    np.save(tmp_path / "state.npy", np.array([0.0, 1.0, 2.5]))
    for name in ("state.json", "state.npy"):
        assert prompt.parse_state(tmp_path / name) == (0.0, 1.0, 2.5)
    (tmp_path / "bad.json").write_text(json.dumps({"x": 1}))
    with pytest.raises(InputError, match=r"bad\.json does not hold a list of numbers"):
        prompt.parse_state(tmp_path / "bad.json")


def test_unknown_model_is_refused_with_the_shipped_ones():
    with pytest.raises(InputError, match="no run directory or shipped model 'wakler'"):
        resolve("wakler")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_a_known_agent_and_a_budget_of_whole_chunks(name):
    experiment = PRESETS[name]
    assert name.startswith(experiment.world)
    module = importlib.import_module(f"agents.{train.agent_name(experiment)}")
    assert isinstance(experiment.agent, module.Config)
    assert dataclasses.asdict(experiment)["train"]["updates"] % experiment.train.chunk == 0
    if experiment.online.worlds:
        assert experiment.online.capacity >= experiment.online.worlds


@pytest.mark.parametrize("name", COLLECT)
def test_every_collection_preset_is_named_by_world_and_explorer(name):
    config = COLLECT[name]
    assert name == f"{config.world}-{'pixels-' if config.pixels else ''}{config.explorer}"
    assert config.episodes % config.worlds == 0
