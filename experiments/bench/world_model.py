"""`embodied bench world-model`: agents that learn one task while they act, beside published learning curves.

Each cell is one `embodied train` process, scored along the way; cells that were interrupted go on. An agent that plans
is scored once more without plans, by the policy that its plans are proposed by, with the same parameters; and of one
that foresees features, the error of what it foresees is kept, over how far ahead that is.
"""

import dataclasses
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from embodied.evaluate import Scores
from embodied.policy import Policy
from embodied.ranges import check_ranges
from embodied.types import InputError, nearest
from experiments import figures, imagination
from experiments.bench import tables
from experiments.bench.cells import train
from experiments.evaluate import evaluate_tasks, only
from experiments.figures import INK, MUTED, PALETTE, WIDTH
from experiments.models import resolve
from experiments.presets import PRESETS
from experiments.results import write_result
from experiments.run_report import read_metrics
from experiments.task_agents import TASKS
from experiments.train import read_experiment

PUBLISHED = Path(__file__).with_name("published_learning.json")
AGENTS = ("mrq", "tdmpc2")
WITHOUT = "_without_plans"


@dataclasses.dataclass(frozen=True)
class Learning:
    """Learning curves of agents that learn one task while they act, beside published ones."""

    world: str = "cartpole"  # whose task of `experiments/task_agents.py` is learnt
    agents: tuple[str, ...] = AGENTS
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: Literal["small", "published"] = "small"  # presets with -small, or those with the papers' sizes
    updates: int | None = None  # of each run; None = the preset's
    points: int = 10  # scores along a curve
    along: int = 3  # episodes of each of them
    episodes: int = 20  # of the last score of each seed
    runs: Path = Path("runs")  # where the cells live
    out: Path | None = None  # result file; None = results/WORLD-world-models.json; the drawings lie beside it


class Curve(NamedTuple):
    """What a run scored while it learned, and how long that took."""

    frames: list[int]  # control steps of all worlds, of learning alone
    decisions: list[int]
    returns: list[float]
    frames_per_second: float  # of learning, simulation included, scores left out
    seconds: float  # of all of it, scores included


def run(chosen: Learning, arguments: Sequence[str]) -> None:
    """Nothing; trains the missing cells, prints the table, and writes result file and drawings.

    Raises InputError for unknown names and numbers out of range, SystemExit where training did not end well.
    """
    check(chosen)
    started, task = time.perf_counter(), TASKS[chosen.world]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    beside = published["curves"].get(chosen.world, {}).get(task, {})
    scores: dict[str, list[Mapping[str, Scores]]] = {}
    curves: dict[str, list[Curve]] = {}
    foreseen: dict[str, imagination.Imagined] = {}
    commits = {}
    for agent in chosen.agents:
        for seed in chosen.seeds:
            cell = made(chosen, agent, seed)
            policy, env = resolve(str(cell))
            env = only(env, [task])
            curves.setdefault(agent, []).append(curve(read_metrics(cell), read_experiment(cell)["experiment"], task))
            scores.setdefault(agent, []).append(evaluate_tasks(policy, env, chosen.episodes))
            if plans := without_plans(policy):
                scores.setdefault(agent + WITHOUT, []).append(evaluate_tasks(plans, env, chosen.episodes))
            if policy.agent.imagine and agent not in foreseen:
                foreseen[agent] = imagination.imagine(policy, env)
            commits[cell.name] = read_experiment(cell)["made"]["commit"]
    out = chosen.out or Path(f"results/{chosen.world}-world-models.json")
    metrics: dict[str, Any] = {
        "task": task,
        "scores": {name: tables.pooled(found)[task] for name, found in scores.items()},
        "curves": {name: [one._asdict() for one in found] for name, found in curves.items()},
        "published": beside,
        "imagination": {name: foresight(found) for name, found in foreseen.items()},
    }
    for row in rows(metrics, published["speed"]):
        print(row)
    figure = drawing(
        metrics["curves"], beside, f"{chosen.world}: {task}", PRESETS[name_of(chosen, chosen.agents[0])].hold or 1
    )
    figure.savefig(out.with_suffix(".png"), dpi=120)
    for name, found in foreseen.items():
        seconds = env.spec.control_dt * env.spec.hold
        imagination.curve(found, seconds).savefig(out.with_name(f"{out.stem}-{name}-imagination.png"), dpi=120)
    command = shlex.join(["embodied", "bench", "world-model", *arguments])
    write_result(out, command, metrics, list(chosen.seeds), time.perf_counter() - started, trained_with_commits=commits)
    print(f"wrote {out}")


def check(chosen: Learning) -> None:
    """Nothing; raises InputError for unknown names and numbers out of range."""
    check_ranges("bench", chosen, {"[1, inf)": ("points", "along", "episodes", *["updates"] * bool(chosen.updates))})
    if chosen.world not in TASKS:
        raise InputError(f"bench: no preset learns a task of world '{chosen.world}'; {nearest(chosen.world, TASKS)}")
    for agent in chosen.agents:
        if agent not in AGENTS:
            raise InputError(f"bench: unknown agent '{agent}'; {nearest(agent, AGENTS)}")
    if not chosen.seeds or not chosen.agents:
        raise InputError("bench: seeds and agents must name at least one each")


