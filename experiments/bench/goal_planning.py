"""Planning to goals in a latent world model, beside what it can be measured against, on goals that the data came to.

    python -m experiments.bench.goal_planning push_t --data data/push_t --runs runs/goal-planning

For each seed a latent world model and a goal-conditioned clone are trained on the same data (`--pixels`: on its
frames). The model plans by its preset, and once more with all of its samples in a single round (random shooting).
Beside them, uniformly random actions, and the same planner in copies of the simulator, which knows what the model has
to learn. All go from the same starts to the same goals, which are two states of one stored episode
(`experiments/reaching.py`). Missing runs are trained, one process each, and runs that were interrupted go on.
"""

import dataclasses
import functools
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from agents import jepa
from embodied import statistics
from embodied.data import dataset, normalize
from embodied.data.dataset import Dataset
from embodied.policy import Policy
from embodied.types import Env, Spec
from experiments import reaching
from experiments.bench.cells import train
from experiments.collect import load_data, make_env
from experiments.models import resolve
from experiments.presets import PRESETS
from experiments.results import write_result
from experiments.train import read_experiment

MODEL, SHOOTING, CLONE, RANDOM, ORACLE = "jepa", "random_shooting", "gcbc", "random_actions", "simulator"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    world: tyro.conf.Positional[str] = "push_t"
    data: Annotated[Path, tyro.conf.arg(help="what the agents learn from, and goals are drawn from")] = Path("data")
    runs: Annotated[Path, tyro.conf.arg(help="where the cells live")] = Path("runs/goal-planning")
    seeds: tuple[int, ...] = (0, 1, 2)
    goals: int = 50  # of each seed, the same for all methods
    pixels: bool = False  # of the agents that learn; copies of the simulator see the state
    updates: int | None = None  # of each run; None = the preset's
    copies: int = 64  # sequences per round of the planner in copies of the simulator; 0 = leave it out
    out: Path | None = None  # result file; None = results/WORLD[-pixels]-goal-planning.json


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing runs, prints the table, and writes the result file."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.goal_planning")
    started, kind = time.perf_counter(), "-pixels" if chosen.pixels else ""
    runs = {name: [_trained(chosen, f"{name}{kind}", seed) for seed in chosen.seeds] for name in (MODEL, CLONE)}
    reached: dict[str, list[np.ndarray]] = {}
    state = make_env(chosen.world, None)
    stored = dataset.from_episodes(load_data(chosen.data, chosen.world)[0])
    for i, seed in enumerate(chosen.seeds):
        given = reaching.pairs(state, stored, chosen.goals, seed)
        for name in (MODEL, CLONE):
            policy, env = resolve(str(runs[name][i]))
            reached.setdefault(name, []).append(reaching.by_policy(policy, env, given))
            if name == MODEL:
                reached.setdefault(SHOOTING, []).append(reaching.by_policy(shooting(policy), env, given))
        reached.setdefault(RANDOM, []).append(reaching.at_random(state, given))
        if chosen.copies:
            reached.setdefault(ORACLE, []).append(_in_copies(chosen, state, stored, given))
    metrics: dict[str, Any] = {
        "methods": {name: measures(np.concatenate(found)) for name, found in reached.items()},
        "seeds": {name: [float(one.mean()) for one in found] for name, found in reached.items()},
        "ahead": reaching.AHEAD,
        "budget": reaching.BUDGET,
        "updates": {name: _updates(chosen, f"{name}{kind}") for name in runs},
    }
    for name, row in metrics["methods"].items():
        print(line(name, row))
    commits = {run.name: read_experiment(run)["made"]["commit"] for found in runs.values() for run in found}
    out = chosen.out or Path(f"results/{chosen.world}{kind}-goal-planning.json")
    command = shlex.join(["python", "-m", "experiments.bench.goal_planning", *words])
    write_result(out, command, metrics, list(chosen.seeds), time.perf_counter() - started, trained_with_commits=commits)
    print(f"wrote {out}")


def shooting(policy: Policy) -> Policy:
    """The policy with all samples of its plans in one round: the best of random sequences."""
    planning = policy.config.planning
    once = dataclasses.replace(planning, samples=planning.samples * planning.iterations, iterations=1)
    return dataclasses.replace(policy, config=dataclasses.replace(policy.config, planning=once))


def measures(reached: np.ndarray) -> dict[str, Any]:
    """The share of goals that were reached, with its 95 % Wilson interval."""
    rate = statistics.wilson(int(reached.sum()), len(reached))
    return {"goals": len(reached), "success": rate.value, "success_low": rate.low, "success_high": rate.high}


def line(name: str, row: dict[str, Any]) -> str:
    """One line of a table of `measures`."""
    rate, low, high = (100 * row[key] for key in ("success", "success_low", "success_high"))
    return f"{name:<20}{rate:4.0f} % [{low:3.0f}, {high:3.0f}] of {row['goals']} goals"


def _updates(chosen: Arguments, name: str) -> int:
    return chosen.updates or PRESETS[f"{chosen.world}-{name}-small"].train.updates


def _trained(chosen: Arguments, name: str, seed: int) -> Path:
    """The directory of a run of that agent and seed."""
    preset, run = f"{chosen.world}-{name}-small", chosen.runs / f"{chosen.world}-{name}-{seed}"
    if code := train(preset, chosen.data, run, ["--train.seed", str(seed)], _updates(chosen, name)):
        raise SystemExit(code)
    return run


def _in_copies(chosen: Arguments, env: Env, stored: Dataset, given: reaching.Pairs) -> np.ndarray:
    """What the planner of the model reaches in copies of the simulator."""
    config = dataclasses.replace(PRESETS[f"{chosen.world}-{MODEL}-small"].agent, frozen=True)
    mean, std = normalize.statistics(stored.steps.obs)
    spec = Spec(env.spec.obs, env.spec.action, mean, std, env.spec.parts)
    see = jax.jit(functools.partial(jepa.make(config, spec).features, {}))
    planning = dataclasses.replace(config.planning, samples=chosen.copies, elites=max(1, chosen.copies // 8))
    return reaching.by_simulator(env, see, given, planning, config.block, config.along)


if __name__ == "__main__":
    main()
