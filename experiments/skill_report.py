"""The part of a run's page that is about skills: where they lead, what they cost, how rewards hinder each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from embodied.policy import Policy
from embodied.types import Env
from envs.render import NO_RENDERER
from experiments import figures, video
from experiments.figures import INK, MUTED, WIDTH, png
from experiments.report import Block, Figure, Section, Table, Video
from experiments.skills import CELL, Played, coverage, measures, play

SHOWN = 8  # skills in the video
LATEST = 0.1  # share of the rows, the last ones, whose cosines are averaged
MEASURES = {  # name -> (what it is called on the page, format)
    "coverage": ("cells of displacement reached from one start", ".1f"),
    "diversity": ("distance between what two skills do, beyond chance", ".3f"),
    "spread": ("deviation of one skill over starts", ".3f"),
    "recognisable": ("share of the skill that its effect tells", ".2f"),
    "contact": ("share of decisions that end in contact", ".2f"),
    "violations": ("limits overstepped, per 1000 decisions", ".1f"),
}


def section(policy: Policy, env: Env, rows: Sequence[Mapping[str, int | float]], place: Path) -> Section:
    """Numbers, maps, cosines of the last rows of metrics.jsonl, and a video beside the page."""
    played = play(policy, env)
    found = measures(played)
    lines = [(text, format(found[name], form)) for name, (text, form) in MEASURES.items() if name in found]
    count, starts = played.places.shape[:2]
    about = f"{count} skills drawn from the prior, each from the same {starts} starts, without exploration."
    blocks: list[Block] = [about, Table(("measure", "value"), lines)]
    if played.places.shape[-1] >= 2:
        caption = f"Where it was taken, in cells of {CELL:g}; and the way there of every skill from one start."
        blocks.append(Figure(png(maps({policy.agent_name: played})), caption))
    kinds = policy.config.kinds
    if len(kinds) > 1 and policy.config.critics == "each":
        caption = (
            "Cosines between the gradients that each kind of reward alone would give the actor, mean over the last "
            "updates. Below zero, one is learned at the cost of the other."
        )
        blocks.append(Figure(png(matrix(kinds, interference(kinds, rows))), caption))
    clip = video.record(env, played.physics[:SHOWN, 0], "", place / "skills.mp4", size=240)
    blocks += [Video(clip)] if clip else [f"No pictures: {NO_RENDERER}."]
    return Section("Skills", blocks)


def interference(kinds: Sequence[str], rows: Sequence[Mapping[str, int | float]]) -> Float[np.ndarray, "K K"]:
    """Mean cosines between the policy gradients of the kinds of reward, over the last rows of metrics.jsonl."""
    last = rows[-max(1, round(LATEST * len(rows))) :]
    found = np.eye(len(kinds))
    for i, one in enumerate(kinds):
        for j, other in enumerate(kinds[:i]):
            found[i, j] = found[j, i] = np.mean([row[f"cosine/{other}_{one}"] for row in last])
    return found


def maps(named: Mapping[str, Played]) -> Drawing:
    """One row per policy: how often each cell was visited, and the ways of all skills from the first start.

    The first two moved columns are drawn, x to the right and y upwards. Colours are directions of the skill.
    """
    figure = Drawing(figsize=(WIDTH, 3.4 * len(named)), layout="constrained")
    panels = figure.subplots(len(named), 2, squeeze=False)
    places = np.concatenate([played.places[..., :2].reshape(-1, 2) for played in named.values()])
    cells = [np.arange(np.floor(column.min() / CELL), np.ceil(column.max() / CELL) + 1) for column in places.T]
    edges = [column * CELL for column in cells]
    reach = max(CELL, 1.05 * max(np.abs(played.displacement[:, 0, :, :2]).max() for played in named.values()))
    for (name, played), (left, right) in zip(named.items(), panels, strict=True):
        x, y = played.places[..., 0].ravel(), played.places[..., 1].ravel()
        visits, *_ = np.histogram2d(x, y, edges)
        shown = np.ma.masked_equal(np.log10(np.maximum(visits, 1)) + (visits > 0), 0)
        left.pcolormesh(*edges, shown.T, cmap="Blues", vmin=0)
        left.set_title(f"{name}: {coverage(played).mean():.1f} cells from one start", loc="left", fontsize=9, color=INK)
        for latent, way in zip(played.latents, played.displacement[:, 0], strict=True):
            right.plot(way[:, 0], way[:, 1], color=hue(latent), linewidth=1.0, alpha=0.8)
            right.plot(*way[-1, :2], color=hue(latent), marker="o", markersize=2.8)
        right.set_title("ways of the skills from one start", loc="left", fontsize=9, color=INK)
        right.set(xlim=(-reach, reach), ylim=(-reach, reach))
        for axes in (left, right):
            axes.set_aspect("equal")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            figures.style(axes, grid="y")
    return figure


def hue(latent: Float[np.ndarray, " D"]) -> tuple[float, float, float]:
    """A colour for the direction of a skill's first two numbers."""
    angle = np.arctan2(latent[1], latent[0]) if len(latent) > 1 else 0.0
    red, green, blue = hsv_to_rgb((angle / (2 * np.pi) % 1.0, 0.75, 0.8))
    return float(red), float(green), float(blue)


def matrix(kinds: Sequence[str], cosines: Float[np.ndarray, "K K"]) -> Drawing:
    """The cosines as a coloured table, blue where rewards agree and red where they pull apart."""
    side = 1.4 + 0.75 * len(kinds)
    figure = Drawing(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(cosines):
        colour = "white" if abs(value) > 0.6 else INK
        axes.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(kinds)), kinds, fontsize=9, color=MUTED)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=9, color=MUTED)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
