"""Suites of the published zero-shot tables: their worlds, what is measured, the data of each, what was published."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.presets import COLLECT, PRESETS

PUBLISHED = Path(__file__).with_name("published.json")
METHODS = ("td_jepa", "td_jepa_sym", "fb", "laplacian", "hilp", "icvf", "byol", "byol_gamma", "rldp", "onestep_fb")
TOPLINE = "td3"  # trained once per task, with its reward
CLONE = "bc"  # imitates the data whatever is asked
AVERAGE = "average"

Budget = Literal["small", "published"]


class Row(NamedTuple):
    """One row of a table: a world and the data that models of it learn from."""

    world: str
    collect: str = ""  # collect preset that makes the data
    file: str = ""  # OGBench's file, where no collect preset does


class Suite(NamedTuple):
    """A table."""

    rows: Mapping[str, Row]
    measure: Literal["return", "success"]
    pixels: bool = False  # whether agents see frames in place of state vectors

    def preset(self, row: str, method: str, budget: Budget) -> str:
        """The name that the preset of a cell must have."""
        parts = [self.rows[row].world, method, *["pixels"] * self.pixels, *["small"] * (budget == "small")]
        return "-".join(parts)

    def data_command(self, row: str, preset: str, out: Path) -> str:
        """The command that makes the dataset of a row for a preset."""
        world, collect, file = self.rows[row]
        if file:
            states = f"{out}-states" if self.pixels else f"{out}"
            drawn = f"; embodied data render {states} --out {out} --pixels 64" if self.pixels else ""
            return f"embodied data import ogbench {file} --world {world} --out {states}{drawn}"
        hold = PRESETS[preset].hold
        options = "" if hold == COLLECT[collect].hold else f" --hold {hold or 1}"
        return f"embodied collect {collect}{options}{' --pixels 64' * self.pixels} --out {out}"


_DMC = {
    "walker": Row("walker", "walker-rnd"),
    "cheetah": Row("cheetah", "cheetah-rnd"),
    "quadruped": Row("quadruped", "quadruped-rnd"),
    "point_maze": Row("point_maze", "point_maze-noise"),
}
_OGBENCH = {
    f"antmaze_{size}_{kind}": Row(f"antmaze_{size}", file=f"antmaze-{size}-{kind}-v0.npz")
    for size, kind in (
        *(("medium", "navigate"), ("large", "navigate"), ("medium", "stitch")),
        *(("large", "stitch"), ("medium", "explore")),
    )
} | {world: Row(world, f"{world}-play") for world in ("cube_single", "cube_double", "scene", "puzzle_3x3")}
SUITES = {
    "dmc-state": Suite(_DMC, "return"),
    "dmc-pixels": Suite(_DMC, "return", pixels=True),
    "ogbench-state": Suite(_OGBENCH, "success"),
    "ogbench-pixels": Suite(_OGBENCH, "success", pixels=True),
}


@functools.cache
def published() -> dict[str, Any]:
    """Source and numbers: "suites" -> suite -> row or "average" -> method -> [mean, standard error over seeds]."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def published_value(suite: str, rows: list[str], method: str) -> tuple[float, float | None] | None:
    """Mean and standard error that were published for one row, or for the average over several; None if nothing was.

    The average over some rows of a suite has no published standard error.
    """
    found = published()["suites"][suite]
    if any(method not in found[row] for row in rows):
        return None
    if len(rows) == 1 or len(rows) == len(SUITES[suite].rows):
        mean, error = found[rows[0] if len(rows) == 1 else AVERAGE][method]
        return mean, error
    return sum(found[row][method][0] for row in rows) / len(rows), None
