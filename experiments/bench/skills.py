"""Skills of several agents beside each other: coverage, distinctness and violations after equal numbers of frames.

    python -m experiments.bench.skills tabletop --runs runs/skills
    python -m experiments.bench.skills objectives --runs runs/skills

`tabletop` compares one critic per kind of reward with one critic of their sum, and with skill discovery alone. Weights
of the sum are chosen first: each setting is trained with the first seed, and the one with the largest coverage among
those with no more violations than the multi-critic agent of that seed is used; or the one with fewest violations, where
there is none. `objectives` compares discovery objectives in the point maze. Missing runs are trained, one process each,
and runs that were interrupted go on.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from embodied import statistics
from embodied.types import InputError, nearest
from experiments import skill_report
from experiments.bench.cells import train
from experiments.models import resolve
from experiments.presets import PRESETS
from experiments.results import write_result
from experiments.run_report import read_metrics
from experiments.skills import Played, coverage, measures, play
from experiments.train import read_experiment

OURS, SUM = "multi_critic", "summed"


@dataclasses.dataclass(frozen=True)
class Suite:
    """Variants of one preset: name -> options of `embodied train`; of `tuned`, one is chosen and called `SUM`."""

    preset: str
    variants: dict[str, list[str]]
    tuned: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def _summed(reach: str, safety: str, skills: str) -> list[str]:
    """Options of one critic of a sum, whose safety comes as slowly as that of the others."""
    weights = ["--agent.weights", reach, safety, skills, "--agent.begin", reach, "0", skills]
    return ["--agent.critics", "one", *weights]


# Weights of reach, safety and skills. In the tabletop advantages of skills spread a sixteenth as far as those of safety
# do, once skills are known: "0.2 1 16" is what the multi-critic agent ends with.
SUMS = ("1 1 1", "1 1 10", "0.2 1 16", "0.2 1 60", "0.2 1 150", "0.2 0.3 60", "0.2 1 400", "0.2 1 1000")
SUITES = {
    "tabletop": Suite(
        "tabletop_push-multi_critic-small",
        {
            OURS: [],
            "discovery": ["--agent.channels", "--agent.weights", "1", "--agent.begin", "--agent.discounts", "0.99"],
        },
        {f"sum_{text.replace(' ', '_')}": _summed(*text.split()) for text in SUMS},
    ),
    "objectives": Suite(
        "point_maze-multi_critic-small",
        {name: ["--agent.skill.objective", name] for name in ("csf", "metra", "lsd", "diayn")},
    ),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    suite: tyro.conf.Positional[str]
    runs: Annotated[Path, tyro.conf.arg(help="where the cells live")] = Path("runs/skills")
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int | None = None  # of each run; None = the preset's
    skills: int = 48  # that are scored
    starts: int = 8  # of each skill
    out: Path | None = None  # result file; None = results/SUITE-skills.json; the drawings lie beside it


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing runs, prints the table, and writes result file and drawings."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.skills")
    if chosen.suite not in SUITES:
        raise InputError(f"suite: unknown suite '{chosen.suite}'; {nearest(chosen.suite, SUITES)}")
    started, suite = time.perf_counter(), SUITES[chosen.suite]
    variants = dict(suite.variants)
    tuning = {}
    if suite.tuned:
        tuning = {
            name: _measured(chosen, suite, name, options, chosen.seeds[0]) for name, options in suite.tuned.items()
        }
        best = choose(tuning, _measured(chosen, suite, OURS, variants[OURS], chosen.seeds[0])["violations"])
        variants[SUM] = suite.tuned[best]
        tuning = {"settings": tuning, "chosen": best}
        print(f"weights of the sum: {best}")
    found = {
        name: [_played(chosen, suite, name, options, seed) for seed in chosen.seeds]
        for name, options in variants.items()
    }
    metrics: dict[str, Any] = {"variants": {name: summary([one for one, _ in rows]) for name, rows in found.items()}}
    metrics |= {"tuning": tuning} if tuning else {}
    for name, row in metrics["variants"].items():
        print(line(name, row))
    runs = {name: [run for _, run in rows] for name, rows in found.items()}
    out = chosen.out or Path(f"results/{chosen.suite}-skills.json")
    skill_report.maps({name: rows[0][0] for name, rows in found.items()}).savefig(out.with_suffix(".png"), dpi=120)
    if OURS in runs:
        kinds = PRESETS[suite.preset].agent.kinds
        cosines = np.stack([skill_report.interference(kinds, read_metrics(run)) for run in runs[OURS]])
        metrics["interference"] = {"kinds": kinds, "cosines": cosines.mean(0), "seeds": cosines}
        skill_report.matrix(kinds, cosines.mean(0)).savefig(out.with_name(f"{out.stem}-cosines.png"), dpi=120)
    command = shlex.join(["python", "-m", "experiments.bench.skills", *words])
    commits = {run.name: read_experiment(run)["made"]["commit"] for rows in runs.values() for run in rows}
    metrics["training"] = {name: [cost(run) for run in rows] for name, rows in runs.items()}
    write_result(out, command, metrics, list(chosen.seeds), time.perf_counter() - started, trained_with_commits=commits)
    print(f"wrote {out}")


def choose(tuning: dict[str, dict[str, float]], violations: float) -> str:
    """The setting with the largest coverage among those with at most so many violations; else the safest."""
    safe = [name for name, row in tuning.items() if row["violations"] <= violations]
    if not safe:
        return min(tuning, key=lambda name: tuning[name]["violations"])
    return max(safe, key=lambda name: tuning[name]["coverage"])


def summary(rows: Sequence[Played]) -> dict[str, Any]:
    """Coverage, and violations where known, with 95 % intervals over seeds and starts; the measures of each seed."""
    each = [measures(one) for one in rows]
    found: dict[str, Any] = {"coverage": statistics.bootstrap(np.stack([coverage(one) for one in rows]))._asdict()}
    if rows[0].broken is not None:
        broken = np.stack([1000 * one.broken.mean((0, 2)) for one in rows if one.broken is not None])
        found["violations"] = statistics.bootstrap(broken)._asdict()
    return found | {"seeds": each}


def line(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    parts = [
        f"{what} {row[what]['value']:7.1f} [{row[what]['low']:.1f}, {row[what]['high']:.1f}]"
        for what in row
        if what != "seeds"
    ]
    return f"{name:<24}{'  '.join(parts)}"


def cost(run: Path) -> dict[str, float]:
    """Decisions and seconds of a run, and the share of the seconds that was learning and not simulation."""
    rows = read_metrics(run)
    experiment = read_experiment(run)["experiment"]
    online, rollouts = experiment["online"], rows[-1]["step"] // experiment["train"]["chunk"]
    seconds, refill = (sum(row[name] for row in rows) for name in ("time/seconds", "time/refill"))
    decisions = rollouts * online["worlds"] * online["decisions"]
    return {"decisions": decisions, "seconds": seconds, "share_of_learning": 1 - refill / seconds}


def _measured(chosen: Arguments, suite: Suite, name: str, options: list[str], seed: int) -> dict[str, float]:
    return measures(_played(chosen, suite, name, options, seed)[0])


def _played(chosen: Arguments, suite: Suite, name: str, options: list[str], seed: int) -> tuple[Played, Path]:
    """Episodes of the skills of one run, which is trained first where it is missing; and its directory."""
    # The chosen sum is trained where its setting was.
    setting = next((one for one, given in suite.tuned.items() if given == options), name)
    run = chosen.runs / f"{suite.preset}-{setting}-{seed}"
    updates = chosen.updates or PRESETS[suite.preset].train.updates
    if code := train(suite.preset, None, run, ["--train.seed", str(seed), *options], updates):
        raise SystemExit(code)
    policy, env = resolve(str(run))
    return play(policy, env, chosen.skills, chosen.starts), run


if __name__ == "__main__":
    main()
