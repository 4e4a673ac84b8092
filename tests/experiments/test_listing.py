"""What the program says that it offers is what it can make."""

import importlib.util
import json

import pytest

import agents
import envs
from embodied.types import InputError
from experiments import listing, models
from experiments.commands import list as command
from experiments.presets import COLLECT, PRESETS


def _row(lines, first):
    """The cells of the table row that begins with a name; columns are two spaces or more apart."""
    (line,) = [line for line in lines if line.startswith(f"{first} ")]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_overview_names_everything_that_is_registered():
    words = " ".join(listing.overview()).replace(",", " ").split()
    assert {*PRESETS, *COLLECT, *envs.WORLDS, *envs.EXTRA_WORLDS, *agents.AGENTS} <= set(words)
    assert max(map(len, listing.overview())) <= 110


def test_worlds_whose_package_is_missing_are_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    install = "needs: pip install 'embodied-stack[ogbench]'"
    assert [line.strip() for line in listing.overview()].count(install) == 1
    assert _row(listing.worlds(["point_maze", "scene"]), "scene") == ["scene", install]
    assert listing.worlds(["scene"])[-1].endswith(install)
    assert _row(listing.quantities(["scene"]), "scene") == ["scene", install]
    assert listing.tasks(["scene"]) == [f"scene {install}"]
    install = "needs: pip install 'embodied-stack[metaworld]' && pip install --no-deps metaworld==3.1.1"
    assert listing.tasks(["metaworld_reach"]) == [f"metaworld_reach {install}"]
    assert {"walker", "antmaze_large", "metaworld_reach"} <= set(listing.select(None))


def test_worlds_whose_package_is_there_need_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: asked.append(package) or package)
    assert [envs.needs(name) for name in ("walker", "scene")] == [None, None]
    assert asked == ["ogbench"]


def test_presets_are_listed_with_agent_world_updates_and_batch():
    row = _row(listing.presets(["walker"]), "walker-td_jepa")
    assert row == ["walker-td_jepa", "td_jepa", "walker", "3,000,000", "1024", "world's", "stored data"]
    assert _row(listing.presets(["walker"]), "walker-td3")[-1] == "stored data, rewards of 'walk'"
    assert _row(listing.presets(["point_maze"]), "point_maze-multi_critic_sac-small")[-1] == "own rollouts"
    assert _row(listing.presets(["walker"]), "walker-rnd") == ["walker-rnd", "rnd", "walker", "3,000", "100", "2"]


def test_presets_of_other_worlds_are_left_out():
    lines = "\n".join(listing.presets(["cheetah"]))
    assert "cheetah-fb" in lines
    assert "walker" not in lines


def test_one_world_is_shown_with_forms_quantities_and_reward_texts():
    lines = listing.worlds(["point_maze"])
    row = _row(lines[:3], "point_maze")
    assert row[:6] == ["point_maze", "state [4]", "2", "0.02 s x 10", "100", "host, mjx"]
    text = "\n".join(lines)
    assert "m/s   velocity counter-clockwise around the centre" in text
    assert "point_maze loop: circle counter-clockwise" in text


def test_quantities_have_shape_unit_and_meaning():
    lines = [line.split() for line in listing.quantities(["point_maze"])]
    assert ["point_maze", "velocity", "[2]", "m/s", "velocity", "(x,", "y)"] in lines
    assert ["point_maze", "radius", "m", "distance", "from", "the", "centre"] in lines


def test_tasks_are_listed_with_their_whole_reward_text():
    lines = listing.tasks(["point_maze"])
    task = envs.make("point_maze", threads=1).tasks["square"]
    assert lines[lines.index(f"point_maze square: {task.about}") + 1] == f"    {task.text}"


def test_agents_are_listed_with_the_prompts_they_take():
    lines = listing.agent_table()
    assert _row(lines, "td3")[:2] == ["td3", "Prior"]
    assert _row(lines, "fb")[1] == "Reward, Goal, Motion, Prior"


def test_models_are_listed_with_size_and_the_first_line_of_their_card(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MODELS", tmp_path)
    folder = tmp_path / "maze"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"world": "point_maze", "agent": "fb"}))
    (folder / "params.npz").write_bytes(bytes(3 * 2**20))
    (folder / "card.md").write_text("\n# A ball that finds its way\n\nmore\n")
    row = _row(listing.models(["point_maze"]), "maze")
    assert row == ["maze", "point_maze", "fb", "3.0 MiB", "A ball that finds its way"]
    assert "embodied demo" in listing.models(["walker"])[0]


def test_unknown_world_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="unknown world 'walkr'; did you mean 'walker'"):
        command.main(["worlds", "--world", "walkr"])


def test_command_prints_the_table_of_its_topic(capsys):
    command.main(["tasks", "--world", "point_maze"])
    assert "point_maze reach_top_left: be at the centre of the top left room" in capsys.readouterr().out
    command.main([])
    assert capsys.readouterr().out.splitlines() == listing.overview()


def test_every_topic_has_a_table():
    topics = set(command.Topic.__args__)
    assert topics == {"overview", "agents", *command.TABLES}
