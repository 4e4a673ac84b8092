"""`embodied train --seeds 0 1 2 --sweep agent.FIELD=VALUE,VALUE`: several runs of one experiment in one program."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import agents
from embodied.cells import Cell, train_cells
from embodied.data import dataset
from embodied.types import Agent, InputError, nearest
from experiments.experiment import Experiment
from experiments.teacher import begun_with, flow_of, taught
from experiments.train import agent_name, claim, evaluation, prepare, save_policy


def run(
    experiment: Experiment,
    seeds: Sequence[int],
    sweep: Sequence[str],
    data: Path | None,
    out: Path,
    quiet: bool = False,
) -> list[Path]:
    """The policy folders of the finished runs, each in a run directory of its own below `out`; the same call resumes.

    Every swept value meets every seed; without seeds, the experiment's own. Raises InputError for what cannot share a
    program, and for an `out` that holds something else.
    """
    experiment = taught(experiment)
    cells = cells_of(experiment, seeds, sweep)
    experiments = {cell.name: with_cell(experiment, cell) for cell in cells}
    if experiment.online.worlds:
        raise InputError(
            f"online.worlds: must be 0 where several runs share a program, got {experiment.online.worlds}; a model "
            "that makes its own data is trained one seed at a time"
        )
    prepared = prepare(experiment, data)
    module, flow = agents.module(agent_name(experiment)), flow_of(experiment, prepared.spec)

    def build(values: Mapping[str, Any]) -> Agent:
        # Ranges were checked on the values themselves: traced scalars cannot be.
        config = copy.copy(experiment.agent)
        for field, value in values.items():
            object.__setattr__(config, field, value)
        return begun_with(module.make(config, prepared.spec), flow)

    source = dataset.from_dataset(prepared.stored, experiment.train.batch_size, build(cells[0].values).needs)
    _claim(out, experiments, data)
    finished = train_cells(
        build,
        cells,
        source,
        prepared.spec.example(),
        experiment.train,
        directory=out,
        hooks=lambda cell: [evaluation(experiments[cell.name], prepared, out / cell.name)],
        quiet=quiet,
    )
    for cell, one in zip(cells, finished, strict=True):
        save_policy(experiments[cell.name], prepared, one, out / cell.name)
    return [out / cell.name / "policy" for cell in cells]


def cells_of(experiment: Experiment, seeds: Sequence[int], sweep: Sequence[str]) -> list[Cell]:
    """Every combination of swept values with every seed. Raises InputError for a value given twice, or a bad one."""
    seeds = seeds or (experiment.train.seed,)
    swept = [_swept(experiment.agent, text) for text in sweep]
    fields = [field for field, _ in swept]
    for name, given in (("seeds", seeds), ("sweep", fields), *((f"sweep: agent.{field}", v) for field, v in swept)):
        for one in given:
            if list(given).count(one) > 1:
                raise InputError(f"{name}: must name each once, got {one} twice")
    cells = []
    for *values, seed in itertools.product(*(values for _, values in swept), seeds):
        own = dict(zip(fields, values, strict=True))
        name = "_".join([*(f"{field}-{value!r}" for field, value in own.items()), f"seed-{seed}"])
        cells.append(Cell(name, seed, own))
    return cells


def with_cell(experiment: Experiment, cell: Cell) -> Experiment:
    """The experiment that a cell would be by itself. Raises InputError for numbers out of their range."""
    agent = dataclasses.replace(experiment.agent, **cell.values)
    return dataclasses.replace(experiment, agent=agent, train=dataclasses.replace(experiment.train, seed=cell.seed))


def _swept(config: Any, text: str) -> tuple[str, list[float]]:
    """("lr_actor", [1e-4, 3e-4]) of "agent.lr_actor=1e-4,3e-4"."""
    place, _, given = text.partition("=")
    part, _, field = place.partition(".")
    try:
        values = [float(value) for value in given.split(",")]
    except ValueError:
        values = []
    if part != "agent" or not field or not values:
        raise InputError(f"sweep: must be of the form agent.FIELD=NUMBER,NUMBER,..., got '{text}'")
    known = [one.name for one in dataclasses.fields(config) if one.type is float]
    if field not in known:
        raise InputError(f"sweep: the agent has no number '{field}' with a fraction; {nearest(field, known)}")
    return field, values


def _claim(out: Path, experiments: Mapping[str, Experiment], data: Path | None) -> None:
    """Marks `out` as the place of these runs. Raises InputError where it holds others, or a single run."""
    path, names = out / "cells.json", list(experiments)
    if (out / "experiment.json").exists():
        raise InputError(f"out: {out} holds a single run; choose another directory")
    if path.exists() and any((out / "checkpoints").glob("*")):
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != names:
            raise InputError(f"out: {out} holds the runs {', '.join(before)}; name the same, or another directory")
    for name, one in experiments.items():
        claim(out / name, one, data, checkpoints=out / "checkpoints")
    draft = path.with_name(".cells.json")
    draft.write_text(json.dumps(names) + "\n", encoding="utf-8")
    draft.replace(path)
