"""Tables of zero-shot scores: which cells they need, and what becomes of each."""

import functools
import json
import subprocess

import numpy as np
import pytest

import envs
from embodied.evaluate import Scores
from embodied.types import InputError
from experiments.bench import cells, plan, suites, zero_shot
from experiments.bench.plan import Comparison
from experiments.commands import bench
from experiments.presets import COLLECT, PRESETS
from tests.embodied import toys

TASKS = tuple(envs.make("point_maze", threads=1).tasks)


policy = functools.cache(toys.policy)


def finish(run, updates=18_000, seconds=60.0):
    """A run directory as training leaves it."""
    policy().save(run / "policy")
    (run / "metrics.jsonl").write_text(json.dumps({"step": updates, "time/seconds": seconds}) + "\n")
    record = {"experiment": {}, "made": {"commit": f"of {run.name}"}}
    (run / "experiment.json").write_text(json.dumps(record))


@pytest.fixture
def evaluated(monkeypatch):
    """Evaluation that gives task i of a run with seed s the returns 100 i + s and 100 i + s + 2; names of the runs."""
    seen = []

    def resolve(name):
        seen.append(name.rsplit("/", 1)[1])
        return policy(), None

    def evaluate_tasks(model, env, episodes):
        seed = int(seen[-1].rsplit("-", 1)[1])
        return {task: Scores(np.array([100.0 * i + seed, 100.0 * i + seed + 2])) for i, task in enumerate(TASKS)}

    monkeypatch.setattr(zero_shot, "resolve", resolve)
    monkeypatch.setattr(zero_shot, "evaluate_tasks", evaluate_tasks)
    return seen


@pytest.fixture
def command(tmp_path):
    """Runs `embodied bench zero-shot` on one world; returns the result file's content, or None without one."""

    def run(*words, worlds=("point_maze",)):
        chosen = ["--data", f"{tmp_path}/data", "--runs", f"{tmp_path}/runs", "--out", f"{tmp_path}/table.json"]
        file, code = tmp_path / "table.json", 0
        file.unlink(missing_ok=True)
        try:
            bench.main(["zero-shot", *chosen, "--worlds", *worlds, *words])
        except SystemExit as stop:
            code = stop.code
        return code, json.loads(file.read_text()) if file.exists() else None

    return run


@pytest.mark.parametrize("suite", suites.SUITES.values())
def test_data_of_every_row_can_be_made_by_the_command_that_is_named(suite):
    for name, row in suite.rows.items():
        assert row.world in envs.WORLDS | envs.EXTRA_WORLDS
        assert bool(row.file) != bool(row.collect)
        if row.collect:
            assert COLLECT[row.collect].world == row.world
        assert name.startswith(row.world)


def test_data_is_collected_with_the_hold_of_the_preset(tmp_path):
    suite = suites.SUITES["dmc-state"]
    assert suite.data_command("walker", "walker-fb-small", tmp_path).split()[1:3] == ["collect", "walker-rnd"]
    assert "--hold" not in suite.data_command("walker", "walker-fb-small", tmp_path)
    assert "--hold 1 " in suite.data_command("walker", "walker-fb", tmp_path)
    maze = suites.SUITES["ogbench-state"].data_command("antmaze_large_stitch", "walker-fb", tmp_path)
    imported = f"embodied data import ogbench antmaze-large-stitch-v0.npz --world antmaze_large --out {tmp_path}"
    assert maze == imported
    seen = suites.SUITES["ogbench-pixels"].data_command("antmaze_large_stitch", "walker-fb", tmp_path)
    assert seen == f"{imported}-states; embodied data render {tmp_path}-states --out {tmp_path} --pixels 64"


def test_names_of_presets_follow_suite_method_and_budget():
    assert suites.SUITES["dmc-state"].preset("walker", "fb", "small") == "walker-fb-small"
    assert suites.SUITES["ogbench-state"].preset("antmaze_large_stitch", "fb", "published") == "antmaze_large-fb"
    assert suites.SUITES["dmc-pixels"].preset("walker", "fb", "small") == "walker-fb-pixels-small"


