"""What zero-shot agents make of data of skills, beside data of curiosity of the same size.

    python -m experiments.bench.exploration --skills runs/skills/a runs/skills/b --runs runs/exploration

Each seed has two datasets of one world: `skills`, by a run that discovered skills, one drawn for each episode; and
`rnd`, by random network distillation. The same agent is trained on either with that seed, and prompted with the same
tasks. Skills know which part of the state matters and were trained for as many decisions as their run says, which the
other data did without; of both, the same number of decisions is learned from. Missing data and runs are made first.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from embodied.data import store
from embodied.evaluate import EvaluateConfig, Scores
from embodied.policy import Policy
from embodied.types import Env, InputError
from experiments import collect
from experiments.bench import tables
from experiments.bench.cells import train
from experiments.bench.skills import cost
from experiments.evaluate import baselines, evaluate_tasks, only, table
from experiments.experiment import Collect
from experiments.models import resolve
from experiments.presets import COLLECT
from experiments.results import write_result
from experiments.skills import CELL, moved_columns
from experiments.train import read_experiment

SKILLS, CURIOUS = "skills", "rnd"
PLACES = ("push_forward", "push_backward", "push_left", "push_right", "centre")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    skills: Annotated[tuple[Path, ...], tyro.conf.arg(help="runs that discovered skills, one for each seed")]
    world: str = "tabletop_push"
    agent: str = "td_jepa"
    tasks: tuple[str, ...] = PLACES
    runs: Path = Path("runs/exploration")  # where data and cells live
    episodes: int = 3000  # of each dataset
    updates: int = 20_000
    scored: int = 20  # episodes per task and seed
    out: Path | None = None  # result file; None = results/WORLD-exploration.json


def main(arguments: list[str] | None = None) -> None:
    """Makes what is missing, prints the table and writes the result file."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.exploration")
    started = time.perf_counter()
    scores: dict[str, list[Mapping[str, Scores]]] = {SKILLS: [], CURIOUS: []}
    data: dict[str, list[dict[str, float]]] = {SKILLS: [], CURIOUS: []}
    commits, columns = {}, {}
    for seed, skills in enumerate(chosen.skills):
        moving, env = resolve(str(skills))
        commits[skills.name] = read_experiment(skills)["made"]["commit"]
        for kind, collection in collections(chosen, skills, seed, env).items():
            folder, run = (chosen.runs / f"{chosen.world}-{kind}{end}-{seed}" for end in ("-data", f"-{chosen.agent}"))
            if not folder.exists():
                collect.run(collection, folder, policy=moving if kind == SKILLS else None)
            if not store.read_metadata(folder)["complete"]:
                raise InputError(f"data: {folder} is incomplete: its writer was stopped; remove it")
            data[kind].append(described(folder, moving, env))
            options = ["--train.seed", str(seed)]
            if code := train(f"{chosen.world}-{chosen.agent}-small", folder, run, options, chosen.updates):
                raise SystemExit(code)
            commits[run.name] = read_experiment(run)["made"]["commit"]
            policy, world = resolve(str(run))
            world = only(world, chosen.tasks)
            scores[kind].append(evaluate_tasks(policy, world, chosen.scored))
            columns[f"{kind} {seed}"] = scores[kind][-1]
    random = baselines(policy, world, chosen.scored)["random actions"]
    print(table(columns | {"random actions": random}))
    metrics: dict[str, Any] = {
        kind: {"returns": tables.pooled(rows), "data": data[kind]} for kind, rows in scores.items()
    }
    metrics |= {"random": tables.pooled([random]), "margin": tables.margin(scores[SKILLS], scores[CURIOUS])}
    metrics["training_of_skills"] = [cost(run) for run in chosen.skills]
    gain = metrics["margin"]
    print(f"margin of skills over curiosity: {gain['mean']:.1f} [{gain['low']:.1f}, {gain['high']:.1f}], mean of tasks")
    out = chosen.out or Path(f"results/{chosen.world}-exploration.json")
    command = shlex.join(["python", "-m", "experiments.bench.exploration", *words])
    more = {"trained_with_commits": commits, "evaluation": dataclasses.asdict(EvaluateConfig(chosen.scored))}
    write_result(out, command, metrics, list(range(len(chosen.skills))), time.perf_counter() - started, **more)
    print(f"wrote {out}")


def collections(chosen: Arguments, skills: Path, seed: int, env: Env) -> dict[str, Collect]:
    """How either dataset of a seed is made: episodes of one length, from the same kind of starts."""
    curious = dataclasses.replace(COLLECT[f"{chosen.world}-{CURIOUS}"], episodes=chosen.episodes, seed=seed)
    led = {"explorer": SKILLS, "policy": str(skills), "latent_hold": curious.decisions, "hold": env.spec.hold}
    return {SKILLS: dataclasses.replace(curious, **led), CURIOUS: curious}


def described(folder: Path, skilled: Policy, env: Env) -> dict[str, float]:
    """What a dataset holds: decisions, cells of what skills move that it has been in, and limits overstepped."""
    episodes = store.read_episodes(folder)
    columns = moved_columns(skilled)
    places = np.concatenate([episode["state"][:, columns] for episode in episodes])
    ways = [np.linalg.norm(one["state"][-1, columns] - one["state"][0, columns]) for one in episodes]
    found = {
        "decisions": float(sum(len(episode["action"]) for episode in episodes)),
        "cells": float(len(np.unique(np.floor(places / CELL + 0.5).astype(int), axis=0))),
        "moved": float(np.mean(ways)),  # from start to end of an episode
    }
    if "safety" not in env.tasks:
        return found
    broken = [_broken(env, episode["physics"]) for episode in episodes]
    return found | {"violations": 1000 * float(np.mean(broken))}


def _broken(env: Env, physics: np.ndarray) -> float:
    """The share of decisions that end with a limit overstepped."""
    _, quantities = env.observe(physics[1:].astype(np.float64))
    return float((env.tasks["safety"](None, None, quantities) < 0).mean())


if __name__ == "__main__":
    main()
