"""What encoders know of progress on ten tasks of Meta-World: the order of time, and successes told from failures.

    python -m experiments.bench.progress

Each task has episodes of equal length: successes of its scripted arm that serve as references, others that are judged,
and failures of five kinds of arm and of successes played backwards. Every encoder sees the same frames, and turns each
prefix of an episode into a vector; `embodied/progress.py` has the measures. `pixel` and `state` have learned nothing.
The others learn from states of other episodes of the same arms, successes and failures of all ten tasks together, with
no notion of task or reward. Order is measured up to a little behind the first solved step. Intervals of the mean are
over tasks (and seeds); those of a task's AUROC over its episodes. Curves are drawn beside the result file.
"""

import dataclasses
import functools
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

import agents
import envs
from embodied import embedding, progress, statistics
from embodied.data import dataset, normalize
from embodied.train import TrainConfig, train
from embodied.types import InputError, Obs, Spec, nearest
from envs import render
from envs.metaworld_expert import FAILING
from envs.metaworld_tasks import TEN
from experiments import figures
from experiments.bench.episodes import FRAME, REVERSED, SUCCESSES, Episodes, backwards, play, rows
from experiments.metaworld_agents import SMALL
from experiments.results import write_result

BASELINES = ("pixel", "state")
POINTS = 16  # moments of the way of a state
MEASURES = ("same_spearman", "same_increasing", "cross_spearman", "cross_increasing", "auroc", "discrepancy", "smd")
ENOUGH = {"cross_spearman": 0.9, "auroc": 0.8}  # what an encoder must reach before its distances may be a reward

Vectors = Callable[[Episodes], np.ndarray]  # -> [N, F, D], the vector of each prefix


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    tasks: tuple[str, ...] = TEN
    encoders: tuple[str, ...] = (*BASELINES, *SMALL)
    seeds: tuple[int, ...] = (0,)  # of training
    decisions: int = 150  # of each episode
    every: int = 5  # decisions between the frames that encoders see
    size: int = 32  # of the images
    references: int = 16  # successes of each task that distances are measured to
    judged: int = 20  # successes of each task
    failures: int = 8  # of each kind
    learned: int = 20  # successes that encoders learn from, and half as many failures of each kind of arm
    updates: int = 6_000
    batch_size: int = 256
    out: Path = Path("results/metaworld-progress.json")