def name_of(chosen: Learning, agent: str) -> str:
    """The preset of an agent."""
    return f"{chosen.world}-{agent}" + "-small" * (chosen.budget == "small")


def made(chosen: Learning, agent: str, seed: int) -> Path:
    """The directory of a cell, trained first where it is missing."""
    preset = name_of(chosen, agent)
    config, cell = PRESETS[preset].train, chosen.runs / f"{preset}-{seed}"
    updates = chosen.updates or config.updates
    every = config.chunk * max(1, round(updates / chosen.points / config.chunk))
    options = ["--train.seed", f"{seed}", "--evaluate-every", f"{every}", "--episodes", f"{chosen.along}"]
    if code := train(preset, None, cell, options, updates):
        raise SystemExit(code)
    return cell


def without_plans(policy: Policy) -> Policy | None:
    """The policy that plans are proposed by, of an agent that plans; None for others."""
    planning = getattr(policy.config, "planning", None)
    if planning is None:
        return None
    bare = dataclasses.replace(policy.config, planning=dataclasses.replace(planning, horizon=0))
    return dataclasses.replace(policy, config=bare)


def curve(metrics: Sequence[Mapping[str, int | float]], experiment: Mapping[str, Any], task: str) -> Curve:
    """The scores of a run over what it had seen by then."""
    online, chunk = experiment["online"], experiment["train"]["chunk"]
    each = online["worlds"] * online["decisions"]  # decisions of a rollout; one is made before each chunk of updates
    scored = [row for row in metrics if f"eval/{task}/return" in row]
    decisions = [round(row["step"] / chunk) * each for row in scored]
    learning = sum(row["time/seconds"] for row in metrics)
    total = round(metrics[-1]["step"] / chunk) * each * experiment["hold"]
    returns = [float(row[f"eval/{task}/return"]) for row in scored]
    frames = [count * experiment["hold"] for count in decisions]
    return Curve(frames, decisions, returns, total / learning, learning)


def foresight(found: imagination.Imagined) -> dict[str, Any]:
    """Errors over the decisions ahead, of what was foreseen and of staying as at the start."""
    known, still = found.errors
    return {"decisions": found.every, "foreseen": known.tolist(), "as_at_the_start": still.tolist()}


def rows(metrics: Mapping[str, Any], speed: Mapping[str, Any]) -> list[str]:
    """Lines of the table: what was reached, from how many frames and how fast, beside what was published."""
    lines = []
    for name, row in metrics["scores"].items():
        seeds = ", ".join(f"{mean:.0f}" for mean in row["seed_means"])
        line = f"{name:<24}{row['iqm']:6.0f} [{row['low']:.0f}, {row['high']:.0f}]  seeds {seeds}"
        if name in metrics["curves"]:
            found = metrics["curves"][name]
            rate = np.median([one["frames_per_second"] for one in found])
            line += f"  at {found[0]['frames'][-1]:,} frames, {rate:.0f} frames/s"
        lines.append(line)
    for name, row in metrics["published"].items():
        marks = ", ".join(
            f"{mean:.0f} at {count:,}" for count, mean in zip(row["frames"], row["mean"], strict=True) if count
        )
        rate = f"  {speed[name]} frames/s of another world on a GPU" if name in speed else ""
        lines.append(f"{'published ' + name:<24}{marks}{rate}")
    return lines


def drawing(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], published: Mapping[str, Any], title: str, hold: int
) -> Figure:
    """Returns over frames, and over decisions above: the mean of the seeds between the least and the largest."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    reach = max(one["frames"][-1] for found in curves.values() for one in found)
    for (name, found), colour in zip(curves.items(), PALETTE, strict=False):
        returns, frames = np.array([one["returns"] for one in found]), np.array(found[0]["frames"])
        axes.plot(frames, returns.mean(0), color=colour, linewidth=1.5, label=name)
        axes.fill_between(frames, returns.min(0), returns.max(0), color=colour, alpha=0.18, linewidth=0)
    for (name, row), marker in zip(published.items(), ("o", "s", "^"), strict=False):
        shown = [
            (count, mean)
            for count, mean in zip(row["frames"], row["mean"], strict=True)
            if count <= 1.05 * max(reach, 100_000)
        ]
        x, y = zip(*shown, strict=True) if shown else ((), ())
        axes.plot(x, y, color=MUTED, marker=marker, markersize=5, linestyle="none", label=f"published {name}")
    axes.set_ylim(0, 1000)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    above = axes.secondary_xaxis("top", functions=(lambda x: x / hold, lambda x: x * hold))
    above.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    above.tick_params(labelsize=8, labelcolor=MUTED, length=0)
    above.spines["top"].set_visible(False)
    above.set_xlabel("decisions", fontsize=9, color=MUTED)
    axes.set_xlabel("frames (control steps)", fontsize=9, color=MUTED)
    axes.set_ylabel(f"return, {title}", fontsize=9, color=MUTED)
    figures.style(axes, grid="y")
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure
