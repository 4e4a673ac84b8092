"""What a zero-shot comparison consists of: its cells, and what there is of each.

A cell is one training run: a row of a suite, a method and a seed, and for the single-task learner also a task.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import envs
from embodied.data.store import METADATA
from embodied.ranges import check_ranges
from embodied.types import InputError, nearest
from experiments.bench.cells import complete, done
from experiments.bench.suites import CLONE, METHODS, SUITES, TOPLINE, Budget
from experiments.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Zero-shot scores on the tasks of a suite, beside the published table."""

    suite: Literal["dmc-state", "dmc-pixels", "ogbench-state", "ogbench-pixels"] = "dmc-state"
    worlds: tuple[str, ...] = ()  # rows of the suite, or worlds that stand for their rows; default: all
    methods: tuple[str, ...] = ()  # default: all zero-shot ones with presets; td3 learns each task on its own, bc none
    seeds: tuple[int, ...] = (0,)
    budget: Budget = "small"  # presets with -small, or those with the papers' sizes
    updates: int | None = None  # of each cell; default: the preset's
    data: Path = Path("data")  # holds one dataset for each row, in a folder of its name
    runs: Path = Path("runs")  # where the cells live
    episodes: int = 10  # per task and seed
    teacher: str = ""  # a run of agent "bc" that actors are held to, see `embodied train --teacher`; "" = their own
    baselines: bool = False  # also uniformly random actions, and each method under random latents
    plan: bool = False  # print the cells and what they lack, train nothing
    out: Path | None = None  # result file; default: SUITE-BUDGET.json in the folder of the runs


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of the comparison."""

    row: str
    method: str
    seed: int
    preset: str
    updates: int
    data: Path
    run: Path
    world: str
    data_command: str  # what makes the dataset
    task: str | None = None  # the only one that it learns

    def lacks(self) -> str | None:
        """What must be done by hand before the cell can be made; None where nothing must."""
        if command := envs.needs(self.world):
            return f"world '{self.world}' needs: {command}"
        if not complete(self.run, self.updates) and not (self.data / METADATA).exists():
            return f"no data in {self.data}; make it: {self.data_command}"
        return None

    def state(self) -> str:
        """One line about what there is of the cell."""
        if lacking := self.lacks():
            return lacking
        if complete(self.run, self.updates):
            return f"trained, {done(self.run):,} updates"
        return f"{done(self.run):,} of {self.updates:,} updates"


def cells(chosen: Comparison) -> list[Cell]:
    """The cells of a comparison, rows first. Raises InputError for a bad number, an unknown name, a missing preset."""
    check_ranges("bench", chosen, {"[1, inf)": ("episodes", *["updates"] * (chosen.updates is not None))})
    if not chosen.seeds:
        raise InputError("bench: seeds must name at least one")
    suite = SUITES[chosen.suite]
    named = {*suite.rows, *(row.world for row in suite.rows.values())}
    for world in chosen.worlds:
        if world not in named:
            raise InputError(f"bench: suite '{chosen.suite}' has no world '{world}'; {nearest(world, named)}")
    wanted = chosen.worlds or suite.rows
    rows = [name for name, row in suite.rows.items() if name in wanted or row.world in wanted]
    return [cell for row in rows for method in _methods(chosen, rows) for cell in _cells(chosen, row, method)]


def _methods(chosen: Comparison, rows: Sequence[str]) -> Sequence[str]:
    for method in chosen.methods:
        if method not in (*METHODS, TOPLINE, CLONE):
            raise InputError(f"bench: unknown method '{method}'; {nearest(method, (*METHODS, TOPLINE, CLONE))}")
    preset = SUITES[chosen.suite].preset
    found = [method for method in METHODS if any(preset(row, method, chosen.budget) in PRESETS for row in rows)]
    return chosen.methods or found or METHODS


def _cells(chosen: Comparison, row: str, method: str) -> Iterator[Cell]:
    suite = SUITES[chosen.suite]
    world, preset, data = suite.rows[row].world, suite.preset(row, method, chosen.budget), chosen.data / row
    if preset not in PRESETS:
        why = f"{method} on '{row}' has no preset '{preset}' (--worlds and --methods choose others)"
        raise InputError(f"bench: {why}; {nearest(preset, PRESETS)}")
    updates = chosen.updates or PRESETS[preset].train.updates
    for seed in chosen.seeds:
        for task in envs.make(world, threads=1).tasks if method == TOPLINE else [None]:
            words = [preset.removeprefix(f"{world}-"), *[task] * (task is not None), f"{seed}"]
            run, command = chosen.runs / "-".join([row, *words]), suite.data_command(row, preset, data)
            yield Cell(row, method, seed, preset, updates, data, run, world, command, task)
