"""What training with domain randomisation keeps of a score when the robot differs: with it and without, same seeds.

    python -m experiments.bench.randomisation --data data/walker --shaken data/shaken --runs runs/randomisation

Each policy learns its task from data of its own kind of world, is exported, and runs as a bundle in plain MuJoCo under
the conditions of `embodied sim2sim`: late orders, noise, other physics, all at once. `kept` is a score over that of the
same policy in the nominal simulation. Cells that are missing are trained first.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from embodied import statistics
from embodied.deploy.bundle import load
from experiments import export, falls, sim2sim
from experiments.bench.cells import train
from experiments.models import resolve
from experiments.results import write_result
from experiments.train import read_experiment

NOMINAL = "nominal"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    data: Path  # dataset of the plain world
    shaken: Path  # dataset of the randomised world
    runs: Path  # where the cells live
    preset: str = "walker-td3-small"
    task: str = "walk"
    level: str = "standard"  # of randomisation, in training
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int = 20_000
    episodes: int = 100  # per seed and condition
    out: Path = Path("results/walker-randomisation.json")


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing cells, prints the table and writes the result file."""
    chosen = tyro.cli(Arguments, args=arguments, prog="python -m experiments.bench.randomisation")
    started = time.perf_counter()
    metrics, commits = {}, {}
    for level, data in (("none", chosen.data), (chosen.level, chosen.shaken)):
        columns: dict[str, list[sim2sim.Result]] = {}
        for seed in chosen.seeds:
            run = chosen.runs / f"{chosen.preset}-{level}-{seed}"
            options = ["--train.seed", str(seed), "--randomise", level, "--task", chosen.task]
            if code := train(chosen.preset, data, run, options, chosen.updates):
                raise SystemExit(code)
            commits[run.name] = read_experiment(run)["made"]["commit"]
            for condition, result in tried(run, chosen.task, chosen.episodes).items():
                columns.setdefault(condition, []).append(result)
        metrics[level] = summarise(columns)
    print("\n".join(table(metrics)))
    command = "python -m experiments.bench.randomisation " + " ".join(arguments or sys.argv[1:])
    wall = time.perf_counter() - started
    write_result(chosen.out, command, metrics, list(chosen.seeds), wall, trained_with_commits=commits)
    print(f"wrote {chosen.out}")


def tried(run: Path, task: str, episodes: int) -> Mapping[str, sim2sim.Result]:
    """Condition -> result of the policy of a run, as a bundle of the plain world."""
    policy, env = resolve(str(run), "none")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export.run(policy, env, export.only_task(policy, env, task), bundle, episodes)
        return sim2sim.run(load(bundle), [task], tuple(sim2sim.CONDITIONS), episodes)[task]


def summarise(columns: Mapping[str, list[sim2sim.Result]]) -> dict[str, dict[str, Any]]:
    """Per condition: IQM over seeds and episodes with its interval, mean of each seed, what each kept, and falls."""
    nominal = [result.scores.returns.mean() for result in columns[NOMINAL]]
    rows: dict[str, dict[str, Any]] = {}
    for condition, results in columns.items():
        returns = np.stack([result.scores.returns for result in results])
        iqm, means = statistics.bootstrap(returns), returns.mean(1)
        kept = [float(mean / before) for mean, before in zip(means, nominal, strict=True)]
        rows[condition] = {"iqm": iqm.value, "low": iqm.low, "high": iqm.high, "seed_means": means.tolist()}
        rows[condition] |= {"kept": kept, "median_kept": float(np.median(kept))}
        fallen = [result.fallen for result in results if result.fallen is not None]
        rows[condition] |= {"down": falls.share(np.concatenate(fallen))} if fallen else {}
    return rows


def table(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The metrics as lines of text."""
    lines = ["".ljust(12) + "".join(f"trained with '{level}': return [95 %], kept".rjust(48) for level in metrics)]
    for condition in next(iter(metrics.values())):
        cells = []
        for rows in metrics.values():
            row = rows[condition]
            cells.append(f"{row['iqm']:.0f} [{row['low']:.0f}, {row['high']:.0f}]  {row['median_kept']:.0%}".rjust(48))
        lines.append(condition.ljust(12) + "".join(cells))
    return lines


if __name__ == "__main__":
    main()
