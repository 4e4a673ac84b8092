"""What encoders know of progress on ten tasks of Meta-World: the order of time, and successes told from failures.

    python -m experiments.bench.progress

Each task has episodes of equal length: successes of its scripted arm that serve as references, others that are judged,
and failures of five kinds of arm and of successes played backwards. Every encoder sees the same frames. An episode
becomes vectors in two forms (`embodied/progress.py` has the measures):

    prefixes   all frames so far, compared with whole episodes: what is asked of an encoder before it is a reward
    windows    the latest frames, compared with the ends of episodes

A mean over all frames so far comes closer to that of a whole episode whatever the frames show. So order is measured on
failures, too: there progress towards success must not rise. `pixel` and `state` have learned nothing; the prefix of
`state` is not a mean but its way. The others learn from states of other episodes of the same arms, successes and
failures of all tasks together, with no notion of task or reward. Order is measured up to a little behind the first
solved step. Intervals of means are over tasks (and seeds), those of a task over its episodes. Curves are drawn beside
the result file.
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
from embodied import embedding, progress, statistics
from embodied.data import dataset, normalize
from embodied.train import TrainConfig, train
from embodied.types import InputError, Obs, Spec, nearest
from envs import render
from envs.metaworld_expert import FAILING
from envs.metaworld_tasks import TEN
from experiments import figures
from experiments.bench.episodes import FRAME, REVERSED, SUCCESSES, Episodes, backwards, play, rows, world_of
from experiments.metaworld_agents import SMALL
from experiments.results import write_result

BASELINES = ("pixel", "state")
POINTS = 16  # moments of the way of a state
FORMS = ("prefixes", "windows")
MEASURES = (
    "same_spearman",
    "same_increasing",
    "cross_spearman",
    "cross_increasing",
    "failing_spearman",
    "auroc",
    "discrepancy",
    "smd",
)
ENOUGH = {"cross_spearman": 0.9, "auroc": 0.8}  # what an encoder must reach before its distances may be a reward

Vectors = Callable[[Episodes], dict[str, np.ndarray]]  # -> form -> [N, F, D], up to each frame


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    tasks: tuple[str, ...] = TEN
    encoders: tuple[str, ...] = (*BASELINES, *SMALL)
    seeds: tuple[int, ...] = (0,)  # of training
    decisions: int = 150  # of each episode
    every: int = 5  # decisions between the frames that encoders see
    window: int = 3  # frames
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
        begun = time.perf_counter()
        per_task, lines = [], []
        for seed in chosen.seeds if name in SMALL else chosen.seeds[:1]:
            encoder = learned(chosen, name, learning, spec, seed) if name in SMALL else None
            for task in chosen.tasks:
                turn = vectors(chosen, name, task, spec, encoder)
                measured, drawn = judged(turn, data[task], chosen.every)
                per_task.append({"task": task, "seed": seed} | measured)
                lines.append(drawn)
        seconds[name] = time.perf_counter() - begun
        found[name] = {form: summary(per_task, form) for form in FORMS} | {"tasks": per_task}
        curves[name] = jax.tree.map(lambda *each: np.mean(each, 0), *lines)
        print(table(name, found[name]), flush=True)
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
) -> Callable[[Episodes], dict[str, np.ndarray]]:
    """The function that turns episodes of a task into vectors of both forms."""
    if name == "pixel":
        encoder = embedding.pixels
    if name == "state":  # hand, gripper and objects now, without the goal, which is not what was done
        standard = embedding.states(spec)
        encoder = lambda obs: standard(obs)[:, :FRAME]  # noqa: E731
    assert encoder is not None
    count = len(range(0, chosen.decisions + 1, chosen.every))
    whole: dict[str, Callable[[Obs], Any]] = {
        "prefixes": lambda obs: embedding.prefixes(encoder, obs, np.ones(count)),
        "windows": lambda obs: embedding.windows(encoder, obs, chosen.window),
    }
    if name == "state":
        whole["prefixes"] = lambda obs: embedding.paths(encoder, obs, POINTS)

    def turn(some: Episodes) -> dict[str, np.ndarray]:
        if name == "pixel":
            obs = {"pixels": some.images(world_of(f"metaworld_{task}"), chosen.every, chosen.size)}
        else:
            obs = {"state": some.states[:, :: chosen.every]}
        return {form: np.asarray(jax.vmap(one)(obs), np.float64) for form, one in whole.items()}

    return turn


def judged(turn: Vectors, data: Mapping[str, Episodes], every: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measures of one encoder on one task in each form, and mean curves of progress over a share of the way."""
    made = {kind: turn(some) for kind, some in data.items()}
    ends = data["judged"].ends(every)
    each = {form: judge({kind: one[form] for kind, one in made.items()}, ends) for form in FORMS}
    return {form: found for form, (found, _) in each.items()}, {form: lines for form, (_, lines) in each.items()}