@pytest.mark.parametrize("budget", ["small", "published"])
@pytest.mark.parametrize("name", suites.SUITES)
def test_every_method_has_a_preset_for_every_row_that_sees_what_the_suite_says(name, budget):
    suite = suites.SUITES[name]
    for row in suite.rows:
        for method in set(suites.METHODS) - {"td_jepa_sym"}:
            preset = PRESETS[suite.preset(row, method, budget)]
            assert (preset.world, preset.pixels) == (suite.rows[row].world, 64 * suite.pixels)
            assert type(preset.agent).__module__ == f"agents.{method}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zero-shoot"], "bench: expected which table first; did you mean 'zero-shot'?"),
        ([], "bench: expected which table first; choose one of: zero-shot"),
        (["zero-shot", "--worlds", "wakler"], "suite 'dmc-state' has no world 'wakler'; did you mean 'walker'?"),
        (["zero-shot", "--methods", "td_jeppa"], "bench: unknown method 'td_jeppa'; did you mean 'td_jepa'?"),
        (
            ["zero-shot", "--worlds", "point_maze", "--methods", "td3"],
            r"td3 on 'point_maze' has no preset 'point_maze-td3-small' (--worlds and --methods choose others); did",
        ),
        (["zero-shot", "--updates", "0"], "bench: updates must be in [1, inf), got 0"),
        (["zero-shot", "--episodes", "0"], "bench: episodes must be in [1, inf), got 0"),
        (["zero-shot", "--seeds"], "bench: seeds must name at least one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(words, message):
    with pytest.raises(InputError) as caught:
        bench.main(words)
    assert message in str(caught.value)


def test_default_methods_are_those_with_presets_for_the_worlds(monkeypatch):
    chosen = Comparison(worlds=("walker",))
    methods = [cell.method for cell in plan.cells(chosen)]
    assert methods == [name for name in suites.METHODS if f"walker-{name}-small" in PRESETS]
    assert "td_jepa" in methods
    monkeypatch.setitem(PRESETS, "walker-td_jepa_sym-small", PRESETS["walker-td_jepa-small"])
    assert "td_jepa_sym" in [cell.method for cell in plan.cells(chosen)]


def test_plan_prints_every_cell_and_what_it_lacks_and_trains_nothing(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zero_shot, "train", None)
    finish(tmp_path / "runs/point_maze-fb-small-0")
    (tmp_path / "data/walker").mkdir(parents=True)
    (tmp_path / "data/walker/metadata.json").write_text("{}")
    code, record = command("--methods", "fb", "--seeds", "0", "1", "--plan", worlds=("point_maze", "walker"))
    assert (code, record) == (0, None)
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    data = tmp_path / "data"
    assert [[name, what.strip()] for name, what in lines] == [
        ["walker-fb-small-0", "0 of 40,000 updates"],
        ["walker-fb-small-1", "0 of 40,000 updates"],
        ["point_maze-fb-small-0", "trained, 18,000 updates"],
        [
            "point_maze-fb-small-1",
            f"no data in {data}/point_maze; make it: embodied collect point_maze-noise --out {data}/point_maze",
        ],
    ]


def test_world_whose_package_is_missing_is_told_of_in_the_plan(monkeypatch):
    monkeypatch.setattr(envs, "needs", lambda name: "pip install it")
    (cell,) = plan.cells(Comparison(worlds=("walker",), methods=("fb",)))
    assert cell.state() == "world 'walker' needs: pip install it"


def test_finished_cells_become_a_table_with_intervals_and_a_result_file(command, tmp_path, evaluated, capsys):
    for seed, seconds in ((0, 60.0), (1, 120.0)):
        finish(tmp_path / f"runs/point_maze-fb-small-{seed}", seconds=seconds)
    code, record = command("--methods", "fb", "--seeds", "0", "1", "--episodes", "2")
    assert code == 0
    row = record["metrics"]["rows"]["point_maze"]["fb"]
    assert row["seed_means"] == [351.0, 352.0]
    assert (row["mean"], row["standard_error"]) == (351.5, pytest.approx(0.5))
    assert row["tasks"][TASKS[2]]["seed_means"] == [201.0, 202.0]
    assert record["metrics"]["training_seconds"] == {"point_maze": {"fb": [60.0, 120.0]}}
    assert record["trained_with_commits"]["point_maze-fb-small-1"] == "of point_maze-fb-small-1"
    assert record["command"].startswith("embodied bench zero-shot --data ")
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("point_maze"))
    assert "  fb  " in line
    assert "  351.5 ± 0.5  " in line
    assert line.rstrip().endswith("513.0 ± 20.0  2      1 min 30 s")
    assert "arXiv 2510.00739" in printed


