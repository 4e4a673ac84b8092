"""Zero-shot scores of several methods and seeds on every task of a world: trains what is missing, then scores.

    python -m experiments.bench.zero_shot --world walker --data data/walker --runs runs/zero-shot

Each cell (method, seed) is one `embodied train` run below `--runs`, resumed where it was interrupted. TD3 is trained
once per task, with the task's reward, on rollouts of its own that are added to the same stored data.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from embodied import statistics
from embodied.evaluate import EvaluateConfig, Scores
from experiments.bench.cells import train
from experiments.collect import make_env
from experiments.evaluate import baselines, evaluate_tasks
from experiments.models import resolve
from experiments.results import write_result
from experiments.run_report import read_metrics
from experiments.train import read_experiment


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    data: Path  # reward-free dataset
    runs: Path  # where the cells live
    world: str = "walker"
    methods: tuple[str, ...] = ("td_jepa-small", "fb-small")  # presets without the world's name
    topline: str = "td3-small"  # preset of the single-task learner; empty = none
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 40_000  # per zero-shot cell
    topline_updates: int = 20_000  # per task
    episodes: int = 20  # per task and seed
    out: Path = Path("results/walker-zero-shot.json")


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing cells, prints the table and writes the result file."""
    chosen = tyro.cli(Arguments, args=arguments, prog="python -m experiments.bench.zero_shot")
    started = time.perf_counter()
    scores: dict[str, list[Mapping[str, Scores]]] = {}
    seconds: dict[str, list[float]] = {}
    commits: dict[str, str] = {}
    for method in chosen.methods:
        for seed in chosen.seeds:
            run = chosen.runs / f"{method}-{seed}"
            train(f"{chosen.world}-{method}", chosen.data, run, ["--train.seed", str(seed)], chosen.updates)
            commits[run.name] = read_experiment(run)["made"]["commit"]
            policy, env = resolve(str(run))
            scores.setdefault(method, []).append(evaluate_tasks(policy, env, chosen.episodes))
            seconds.setdefault(method, []).append(sum(row["time/seconds"] for row in read_metrics(run)))
            beside = baselines(policy, env, chosen.episodes)
            scores["random_actions"] = [beside["random actions"]]  # the same for all
            scores.setdefault(f"random_latent_{method}", []).append(beside["random latent"])
    if chosen.topline:
        scores["td3"] = [_topline(chosen, seconds, commits)]
    metrics = {name: summarise(columns) for name, columns in scores.items()}
    print(_table(metrics))
    command = "python -m experiments.bench.zero_shot " + " ".join(arguments or sys.argv[1:])
    write_result(
        chosen.out,
        command,
        {"scores": metrics, "training_seconds": seconds},
        list(chosen.seeds),
        time.perf_counter() - started,
        evaluation=dataclasses.asdict(EvaluateConfig(chosen.episodes)),
        updates=chosen.updates,
        trained_with_commits=commits,
        protocol="return over one episode of 1000 control steps; IQM over seeds and episodes, stratified bootstrap",
    )
    print(f"wrote {chosen.out}")


def summarise(columns: list[Mapping[str, Scores]]) -> dict[str, dict[str, Any]]:
    """Per task: IQM over seeds and episodes with its interval, the mean of each seed, and the median of those."""
    rows: dict[str, dict[str, Any]] = {}
    for task in columns[0]:
        returns = np.stack([column[task].returns for column in columns])
        iqm = statistics.bootstrap(returns)
        means = returns.mean(1)
        rows[task] = {"iqm": iqm.value, "low": iqm.low, "high": iqm.high, "seed_means": means.tolist()}
        rows[task]["median_of_seeds"] = float(np.median(means))
    everything = float(np.mean([row["median_of_seeds"] for row in rows.values()]))
    rows["mean"] = {"median_of_seeds": everything}
    return rows


def _topline(chosen: Arguments, seconds: dict[str, list[float]], commits: dict[str, str]) -> dict[str, Scores]:
    """TD3's score on each task after training on that task's reward."""
    column = {}
    for task in make_env(chosen.world, None).tasks:
        run = chosen.runs / f"{chosen.topline}-{task}"
        preset = f"{chosen.world}-{chosen.topline}"
        train(preset, chosen.data, run, ["--task", task], chosen.topline_updates)
        commits[run.name] = read_experiment(run)["made"]["commit"]
        column[task] = evaluate_tasks(*resolve(str(run)), chosen.episodes)[task]
        seconds.setdefault("td3", []).append(sum(row["time/seconds"] for row in read_metrics(run)))
    return column


def _table(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    tasks = list(next(iter(metrics.values())))
    width = max(len(name) for name in metrics)
    lines = [" " * width + "".join(f"{task:>24}" for task in tasks)]
    for name, rows in metrics.items():
        cells = []
        for row in rows.values():
            interval = f" [{row['low']:.0f}, {row['high']:.0f}]" if "low" in row else ""
            cells.append(f"{row['median_of_seeds']:.0f}{interval}".rjust(24))
        lines.append(name.ljust(width) + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