def judge(made: Mapping[str, np.ndarray], ends: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The measures of vectors [N, F, D] of each kind of episode; those judged count up to their ends [N]."""
    references = made["references"][:, -1]
    scale = progress.spread(references)
    successes = [one[:end] for one, end in zip(made["judged"], ends, strict=True)]
    failing = [kind for kind in made if kind not in ("references", "judged")]
    towards = functools.partial(progress.cross_episode, successes=references, scale=scale)
    lines = {"same": [progress.same_episode(one) for one in successes], "cross": [towards(one) for one in successes]}
    lines["failing"] = [towards(one) for kind in failing for one in made[kind]]
    found: dict[str, Any] = {}
    for name, some in lines.items():
        ordered = np.array([progress.spearman(line, np.arange(float(len(line)))) for line in some])
        found[f"{name}_spearman"] = statistics.resampled(np.mean, [ordered])._asdict()
        rising = np.array([progress.increasing(line) for line in some])
        found[f"{name}_increasing"] = statistics.resampled(np.mean, [rising])._asdict()
    away = {kind: progress.distances(one[:, -1], references, scale) for kind, one in made.items()}
    failures = np.concatenate([away[kind] for kind in failing])
    found["auroc"] = statistics.resampled(progress.auroc, [-away["judged"], -failures])._asdict()
    found["auroc_by_kind"] = {kind: progress.auroc(-away["judged"], -away[kind]) for kind in failing}
    wrong = np.concatenate([made[kind][:, -1] for kind in failing])
    found["discrepancy"] = {"value": progress.discrepancy(made["judged"][:, -1], wrong)}
    found["smd"] = {"value": progress.standardised_difference(away["judged"], failures)}
    return found, {name: _mean(some) for name, some in lines.items()}


def _mean(lines: Sequence[np.ndarray], points: int = 31) -> np.ndarray:
    share = np.linspace(0, 1, points)
    return np.mean([np.interp(share, np.linspace(0, 1, len(line)), line) for line in lines], 0)


def summary(per_task: list[dict[str, Any]], form: str) -> dict[str, Any]:
    """Means over tasks and seeds with 95 % intervals, AUROC by kind of failure, and on how many tasks it is enough."""
    rows_of = [one[form] for one in per_task]
    found: dict[str, Any] = {
        name: statistics.resampled(np.mean, [np.array([one[name]["value"] for one in rows_of])])._asdict()
        for name in MEASURES
    }
    kinds = rows_of[0]["auroc_by_kind"]
    found["auroc_by_kind"] = {kind: float(np.mean([one["auroc_by_kind"][kind] for one in rows_of])) for kind in kinds}
    passes = [all(one[name]["value"] >= least for name, least in ENOUGH.items()) for one in rows_of]
    return found | {"passes": int(np.sum(passes)), "of": len(passes)}


def table(name: str, found: Mapping[str, Any]) -> str:
    """A line of the table for each form."""
    lines = []
    for form in FORMS:
        values = [(one, found[form][one]) for one in MEASURES]
        parts = [f"{one} {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]" for one, value in values]
        lines.append(f"{name:<8} {form:<9} {'  '.join(parts)}  passes {found[form]['passes']} of {found[form]['of']}")
    return "\n".join(lines)


def drawing(curves: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> Figure:
    """Progress over the way of successes, in both forms, towards their own and other ends; failures dashed."""
    figure = Figure(figsize=(figures.WIDTH, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True, sharex=True)
    for (name, forms), colour in zip(curves.items(), figures.PALETTE, strict=False):
        for row, form in zip(panels, FORMS, strict=True):
            lines = forms[form]
            share = np.linspace(0, 1, len(lines["same"]))
            for axes, kind in zip(row, ("same", "cross"), strict=True):
                axes.plot(share, lines[kind], color=colour, label=name)
            row[1].plot(share, lines["failing"], color=colour, dashes=(3, 2), linewidth=1)
    for row, form in zip(panels, FORMS, strict=True):
        row[0].set_ylabel(f"progress of {form}", color=figures.INK)
        for axes, title in zip(row, ("towards its own end", "towards other successes"), strict=True):
            axes.set_title(title, fontsize=10, color=figures.INK)
            figures.style(axes, grid="y")
    for axes in panels[1]:
        axes.set_xlabel("share of the episode", color=figures.INK)
    panels[0, 0].legend(frameon=False, fontsize=9, labelcolor=figures.INK)
    return figure


if __name__ == "__main__":
    main()
    render.close()
