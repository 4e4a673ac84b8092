"""`embodied bench zero-shot`: tables of zero-shot scores beside the published ones; trains what is missing first.

Each cell is one `embodied train` process, resumed where it stopped; a cell that fails is told of and the others go on.
"""

import dataclasses
import itertools
import json
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from embodied.evaluate import EvaluateConfig, Scores
from embodied.types import InputError
from experiments import results
from experiments.bench import tables
from experiments.bench.cells import train
from experiments.bench.plan import Cell, Comparison, cells
from experiments.bench.suites import CLONE, SUITES
from experiments.cli import ABORTED
from experiments.evaluate import baselines, evaluate_tasks
from experiments.models import resolve
from experiments.report import duration
from experiments.run_report import read_metrics
from experiments.train import read_experiment

SCORES = "scores.json"  # in a run directory: what it scored, and with what
STOPPED = (75, ABORTED, -2, -15)  # exit codes of training that somebody stopped, which stops the whole comparison


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the cells."""

    scores: dict[str, dict[str, dict[int, dict[str, Scores]]]]  # row -> column of the table -> seed -> task
    seconds: dict[str, dict[str, list[float]]]  # row -> method -> of training each cell
    commits: dict[str, str]  # run -> that began it
    failed: dict[str, str]  # run -> why


def run(chosen: Comparison, arguments: Sequence[str]) -> bool:
    """Whether all cells are in the table; trains the missing ones, prints the table and writes the result file."""
    planned = cells(chosen)
    if chosen.plan:
        width = max(len(cell.run.name) for cell in planned)
        print("\n".join(f"{cell.run.name:<{width}}  {cell.state()}" for cell in planned))
        return True
    started = time.perf_counter()
    outcome = attempt(chosen, planned)
    if outcome.scores:
        _report(chosen, arguments, outcome, time.perf_counter() - started)
    for name, why in outcome.failed.items():
        print(f"not in the table: {name}: {why}")
    return not outcome.failed


def attempt(chosen: Comparison, planned: Sequence[Cell]) -> Outcome:
    """What becomes of the cells, one after another. A seed has scores where none of its cells failed."""
    outcome = Outcome({}, {}, {}, {})
    for (row, method, seed), group in itertools.groupby(planned, lambda cell: (cell.row, cell.method, cell.seed)):
        columns: dict[str, dict[str, Scores]] = {}
        wanted = list(group)
        for cell in wanted:
            name = cell.run.name
            try:
                make(cell, "" if method == CLONE else chosen.teacher)
                found = scored(cell, chosen)
            except Exception as error:  # whatever it was: the other cells are worth having
                outcome.failed[name] = f"{error}" if isinstance(error, InputError) else repr(error)
                print(f"{name} failed: {outcome.failed[name]}", file=sys.stderr, flush=True)
                continue
            print(json.dumps({"scored": name}), file=sys.stderr, flush=True)
            columns = {one: columns.get(one, {}) | column for one, column in found.items()}
            spent = sum(chunk["time/seconds"] for chunk in read_metrics(cell.run))
            outcome.seconds.setdefault(row, {}).setdefault(method, []).append(spent)
            outcome.commits[name] = read_experiment(cell.run)["made"]["commit"]
        if not any(cell.run.name in outcome.failed for cell in wanted):
            for one, column in columns.items():
                outcome.scores.setdefault(row, {}).setdefault(one, {})[seed] = column
    return outcome


def make(cell: Cell, teacher: str = "") -> None:
    """Nothing; trains the cell to its end, held to a teacher where one is named.

    Raises InputError where it cannot, SystemExit where somebody stopped it.
    """
    if lacking := cell.lacks():
        raise InputError(lacking)
    options = ["--train.seed", f"{cell.seed}", *(["--task", cell.task] if cell.task else [])]
    options += ["--teacher", teacher] if teacher else []
    code = train(cell.preset, cell.data, cell.run, options, cell.updates)
    if code in STOPPED:
        raise SystemExit(code if code > 0 else ABORTED)
    if code:
        raise InputError(f"training ended with exit code {code}; the lines above say why")


def scored(cell: Cell, chosen: Comparison) -> dict[str, dict[str, Scores]]:
    """Column -> task -> scores of a trained cell; those of an earlier call where nothing has changed since."""
    policy, env = resolve(str(cell.run))
    made = {"model": policy.sha256, "buffer": policy.buffer.sha256, "commit": results.commit()}
    made |= {"evaluation": dataclasses.asdict(EvaluateConfig(chosen.episodes)), "baselines": chosen.baselines}
    file = cell.run / SCORES
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if known.get("made") != made:
        columns = {cell.method: evaluate_tasks(policy, env, chosen.episodes)}
        if chosen.baselines and cell.task is None:
            beside = baselines(policy, env, chosen.episodes)
            columns |= {"random_actions": beside["random actions"]}
            columns |= {f"random_latent_{cell.method}": beside["random latent"]}
        known = {"made": made, "columns": {name: _plain(column) for name, column in columns.items()}}
        draft = file.with_name(f".{SCORES}")
        draft.write_text(json.dumps(known) + "\n", encoding="utf-8")
        draft.replace(file)
    return {name: _own(column, cell.task) for name, column in known["columns"].items()}


def _plain(column: dict[str, Scores]) -> dict[str, Any]:
    return {
        task: {name: None if leaf is None else leaf.tolist() for name, leaf in vars(scores).items()}
        for task, scores in column.items()
    }


def _own(plain: dict[str, Any], only: str | None) -> dict[str, Scores]:
    """The scores of all tasks, or of the only one that a cell learned."""
    return {
        task: Scores(**{name: None if leaf is None else np.array(leaf) for name, leaf in leaves.items()})
        for task, leaves in plain.items()
        if only in (None, task)
    }


def _report(chosen: Comparison, arguments: Sequence[str], outcome: Outcome, wall: float) -> None:
    """Nothing; prints the table and writes the result file."""
    measure = SUITES[chosen.suite].measure
    found = tables.metrics(outcome.scores, chosen.suite, measure)
    what = "return over an episode" if measure == "return" else "% of episodes with success at any step"
    machine = results.hardware()
    print(f"{chosen.suite}, {chosen.budget} presets: {what}, {chosen.episodes} episodes per task and seed")
    print("\n".join(tables.table(found, outcome.seconds)))
    place = ", ".join([f"{machine['cpu']}, {machine['cores']} cores", *machine["accelerators"]])
    print(f"took {duration(wall)} on {place}; training: mean time of a cell, wherever it was trained")
    out = chosen.out or chosen.runs / f"{chosen.suite}-{chosen.budget}.json"
    results.write_result(
        out,
        shlex.join(["embodied", "bench", "zero-shot", *arguments]),
        {"rows": found, "training_seconds": outcome.seconds, "failed": outcome.failed},
        list(chosen.seeds),
        wall,
        comparison=json.loads(json.dumps(dataclasses.asdict(chosen), default=str)),
        evaluation=dataclasses.asdict(EvaluateConfig(chosen.episodes)),
        trained_with_commits=outcome.commits,
        protocol=f"{what}; mean and standard error over seeds, tasks weigh the same; pooled: IQM of all episodes with "
        "its bootstrap interval, for success the rate with its Wilson interval",
    )
    print(f"wrote {out}")
