"""Random goals by skills: planned over, chosen by an upper policy, or led to by the objective; beside flat learning.

    python -m experiments.bench.goals --runs runs/goals

Each seed trains skills first; then, in the world of these skills, an upper policy that is told goals, and a planner
with a model of what skills lead to, from as many decisions; and a flat policy that is told goals, for as many decisions
of the world as skills and upper policy took together. The rule is the objective's own: the skill whose direction points
to the goal, chosen anew at every decision. All are asked for the same goals from the same starts. Missing runs are
trained, one process each, and runs that were interrupted go on.
"""

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments import goals
from experiments.bench.cells import train
from experiments.bench.skills import cost
from experiments.models import resolve
from experiments.presets import PRESETS
from experiments.results import write_result
from experiments.train import read_experiment

RULE, UPPER, PLANNER, FLAT, RANDOM = "rule", "upper_policy", "planner", "flat_policy", "random_actions"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    world: tyro.conf.Positional[str] = "tabletop_push"
    runs: Annotated[Path, tyro.conf.arg(help="where the cells live")] = Path("runs/goals")
    seeds: tuple[int, ...] = (0, 1, 2)
    goals: int = goals.GOALS  # of each seed
    skill_updates: int | None = None  # None = the preset's
    upper_updates: int = 100  # each of as many decisions of the world as one for skills
    decisions: int = 10  # that a skill is followed
    out: Path | None = None  # result file; None = results/WORLD-goals.json


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing runs, prints the table, and writes the result file."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen, started = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.goals"), time.perf_counter()
    preset = PRESETS[f"{chosen.world}-multi_critic-small"]
    skill_updates = chosen.skill_updates or preset.train.updates
    distances: dict[str, list[np.ndarray]] = {}
    runs: dict[str, list[Path]] = {}
    for seed in chosen.seeds:
        made = _trained(chosen, seed, skill_updates)
        for name, run in made.items():
            runs.setdefault(name, []).append(run)
            policy, env = resolve(str(run))
            distances.setdefault(RULE if name == "skills" else name, []).append(goals.go(policy, env, chosen.goals))
            if name == FLAT:
                distances.setdefault(RANDOM, []).append(goals.go_at_random(policy, env, chosen.goals))
    rows = {name: goals.measures(np.concatenate(found)) for name, found in distances.items()}
    for name, row in rows.items():
        print(goals.line(name, row))
    seeds = {name: [goals.measures(one) for one in found] for name, found in distances.items()}
    metrics: dict[str, Any] = {
        "methods": rows,
        "seeds": seeds,
        "training": {name: [cost(run) for run in found] for name, found in runs.items()},
    }
    commits = {run.name: read_experiment(run)["made"]["commit"] for found in runs.values() for run in found}
    out = chosen.out or Path(f"results/{chosen.world}-goals.json")
    command = shlex.join(["python", "-m", "experiments.bench.goals", *words])
    write_result(out, command, metrics, list(chosen.seeds), time.perf_counter() - started, trained_with_commits=commits)
    print(f"wrote {out}")


def _trained(chosen: Arguments, seed: int, skill_updates: int) -> dict[str, Path]:
    """Name -> directory of the runs of one seed, the skills first."""
    policy, planner = f"{chosen.world}-multi_critic-small", f"{chosen.world}-planner-small"
    skills = chosen.runs / f"skills-{seed}"
    online = PRESETS[policy].online
    rows = online.decisions // chosen.decisions
    steered = ["--skills", str(skills), "--skill-decisions", str(chosen.decisions)]
    steered += ["--online.decisions", str(rows)]
    upper = [*steered, "--train.batch-size", str(rows * online.worlds)]
    # As many worlds as make the planner's decisions those of the upper policy.
    rollouts = PRESETS[planner].train.updates // PRESETS[planner].train.chunk
    worlds = max(1, chosen.upper_updates * online.worlds // rollouts)
    told = ["--agent.told", "goal", "--agent.channels"]
    # Goals of the upper policy and the flat one; the latter is paid for what makes skills, too.
    alone = [*told, "--agent.weights", "1", "--agent.begin", "--agent.discounts", "0.95"]
    cells = {
        "skills": (policy, skill_updates, []),
        UPPER: (policy, chosen.upper_updates, [*upper, *alone]),
        PLANNER: (planner, PRESETS[planner].train.updates, [*steered, "--online.worlds", str(worlds)]),
        FLAT: (policy, skill_updates + chosen.upper_updates, ["--agent.told", "goal"]),
    }
    runs = {}
    for name, (preset, updates, options) in cells.items():
        runs[name] = chosen.runs / f"{name}-{seed}"
        if code := train(preset, None, runs[name], ["--train.seed", str(seed), *options], updates):
            raise SystemExit(code)
    return runs


if __name__ == "__main__":
    main()
