"""Figures of the report, as matplotlib figures; `png` turns one into bytes.

Colours follow Okabe and Ito's, which colour-blind readers tell apart. Grounds are transparent, so that
a page may show a figure as it is on light paper and with inverted lightness on dark paper.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, no_type_check

import mujoco
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from embodied.skill_world import SkillWorld
from embodied.types import Env, InputError

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#B0568A",
    "#CC7A00",
    "#56B4E9",
)
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY)  # of policies; vermillion is for what failed
INK, WALL, MUTED, RULE = "#1c2430", "#4a5563", "#5b6470", "#9aa3ad"
GRID = (0.0, 0.0, 0.0, 0.1)
WIDTH = 7.4  # inches; 100 pixels of a page each
SCALE = 2  # pixels of the image per pixel of the page
POINTS = 160  # drawn per path: more cannot be seen
PREFIXES = (
    "eval",
    "skill",
    "reward",
    "cosine",
    "loss",
    "actor",
    "critic",
    "health",
    "grad",
    "speed",
)  # order of the learning curves


@no_type_check
class Panel(NamedTuple):
    """Episodes of one prompt in a maze."""

    title: str
    positions: Float[np.ndarray, "E S 2"]  # metres
    goal: tuple[float, float] | None = None  # metres; None where the task is not to be somewhere
    radius: float = 0.0  # metres: what counts as being there
    success: Bool[np.ndarray, " E"] | None = None  # known where there is a goal


def png(figure: Figure) -> bytes:
    """The figure as a PNG on a transparent ground, two pixels per page pixel."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100 * SCALE, transparent=True)
    return buffer.getvalue()


def learning_curves(rows: Sequence[Mapping[str, int | float]]) -> Figure:
    """One panel per metric over updates, from the rows of metrics.jsonl; raises InputError where there are none.

    An axis is logarithmic where all values are positive and span more than a factor of 20.
    """
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    names.pop("speed/transitions_per_second", None)  # updates per second times a constant
    order = {prefix: i for i, prefix in enumerate(PREFIXES)}
    shown = sorted(names, key=lambda name: order.get(name.split("/")[0], len(PREFIXES)))
    if not shown:
        raise InputError("metrics: no rows to draw; expected rows of metrics.jsonl with at least one metric")
    count = -(-len(shown) // 3)
    figure = Figure(figsize=(WIDTH, 1.55 * count + 0.25), layout="constrained")
    panels = figure.subplots(count, 3, squeeze=False).reshape(-1)
    for axes, name in zip(panels, shown, strict=False):
        steps, values = np.array([(row["step"], row[name]) for row in rows if name in row], np.float64).T
        axes.plot(steps, values, color=BLUE, linewidth=1.3, marker="o" if len(steps) < 3 else "", markersize=3)
        axes.set_title(name, loc="left", fontsize=9, color=INK)
        style(axes, grid="y")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(0, steps[-1] * 1.02)
        if values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
            few = values.max() < 100 * values.min()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=5))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if name.startswith("speed/"):
                axes.set_ylim(0, values.max() * 1.1)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.get_layout_engine().set(h_pad=0.06)
    figure.supxlabel("updates", fontsize=9, color=MUTED)
    return figure