def main(arguments: list[str] | None = None) -> None:
    """Makes the episodes, trains the encoders, prints the table, and writes result file and figure."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.progress")
    for name, known in [("encoders", (*BASELINES, *SMALL)), ("tasks", TEN)]:
        for one in getattr(chosen, name):
            if one not in known:
                raise InputError(f"{name}: unknown {name.removesuffix('s')} '{one}'; {nearest(one, known)}")
    started = time.perf_counter()
    data = {task: episodes(chosen, task) for task in chosen.tasks}
    learning = dataset.from_episodes([row for task in chosen.tasks for row in rows(material(chosen, task))])
    spec = specification(learning)
    found, curves, seconds = {}, {}, {}
    for name in chosen.encoders:
        begun, per_task, lines = time.perf_counter(), [], []
        for seed in chosen.seeds if name in SMALL else chosen.seeds[:1]:
            encoder = learned(chosen, name, learning, spec, seed) if name in SMALL else None
            for task in chosen.tasks:
                measured, line = judge(vectors(chosen, name, task, spec, encoder), data[task], chosen.every)
                per_task.append({"task": task, "seed": seed} | measured)
                lines.append(line)
        seconds[name] = time.perf_counter() - begun
        found[name] = summary(per_task)
        curves[name] = {kind: np.mean([one[kind] for one in lines], 0) for kind in lines[0]}
        print(row(name, found[name]), flush=True)
    metrics = {"encoders": found, "curves": curves, "seconds": seconds, "transitions": len(learning.starts)}
    command, wall = shlex.join(["python", "-m", "experiments.bench.progress", *words]), time.perf_counter() - started
    settings = {"settings": dataclasses.asdict(chosen) | {"out": str(chosen.out)}}
    write_result(chosen.out, command, metrics, list(chosen.seeds), wall, **settings)
    drawing(curves).savefig(chosen.out.with_suffix(".png"), dpi=120)
    print(f"wrote {chosen.out}")


def episodes(chosen: Arguments, task: str) -> dict[str, Episodes]:
    """References, judged successes, and failures of each kind."""
    make = functools.partial(play, f"metaworld_{task}", decisions=chosen.decisions)
    kinds = {"references": make(SUCCESSES, count=chosen.references, seed=1)}
    kinds["judged"] = make(SUCCESSES, count=chosen.judged, seed=2)
    kinds |= {manner: make(manner, count=chosen.failures, seed=3) for manner in FAILING}
    wrong_way = Episodes(*(getattr(kinds["judged"], field.name)[: chosen.failures] for field in FIELDS))
    return kinds | {REVERSED: backwards(wrong_way)}


FIELDS = dataclasses.fields(Episodes)


def material(chosen: Arguments, task: str) -> dict[str, Episodes]:
    """What encoders learn from: neither references nor judged episodes are among it."""
    make = functools.partial(play, f"metaworld_{task}", decisions=chosen.decisions, seed=4)
    few = max(chosen.learned // 2, 1)
    return {SUCCESSES: make(SUCCESSES, count=chosen.learned)} | {manner: make(manner, count=few) for manner in FAILING}


def specification(data: dataset.Dataset) -> Spec:
    """Shapes and statistics of the states that encoders learn from."""
    mean, std = normalize.statistics(data.steps.obs)
    shapes = {name: leaf.shape[1:] for name, leaf in data.steps.obs.items()}
    return Spec(shapes, data.steps.action.shape[1], mean=mean, std=std)


def learned(chosen: Arguments, name: str, data: dataset.Dataset, spec: Spec, seed: int) -> embedding.Encoder:
    """The features of an agent that learned from the data."""
    agent = agents.module(name).make(SMALL[name], spec)
    source = dataset.from_dataset(data, chosen.batch_size, agent.needs)
    budget = TrainConfig(chosen.updates, chosen.batch_size, min(chosen.updates, 500), seed=seed)
    params = train(agent, source, spec.example(), budget, quiet=True).agent.params
    assert agent.features is not None
    return functools.partial(jax.jit(agent.features), params)


def vectors(
    chosen: Arguments, name: str, task: str, spec: Spec, encoder: embedding.Encoder | None
) -> Callable[[Episodes], np.ndarray]:
    """The function that turns each prefix of episodes of a task into a vector."""
    if name == "pixel":
        env = envs.make(f"metaworld_{task}", threads=1)

        def seen(some: Episodes) -> np.ndarray:
            images = some.images(env, chosen.every, chosen.size)
            ones = np.ones(images.shape[1])
            return np.stack([embedding.prefixes(embedding.pixels, {"pixels": one}, ones) for one in images])

        return seen
    if name == "state":  # hand, gripper and objects now, without the goal, which is not what was done
        standard = embedding.states(spec)
        whole: Callable[[Obs], Any] = lambda obs: embedding.paths(lambda o: standard(o)[:, :FRAME], obs, POINTS)  # noqa: E731
    else:
        whole = lambda obs: embedding.prefixes(encoder, obs, np.ones(len(obs["state"])))  # noqa: E731
    return lambda some: np.asarray(jax.vmap(lambda state: whole({"state": state}))(some.states[:, :: chosen.every]))


def judge(turn: Vectors, data: Mapping[str, Episodes], every: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The measures of one encoder on one task, and mean curves of progress over a share of the way."""
    made = {kind: turn(some).astype(np.float64) for kind, some in data.items()}
    ends, references = data["judged"].ends(every), made["references"][:, -1]
    scale = progress.spread(references)
    judged = [one[:end] for one, end in zip(made["judged"], ends, strict=True)]
    across = [progress.cross_episode(one, references, scale) for one in judged]
    within = [progress.same_episode(one) for one in judged]
    found: dict[str, Any] = {}
    for name, lines in {"same": within, "cross": across}.items():
        ordered = [progress.spearman(line, np.arange(float(len(line)))) for line in lines]
        found[f"{name}_spearman"] = statistics.resampled(np.mean, [np.array(ordered)])._asdict()
        rising = np.array([progress.increasing(line) for line in lines])
        found[f"{name}_increasing"] = statistics.resampled(np.mean, [rising])._asdict()
    away = {kind: progress.distances(one[:, -1], references, scale) for kind, one in made.items()}
    failing = [kind for kind in made if kind not in ("references", "judged")]
    failures = np.concatenate([away[kind] for kind in failing])
    found["auroc"] = statistics.resampled(progress.auroc, [-away["judged"], -failures])._asdict()
    found["auroc_by_kind"] = {kind: progress.auroc(-away["judged"], -away[kind]) for kind in failing}
    wrong = np.concatenate([made[kind][:, -1] for kind in failing])
    found["discrepancy"] = {"value": progress.discrepancy(made["judged"][:, -1], wrong)}
    found["smd"] = {"value": progress.standardised_difference(away["judged"], failures)}
    failed = [progress.cross_episode(one, references, scale) for kind in failing for one in made[kind]]
    return found, {"same": _mean(within), "cross": _mean(across), "failures": _mean(failed)}


