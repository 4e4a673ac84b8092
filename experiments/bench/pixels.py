"""What learning to see is worth: returns from pixels with learned image encoders, beside encoders left as they began.

    embodied collect walker-pixels-rnd --out data/walker-seen
    python -m experiments.bench.pixels --data data/walker-seen --runs runs/pixels

Both kinds of run train the same networks on the same batches with the same seeds; those named `untrained` have learning
rates of zero for the encoders of state and task, so that predictors, successor features and actor must make do with
random features. Runs that are missing are trained first, and scored every so many updates while they are. The margin
is the difference of the two mean returns over tasks; collecting is timed on a small dataset of its own. The curves are
drawn beside the result file.
"""

import dataclasses
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from embodied.data import store
from embodied.evaluate import EvaluateConfig, Scores
from experiments import collect, figures
from experiments.bench import tables
from experiments.bench.cells import train
from experiments.evaluate import baselines, evaluate_tasks, table
from experiments.experiment import Collect
from experiments.models import resolve
from experiments.presets import COLLECT
from experiments.results import write_result
from experiments.run_report import read_metrics
from experiments.train import read_experiment

KINDS = {"learned": [], "untrained": ["--agent.lr-phi", "0", "--agent.lr-psi", "0"]}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    data: Path  # dataset with frames
    runs: Path  # where the cells live
    preset: str = "walker-td_jepa-pixels-small"
    collection: str = "walker-pixels-rnd"  # the preset that made such data, whose speed is measured
    seeds: tuple[int, ...] = (0, 1)
    updates: int = 20_000
    every: int = 5_000  # updates between the points of the curves
    curve_episodes: int = 4  # per task and point
    episodes: int = 20  # per task and seed at the end
    out: Path = Path("results/walker-pixels.json")


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing runs, prints the table and writes the result file."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.pixels")
    started = time.perf_counter()
    scores: dict[str, list[Mapping[str, Scores]]] = {kind: [] for kind in KINDS}
    curves: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    commits, columns = {}, {}
    for seed in chosen.seeds:
        for kind, rates in KINDS.items():
            run = chosen.runs / f"{chosen.preset}-{kind}-{seed}"
            options = ["--train.seed", str(seed), "--evaluate-every", str(chosen.every), *rates]
            options += ["--episodes", str(chosen.curve_episodes)]
            if code := train(chosen.preset, chosen.data, run, options, chosen.updates):
                raise SystemExit(code)
            commits[run.name] = read_experiment(run)["made"]["commit"]
            policy, env = resolve(str(run))
            scores[kind].append(evaluate_tasks(policy, env, chosen.episodes))
            curves[kind].append(curve(run))
            columns[f"{kind} {seed}"] = scores[kind][-1]
    random = baselines(policy, env, chosen.episodes)["random actions"]
    print(table(columns | {"random actions": random}))
    metrics = {kind: {"returns": tables.pooled(rows), "curves": curves[kind]} for kind, rows in scores.items()}
    metrics |= {"random": tables.pooled([random]), "margin": tables.margin(scores["learned"], scores["untrained"])}
    few = COLLECT[chosen.collection]
    metrics["collection"] = collection(dataclasses.replace(few, episodes=4 * few.worlds))
    gain, speed = metrics["margin"], metrics["collection"]["frames_per_second"]
    print(f"margin over untrained encoders: {gain['mean']:.0f} [{gain['low']:.0f}, {gain['high']:.0f}], mean of tasks")
    print(f"collection: {speed:,.0f} frames drawn and stored per second")
    command = shlex.join(["python", "-m", "experiments.bench.pixels", *words])
    wall = time.perf_counter() - started
    more = {"trained_with_commits": commits, "evaluation": dataclasses.asdict(EvaluateConfig(chosen.episodes))}
    write_result(chosen.out, command, metrics, list(chosen.seeds), wall, frames=frames(chosen.data), **more)
    drawing(curves, metrics["random"]).savefig(chosen.out.with_suffix(".png"), dpi=120)
    print(f"wrote {chosen.out}")


def curve(run: Path) -> dict[str, Any]:
    """Updates, seconds of training, and return per task, of each point at which a run was scored."""
    seconds, points = 0.0, []
    for row in read_metrics(run):
        seconds += row["time/seconds"]
        returns = {name.split("/")[1]: value for name, value in row.items() if name.endswith("/return")}
        if returns:
            points.append((row["step"], seconds, returns))
    steps, spent, returns = zip(*points, strict=True)
    tasks = {task: [point[task] for point in returns] for task in returns[0]}
    return {"updates": list(steps), "seconds": list(spent), "returns": tasks}


def drawing(curves: Mapping[str, Sequence[Mapping[str, Any]]], random: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean return over tasks against updates, a line for each seed of each kind, and that of random actions."""
    figure = Figure(figsize=(figures.WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    for (kind, rows), colour in zip(curves.items(), figures.PALETTE, strict=False):
        for i, row in enumerate(rows):
            mean = np.mean(list(row["returns"].values()), 0)
            label = "" if i else f"{kind} encoders"
            axes.plot(row["updates"], mean, color=colour, marker="o", markersize=3.5, label=label)
    level = np.mean([row["iqm"] for row in random.values()])
    axes.axhline(level, color=figures.MUTED, dashes=(4, 3), label="random actions")
    axes.set_xlabel("updates", color=figures.INK)
    axes.set_ylabel("mean return over tasks", color=figures.INK)
    axes.set_xlim(0)
    axes.legend(frameon=False, fontsize=9, labelcolor=figures.INK)
    figures.style(axes, grid="y")
    return figure


def collection(config: Collect) -> dict[str, Any]:
    """Frames that are drawn and stored per second when data are collected, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        drawn = frames(collect.run(config, Path(folder) / "data", quiet=True))
        seconds = time.perf_counter() - begun
    return {"frames": drawn, "seconds": seconds, "frames_per_second": drawn / seconds}


def frames(data: Path) -> int:
    """Frames that a dataset holds: one for each of its states."""
    metadata = store.read_metadata(data)
    return int(metadata["transitions"]) + int(metadata["episodes"])


if __name__ == "__main__":
    main()