def test_scores_are_kept_and_made_again_where_evaluation_is_another(command, tmp_path, evaluated, monkeypatch):
    finish(tmp_path / "runs/point_maze-fb-small-0")
    monkeypatch.setattr(zero_shot.results, "commit", lambda: "one")
    first = command("--methods", "fb")[1]
    kept = zero_shot.evaluate_tasks
    monkeypatch.setattr(zero_shot, "evaluate_tasks", None)
    assert command("--methods", "fb")[1]["metrics"] == first["metrics"]
    calls = []
    monkeypatch.setattr(zero_shot, "evaluate_tasks", lambda *given: calls.append(given) or kept(*given))
    command("--methods", "fb", "--episodes", "3")
    monkeypatch.setattr(zero_shot.results, "commit", lambda: "another")
    command("--methods", "fb", "--episodes", "3")
    assert len(calls) == 2


def test_cell_that_fails_is_told_of_and_the_others_go_on(command, tmp_path, evaluated, monkeypatch, capsys):
    (tmp_path / "data/point_maze").mkdir(parents=True)
    (tmp_path / "data/point_maze/metadata.json").write_text("{}")

    def train(preset, data, run, options, updates):
        if options[1] == "1":
            return 3
        finish(run, updates)
        return 0

    monkeypatch.setattr(zero_shot, "train", train)
    code, record = command("--methods", "fb", "--seeds", "0", "1", "2", "--updates", "500")
    assert code == 1
    assert record["metrics"]["rows"]["point_maze"]["fb"]["seeds"] == [0, 2]
    why = "training ended with exit code 3; the lines above say why"
    assert record["metrics"]["failed"] == {"point_maze-fb-small-1": why}
    assert f"not in the table: point_maze-fb-small-1: {why}" in capsys.readouterr().out


def test_missing_data_are_told_of_with_the_command_that_makes_them(command, capsys):
    code, record = command("--methods", "fb")
    assert (code, record) == (1, None)
    assert "make it: embodied collect point_maze-noise --out" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "left_with"), [(75, 75), (-2, 130)])
def test_training_that_somebody_stopped_stops_the_comparison(command, tmp_path, monkeypatch, code, left_with):
    (tmp_path / "data/point_maze").mkdir(parents=True)
    (tmp_path / "data/point_maze/metadata.json").write_text("{}")
    started = []
    monkeypatch.setattr(zero_shot, "train", lambda *given: started.append(given) or code)
    assert command("--methods", "fb", "--seeds", "0", "1") == (left_with, None)
    assert len(started) == 1


def test_cell_is_trained_in_a_process_of_its_own_until_it_is_complete(tmp_path, monkeypatch):
    commands = []

    def start(command, **options):
        commands.append(command[3:])
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(cells.subprocess, "run", start)
    run, options = tmp_path / "cell", ["--train.seed", "4"]
    assert cells.train("walker-fb-small", tmp_path, run, options, 500) == 7
    paths = ["--out", f"{run}", "--data", f"{tmp_path}"]
    assert commands == [["train", "walker-fb-small", *paths, "--train.updates", "500", *options]]
    finish(run, 500)
    assert cells.train("walker-fb-small", tmp_path, run, options, 500) == 0
    assert cells.train("walker-fb-small", tmp_path, run, options, 1000) == 7
    assert len(commands) == 2


def test_single_task_learner_has_a_cell_for_each_task_and_counts_where_all_are_made(
    command, tmp_path, evaluated, monkeypatch
):
    names = [cell.run.name for cell in plan.cells(Comparison(worlds=("walker",), methods=("td3",), seeds=(5,)))]
    assert names == [f"walker-td3-small-{task}-5" for task in ("stand", "walk", "run", "spin")]
    monkeypatch.setitem(PRESETS, "point_maze-td3-small", PRESETS["walker-td3-small"])
    for seed in (0, 1):
        for task in TASKS[seed:]:
            finish(tmp_path / f"runs/point_maze-td3-small-{task}-{seed}", updates=40_000)
    code, record = command("--methods", "td3", "--seeds", "0", "1")
    assert code == 1
    entry = record["metrics"]["rows"]["point_maze"]["td3"]
    assert entry["seeds"] == [0]
    assert set(entry["tasks"]) == set(TASKS)
    assert entry["mean"] == 351.0
    assert "published" not in entry