def _mean(lines: Sequence[np.ndarray], points: int = 31) -> np.ndarray:
    share = np.linspace(0, 1, points)
    return np.mean([np.interp(share, np.linspace(0, 1, len(line)), line) for line in lines], 0)


def summary(per_task: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over tasks and seeds with 95 % intervals, AUROC by kind of failure, and the values of each task."""
    kinds = per_task[0]["auroc_by_kind"]
    found: dict[str, Any] = {
        name: statistics.resampled(np.mean, [np.array([one[name]["value"] for one in per_task])])._asdict()
        for name in MEASURES
    }
    found["auroc_by_kind"] = {kind: float(np.mean([one["auroc_by_kind"][kind] for one in per_task])) for kind in kinds}
    passes = [all(one[name]["value"] >= least for name, least in ENOUGH.items()) for one in per_task]
    return found | {"passes": int(np.sum(passes)), "of": len(passes), "tasks": per_task}


def row(name: str, found: Mapping[str, Any]) -> str:
    """One line of the table."""
    parts = [f"{one} {found[one]['value']:.2f} [{found[one]['low']:.2f}, {found[one]['high']:.2f}]" for one in MEASURES]
    return f"{name:<10} {'  '.join(parts)}  passes {found['passes']} of {found['of']}"


def drawing(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Progress over the way of successes, towards their own ends and towards other successes; failures dashed."""
    figure = Figure(figsize=(figures.WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for (name, lines), colour in zip(curves.items(), figures.PALETTE, strict=False):
        for axes, kind in zip(panels, ("same", "cross"), strict=True):
            share = np.linspace(0, 1, len(lines[kind]))
            axes.plot(share, lines[kind], color=colour, label=name)
        panels[1].plot(share, lines["failures"], color=colour, dashes=(3, 2), linewidth=1)
    for axes, title in zip(panels, ("towards its own end", "towards other successes"), strict=True):
        axes.set_title(title, fontsize=10, color=figures.INK)
        axes.set_xlabel("share of the episode", color=figures.INK)
        figures.style(axes, grid="y")
    panels[0].set_ylabel("progress", color=figures.INK)
    panels[0].legend(frameon=False, fontsize=9, labelcolor=figures.INK)
    return figure


if __name__ == "__main__":
    main()
    render.close()