def maze_trajectories(env: Env, panels: Sequence[Panel]) -> Figure:
    """One map per panel: walls of the compiled model, the goal's disc, paths that grow stronger along their way.

    A path is orange where the episode missed its goal and blue elsewhere; a ring marks its start, a dot its end.
    """
    model = (env.env if isinstance(env, SkillWorld) else env).world.model  # type: ignore[attr-defined]
    columns = min(len(panels), 4 if len(panels) <= 8 else 5)
    count = -(-len(panels) // columns)
    side = WIDTH / max(columns, 3)
    figure = Figure(figsize=(side * columns, (side + 0.12) * count + 0.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    grid = figure.subplots(count, columns, squeeze=False).reshape(-1)
    for axes, panel in zip(grid, panels, strict=False):
        _maze(axes, model, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    keys = [
        Line2D([], [], color=MUTED, marker="o", markerfacecolor="none", linestyle="", markersize=4, label="start"),
        Line2D([], [], color=MUTED, marker="o", linestyle="", markersize=3.5, label="end"),
    ]
    if any(panel.goal for panel in panels):
        keys = [
            Line2D([], [], color=BLUE, linewidth=2, label="reached"),
            Line2D([], [], color=VERMILLION, linewidth=2, label="missed"),
            *keys,
            Line2D([], [], color=GREEN, marker="o", alpha=0.45, linestyle="", markersize=9, label="goal"),
        ]
    figure.legend(handles=keys, loc="outside lower left", ncols=5, frameon=False, fontsize=8, labelcolor=MUTED)
    return figure


def _maze(axes: Axes, model: mujoco.MjModel, panel: Panel) -> None:
    low, high = _walls(axes, model)
    if panel.goal:
        disc = Circle(panel.goal, panel.radius, facecolor=(*to_rgb(GREEN), 0.18), edgecolor=GREEN, linewidth=0.8)
        axes.add_patch(disc)
        axes.plot(*panel.goal, marker="+", color=GREEN, markersize=6, markeredgewidth=1.2)
    success = np.ones(len(panel.positions), bool) if panel.success is None else panel.success
    every = max(1, panel.positions.shape[1] // POINTS)
    for path, reached in zip(np.asarray(panel.positions), success, strict=True):
        drawn = np.concatenate([path[::every], path[-1:]])
        colours = np.empty((len(drawn) - 1, 4))
        colours[:, :3] = to_rgb(BLUE if reached else VERMILLION)
        way = np.linalg.norm(np.diff(drawn, axis=0), axis=1).cumsum()
        colours[:, 3] = 0.25 + 0.6 * way / max(way[-1], 1e-9)
        segments = np.stack([drawn[:-1], drawn[1:]], 1)
        axes.add_collection(LineCollection(segments, colors=colours, linewidths=0.9, capstyle="butt"))
        axes.plot(*path[0], marker="o", markerfacecolor="none", color=MUTED, markersize=3.2, markeredgewidth=0.8)
        axes.plot(*path[-1], marker="o", color=colours[-1, :3], markersize=2.6)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.set_axis_off()
    axes.set_title(panel.title, loc="left", fontsize=9, color=INK, pad=3)
    if panel.success is not None:
        share = f"{int(np.sum(success))}/{len(success)}"
        axes.set_title(share, loc="right", fontsize=9, color=MUTED, pad=3)


def _walls(axes: Axes, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (x, y) of the walls, which are drawn: boxes of the world body that collide."""
    boxes = (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX) & (model.geom_bodyid == 0) & (model.geom_contype != 0)
    corners = []
    for i in np.flatnonzero(boxes):
        half, (w, x, y, z) = model.geom_size[i, :2], model.geom_quat[i]
        angle = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        lower = model.geom_pos[i, :2] - half
        wall = Rectangle(lower, *(2 * half), angle=np.degrees(angle), rotation_point="center", color=WALL, linewidth=0)
        axes.add_patch(wall)
        corners.append(wall.get_corners())
    every = np.concatenate(corners)
    return every.min(0), every.max(0)


def spectrum(named_features: Mapping[str, Float[np.ndarray, "N D"]]) -> Figure:
    """Eigenvalues of E[x x^T] of each set of features, relative to the largest; a collapse falls below 1e-3."""
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    for (name, features), colour in zip(named_features.items(), PALETTE, strict=False):
        relative = relative_spectrum(features)
        label = f"{name}: smallest / largest {relative[-1]:.1e}"
        rank = np.arange(1, len(relative) + 1)
        axes.plot(
            rank,
            np.maximum(relative, 1e-9),
            color=colour,
            linewidth=1.5,
            marker="o",
            markersize=2.5,
            label=label,
        )
    axes.axhline(1e-3, color=VERMILLION, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "collapsed below this line",
        (0, 1e-3),
        xytext=(4, -3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=VERMILLION,
    )
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=min(1e-4, axes.get_ylim()[0]))
    axes.set_xlabel("rank of the eigenvalue", fontsize=9, color=MUTED)
    axes.set_ylabel("relative to the largest", fontsize=9, color=MUTED)
    style(axes, grid="y")
    _legend(figure)
    return figure


def relative_spectrum(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " D"]:
    """Eigenvalues of E[x x^T], largest first, divided by the largest."""
    features = np.asarray(features, np.float64)
    values = np.linalg.eigvalsh(features.T @ features / len(features))[::-1]
    return np.maximum(values, 0.0) / values[0]


def task_bars(columns: Mapping[str, Mapping[str, Mapping[str, int | float]]]) -> Figure:
    """Bars of the interquartile mean return of each policy on each task, with 95 % intervals where given.

    `columns` is policy -> task -> summary with "iqm" and, if known, "low" and "high"; a missing task has no bar.
    """
    tasks = list(dict.fromkeys(task for column in columns.values() for task in column))
    height = 0.8 / len(columns)
    figure = Figure(figsize=(WIDTH, 0.55 + len(tasks) * (0.14 + 0.13 * len(columns))), layout="constrained")
    axes = figure.subplots()
    for i, (name, column) in enumerate(columns.items()):
        rows = [row for row, task in enumerate(tasks) if task in column]
        found = [column[tasks[row]] for row in rows]
        value = np.array([summary["iqm"] for summary in found])
        low = np.array([summary.get("low", summary["iqm"]) for summary in found])
        high = np.array([summary.get("high", summary["iqm"]) for summary in found])
        y = np.array(rows) + (i - (len(columns) - 1) / 2) * height
        axes.barh(y, value, height * 0.86, color=_colour(name, i), label=name)
        # A bootstrap interval may lie beside the point estimate.
        error = np.maximum([value - low, high - value], 0.0)
        axes.errorbar(value, y, xerr=error, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.5, capthick=0.9)
    axes.axvline(0, color=RULE, linewidth=0.8)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("return per episode", fontsize=9, color=MUTED)
    style(axes, grid="x")
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    _legend(figure)
    return figure


def _colour(policy: str, index: int) -> str:
    """Grey for policies that know nothing, so that the eye goes to those that do."""
    return {"random actions": "#8d959e", "random latent": "#c3c9cf"}.get(policy, PALETTE[index % len(PALETTE)])


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.2)


def style(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Nothing; the looks that all panels share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(labelsize=8, labelcolor=MUTED, color=RULE, length=0 if grid == "x" else 2.5)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
